"""Images at URLs: the same as on a disk, or an error that names the URL and the remedy."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import boto3
import fsspec
import imagecodecs
import numpy as np
import pytest
import tifffile
from test_images_ngff import VERSIONS, chunk_at, write
from upath import UPath
from written import assert_regions, halves, noise, write_parts, write_slide, write_sub_ifds

from cytoseed.images import Image, ImageFileError, as_image, is_image_folder, list_images, open_image
from cytoseed.paths import as_path
from remote import Web, forget_sessions, put

pytestmark = pytest.mark.usefixtures("cache")
GREY = noise(1, 20, 30)[0]
KNOWN = ("shape", "dtype", "channel_names", "pixel_size_yx_um", "pixel_size_source", "level_shapes")
SCALES: list[dict[str, Any]] = [
    {"coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * factor, 0.25 * factor]}]} for factor in (1, 2)
]


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "grey.tif", GREY)
    return tmp_path / "grey.tif"


def assert_same(far: Image, near: Image) -> None:
    """Compare the metadata of two images, and the pixels of all levels."""
    assert {name: getattr(far, name) for name in KNOWN} == {name: getattr(near, name) for name in KNOWN}
    assert far.identity() == near.identity()
    assert_regions(far, [near.read(level=level) for level in range(len(near.level_shapes))], examples=10)


@contextmanager
def other_sessions() -> Iterator[None]:
    """New sessions, in the environment as it is now."""
    forget_sessions()
    try:
        yield
    finally:
        forget_sessions()


def gone(url: str) -> None:
    fs, path = fsspec.url_to_fs(url)
    fs.rm(path, recursive=True)


# Files


KINDS: dict[str, Callable[[Path], Any]] = {
    "slide.svs": lambda path: write_slide(path, halves(noise(3, 256, 384), 3), compression="jpeg"),
    "image.ome.tif": lambda path: write_sub_ifds(path, halves(noise(3, 128, 160, dtype=np.uint16), 3)),
    "picture": lambda path: path.write_bytes(imagecodecs.png_encode(noise(40, 50, 3))),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_in_a_bucket_is_the_one_on_a_disk(tmp_path: Path, bucket: str, cache: Path, name: str) -> None:
    file = tmp_path / name
    KINDS[name](file)
    image = open_image(put(file, f"{bucket}/folder/{name}"))
    assert image.source == f"{bucket}/folder/{name}"
    assert_same(image, open_image(file))
    assert [copy.name for copy in cache.rglob("*") if copy.is_file() and copy.suffix != ".lock"] == [name]
    shutil.rmtree(cache)  # it may be deleted at any time
    assert_same(pickle.loads(pickle.dumps(image)), open_image(file))


@pytest.mark.parametrize("parts", [True, False])
def test_neither_passwords_nor_signatures_are_shown(grey: Path, web: Web, parts: bool) -> None:
    web.parts = parts
    (web.folder / "grey.tif").write_bytes(grey.read_bytes())
    url = f"{web.address}/grey.tif?X-Signature=secret/a"
    image = open_image(url)
    assert image.source == f"{web.address}/grey.tif"
    assert dict(image.identity())["name"] == "grey.tif"
    np.testing.assert_array_equal(image.read()[0], GREY)
    assert all(path.endswith("?X-Signature=secret/a") for _, path, _ in web.asked)
    (web.folder / "grey.tif").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        open_image(url)
    assert "secret" not in str(caught.value).partition(" (")[0]


def test_a_str_a_upath_and_a_file_url(grey: Path) -> None:
    url = put(grey, "memory://doors/grey.tif")
    for given in (url, UPath(url), grey.as_uri(), str(grey), UPath(grey), GREY, open_image(grey)):
        np.testing.assert_array_equal(as_image(given).read()[0], GREY)
    assert open_image(grey.as_uri()).path == grey


def test_the_options_of_a_upath_are_taken(
    grey: Path, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(grey, f"{bucket}/grey.tif")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with other_sessions():
        np.testing.assert_array_equal(open_image(UPath(url, endpoint_url=s3_server)).read()[0], GREY)


def test_a_file_inside_an_archive(tmp_path: Path, grey: Path) -> None:
    with ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(grey, "inner/grey.tif")
    put(tmp_path / "images.zip", "memory://archives/images.zip")
    image = open_image("zip://inner/grey.tif::memory://archives/images.zip")
    np.testing.assert_array_equal(image.read()[0], GREY)
    assert image.identity() == open_image(grey).identity()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, this is text", r"begins with b'hello, t'.*TIFF.*PNG.*JPEG.*OME-Zarr"),
        (bytes(128) + b"DICM" + bytes(9), "may be a slide of several files.*copy its folder"),
        (b"II*\0", "is cut short"),
    ],
)
def test_files_that_are_not_an_image(data: bytes, says: str) -> None:
    fsspec.filesystem("memory").pipe_file("/wrong/file.tif", data)
    with pytest.raises(ImageFileError, match=rf"memory://wrong/file.tif: {says}"):
        open_image("memory://wrong/file.tif")


def test_a_slide_in_several_files_is_refused(tmp_path: Path) -> None:
    """The file alone would be taken for the picture that gives an overview of the slide, or for a part of the image."""
    for name in ("slide.mrxs", "slide.vsi"):
        (tmp_path / "picture").write_bytes(imagecodecs.jpeg_encode(noise(9, 9, 3)))
        url = put(tmp_path / "picture", f"memory://several/{name}")
        with pytest.raises(ImageFileError, match=f"{url}: may be a slide of several files.*copy its folder"):
            open_image(url)
    url = put(write_parts(tmp_path, noise(2, 50, 60, dtype=np.uint16)), "memory://several/part0.ome.tif")
    with pytest.raises(ImageFileError, match=f"{url}: its metadata name planes that it does not hold"):
        open_image(url)


# OME-Zarr


@VERSIONS
def test_an_ome_zarr_in_a_bucket_is_the_one_on_a_disk(tmp_path: Path, bucket: str, cache: Path, version: str) -> None:
    levels = halves(noise(3, 150, 170, dtype=np.uint16), 2)
    folder = write(tmp_path / "image.zarr", levels, version, datasets=SCALES, chunks=80)
    image = open_image(put(folder, f"{bucket}/folder/image.zarr"))
    assert image.pixel_size_yx_um == (0.5, 0.25)
    assert_same(image, open_image(folder))
    assert open_image(f"{bucket}/folder/image.zarr/").identity() == image.identity()
    assert not cache.exists()


@VERSIONS
def test_an_ome_zarr_on_the_web_where_no_folder_is_listed(web: Web, version: str) -> None:
    levels = halves(noise(3, 150, 170), 2)
    folder = write(web.folder / "image.zarr", levels, version, chunks=80)
    near, far = open_image(folder), open_image(f"{web.address}/image.zarr")
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(far.read(level=number), level)
    shutil.copytree(folder, web.folder / "other")
    assert open_image(f"{web.address}/other").identity() == far.identity() | {"name": "other"}  # by its pixels
    assert far.identity()["sha256"] != near.identity()["sha256"]
    write(web.folder / "other", [level + 1 for level in levels], version)
    assert open_image(f"{web.address}/other").identity()["sha256"] != far.identity()["sha256"]


@VERSIONS
def test_a_missing_chunk_is_background_and_a_missing_image_is_not(tmp_path: Path, bucket: str, version: str) -> None:
    pixels = noise(1, 90, 110) + 1
    folder = write(tmp_path / "image.zarr", [pixels], version)
    url = put(folder, f"{bucket}/image.zarr")
    image = open_image(url)
    gone(f"{url}/{chunk_at(folder, '0', '1', '1').relative_to(folder).as_posix()}")
    pixels[:, 32:64, 32:64] = 0
    np.testing.assert_array_equal(image.read(), pixels)
    fs, path = fsspec.url_to_fs(url)
    fs.pipe_file(f"{path}/zarr.json", b'{"attributes": {"ome": {}}}')
    with pytest.raises(ImageFileError, match=r"s3://.*image\.zarr: no longer describes an image"):
        image.read()
    gone(url)
    with pytest.raises(ImageFileError, match="no longer describes an image"):
        image.read()


# Errors


def test_images_that_do_not_exist(bucket: str, web: Web) -> None:
    for url in (f"{bucket}/a/nothing.tif", "s3://nowhere-at-all-7/x.tif", "memory://no/x.tif", f"{web.address}/x.tif"):
        for name in (url, url.replace(".tif", ".zarr")):
            with pytest.raises(FileNotFoundError, match=rf"{name}: there is no such file.*check the address"):
                open_image(name)


@pytest.mark.usefixtures("s3_server")
def test_a_bucket_without_rights_or_credentials(web: Web, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    web.status = 403
    with monkeypatch.context() as patch, other_sessions():
        patch.setenv("AWS_ENDPOINT_URL", web.address)
        for name in ("x.tif", "x.zarr"):
            with pytest.raises(PermissionError, match=rf"s3://bucket/a/{name}: may not be read .*AWS_PROFILE.*anon"):
                open_image(f"s3://bucket/a/{name}")
        with pytest.raises(PermissionError, match=r"s3://bucket/a.* may not be read"):
            list_images("s3://bucket/a", lambda _: True)
    with monkeypatch.context() as patch, other_sessions():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        with pytest.raises(PermissionError, match=r"s3://.*x\.tif: may not be read \(Unable to locate credentials"):
            open_image(f"{bucket}/x.tif")


# Folders


def is_picture(name: str) -> bool:
    return name.endswith((".tif", ".svs"))


@pytest.fixture
def folder(tmp_path: Path, bucket: str) -> str:
    write_slide(tmp_path / "slide.svs", halves(noise(3, 64, 64), 1))
    for name in ("b.svs", "a.tif", ".hidden.tif", "notes.txt", "deeper/c.svs", "what[1].tif"):
        put(tmp_path / "slide.svs", f"{bucket}/slides/{name}")
    write(tmp_path / "image", [noise(1, 9, 9)], "0.5")
    for name in ("cells.zarr", "named", ".hidden.zarr"):
        put(tmp_path / "image", f"{bucket}/slides/{name}")
    return f"{bucket}/slides"


def test_the_images_of_a_folder_and_of_a_pattern(folder: str) -> None:
    every = ["a.tif", "b.svs", "cells.zarr", "named", "what[1].tif"]
    for pattern, names in {
        **dict.fromkeys(("", "/", "/*"), every),
        "/*.svs": ["b.svs"],
        "/*.zarr": ["cells.zarr"],
        "/what[1]*": ["what[1].tif"],
        "/z*": [],
        **{f"/{name}": [name] for name in ("notes.txt", "cells.zarr", ".hidden.tif")},  # an image is a list of one
    }.items():
        assert list_images(folder + pattern, is_picture) == [f"{folder}/{name}" for name in names]
    assert all(isinstance(open_image(f"{folder}/{name}"), Image) for name in every)


def test_an_image_that_another_program_puts_into_a_folder_is_seen(folder: str, grey: Path) -> None:
    before = list_images(folder, is_picture)
    with pytest.raises(FileNotFoundError):
        open_image(f"{folder}/new.tif")
    bucket, _, path = folder.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{path}/new.tif", Body=grey.read_bytes())
    np.testing.assert_array_equal(open_image(f"{folder}/new.tif").read()[0], GREY)
    assert set(list_images(folder, is_picture)) == {*before, f"{folder}/new.tif"}


def test_a_folder_without_images_and_none_at_all(folder: str) -> None:
    assert list_images(f"{folder}/deeper", lambda name: name.endswith(".png")) == []
    for name in ("nothing", "nothing/*.tif"):
        with pytest.raises(FileNotFoundError, match=r"s3://.*/nothing: there is no such file"):
            list_images(f"{folder}/{name}", is_picture)
    for name, is_image in (("named", True), ("deeper", False)):
        assert is_image_folder(as_path(f"{folder}/{name}")) == is_image
    with pytest.raises(ImageFileError, match=r"deeper: is a folder; give the URL of one image"):
        open_image(f"{folder}/deeper")
