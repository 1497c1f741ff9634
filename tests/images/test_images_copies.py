"""Copies of what cannot be read where it lies: whole or not at all, made once, and made again when it changed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import imagecodecs
import numpy as np
import pytest
import tifffile
from cytoseed.images.copies import local_copy
from far import assert_same
from written import APERIO, halves, noise, write_slide

from cytoseed.images import ImageFileError, Remote, cache_folder, copies, open_image
from remote import Web, put

DATA = np.random.default_rng(0).bytes(100_000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies, which is not there yet; a copy comes in many parts."""
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(copies, "REQUEST_BYTES", 1 << 13)
    monkeypatch.setattr(copies, "_AT_ONCE_BYTES", 1 << 15)
    return tmp_path / "cache"


@pytest.fixture
def url(tmp_path: Path) -> str:
    fsspec.filesystem("memory").pipe_file(f"/copies/{tmp_path.name}/file", DATA)
    return f"memory://copies/{tmp_path.name}/file"


def left(cache: Path) -> list[str]:
    """Names of all files that are in the folder of copies but for locks."""
    return sorted(file.name for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock")


# The slides


def matrox(path: Path) -> Path:
    """Write a slide whose colours OpenSlide alone converts."""
    tiles = [imagecodecs.jpeg2k_encode(tile, codecformat="J2K", mct=False, level=0) for tile in noise(4, 64, 64, 3)]
    own: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": 33003}
    text = APERIO.format(w=128, h=128)
    tifffile.imwrite(path, iter(tiles), shape=(128, 128, 3), dtype=np.uint8, tile=(64, 64), description=text, **own)
    return path


def test_a_slide_that_openslide_alone_reads_is_the_one_that_it_is_here(
    tmp_path: Path, bucket: str, cache: Path
) -> None:
    file = matrox(tmp_path / "slide.svs")
    image = open_image(put(file, f"{bucket}/slide.svs"))
    assert image.source == f"{bucket}/slide.svs"
    assert_same(image, open_image(file))
    assert left(cache) == ["slide.svs"]
    shutil.rmtree(cache)  # it may be deleted at any time
    assert_same(image, open_image(file))


def test_another_slide_in_its_place_is_refused(tmp_path: Path, bucket: str) -> None:
    image = open_image(put(matrox(tmp_path / "slide.svs"), f"{bucket}/slide.svs"))
    put(write_slide(tmp_path / "other.svs", halves(noise(3, 64, 96), 1)), f"{bucket}/slide.svs")
    with pytest.raises(ImageFileError, match=r"s3://.*slide\.svs: announced pixels of shape"):
        image.read()


def test_an_image_in_several_files(tmp_path: Path, bucket: str, cache: Path) -> None:
    pixels = noise(2, 50, 60, dtype=np.uint16)
    ids = [f"urn:uuid:0000000{index}-0000-0000-0000-000000000000" for index in range(2)]
    planes = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="part{c}.ome.tif">{ids[c]}</UUID></TiffData>'
        for c in range(2)
    )
    for c in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[c]}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="60" SizeY="50" SizeC="2" SizeZ="1" '
            f'SizeT="1"><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"part{c}.ome.tif", pixels[c], description=xml, metadata=None)
    first = put(tmp_path / "part0.ome.tif", f"{bucket}/part0.ome.tif")
    with pytest.raises(ImageFileError, match=r"s3://.*part0\.ome\.tif: its metadata name planes that it does not hold"):
        open_image(first)
    assert left(cache) == []
    put(tmp_path / "part1.ome.tif", f"{bucket}/part1.ome.tif")
    image = open_image(first)
    np.testing.assert_array_equal(image.read(), pixels)
    assert image.identity() == open_image(tmp_path / "part0.ome.tif").identity()
    assert left(cache) == ["part0.ome.tif", "part1.ome.tif"]


def test_of_a_mirax_its_folder_is_copied_too(bucket: str, cache: Path) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{bucket}/slide.mrxs", imagecodecs.jpeg_encode(noise(9, 9, 3)))
    for name in ("Slidedat.ini", "Index.dat", "more/Data0000.dat"):
        fs.pipe_file(f"{bucket}/slide/{name}", name.encode())
    with pytest.raises(ImageFileError, match=r"s3://.*/slide\.mrxs: "):  # it is made up
        open_image(f"{bucket}/slide.mrxs")
    assert left(cache) == ["Data0000.dat", "Index.dat", "Slidedat.ini", "slide.mrxs"]
    (copy,) = cache.rglob("slide.mrxs")
    assert (copy.with_suffix("") / "more" / "Data0000.dat").read_bytes() == b"more/Data0000.dat"
    fs.pipe_file(f"{bucket}/slide/Index.dat", b"of another scan")
    assert local_copy(Remote(f"{bucket}/slide.mrxs").read_from_copy(["slide/"])) != copy


def test_from_a_server_that_serves_no_parts(tmp_path: Path, web: Web, cache: Path) -> None:
    web.parts = False
    file = write_slide(tmp_path / "slide.svs", halves(noise(3, 500, 700), 2))
    shutil.copy(file, web.folder / "slide.svs")
    image = open_image(f"{web.address}/slide.svs")
    assert_same(image, open_image(file))
    assert left(cache) == ["slide.svs"]
    assert sum(count == file.stat().st_size for _, _, count in web.asked) <= 3  # a copy, and two tries for a part


# Whole or not at all


def test_it_is_made_once_and_made_again_when_the_file_changed(url: str, cache: Path) -> None:
    copy = local_copy(Remote(url))
    assert copy.name == "file"
    assert cache in copy.parents
    assert copy.read_bytes() == DATA
    before = copy.stat()
    assert local_copy(Remote(url)) == copy
    assert copy.stat().st_ino == before.st_ino
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), DATA[::-1])
    changed = local_copy(Remote(url))
    assert changed != copy
    assert changed.read_bytes() == DATA[::-1]


def test_where_no_version_is_told_it_is_made_anew(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = Remote.info
    monkeypatch.setattr(Remote, "info", lambda self: {"type": "file", "size": info(self)["size"], "name": "file"})
    assert local_copy(Remote(url)).read_bytes() == DATA
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), DATA[::-1])
    assert local_copy(Remote(url)).read_bytes() == DATA[::-1]


def test_an_error_leaves_nothing(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Remote.pieces

    def pieces(self: Remote, extents: Sequence[tuple[int, int]]) -> list[bytes]:
        if extents[0][0]:
            raise ConnectionResetError("the line was cut")
        return original(self, extents)

    monkeypatch.setattr(Remote, "pieces", pieces)
    with pytest.raises(ConnectionError, match="the line was cut"):
        local_copy(Remote(url))
    assert left(cache) == []
    assert not list(cache.rglob("*.part"))


def test_a_file_that_changes_while_it_is_copied_is_refused(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Remote.pieces

    def pieces(self: Remote, extents: Sequence[tuple[int, int]]) -> list[bytes]:
        fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), DATA[::-1])
        return original(self, extents)

    monkeypatch.setattr(Remote, "pieces", pieces)
    with pytest.raises(OSError, match=r"memory://copies/.*/file: was changed while it was copied"):
        local_copy(Remote(url))
    assert left(cache) == []


def test_room_is_looked_for_first(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=(1 << 26) + 99_999))
    monkeypatch.setattr(Remote, "pieces", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(
        OSError, match=rf"memory://copies/.*/file: .*needs 0 MB in {cache}.*67 MB are free.*CYTOSEED_CACHE"
    ):
        local_copy(Remote(url))
    assert left(cache) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_on_the_way(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"file: has to be copied to this machine, which needs .* in {cache}"):
        local_copy(Remote(url))
    assert left(cache) == []
    assert not list(cache.rglob("*.part"))


def test_a_folder_that_cannot_be_made(url: str, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(OSError, match=rf"file: has to be copied to this machine, and {cache}/slides cannot be made"):
        local_copy(Remote(url))


def test_what_lies_in_another_folder_is_not_copied(url: str, cache: Path) -> None:
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/").removesuffix("file") + "../outside", DATA)
    with pytest.raises(OSError, match="which lies in another folder"):
        local_copy(Remote(url).read_from_copy(["../outside"]))
    assert left(cache) == []


def test_what_a_killed_process_has_left_is_cleared_away(url: str, cache: Path) -> None:
    folder = local_copy(Remote(url)).parent
    shutil.rmtree(folder)
    (cache / "slides" / f"{folder.name}.1-abc.part").mkdir()
    (cache / "slides" / f"{folder.name}.1-abc.part" / "file").write_bytes(DATA[:5])
    assert local_copy(Remote(url)).read_bytes() == DATA
    assert not list(cache.rglob("*.part"))


def test_a_process_that_is_killed_leaves_no_copy_and_the_next_makes_it(tmp_path: Path, web: Web, cache: Path) -> None:
    (web.folder / "file").write_bytes(DATA)
    code = (
        "import os, sys; from cytoseed.images import copies, Remote\n"
        "copies.REQUEST_BYTES, copies._AT_ONCE_BYTES = 1 << 13, 1 << 15\n"
        "original = Remote.pieces\n"
        "def pieces(self, extents):\n"
        "    if extents[0][0]: os._exit(9)\n"
        "    return original(self, extents)\n"
        "Remote.pieces = pieces\n"
        "copies.local_copy(Remote(sys.argv[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code, f"{web.address}/file"], check=False, cwd=tmp_path)
    assert run.returncode == 9
    assert list(cache.rglob("*.part"))
    assert local_copy(Remote(f"{web.address}/file")).read_bytes() == DATA
    assert left(cache) == ["file"]
    assert not list(cache.rglob("*.part"))


def test_threads_and_processes_that_want_it_at_once_make_it_once(tmp_path: Path, web: Web, cache: Path) -> None:
    (web.folder / "file").write_bytes(DATA)
    code = (
        "import sys; from cytoseed.images.copies import local_copy; from cytoseed.images import Remote\n"
        "print(local_copy(Remote(sys.argv[1])).read_bytes() == open(sys.argv[2], 'rb').read())"
    )
    call = [sys.executable, "-c", code, f"{web.address}/file", str(web.folder / "file")]
    others = [subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: local_copy(Remote(f"{web.address}/file")).read_bytes() == DATA, range(3)))
    assert found == [True] * 3
    assert [other.communicate(timeout=120)[0].strip() for other in others] == ["True"] * 2
    assert left(cache) == ["file"]
    assert sum(count for _, _, count in web.asked) < 1.5 * len(DATA)


def test_without_locks_the_first_that_is_whole_is_kept(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: local_copy(Remote(url)), range(4)))
    assert len(set(found)) == 1
    assert found[0].read_bytes() == DATA
    assert left(cache) == ["file"]
    assert not list(cache.rglob("*.part"))


# Where they are


def test_where_copies_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("CYTOSEED_CACHE", "~/copies")
    assert cache_folder() == Path.home() / "copies"
    monkeypatch.delenv("CYTOSEED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    home = Path.home()
    for system, folder in {
        "linux": tmp_path / "cytoseed",
        "win32": tmp_path / "cytoseed" / "cache",
        "darwin": home / "Library" / "Caches" / "cytoseed",
    }.items():
        monkeypatch.setattr(sys, "platform", system)
        assert cache_folder() == folder
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == home / ".cache" / "cytoseed"
