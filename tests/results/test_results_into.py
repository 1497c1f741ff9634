"""Labels put into an OME-Zarr image: as it is laid out, beside what is there, all or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from filelock import FileLock
from numpy.typing import NDArray
from pieced import changed, files_of
from test_results_ngff import VERSIONS, attributes_of, levels_of, multiscale, scattered, small_pieces

from cytoseed.images import open_image
from cytoseed.results import Result
from cytoseed.results.formats.ngff import write_ngff
from cytoseed.results.into import write_into

HEIGHT, WIDTH = 61, 90


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch)


@pytest.fixture
def both() -> Result:
    return scattered(HEIGHT, WIDTH)


def other(result: Result) -> Result:
    """A result that differs from another in every label."""
    return changed(result, labels=np.where(result.labels > 0, result.labels + 1, 0))


def write_image(
    folder: Path, version: str, names: str = "cyx", factors: tuple[float, ...] = (1, 2, 4), **lengths: int
) -> Path:
    """Write levels of an image of 61 x 90 px, rounded down, with axes in any order."""
    group = zarr.open_group(folder, mode="w", zarr_format=3 if version == "0.5" else 2)
    sizes = {"c": 3, "y": HEIGHT, "x": WIDTH} | lengths
    datasets = []
    for number, factor in enumerate(factors):
        shape = [int(sizes.get(name, 1) / (factor if name in "yx" else 1)) for name in names]
        named = {"dimension_names": list(names)} if version == "0.5" else {}
        array = group.create_array(f"s{number}", shape=shape, dtype="u1", chunks=shape, **named)
        array[:] = number + 1
        steps = [0.5 * factor if name in "yx" else 1.0 for name in names]
        moves = [0.5 * (factor - 1) / 2 if name in "yx" else 0.0 for name in names]
        transformations = [{"type": "scale", "scale": steps}, {"type": "translation", "translation": moves}]
        datasets.append({"path": f"s{number}", "coordinateTransformations": transformations})
    kinds = {"c": "channel", "t": "time"}
    axes = [
        {"name": name, "type": kinds.get(name, "space")} | ({"unit": "micrometer"} if name in "zyx" else {})
        for name in names
    ]
    own = {"axes": axes, "datasets": datasets, "name": "tissue"} | ({"version": "0.4"} if version == "0.4" else {})
    own["coordinateTransformations"] = [{"type": "scale", "scale": [1.0] * len(names)}]
    attributes = {"multiscales": [own]}
    group.attrs.update({"ome": {"version": "0.5", **attributes}} if version == "0.5" else attributes)
    return folder


def shown(image: Path, name: str) -> NDArray[Any]:
    """A label image at full resolution, (H,W)."""
    return levels_of(image / "labels" / name)[0].reshape(HEIGHT, WIDTH)


# Laid out as the image is


@VERSIONS
@pytest.mark.parametrize("names", ["yx", "cyx", "tczyx"])
def test_labels_have_the_axes_the_levels_and_the_place_of_the_image(
    tmp_path: Path, both: Result, version: str, names: str
) -> None:
    image = write_image(tmp_path / "image.zarr", version, names)
    before = files_of(image)
    paths = write_into(both, image)
    assert paths == (image / "labels" / "nuclei", image / "labels" / "cells")
    after = files_of(image)
    assert {name: data for name, data in after.items() if not name.startswith("labels")} == before
    yaozarrs.validate_zarr_store(image)
    for path, labels in zip(paths, both.labels, strict=True):
        own, of_image = multiscale(path), multiscale(image)
        assert own["axes"] == of_image["axes"]
        assert own["coordinateTransformations"] == of_image["coordinateTransformations"]
        assert own["name"] == path.name
        placed = [(level["coordinateTransformations"]) for level in own["datasets"]]
        assert placed == [level["coordinateTransformations"] for level in of_image["datasets"]]
        assert attributes_of(path)["image-label"]["source"] == {"image": "../../"}
        for factor, found, level in zip((1, 2, 4), levels_of(path), levels_of(image), strict=True):
            expected = labels[factor // 2 :: factor, factor // 2 :: factor]
            assert found.dtype == np.uint32
            assert found.shape == tuple(1 if name == "c" else n for name, n in zip(names, level.shape, strict=True))
            np.testing.assert_array_equal(found.reshape(expected.shape), expected)
        assert open_image(path).level_shapes == open_image(image).level_shapes
        np.testing.assert_array_equal(open_image(path).read()[0], labels)


def test_levels_of_any_ratio(tmp_path: Path, both: Result) -> None:
    factors = (1, 1.5, 3.7, 8)
    image = write_image(tmp_path / "image.zarr", "0.5", factors=factors)
    write_into(both, image)
    for factor, found in zip(factors, levels_of(image / "labels" / "cells"), strict=True):
        _, height, width = found.shape
        rows, columns = (((np.arange(n) + 0.5) * factor).astype(int) for n in (height, width))
        np.testing.assert_array_equal(found[0], both.labels[1][rows[:, None], columns])


@VERSIONS
def test_the_layout_of_bioformats2raw(tmp_path: Path, both: Result, version: str) -> None:
    root = zarr.open_group(tmp_path / "root", mode="w", zarr_format=3 if version == "0.5" else 2)
    mark = {"bioformats2raw.layout": 3}
    root.attrs.update({"ome": {"version": "0.5", **mark}} if version == "0.5" else mark)
    write_image(tmp_path / "root" / "0", version, "tczyx")
    paths = write_into(both, tmp_path / "root")
    assert paths[0] == tmp_path / "root" / "0" / "labels" / "nuclei"
    np.testing.assert_array_equal(shown(tmp_path / "root" / "0", "nuclei"), both.labels[0])


@VERSIONS
def test_copies_of_the_metadata_are_renewed(tmp_path: Path, both: Result, version: str) -> None:
    image = write_image(tmp_path / "image.zarr", version)
    write_into(changed(both, targets=("others", "cells")), image)
    consolidate(image)
    consolidate(image / "labels")
    write_into(both, image, overwrite=True)
    group = zarr.open_group(image, mode="r", use_consolidated=True)
    labels = zarr.open_group(image / "labels", mode="r", use_consolidated=True)
    for found in (group["labels"], labels):
        assert {name for name, _ in found.groups()} == {"others", "cells", "nuclei"}  # type: ignore[union-attr]
    np.testing.assert_array_equal(group["labels/nuclei/0"][0], both.labels[0])  # type: ignore[index]
    assert group["s0"].shape == (3, HEIGHT, WIDTH)  # type: ignore[union-attr]


def consolidate(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr 3 has no standard for it
        zarr.consolidate_metadata(folder)


# Beside what is there


@VERSIONS
def test_what_is_there_stays(tmp_path: Path, both: Result, version: str) -> None:
    image = write_image(tmp_path / "image.zarr", version)
    write_ngff(changed(both, targets=("tumour", "stroma")), image / "labels", version)
    marks = image / "labels" / ("zarr.json" if version == "0.5" else ".zattrs")
    described = json.loads(marks.read_text())
    (described["attributes"] if version == "0.5" else described)["kept"] = 7
    marks.write_text(json.dumps(described))
    before = files_of(image)
    write_into(both, image)
    assert attributes_of(image / "labels")["labels"] == ["tumour", "stroma", "nuclei", "cells"]
    new = {name for name, data in files_of(image).items() if before.get(name) != data}
    assert {name for name in new if not name.startswith(("labels/nuclei/", "labels/cells/"))} == {
        str(marks.relative_to(image))
    }
    described = json.loads(marks.read_text())
    assert (described["attributes"] if version == "0.5" else described)["kept"] == 7


@VERSIONS
def test_a_name_that_is_taken(tmp_path: Path, both: Result, version: str) -> None:
    image = write_image(tmp_path / "image.zarr", version)
    write_into(scattered(HEIGHT, WIDTH, 1), image)
    before = files_of(image)
    with pytest.raises(FileExistsError, match=r"labels: has labels called nuclei already; overwrite"):
        write_into(both, image)
    assert files_of(image) == before
    write_into(both, image, overwrite=True)
    assert attributes_of(image / "labels")["labels"] == ["nuclei", "cells"]
    np.testing.assert_array_equal(shown(image, "nuclei"), both.labels[0])


# What is refused


@VERSIONS
def test_a_folder_that_is_not_one_image(tmp_path: Path, both: Result, version: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such folder"):
        write_into(both, tmp_path / "nowhere")
    write_ngff(both, tmp_path / "labels.zarr", version)
    with pytest.raises(ValueError, match="does not describe an image"):
        write_into(both, tmp_path / "labels.zarr")
    stack = write_image(tmp_path / "stack.zarr", version, "zyx", z=4)
    with pytest.raises(ValueError, match=r"holds 4 z planes"):
        write_into(both, stack)
    larger = write_image(tmp_path / "larger.zarr", version, y=HEIGHT + 1)
    with pytest.raises(ValueError, match=r"larger\.zarr: is 62 x 90 px .* labels are of an image of 61 x 90 px"):
        write_into(both, larger)
    assert not (stack / "labels").exists()
    assert not (larger / "labels").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda own: own.update(version="0.3"), r"is OME-Zarr of version 0\.3; labels are written into 0\.4 and 0\.5"),
        (lambda own: own.pop("axes"), "names the axes"),
        (lambda own: own["datasets"][1].pop("coordinateTransformations"), "its description is damaged"),
        (lambda own: own["datasets"][1].update(path="s9"), "s9"),
    ],
)
def test_images_with_wrong_descriptions(tmp_path: Path, both: Result, change: Callable[[Any], Any], says: str) -> None:
    image = write_image(tmp_path / "image.zarr", "0.4")
    attributes = attributes_of(image)
    change(attributes["multiscales"][0])
    (image / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(ValueError, match=says):
        write_into(both, image)
    assert not (image / "labels").exists()


def test_one_process_at_a_time(tmp_path: Path, both: Result) -> None:
    image = write_image(tmp_path / "image.zarr", "0.5")
    hidden = image / ".cytoseed-labels"
    hidden.mkdir()
    with FileLock(hidden / "lock"), pytest.raises(BlockingIOError, match="another run"):
        write_into(both, image)
    write_into(both, image)
    assert not hidden.exists()


# All or nothing


class Killed(BaseException):
    """A process that ends here."""


def stopped(call: Callable[[], object], last: int, is_killed: bool) -> bool:
    """Stop a call before its rename number `last`, by an error or by a kill, after which it does no more."""
    steps = [0]
    replace, rmtree = os.replace, shutil.rmtree

    def stepwise(source: Any, target: Any) -> None:
        if Path(target).name in ("old", "labels"):
            steps[0] += 1
            if steps[0] == last or (is_killed and steps[0] > last):
                raise Killed if is_killed else OSError("no space")
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", stepwise)
        patch.setattr(shutil, "rmtree", lambda *a, **b: None if is_killed and steps[0] >= last else rmtree(*a, **b))
        with contextlib.suppress(Killed, OSError):
            call()
    return steps[0] >= last


def labels_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith("labels/")}


@pytest.mark.parametrize("is_killed", [False, True], ids=["error", "kill"])
@pytest.mark.parametrize(
    ("there", "version"), [("nothing", "0.4"), ("nothing", "0.5"), ("one of the two", "0.4"), ("both", "0.5")]
)
def test_stopped_anywhere_the_old_or_the_new_is_there(
    tmp_path: Path, both: Result, version: str, is_killed: bool, there: str
) -> None:
    old = write_image(tmp_path / "old.zarr", version)
    if overwrite := there != "nothing":
        write_ngff(changed(both, targets=("tumour", "stroma")), old / "labels", version)
        write_into(other(scattered(HEIGHT, WIDTH, 1) if there == "one of the two" else both), old)
    shutil.copytree(old, tmp_path / "new.zarr")
    write_into(both, tmp_path / "new.zarr", overwrite)
    before, after = files_of(old), files_of(tmp_path / "new.zarr")
    assert before != after

    for last in range(1, 9):
        image = tmp_path / f"stopped at {last}.zarr"
        shutil.copytree(old, image)
        was_stopped = stopped(lambda image=image: write_into(both, image, overwrite), last, is_killed)
        left = files_of(image)
        assert left in (before, after) or is_killed
        assert labels_of(left) in ({}, labels_of(before), labels_of(after))
        again = tmp_path / f"put back from {last}.zarr"
        shutil.copytree(image, again)
        with contextlib.suppress(FileExistsError):
            write_into(both, again)
        assert files_of(again) in (before, after), "the next call puts back what was in between"
        write_into(both, image, overwrite=True)
        assert files_of(image) == after
        if not was_stopped:
            break
    assert last == (3 if overwrite else 2)


def test_what_cannot_be_put_back_is_kept(tmp_path: Path, both: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_image(tmp_path / "image.zarr", "0.5")
    write_into(other(both), image)
    before = files_of(image)

    def fail(source: Any, target: Any, replace: Callable[..., None] = os.replace) -> None:
        if Path(target).name == "labels":
            raise OSError("the disk is gone")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            write_into(both, image, overwrite=True)
    with pytest.raises(FileExistsError):
        write_into(both, image)
    assert files_of(image) == before
