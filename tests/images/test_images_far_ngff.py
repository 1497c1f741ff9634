"""OME-Zarr at URLs: the image that it is here; background, damage and a store that is gone are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from cytoseed.images.ngff import is_zarr_folder
from far import assert_same, gone
from numpy.typing import NDArray
from test_images_ngff import VERSIONS, is_chunk, write
from written import assert_regions, halves, noise
from zarr.codecs import BloscCodec, GzipCodec

from cytoseed.images import Image, ImageFileError, Remote, is_image_folder, open_image
from remote import Web, put

SCALES: list[dict[str, Any]] = [
    {"coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * factor, 0.25 * factor]}]} for factor in (1, 2)
]


@VERSIONS
def test_in_a_bucket_it_is_the_image_that_it_is_here(tmp_path: Path, bucket: str, version: str) -> None:
    levels = halves(noise(3, 150, 170, dtype=np.uint16), 2)
    folder = write(tmp_path / "image.zarr", levels, version, datasets=SCALES, chunks=80)
    image = open_image(put(folder, f"{bucket}/folder/image.zarr"))
    assert image.pixel_size_yx_um == (0.5, 0.25)
    assert_same(image, open_image(folder), boxes=2)
    assert open_image(f"{bucket}/folder/image.zarr/").identity() == image.identity()


@VERSIONS
@pytest.mark.parametrize("names", ["cyx", "yx", "tczyx", "yxc"])
def test_every_region_of_one_in_memory(tmp_path: Path, version: str, names: str) -> None:
    levels = halves(noise(3 if "c" in names else 1, 90, 110), 2)
    url = put(write(tmp_path / "image", levels, version, names), f"memory://ngff-{version}-{names}/image")
    assert_regions(open_image(url), levels, examples=15)


@pytest.mark.parametrize("codec", [GzipCodec(), BloscCodec()])
def test_in_shards(tmp_path: Path, bucket: str, codec: Any) -> None:
    levels = halves(noise(2, 150, 170), 2)
    folder = write(tmp_path / "image.zarr", levels, "0.5", chunks=16, shards=(2, 64, 64), compressors=codec)
    image = open_image(put(folder, f"{bucket}/image.zarr"))
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(image.read(level=number), level)
        np.testing.assert_array_equal(image.read((30, 40, 9, 30), number), level[:, 30:39, 40:70])


@VERSIONS
def test_the_layout_of_bioformats2raw(tmp_path: Path, version: str) -> None:
    levels = halves(noise(2, 90, 110), 2)
    outer = zarr.open_group(tmp_path / "image", mode="w", zarr_format=2 if version == "0.4" else 3)
    told = {"bioformats2raw.layout": 3}
    outer.attrs.update(told if version == "0.4" else {"ome": told})
    write(tmp_path / "image" / "0", levels, version)
    image = open_image(put(tmp_path / "image", f"memory://raw-{version}/image"))
    np.testing.assert_array_equal(image.read(), levels[0])


@VERSIONS
def test_on_the_web_where_no_folder_is_listed(web: Web, version: str) -> None:
    levels = halves(noise(3, 150, 170), 2)
    folder = write(web.folder / "image.zarr", levels, version, chunks=80)
    near, far = open_image(folder), open_image(f"{web.address}/image.zarr")
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(far.read(level=number), level)
    shutil.copytree(folder, web.folder / "other")
    assert open_image(f"{web.address}/other").identity() == far.identity() | {"name": "other"}  # told by its pixels
    assert far.identity()["sha256"] != near.identity()["sha256"]
    write(web.folder / "other", [level + 1 for level in levels], version)
    assert open_image(f"{web.address}/other").identity()["sha256"] != far.identity()["sha256"]


@pytest.fixture(params=["0.4", "0.5"])
def stored(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> tuple[str, Image, NDArray[Any], str]:
    """URL of an image in a bucket, it itself, its pixels, and the URL of a chunk that begins at row and column 32."""
    pixels = noise(1, 90, 110) + 1
    folder = write(tmp_path / "image.zarr", [pixels], request.param)
    url = put(folder, f"{bucket}/image.zarr")
    chunk = next(file for file in folder.rglob("*") if is_chunk(file, "0", "1", "1"))
    return url, open_image(url), pixels, f"{url}/{chunk.relative_to(folder).as_posix()}"


def test_a_chunk_that_is_not_there_is_background(stored: tuple[str, Image, NDArray[Any], str]) -> None:
    _, image, pixels, chunk = stored
    gone(chunk)
    pixels[:, 32:64, 32:64] = 0
    np.testing.assert_array_equal(image.read(), pixels)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("compressor", ["default", "blosc", "none"])
def test_a_damaged_chunk_is_an_error_where_it_is_read(tmp_path: Path, share: float, compressor: str) -> None:
    pixels = noise(1, 90, 110)
    options: dict[str, Any] = {"default": {}, "blosc": {"compressors": BloscCodec()}, "none": {"compressors": None}}
    folder = write(tmp_path / "image.zarr", [pixels], "0.5", **options[compressor])
    for chunk in folder.rglob("*"):
        if is_chunk(chunk, "0", "1", "1"):
            chunk.write_bytes(chunk.read_bytes()[: int(share * chunk.stat().st_size)])
    image = open_image(put(folder, f"memory://damaged-{share}-{compressor}/image.zarr"))
    np.testing.assert_array_equal(image.read((0, 0, 32, 110)), pixels[:, :32])
    with pytest.raises(ImageFileError, match=r"memory://damaged.*image\.zarr.*(cut short|damaged)"):
        image.read((30, 30, 3, 3))


def test_a_store_that_is_gone_is_not_background(stored: tuple[str, Image, NDArray[Any], str]) -> None:
    url, image, pixels, chunk = stored
    gone(chunk)
    with image.regions() as regions:
        assert regions.read((32, 32, 32, 32)).max() == 0
        np.testing.assert_array_equal(regions.read((0, 0, 32, 32)), pixels[:, :32, :32])
        gone(url.rpartition("/")[0])
        for _ in range(2):
            with pytest.raises(FileNotFoundError, match=r"s3://.*image\.zarr/s0/.*: there is no such file"):
                regions.read((0, 0, 32, 32))
    with pytest.raises(OSError, match=r"s3://.*image\.zarr"):
        image.read()


@VERSIONS
def test_a_lost_level(tmp_path: Path, version: str) -> None:
    levels = halves(noise(1, 90, 110), 3)
    folder = write(tmp_path / "image.zarr", levels, version)
    shutil.rmtree(folder / "s1")
    far = open_image(put(folder, f"memory://lost-{version}/image.zarr"))
    assert far.damage == open_image(folder).damage == "level 1 (s1) is not there"
    shutil.rmtree(folder / "s0")
    with pytest.raises(ImageFileError, match=r"memory://lost0.*level 0 \(s0\) is not there"):
        open_image(put(folder, f"memory://lost0-{version}/image.zarr"))


def test_one_that_changed_since_it_was_opened_is_refused(stored: tuple[str, Image, NDArray[Any], str]) -> None:
    url, image, _, _ = stored
    fs, path = fsspec.url_to_fs(url)
    fs.pipe_file(f"{path}/zarr.json", b'{"attributes": {"ome": {}}}')
    with pytest.raises(ImageFileError, match=r"s3://.*image\.zarr: no longer describes an image"):
        image.read()


def test_which_folders_are_images(tmp_path: Path, bucket: str) -> None:
    put(write(tmp_path / "image", [noise(1, 9, 9)], "0.5"), f"{bucket}/image")
    zarr.create_array(tmp_path / "array", shape=(4, 4), dtype="u1")
    put(tmp_path / "array", f"{bucket}/array")
    (tmp_path / "notes.txt").write_text("notes")
    put(tmp_path / "notes.txt", f"{bucket}/notes/notes.txt")
    for name, is_image, is_zarr in (("image", True, True), ("array", False, True), ("notes", False, False)):
        assert is_image_folder(Remote(f"{bucket}/{name}")) == is_image
        assert is_zarr_folder(Remote(f"{bucket}/{name}")) == is_zarr
    with pytest.raises(ImageFileError, match=r"array: is a Zarr folder that does not describe an image"):
        open_image(f"{bucket}/array")
    with pytest.raises(ImageFileError, match=r"notes: is a folder; give the URL of one image"):
        open_image(f"{bucket}/notes")
