"""The door for URLs: which they are, what opens them, what is shown of them, and what goes wrong on the way."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import imagecodecs
import numpy as np
import pytest
import tifffile
from far import assert_same
from fsspec.registry import known_implementations
from test_images_ngff import write
from upath import UPath
from written import halves, noise, write_slide

from cytoseed.images import Image, ImageFileError, Remote, chunks, is_url, list_images, open_image, remote
from remote import Web, forget_sessions, put

GREY = noise(1, 20, 30)[0]


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "grey.tif", GREY)
    return tmp_path / "grey.tif"


# What is a URL


@pytest.mark.parametrize(
    "text", ["s3://b/x.tif", "https://h/x", "memory://x", "simplecache::s3://b/x", "zip://x::s3://b/y"]
)
def test_urls(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["x.tif", "C://x.tif", "C:\\x", "a/b::c.tif", "s3:/b/x", "", "://", Path("s3://b/x")])
def test_paths(text: Any) -> None:
    assert not is_url(text)


@pytest.mark.parametrize(
    ("url", "shown", "name", "below"),
    [
        ("s3://bucket/a/slide.svs", "s3://bucket/a/slide.svs", "slide.svs", "s3://bucket/a/slide.svs/0"),
        ("s3://bucket/a/", "s3://bucket/a", "a", "s3://bucket/a/0"),
        ("s3://bucket", "s3://bucket", "bucket", "s3://bucket/0"),
        ("memory://", "memory://", "", "memory://0"),
        ("https://h/x.zarr?sig=a/b", "https://h/x.zarr", "x.zarr", "https://h/x.zarr/0?sig=a/b"),
        ("https://h/x/?sig=a", "https://h/x", "x", "https://h/x/0?sig=a"),
        ("sftp://me:secret@h:22/x.tif", "sftp://h:22/x.tif", "x.tif", "sftp://me:secret@h:22/x.tif/0"),
        ("abfs://box@account/x.tif", "abfs://box@account/x.tif", "x.tif", "abfs://box@account/x.tif/0"),
        ("filecache::s3://b/x.tif", "filecache::s3://b/x.tif", "x.tif", "filecache::s3://b/x.tif/0"),
        ("zip://d/x.tif::s3://b/y.zip", "zip://d/x.tif", "x.tif", "zip://d/x.tif/0::s3://b/y.zip"),
        ("s3://bucket/what?.tif", "s3://bucket/what?.tif", "what?.tif", "s3://bucket/what?.tif/0"),
    ],
)
def test_what_is_shown_of_a_url_and_how_it_is_named(url: str, shown: str, name: str, below: str) -> None:
    place = Remote(url)
    assert (str(place), place.name, (place / "0").url) == (shown, name, below)


def test_neither_passwords_nor_signatures_are_shown(grey: Path, web: Web) -> None:
    put(grey, "memory://secrets/grey.tif")
    (web.folder / "grey.tif").write_bytes(grey.read_bytes())
    url = f"{web.address}/grey.tif?X-Signature=secret"
    image = open_image(url)
    assert image.source == f"{web.address}/grey.tif"
    assert "secret" not in repr(image)
    np.testing.assert_array_equal(image.read()[0], GREY)
    assert all(path.endswith("?X-Signature=secret") for _, path, _ in web.asked)
    (web.folder / "grey.tif").unlink()
    with pytest.raises(FileNotFoundError) as told:
        image.read()
    assert "secret" not in str(told.value).partition(" (")[0]


# What opens what


def test_a_str_a_upath_and_a_file_url(grey: Path) -> None:
    url = put(grey, "memory://doors/grey.tif")
    for given in (url, UPath(url), grey.as_uri(), str(grey), UPath(grey), f"file://{grey}"):
        np.testing.assert_array_equal(opened(given).read()[0], GREY)  # type: ignore[arg-type]
    assert open_image(grey.as_uri()).path == grey


def test_the_options_of_a_upath_are_taken(
    grey: Path, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(grey, f"{bucket}/grey.tif")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    forget_sessions()
    try:
        image = open_image(UPath(url, endpoint_url=s3_server))  # type: ignore[arg-type]
        np.testing.assert_array_equal(image.read()[0], GREY)
    finally:
        forget_sessions()


def test_a_path_made_of_a_url_tells_what_to_give_instead() -> None:
    with pytest.raises(FileNotFoundError, match="give a URL as a str, not as a Path"):
        open_image(Path("s3://bucket/slide.tif"))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture(tmp_path: Path, bucket: str, kind: str) -> None:
    encode: Callable[[Any], bytes] = {"png": imagecodecs.png_encode, "jpeg": imagecodecs.jpeg_encode}[kind]
    file = tmp_path / "picture"
    file.write_bytes(encode(noise(40, 50, 3)))
    assert_same(open_image(put(file, f"{bucket}/picture")), open_image(file))


def test_a_picture_that_was_replaced_is_refused() -> None:
    fsspec.filesystem("memory").pipe_file("/replaced/a.png", imagecodecs.png_encode(GREY))
    image = open_image("memory://replaced/a.png")
    fsspec.filesystem("memory").pipe_file("/replaced/a.png", imagecodecs.png_encode(GREY[:5]))
    with pytest.raises(ImageFileError, match=r"memory://replaced/a\.png: announced"):
        image.read()


def test_one_inside_an_archive(tmp_path: Path, grey: Path) -> None:
    from zipfile import ZipFile

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
        (bytes(128) + b"DICM" + bytes(9), "may be a slide in several files.*copy its folder"),
        (b"[Virtual Microscope Specimen]", "may be a slide in several files.*copy its folder"),
        (b"II*\0", "is cut short"),
    ],
)
def test_what_is_no_image(data: bytes, says: str) -> None:
    fsspec.filesystem("memory").pipe_file("/wrong/file.tif", data)
    with pytest.raises(ImageFileError, match=rf"memory://wrong/file\.tif: {says}"):
        open_image("memory://wrong/file.tif")


@pytest.mark.parametrize("there", [True, False])
def test_the_overview_of_a_vsi_is_not_taken_for_the_slide(grey: Path, there: bool) -> None:
    fs = fsspec.filesystem("memory")
    if there:
        fs.pipe_file("/vsi-True/_slide_/stack1/frame.ets", b"pixels")
    url = put(grey, f"memory://vsi-{there}/slide.vsi")
    if there:
        with pytest.raises(ImageFileError, match=r"memory://vsi-True/slide\.vsi: is a slide of Olympus.*_slide_"):
            open_image(url)
    else:
        np.testing.assert_array_equal(open_image(url).read()[0], GREY)


# What goes wrong


def test_what_is_not_there(bucket: str, web: Web) -> None:
    for url in (f"{bucket}/a/nothing.tif", "s3://nowhere-at-all-7/x.tif", "memory://no/x.tif", f"{web.address}/x.tif"):
        for name in (url, url.replace(".tif", ".zarr")):
            with pytest.raises(FileNotFoundError, match=rf"{name}: there is no such file.*check the address"):
                open_image(name)


def test_an_unknown_protocol() -> None:
    with pytest.raises(ValueError, match=r"foo://b/x\.tif: Protocol not known: foo; fsspec knows s3"):
        open_image("foo://b/x.tif")


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ModuleNotFoundError, match=r"s3://b/x\.tif: .*pip install 'cytoseed\[cloud\]' brings fsspec"):
        open_image("s3://b/x.tif")


def test_without_the_package_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"class": "no_such_package.FileSystem", "err": "Please install no_such_package"}
    monkeypatch.setitem(known_implementations, "afar", known)
    with pytest.raises(ModuleNotFoundError, match=r"afar://b/x\.tif: .*Please install no_such_package.*pip install"):
        open_image("afar://b/x.tif")


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_does_not_let_it_be_read(web: Web, status: int) -> None:
    web.status = status
    with pytest.raises(PermissionError, match=rf"{web.address}/x\.tif: may not be read .*check the rights"):
        open_image(f"{web.address}/x.tif")


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("name", ["x.tif", "x.zarr"])
def test_a_bucket_without_rights(web: Web, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    web.status = 403
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)
    forget_sessions()
    try:
        with pytest.raises(PermissionError, match=rf"s3://bucket/a/{name}: may not be read .*AWS_PROFILE.*anon"):
            open_image(f"s3://bucket/a/{name}")
        with pytest.raises(PermissionError, match=r"s3://bucket/a.* may not be read"):
            list_images("s3://bucket/a", lambda _: True)
    finally:
        forget_sessions()


def test_without_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_sessions()
    try:
        with pytest.raises(PermissionError, match=r"s3://.*x\.tif: may not be read \(Unable to locate credentials"):
            open_image(f"{bucket}/x.tif")
    finally:
        forget_sessions()


def test_a_server_with_an_error_of_its_own(web: Web, grey: Path) -> None:
    (web.folder / "grey.tif").write_bytes(grey.read_bytes())
    image = open_image(f"{web.address}/grey.tif")
    with image.regions() as regions:
        web.status = 500
        with pytest.raises(OSError, match=rf"{web.address}/grey\.tif: cannot be read .*500"):
            image.read()
        web.status = 0
        np.testing.assert_array_equal(regions.read((0, 0, 20, 30))[0], GREY)


@pytest.fixture
def silent() -> Iterator[str]:
    """Host and port where somebody listens and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("name", ["x.tif", "x.zarr"])
def test_a_host_that_does_not_answer(silent: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in (remote, chunks):
        monkeypatch.setattr(module, "SILENCE_S", 0.3)
    with pytest.raises(TimeoutError, match=rf"http://{silent}/{name}.*: {silent} gave no answer within .* check"):
        open_image(f"http://{silent}/{name}")
    forget_sessions()


@pytest.mark.usefixtures("s3_server")
def test_a_store_that_does_not_answer(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{silent}")
    monkeypatch.setattr(remote, "SILENCE_S", 0.3)
    forget_sessions()
    try:
        with pytest.raises(TimeoutError, match=r"s3://bucket/x\.tif: the store of s3://bucket gave no answer within"):
            open_image("s3://bucket/x.tif")
    finally:
        forget_sessions()


def test_a_host_that_cannot_be_reached() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=rf"http://{address}/x\.tif: {address} cannot be reached"):
        open_image(f"http://{address}/x.tif")
    forget_sessions()


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


def test_the_images_in_a_folder(folder: str) -> None:
    names = ["a.tif", "b.svs", "cells.zarr", "named", "what[1].tif"]
    found = list_images(folder, is_picture)
    assert found == [f"{folder}/{name}" for name in names]
    assert list_images(f"{folder}/", is_picture) == found
    assert all(isinstance(open_image(url), Image) for url in found)
    assert list_images(folder, lambda _: False) == [f"{folder}/cells.zarr", f"{folder}/named"]


def test_the_images_of_a_pattern(folder: str) -> None:
    for pattern, names in {
        "*.svs": ["b.svs"],
        "*": ["a.tif", "b.svs", "cells.zarr", "named", "what[1].tif"],
        "*.zarr": ["cells.zarr"],
        "what[1]*": ["what[1].tif"],
        "z*": [],
    }.items():
        assert list_images(f"{folder}/{pattern}", is_picture) == [f"{folder}/{name}" for name in names]


def test_an_image_is_a_list_of_one(folder: str) -> None:
    for name in ("notes.txt", "cells.zarr", ".hidden.tif"):  # whoever names it wants it
        assert list_images(f"{folder}/{name}", is_picture) == [f"{folder}/{name}"]


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
