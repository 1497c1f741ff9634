"""The contract of an opened image that is the same for all readers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from test_images_ngff import write
from written import assert_regions, halves, noise, write_slide, write_sub_ifds

from cytoseed.images import Image, ImageFileError, as_image, open_image
from cytoseed.paths import remove


def tiff(path: Path, width: int = 30) -> Image:
    tifffile.imwrite(path / "image.tif", noise(2, 20, width), photometric="minisblack", metadata={"axes": "CYX"})
    return open_image(path / "image.tif")


def png(path: Path, width: int = 30) -> Image:
    (path / "image.png").write_bytes(imagecodecs.png_encode(noise(20, width, 3)))
    return open_image(path / "image.png")


def slide(path: Path, width: int = 30) -> Image:
    return open_image(write_slide(path / "image.svs", [noise(3, 20, width)]))


def ngff(path: Path, width: int = 30) -> Image:
    return open_image(write(path / "image", [noise(2, 20, width)], "0.5"))


def array(_: Path) -> Image:
    return as_image(noise(2, 20, 30))


KINDS = pytest.mark.parametrize("make", [tiff, png, slide, ngff, array])


@KINDS
@pytest.mark.parametrize(
    "box", [(0, 0, 21, 1), (0, 0, 1, 31), (20, 0, 1, 1), (0, 30, 1, 1), (-1, 0, 1, 1), (0, -1, 1, 1)]
)
def test_a_box_outside_is_refused(tmp_path: Path, make: Any, box: Any) -> None:
    image = make(tmp_path)
    with pytest.raises(ValueError, match=r"box_yxhw is .* it must lie inside level 0, which is 20 x 30 px") as caught:
        image.read(box)
    assert not isinstance(caught.value, ImageFileError)


@KINDS
def test_boxes_of_negative_and_of_no_size(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    with pytest.raises(ValueError, match="must lie inside"):
        image.read((5, 5, -1, 3))
    empty = image.read((20, 5, 0, 3))
    assert empty.shape == (image.shape[0], 0, 3)
    assert empty.dtype == image.dtype


@KINDS
def test_whole_numbers_of_any_type_make_a_box_and_no_others(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    found = image.read(tuple(np.array([1, 2, 3, 4], np.int16)), channels=np.array([1]))
    np.testing.assert_array_equal(found, image.read()[[1], 1:4, 2:6])
    with pytest.raises(TypeError):
        image.read((0.0, 0, 1, 1))


@KINDS
@pytest.mark.parametrize("channels", [[-1], [3], [0, 9], []])
def test_channels_that_are_not_there(tmp_path: Path, make: Any, channels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"channels is .*each must be from 0 to [12]"):
        make(tmp_path).read(channels=channels)


@KINDS
@pytest.mark.parametrize("level", [-1, 1])
def test_levels_that_are_not_there(tmp_path: Path, make: Any, level: int) -> None:
    image = make(tmp_path)
    with pytest.raises(ValueError, match=f"level is {level}; the image has 1"):
        image.read(level=level)
    with image.regions() as regions, pytest.raises(ValueError, match=f"level is {level}; the image has 1"):
        regions.read((0, 0, 1, 1), level)


@KINDS
def test_regions_end_with_the_block(tmp_path: Path, make: Any) -> None:
    with make(tmp_path).regions() as regions:
        regions.read((0, 0, 1, 1))
    with pytest.raises(ValueError, match="after `regions` ended"):
        regions.read((0, 0, 1, 1))


@KINDS
def test_an_image_travels_to_other_processes(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).read(), image.read())


@KINDS
def test_in_memory_the_file_is_read_once(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    expected = image.read()
    kept = image.in_memory()
    if image.path is not None:
        remove(image.path)
    assert (kept.path, kept.channel_names, kept.pixel_size_source) == (
        image.path,
        image.channel_names,
        image.pixel_size_source,
    )
    assert_regions(kept, [expected])


def test_in_memory_only_the_full_resolution_is_kept(tmp_path: Path) -> None:
    levels = halves(noise(3, 128, 192), 2)
    image = open_image(write_slide(tmp_path / "slide.svs", levels))
    assert len(image.level_shapes) == 2
    assert_regions(image.in_memory(), levels[:1])


def test_of_a_damaged_image_nothing_is_kept(tmp_path: Path) -> None:
    file = write_slide(tmp_path / "slide.svs", [noise(3, 128, 192)])
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(ImageFileError, match=r"slide\.svs: is cut short or damaged .*again"):
        open_image(file).in_memory()


@pytest.mark.parametrize("make", [tiff, png, slide, ngff])
def test_a_file_that_changed_since_it_was_opened_is_refused(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    make(tmp_path, 31)
    with pytest.raises(ImageFileError, match=r"20, 30\).*20, 31\).*changed.*open it again"):
        image.read((0, 0, 5, 5))


def test_a_file_of_which_only_a_level_has_changed_is_refused(tmp_path: Path) -> None:
    first = halves(noise(1, 64, 96), 2)
    image = open_image(write_sub_ifds(tmp_path / "image.tif", first))
    write_sub_ifds(tmp_path / "image.tif", [first[0], first[1][:, :31]])
    with pytest.raises(ImageFileError, match=r"levels .*\(32, 48\).*, now .*open it again"):
        image.read((0, 0, 5, 5))


def test_errors_of_an_array_in_python_go_through() -> None:
    class Broken:
        shape, dtype, ndim = (20, 30), np.dtype(np.uint8), 2

        def __getitem__(self, _: Any) -> Any:
            raise RuntimeError("the cluster is gone")

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        as_image(Broken()).read()  # type: ignore[arg-type]
