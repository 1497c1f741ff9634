"""The contract of an opened image that is the same for all readers, and what distinguishes two images."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import tifffile
from test_images_ngff import write
from written import assert_regions, halves, noise, write_slide, write_sub_ifds

from cytoseed.images import Image, ImageFileError, as_image, identity, open_image
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
def test_which_boxes_channels_and_levels_can_be_read(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    outside = [(0, 0, 21, 1), (0, 0, 1, 31), (20, 0, 1, 1), (0, 30, 1, 1), (-1, 0, 1, 1), (0, -1, 1, 1), (5, 5, -1, 3)]
    for box in outside:
        with pytest.raises(ValueError, match=r"box_yxhw is .* must lie inside level 0, which is 20 x 30 px") as caught:
            image.read(box)
        assert not isinstance(caught.value, ImageFileError)
    for channels in ([-1], [3], [0, 9], []):
        with pytest.raises(ValueError, match=r"channels is .*each from 0 to [12]"):
            image.read(channels=channels)
    with image.regions() as regions:
        for level in (-1, 1):
            with pytest.raises(ValueError, match=f"level is {level}; the image has 1"):
                regions.read((0, 0, 1, 1), level)
    with pytest.raises(ValueError, match="after `with regions\\(\\)` ended"):
        regions.read((0, 0, 1, 1))
    found = image.read(tuple(np.array([1, 2, 3, 4], np.int16)), channels=np.array([1]))
    np.testing.assert_array_equal(found, image.read()[[1], 1:4, 2:6])
    with pytest.raises(TypeError):
        image.read((0.0, 0, 1, 1))
    empty = image.read((20, 5, 0, 3))
    assert (empty.shape, empty.dtype) == ((image.shape[0], 0, 3), image.dtype)


def pyramid(path: Path) -> Image:
    return open_image(write_slide(path / "pyramid.svs", halves(noise(3, 128, 192), 2)))


@pytest.mark.parametrize("make", [tiff, png, ngff, array, pyramid])
def test_images_travel_to_other_processes_and_with_their_full_resolution_into_memory(tmp_path: Path, make: Any) -> None:
    image = make(tmp_path)
    expected, kept = image.read(), image.in_memory()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).read(), expected)
    if image.path is not None:
        remove(image.path)  # in memory the file is read once
    for name in ("path", "channel_names", "pixel_size_source"):
        assert getattr(kept, name) == getattr(image, name)
    assert_regions(pickle.loads(pickle.dumps(kept)), [expected])


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


# Identity


def test_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, noise(20, 30, dtype=np.uint16))
    found = dict(open_image(file).identity())
    assert len(found.pop("sha256")) == 64
    assert found == {"name": "image.tif", "shape": [1, 20, 30], "dtype": "uint16", "bytes": file.stat().st_size}
    first = open_image(file).identity()
    assert json.loads(json.dumps(first)) == first == open_image(file).in_memory().identity()
    (tmp_path / "other").mkdir()
    other = Path(shutil.copy(file, tmp_path / "other"))
    os.utime(other, (1, 1))
    assert open_image(other).identity() == first  # neither folders nor times count


def test_of_a_large_file_ends_and_blocks_count_and_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small numbers in place of the true ones, so that every byte can be tried."""
    for name, value in {"_WHOLE_BYTES": 999, "_END_BYTES": 50, "_BLOCK_BYTES": 10, "_BLOCKS": 11}.items():
        monkeypatch.setattr(identity, name, value)
    counted = set(range(50)) | set(range(950, 1000))
    for index in range(11):
        counted |= set(range(99 * index, 99 * index + 10))
    file = tmp_path / "bytes"
    data = bytearray(np.random.default_rng(3).bytes(1000))
    file.write_bytes(data + b"!")
    assert identity.path_digest(file)[0] == 1001
    file.write_bytes(data)
    first = identity.path_digest(file)
    assert first[0] == 1000
    for place in range(1000):
        data[place] ^= 1
        file.write_bytes(data)
        data[place] ^= 1
        assert (identity.path_digest(file) != first) == (place in counted)


def test_a_file_of_more_than_64_mib_is_not_read_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.touch()
    for size, read in ((64 << 20, 64 << 20), (1 << 40, (2 << 20) + 256 * (64 << 10))):
        os.truncate(file, size)  # holes, read as zeros
        assert identity.path_digest(file) == (size, hashlib.sha256(bytes(read)).hexdigest())


# OME-Zarr and slides in folders


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_of_a_zarr_folder_metadata_names_and_sizes_count(tmp_path: Path, version: str) -> None:
    folder = write(tmp_path / "image", halves(noise(1, 64, 64), 2), version, compressors=None)
    first = open_image(folder).identity()
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert first["name"] == "image"
    assert first["bytes"] == sum(file.stat().st_size for file in files)
    (tmp_path / "other").mkdir()
    shutil.copytree(folder, tmp_path / "other" / "image")
    assert open_image(tmp_path / "other" / "image").identity() == first
    described = folder / ("zarr.json" if version == "0.5" else ".zattrs")
    text = described.read_text()
    described.write_text(text.replace("micrometer", "MICROMETER"))  # of the same size
    assert open_image(folder).identity()["sha256"] != first["sha256"]
    described.write_text(text)
    assert open_image(folder).identity() == first
    chunk = next(file for file in files if "s1" in file.parts and file.stat().st_size == 32 * 32)
    chunk.rename(chunk.with_name("other"))
    assert open_image(folder).identity()["sha256"] != first["sha256"]


def test_the_folder_of_an_mrxs_counts(tmp_path: Path) -> None:
    file = tmp_path / "slide.mrxs"
    file.write_bytes(imagecodecs.jpeg_encode(noise(20, 30, 3)))
    found = [identity.path_digest(file)]
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "Data0000.dat").write_bytes(bytes(100))
    assert identity.path_digest(file) == found[0]  # a folder of the same name without a slide
    for name, data in (("Slidedat.ini", b"[A]"), ("Slidedat.ini", b"[B]"), ("Data0000.dat", bytes(101))):
        (tmp_path / "slide" / name).write_bytes(data)
        found.append(identity.path_digest(file))
    assert found[1][0] == found[0][0] + 103
    assert len({digest for _, digest in found}) == 4


# Arrays


@pytest.mark.parametrize("shape", [(300, 400), (2, 1024, 1024), (1000, 20)], ids=str)
def test_every_pixel_of_a_small_array_counts(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    first = dict(as_image(pixels).identity())
    assert first["name"] == "array"
    assert first["bytes"] == pixels.nbytes
    assert as_image(da.from_array(pixels.copy())).identity() == first
    for place in np.random.default_rng(1).integers(0, pixels.size, 20):
        changed = pixels.copy()
        changed.flat[place] ^= 1
        assert as_image(changed).identity()["sha256"] != first["sha256"]


@pytest.mark.parametrize("shape", [(5000, 3000), (1, 10_000_000), (10_000_000, 1), (1100, 1000)], ids=str)
def test_of_a_large_array_no_more_than_256_blocks_are_read_from_end_to_end(shape: tuple[int, int]) -> None:
    seen: list[tuple[slice, slice]] = []

    class Huge(SimpleNamespace):
        def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
            seen.append(key)
            return np.zeros([part.stop - part.start for part in key], np.uint8)

    as_image(Huge(shape=shape, ndim=2, dtype=np.dtype(np.uint8))).identity()  # type: ignore[arg-type]
    assert 128 <= len(seen) <= 256
    assert len({(rows.start, columns.start) for rows, columns in seen}) == len(seen)
    for axis, length in enumerate(shape):
        assert min(key[axis].start for key in seen) == 0
        assert max(key[axis].stop for key in seen) == length


def test_shape_and_type_count_though_the_bytes_are_equal() -> None:
    pixels = noise(20, 30)
    found = [as_image(a).identity() for a in (pixels, pixels.reshape(30, 20), pixels.view(np.int8))]
    assert len({json.dumps(one) for one in found}) == 3
