"""TIFF at URLs: the image that it is here, of which only what is looked at is fetched."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import imagecodecs
import numpy as np
import pytest
import tifffile
from far import assert_same, counted, gone
from test_images_damage import require_all_or_nothing, to_the_end
from test_images_tiff_regions import forty, write_qptiff, write_sub_ifds, written
from written import APERIO, assert_regions, halves, noise, write_slide

from cytoseed.images import Image, ImageFileError, Remote, blocks, open_image, readers, tiff
from remote import Web, put


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that files of tests have many."""
    for name, value in {"BLOCK_BYTES": 1 << 11, "REQUEST_BYTES": 1 << 16, "AHEAD_BYTES": 1 << 18}.items():
        monkeypatch.setattr(blocks, name, value)
    monkeypatch.setattr(blocks, "_KEPT_BYTES", 1 << 19)


@pytest.fixture(autouse=True)
def _no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a copy is to be made")

    monkeypatch.setattr(readers, "local_copy", refuse)


def svs(path: Path, **options: Any) -> Path:
    return write_slide(path, halves(noise(3, 512, 768), 3), **options)


def ome(path: Path) -> Path:
    pixels = halves(noise(3, 256, 320, dtype=np.uint16), 3)
    return write_sub_ifds(path, pixels, compression="deflate")


def jpeg_2000(path: Path) -> Path:
    tiles = [imagecodecs.jpeg2k_encode(tile, codecformat="J2K", mct=False, level=0) for tile in noise(4, 64, 64, 3)]
    text = APERIO.format(w=128, h=128)
    own = {"photometric": "rgb", "metadata": None, "description": text, "compression": 33005}
    tifffile.imwrite(path, iter(tiles), shape=(128, 128, 3), dtype=np.uint8, tile=(64, 64), **own)
    return path


def odd(path: Path) -> Path:
    """Write rows, columns and channels in an order that tifffile alone brings into shape."""
    tifffile.imwrite(path, noise(31, 7, 23, dtype=">u2"), photometric="minisblack", metadata={"axes": "XCY"})
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "slide.svs": lambda path: svs(path, compression="jpeg"),
    "raw.svs": svs,
    "wavelets.svs": jpeg_2000,
    "no-scale.svs": lambda path: svs(path, resolution=(40_000, 40_000), resolutionunit="CENTIMETER"),
    "generic.tif": lambda path: svs(path, aperio=False, compression="jpeg"),
    "scaled.tif": lambda path: svs(path, aperio=False, resolution=(40_000, 40_000), resolutionunit="CENTIMETER"),
    "big.tif": lambda path: written(
        path, "SYX", noise(3, 300, 200), bigtiff=True, tile=(64, 64), planarconfig="separate"
    ),
    "image.ome.tif": ome,
    "forty.ome.tif": lambda path: forty(path.parent, rowsperstrip=9)[1],
    "rows.tif": lambda path: written(path, "YX", noise(1, 400, 300, dtype=np.float32)),
    "strips.tif": lambda path: written(path, "YX", noise(1, 400, 300), compression="deflate", rowsperstrip=50),
    "odd.tif": odd,
    "scan.qptiff": lambda path: write_qptiff(path, halves(noise(3, 128, 192), 2), ["DAPI", "CD3", "CD8"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_in_a_bucket_it_is_the_image_that_it_is_here(tmp_path: Path, bucket: str, name: str) -> None:
    file = KINDS[name](tmp_path / name)
    image = open_image(put(file, f"{bucket}/folder/{name}"))
    assert image.source == f"{bucket}/folder/{name}"
    assert_same(image, open_image(file))


@pytest.mark.parametrize("name", ["slide.svs", "image.ome.tif", "rows.tif"])
def test_every_region_of_one_in_memory(tmp_path: Path, name: str) -> None:
    file = KINDS[name](tmp_path / name)
    near = open_image(file)
    levels = [near.read(level=level) for level in range(len(near.level_shapes))]
    assert_regions(open_image(put(file, f"memory://regions/{name}")), levels, examples=20)


def test_lower_levels_between_pixels_are_those_of_openslide_but_for_its_rounding(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(1101), np.arange(1203)) / 2304 * 255
    levels = halves(np.stack([smooth, 255 - smooth, smooth / 2]).astype(np.uint8), 3, 4)
    file = write_slide(tmp_path / "slide.svs", levels)
    near, far = open_image(file), open_image(put(file, "memory://between/slide.svs"))
    np.testing.assert_array_equal(far.read(), near.read())
    for level in (1, 2):
        assert np.abs(far.read(level=level).astype(int) - near.read(level=level)).max() <= 2


def test_on_the_web_little_is_fetched_in_few_requests(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # true blocks
    levels = halves(noise(3, 3072, 3072), 3)
    file = write_slide(web.folder / "slide.svs", levels, tile=(256, 256))
    size = file.stat().st_size
    image = open_image(f"{web.address}/slide.svs")
    assert len(web.asked) <= 12
    assert web.sent < size / 20
    with image.regions() as regions:
        web.asked.clear()
        np.testing.assert_array_equal(regions.read((300, 300, 300, 300)), levels[0][:, 300:600, 300:600])
        assert len(web.asked) <= 3
        assert web.sent < size / 20
        web.asked.clear()
        np.testing.assert_array_equal(regions.read((310, 320, 200, 200)), levels[0][:, 310:510, 320:520])
        assert web.asked == []  # the same tiles
    web.asked.clear()
    np.testing.assert_array_equal(image.read(), levels[0])
    assert len(web.asked) <= 20
    assert web.sent < 1.1 * size


def test_channels_that_are_not_wished_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(8, 300, 400)
    own: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "eight.ome.tif", pixels, compression="deflate", **own)
    image = open_image(put(tmp_path / "eight.ome.tif", "memory://channels/eight.ome.tif"))
    asked = counted(monkeypatch)
    with image.regions() as regions:
        asked.clear()
        np.testing.assert_array_equal(regions.read((0, 0, *pixels.shape[1:]), channels=[7]), pixels[7:8])
    assert len(asked) == 1
    assert sum(asked[0]) <= pixels[7].nbytes + 2 * blocks.BLOCK_BYTES


def test_rows_of_a_part_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(1, 500, 4000)
    image = open_image(put(written(tmp_path / "rows.tif", "YX", pixels), "memory://rows/rows.tif"))
    asked = counted(monkeypatch)
    with image.regions() as regions:
        asked.clear()
        np.testing.assert_array_equal(regions.read((100, 50, 60, 100)), pixels[:, 100:160, 50:150])
    assert len(asked) <= 3  # of 60 rows
    assert sum(map(sum, asked)) < 0.8 * 60 * 4000


def test_a_strip_that_is_kept_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(1, 300, 1000)
    file = written(tmp_path / "strip.tif", "YX", pixels, compression="deflate", rowsperstrip=300)
    image = open_image(put(file, "memory://strip/strip.tif"))
    asked = counted(monkeypatch)
    with image.regions() as regions:
        regions.read((0, 0, 1, 1))
        asked.clear()
        for row in range(0, 300, 50):
            np.testing.assert_array_equal(regions.read((row, 0, 50, 1000)), pixels[:, row : row + 50])
    assert asked == []


def test_it_goes_to_another_process(tmp_path: Path) -> None:
    file = svs(tmp_path / "slide.svs")
    image = open_image(put(file, "memory://pickled/slide.svs"))
    assert_same(pickle.loads(pickle.dumps(image)), open_image(file))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_of_one_that_is_cut_what_is_there_is_read(tmp_path: Path, share: float) -> None:
    levels = halves(noise(3, 300, 400), 3)
    file = write_slide(tmp_path / "slide.svs", levels, compression="deflate")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    near, far = open_image(file), open_image(put(file, f"memory://cut{share}/slide.svs"))
    assert far.damage == near.damage != ""
    assert require_all_or_nothing(far, levels) == require_all_or_nothing(near, levels)
    with pytest.raises(ImageFileError, match=r"memory://cut.*/slide\.svs: is cut short.*again"):
        far.read()


def test_of_cut_channels_those_that_are_there_are_read(tmp_path: Path) -> None:
    pixels = noise(4, 90, 110, dtype=np.uint16)
    own: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "compression": "deflate"}
    tifffile.imwrite(tmp_path / "image.tif", pixels, rowsperstrip=10, **own)
    to_the_end(tmp_path / "image.tif")
    data = (tmp_path / "image.tif").read_bytes()
    (tmp_path / "image.tif").write_bytes(data[: int(0.7 * len(data))])
    image = open_image(put(tmp_path / "image.tif", "memory://cut-channels/image.tif"))
    assert image.damage == "pixels of level 0 are missing"
    np.testing.assert_array_equal(image.read((0, 0, 90, 110), channels=[0]), pixels[:1])
    with pytest.raises(ImageFileError, match="cut short"):
        image.read((0, 0, 90, 110))


# What changes or goes away


@pytest.fixture
def slide(tmp_path: Path, bucket: str) -> tuple[str, Image]:
    url = put(svs(tmp_path / "slide.svs"), f"{bucket}/slide.svs")
    return url, open_image(url)


def test_another_image_in_its_place_is_refused(tmp_path: Path, slide: tuple[str, Image]) -> None:
    url, image = slide
    put(write_slide(tmp_path / "other.svs", halves(noise(3, 256, 256), 2)), url)
    with pytest.raises(ImageFileError, match=r"s3://.*slide\.svs: announced pixels of shape .*open it again"):
        image.read((0, 0, 9, 9))
    assert open_image(url).shape == (3, 256, 256)


def test_one_that_is_replaced_while_it_is_read_is_an_error_where_that_is_seen(slide: tuple[str, Image]) -> None:
    url, image = slide
    with image.regions() as regions:
        regions.read((0, 0, 64, 64))
        fsspec.filesystem("s3").pipe_file(url, b"II*\0 much shorter")
        with pytest.raises(OSError, match=r"s3://.*slide\.svs: "):
            regions.read((400, 600, 64, 64))


def test_fewer_bytes_than_were_asked_for_are_an_error(tmp_path: Path) -> None:
    file = svs(tmp_path / "slide.svs")
    url = put(file, "memory://shorter/slide.svs")
    with open_image(url).regions() as regions:
        fsspec.filesystem("memory").pipe_file("/shorter/slide.svs", file.read_bytes()[:9000])
        with pytest.raises(OSError, match=r"memory://shorter/slide\.svs: .*gave \d+ bytes for the .* from byte"):
            regions.read((400, 600, 64, 64))


def test_a_bucket_that_goes_away(slide: tuple[str, Image]) -> None:
    url, image = slide
    with image.regions() as regions:
        gone(url.rpartition("/")[0])
        with pytest.raises(FileNotFoundError, match=r"s3://.*slide\.svs: there is no such file"):
            regions.read((400, 600, 64, 64))
    with pytest.raises(FileNotFoundError, match=r"s3://.*slide\.svs: there is no such file"):
        image.read()
    with pytest.raises(FileNotFoundError, match=r"s3://.*slide\.svs: there is no such file"):
        image.identity()


@pytest.mark.parametrize("name", ["image.ome.tif", "forty.ome.tif", "slide.svs", "odd.tif"])
def test_what_goes_wrong_while_it_is_opened_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each of the requests fails once; tifffile takes some of them for a page that is damaged, and goes on."""
    file = KINDS[name](tmp_path / name)
    url = put(file, f"memory://failing/{name}")
    near = open_image(file)
    original, failing, made = Remote.pieces, -1, 0

    def pieces(self: Remote, extents: Any) -> list[bytes]:
        nonlocal made
        made += 1
        if made == failing:
            with self._noted():
                raise ConnectionResetError("the line was cut")
        return original(self, extents)

    monkeypatch.setattr(Remote, "pieces", pieces)
    open_image(url)
    for failing in range(1, made + 1):  # noqa: B007
        made = 0
        with pytest.raises(ConnectionError, match=rf"memory://failing/{name}: .*the line was cut"):
            open_image(url)
    failing = -1
    assert_same(open_image(url), near)


# What OpenSlide alone reads


def test_the_first_page_decides_what_is_copied(tmp_path: Path) -> None:
    def look(name: str, **options: Any) -> tiff.Look:
        own: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "software": None} | options
        tifffile.imwrite(tmp_path / name, noise(64, 64, 3), **own)
        return tiff.look_at(Remote(put(tmp_path / name, f"memory://look/{name}")))

    philips = '<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"></DataObject>'
    scn = '<?xml version="1.0"?><scn></scn>'
    for name, options in {
        "slide.ndpi": {},
        "hamamatsu.tif": {"extratags": [(65420, 4, 1, 1, False), (271, 2, 0, "Hamamatsu", False)]},
        "leica.scn": {"description": scn},
        "philips.tiff": {"description": philips, "software": "Philips DP v1.0"},
        "ventana.bif": {"extratags": [(700, 1, 20, b"<?xml?><iScan></iScan>"[:20], False)]},
        "trestle.tif": {"software": "MedScan 4"},
        "matrox.svs": {"compression": 33003, "description": APERIO.format(w=64, h=64)},
    }.items():
        if "compression" in options:
            tiles = iter([imagecodecs.jpeg2k_encode(noise(64, 64, 3), codecformat="J2K", mct=False)])
            own = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "shape": (64, 64, 3), "dtype": np.uint8}
            tifffile.imwrite(tmp_path / name, tiles, **own, **options)
            found = tiff.look_at(Remote(put(tmp_path / name, f"memory://look/{name}")))
        else:
            found = look(name, **options)
        assert found.needs_openslide, name
    assert look("plain.tif") == tiff.Look(False, False)
    assert look("aperio.svs", description=APERIO.format(w=64, h=64)) == tiff.Look(False, True)
    broken = fsspec.filesystem("memory")
    broken.pipe_file("/look/broken.tif", b"II*\0\x08")
    assert tiff.look_at(Remote("memory://look/broken.tif")) == tiff.Look(False, False)
