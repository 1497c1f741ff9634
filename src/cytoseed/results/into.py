"""Labels written into the OME-Zarr of their image: laid out as it is, and all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cytoseed.images import list_series, open_image
from cytoseed.paths import lock, remove
from cytoseed.results.formats.ngff import ZARR_FORMATS, Layout, namespaced, write_label_images
from cytoseed.results.pyramid import level_of
from cytoseed.results.view import ResultView

_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata")


def write_into(result: ResultView, image_zarr: str | os.PathLike[str], overwrite: bool = False) -> tuple[Path, ...]:
    """Write the labels into the `labels` group of an OME-Zarr image, one label image per target; returns their folders.

    They have the image's own version, 0.4 or 0.5, its axes, with one channel, its levels and transformations, so that
    every viewer lays them over it; a pixel of a lower level shows the label at its centre. With `overwrite`, label
    images of the same names are replaced; others always stay. The new group is made in a hidden folder of the image and
    then takes the place of the old one. After a kill between these two renames the old group is still in the hidden
    folder; the next call puts it back first.
    """
    import zarr

    root, targets = Path(image_zarr), result.targets
    image, layout = _read_image(root, result.shape[1:], result.input.get("series"))
    labels, hidden = image / "labels", image / ".cytoseed-labels"
    old, new = hidden / "old", hidden / "new"
    with lock(hidden, begun=old.name):
        _settle(old, labels)  # after a kill
        remove(new)
        _, described = _described(labels)
        listed = [str(name) for name in described.get("labels") or ()]
        there = [name for name in targets if name in listed or (labels / name).exists()]
        if there and not overwrite:
            raise FileExistsError(
                f"{labels}: has labels called {', '.join(there)} already; overwrite them (--overwrite, "
                f"overwrite=True), or write these beside the image (--format ngff)"
            )
        consolidated = [folder for folder in dict.fromkeys((labels, image, root)) if _is_consolidated(folder)]
        _copy_group(labels, new, without=targets)
        write_label_images(result, new, layout)
        group = zarr.open_group(new, mode="a", zarr_format=ZARR_FORMATS[layout.version], use_consolidated=False)
        names = list(dict.fromkeys([*listed, *targets]))
        group.attrs.update(namespaced(layout.version, {**described, "labels": names}))
        try:
            if labels.exists():
                os.replace(labels, old)
            os.replace(new, labels)
        finally:
            _settle(old, labels)
        _consolidate(consolidated)
    return tuple(labels / target for target in targets)


def _read_image(root: Path, sides: tuple[int, int], series: str | None) -> tuple[Path, Layout]:
    """Folder of an OME-Zarr image, and the layout of labels of height and width `sides` that go with it."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder; give the folder of the OME-Zarr image")
    opened = open_image(root, series if len(list_series(root)) > 1 else None)  # refuses stacks
    shapes, folder = opened.level_shapes, opened.data_path or root
    version, attributes = _described(folder)
    if version not in ZARR_FORMATS:
        raise ValueError(
            f"{root}: is OME-Zarr of version {version}; labels are written into 0.4 and 0.5: "
            f"convert the image, or write them beside it (--format ngff)"
        )
    if shapes[0] != sides:
        raise ValueError(
            f"{root}: is {shapes[0][0]} x {shapes[0][1]} px (height x width), and the labels are of an image of "
            f"{sides[0]} x {sides[1]} px; give the image that they were found in, at full resolution"
        )
    try:
        multiscale = attributes["multiscales"][0]
        names = [axis["name"] for axis in multiscale["axes"]]
        y, x = names.index("y"), names.index("x")
        placed = [dataset["coordinateTransformations"] for dataset in multiscale["datasets"]]
        scales = [next(step["scale"] for step in steps if "scale" in step) for steps in placed]
        factors = [(scale[y] / scales[0][y], scale[x] / scales[0][x]) for scale in scales]
    except (LookupError, TypeError, ValueError, StopIteration, ZeroDivisionError) as error:
        raise ValueError(f"{root}: its description is damaged ({error!r}); export the image again") from error
    levels = [level_of(sides, shape, own) for shape, own in zip(shapes, factors, strict=True)]
    whole = {key: multiscale[key] for key in ("coordinateTransformations",) if key in multiscale}
    return folder, Layout(version, multiscale["axes"], levels, placed, whole, {"source": {"image": "../../"}})


def _described(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Version and attributes of a group; empty if it has none."""
    if (folder / "zarr.json").is_file():
        own = _read_json(folder / "zarr.json").get("attributes", {}).get("ome", {})
        return str(own.get("version")), own
    attributes = _read_json(folder / ".zattrs")
    described: list[Mapping[str, Any]] = attributes.get("multiscales") or [{}]
    return str(described[0].get("version", "0.4")), attributes


def _read_json(file: Path) -> dict[str, Any]:
    """Content of a file; empty if there is none."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _copy_group(group: Path, copy: Path, without: tuple[str, ...]) -> None:
    """Copy a group, if there is one, without some of its members; chunks are not copied, but linked."""

    def link(source: str, target: str) -> None:
        try:
            if Path(source).name in _METADATA:  # metadata will be changed
                raise OSError
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    if group.is_dir():
        left_out = {str(group): set(without)}
        shutil.copytree(group, copy, True, lambda folder, _: left_out.get(folder, set()), link)


def _settle(old: Path, labels: Path) -> None:
    """Delete the old group, or put it back if no other is in its place."""
    if labels.exists():
        remove(old)
    elif old.exists():
        os.replace(old, labels)


def _is_consolidated(folder: Path) -> bool:
    """Whether a group has a consolidated copy of the metadata."""
    return (folder / ".zmetadata").is_file() or bool(_read_json(folder / "zarr.json").get("consolidated_metadata"))


def _consolidate(folders: list[Path]) -> None:
    """Renew consolidated copies of the metadata."""
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr 3 has no standard for it
        for folder in folders:
            zarr.consolidate_metadata(str(folder))
