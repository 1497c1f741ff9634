"""Shared by the tests of the readers: files made of known pixels, and the comparison of every region with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cytoseed.images import Box, Image, ImageFileError

T = TypeVar("T")

APERIO = "Aperio Image Library v11.2.1\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990"


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 7) -> NDArray[Any]:
    """Pixels of which each differs from its neighbours; floats and signed integers below 0 too."""
    values = np.random.default_rng(seed).integers(0, 2 if dtype is bool else 200, shape)
    return (values - (100 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)


def halves(pixels: NDArray[Any], count: int, step: int = 2) -> list[NDArray[Any]]:
    """A pyramid (C,H,W) by leaving pixels out; sides are rounded down, as scanners do."""
    levels = [pixels]
    for _ in range(count - 1):
        last = levels[-1]
        levels.append(last[:, : last.shape[1] // step * step : step, : last.shape[2] // step * step : step])
    return levels


def write_slide(
    file: Path, levels: Sequence[NDArray[Any]], aperio: bool = True, mpp: str | None = "0.4990", **options: Any
) -> Path:
    """Write levels (3,H,W) as pages of their own, with the thumbnail that Aperio puts after the first."""
    bigtiff = options.pop("bigtiff", False)
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None} | options
    height, width = levels[0].shape[1:]
    text = APERIO.format(h=height, w=width).replace("0.4990", str(mpp)) if aperio else None
    with tifffile.TiffWriter(file, bigtiff=bigtiff) as writer:
        for number, level in enumerate(levels):
            kind = 0 if aperio or number == 0 else 1
            writer.write(np.moveaxis(level, 0, 2).copy(), description=text, subfiletype=kind, **settings)
            if aperio and number == 0:
                writer.write(noise(30, 40, 3), photometric="rgb", description=text, metadata=None, rowsperstrip=30)
    return file


def write_sub_ifds(file: Path, levels: Sequence[NDArray[Any]], ome: bool = False) -> Path:
    """Write channels (C,H,W) as pages, with the lower resolutions in their sub-IFDs."""
    with tifffile.TiffWriter(file, ome=ome, bigtiff=True) as writer:
        own: dict[str, Any] = {"photometric": "minisblack", "tile": (32, 32), "compression": "deflate"}
        for number, level in enumerate(levels):
            last = {"subifds": len(levels) - 1} if number == 0 else {"subfiletype": 1}
            writer.write(level, metadata={"axes": "CYX"}, **last, **own)
    return file


def write_parts(folder: Path, pixels: NDArray[Any]) -> Path:
    """Write the two channels of an OME-TIFF of uint16 into a file each; the first is returned."""
    height, width = pixels.shape[1:]
    ids = [f"urn:uuid:0000000{index}-0000-0000-0000-000000000000" for index in range(2)]
    planes = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="part{c}.ome.tif">{ids[c]}</UUID></TiffData>'
        for c in range(2)
    )
    for c in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[c]}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{width}" SizeY="{height}" SizeC="2" '
            'SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>'
            f"{planes}</Pixels></Image></OME>"
        )
        tifffile.imwrite(folder / f"part{c}.ome.tif", pixels[c], description=xml, metadata=None)
    return folder / "part0.ome.tif"


def write_qptiff(file: Path, levels: Sequence[NDArray[Any]], names: list[str], extra: str = "", **options: Any) -> Path:
    """Write channels as pages, a thumbnail, and the lower resolutions, as the scanner does."""

    def text(kind: str, number: int) -> str:
        name = f"<Name>{names[number]}</Name><Biomarker>CD{number}</Biomarker>"
        root = "PerkinElmer-QPI-ImageDescription"
        return f'<?xml version="1.0"?>\n<{root}><ImageType>{kind}</ImageType>{name}{extra}</{root}>'

    own: dict[str, Any] = {"software": "PerkinElmer-QPI", "metadata": None}
    with tifffile.TiffWriter(file) as writer:
        for number, level in enumerate(levels):
            kind = "FullResolution" if number == 0 else "ReducedResolution"
            for channel, plane in enumerate(level):
                tags = own | {"tile": (32, 32), "compression": "lzw", "description": text(kind, channel)} | options
                writer.write(plane, subfiletype=min(number, 1), **tags)
            if number == 0:
                writer.write(noise(20, 26, 3), photometric="rgb", description=text("Thumbnail", 0), **own)
    return file


def assert_regions(image: Image, levels: Sequence[NDArray[Any]], examples: int = 40) -> None:
    """Compare every level, whole and in boxes, with chosen channels and from several threads, with what was written."""
    assert image.shape == levels[0].shape
    assert image.level_shapes == tuple(level.shape[1:] for level in levels)
    assert image.dtype == levels[0].dtype
    channels = image.shape[0]

    def equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert found.flags.c_contiguous
        assert found.flags.writeable

    def crop(level: int, box: Box, chosen: Sequence[int] | None) -> NDArray[Any]:
        top, left, height, width = box
        part = levels[level][:, top : top + height, left : left + width]
        return part if chosen is None else part[list(chosen)]

    with image.regions() as regions:

        @settings(max_examples=examples)
        @given(st.data())
        def boxes(data: st.DataObject) -> None:
            level = data.draw(st.integers(0, len(levels) - 1))
            box = _box(data, *levels[level].shape[1:])
            chosen = data.draw(st.none() | st.lists(st.integers(0, channels - 1), min_size=1, max_size=4))
            found = regions.read(box, level, chosen)
            equal(found, crop(level, box, chosen))
            found[:] = 0  # the caller's own: what is read later is not changed by it

        boxes()
        many = [(level, box) for level, whole in enumerate(levels) for box in _grid(*whole.shape[1:])]
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda job: regions.read(job[1], job[0]), many))
        for (level, box), part in zip(many, parts, strict=True):
            equal(part, crop(level, box, None))
        for _ in range(2):
            for number, level in enumerate(levels):
                found = regions.read((0, 0, *level.shape[1:]), number)
                equal(found, level)
                found[:] = 0
    for number, level in enumerate(levels):
        equal(image.read(level=number), level)


def attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    """Result of a call and no error, or nothing and the message of the file's error."""
    try:
        return call(), ""
    except ImageFileError as error:
        return None, str(error)


def _box(data: st.DataObject, rows: int, columns: int) -> Box:
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    return top, left, data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))


def _grid(rows: int, columns: int, step: int = 37) -> list[Box]:
    places = itertools.product(range(0, rows, step), range(0, columns, step))
    return [(top, left, min(step, rows - top), min(step, columns - left)) for top, left in places]


def write_scn(file: Path, levels: Sequence[NDArray[Any]], offset: int) -> Path:
    """Write a Leica SCN: a macro, and two levels (3,H,W) of a scan at an offset on a canvas of 1000 px."""

    def image(name: str, side_nm: int, offset_nm: int, sizes: dict[int, int]) -> str:
        pages = "".join(
            f'<dimension sizeX="{side}" sizeY="{side}" r="{level}" ifd="{page}"/>'
            for level, (page, side) in enumerate(sizes.items())
        )
        side = next(iter(sizes.values()))
        place = f'sizeX="{side_nm}" sizeY="{side_nm}" offsetX="{offset_nm}" offsetY="{offset_nm}" spacingZ="0"'
        optics = (
            "<objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings><numericalAperture>"
            "0.4</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
        )
        return (
            f'<image name="{name}" uuid="{name}"><creationDate>2010-01-01T00:00:00Z</creationDate>'
            f'<device model="Leica SCN400" version="1.4"/><pixels sizeX="{side}" sizeY="{side}">{pages}</pixels>'
            f"<view {place}/><scanSettings>{optics}</scanSettings></image>"
        )

    sides = {page: level.shape[1] for page, level in enumerate(levels, start=1)}
    nm = 500  # per pixel
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="x"><collection '
        f'name="c" uuid="y" sizeX="{1000 * nm}" sizeY="{1000 * nm}"><barcode>MA==</barcode>'
        f"{image('macro', 1000 * nm, 0, {0: 128})}{image('main', sides[1] * nm, offset * nm, sides)}</collection></scn>"
    )
    own: dict[str, Any] = {"photometric": "rgb", "tile": (128, 128), "metadata": None, "software": None}
    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        for page, pixels in enumerate((noise(3, 128, 128), *levels)):
            text = xml if page == 0 else None
            writer.write(np.moveaxis(pixels, 0, 2).copy(), compression="jpeg", description=text, **own)
    return file
