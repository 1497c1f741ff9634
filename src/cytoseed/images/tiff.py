"""Reader of TIFF in all its dialects, by tifffile: which axes are channels, and which files are refused."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.ome_xml import checked_xml, companion_data, missing_files
from cytoseed.images.pixel_size import ome_pixels, perkinelmer_text, tiff_statements
from cytoseed.images.regions import STACKS, Box, ImageFileError, Layout, cut_short, flat_planes, foreign_errors
from cytoseed.images.series import Series, listed, single
from cytoseed.images.tiff_segments import Store, planes_of

_RGB, _PALETTE, _YCBCR = 2, 3, 6
_GREY = (0, 1)
_ALPHA = (1, 2)
_UNCONVERTED = (1, 5, 8, 32773, 32946)  # compressions under which YCbCr stays YCbCr: none, LZW, ...
_LONGEST_PX = 1 << 31
_LEAST_TILE_BYTES, _LARGEST_TILE_BYTES = 1 << 10, 1 << 28

_FIRST_PRIVATE_TAG = 32768
_SUB_IFDS = 330
_POINTERS = {4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of a tag that can hold offsets: LONG, IFD, LONG8, IFD8
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def list_tiff(path: Path) -> list[Series]:
    """Images of a TIFF, without those that an OME-TIFF of several files has in another; an only one is opened."""
    with foreign_errors(path), _opened_file(path) as (tif, store):
        every = range(1 if tif.is_lsm else len(tif.series))  # the second of an LSM is its thumbnail
        numbers = [number for number in every if tif.series[number].keyframe.parent is tif] or list(every)
        if len(numbers) < 2:
            return [single(_image(_Tiff(path, tif, store, numbers[0] if numbers else 0)))]
        sizes = [dict(zip(series.axes, map(int, series.shape), strict=True)) for series in tif.series]
        return [
            Series(tif.series[n].name, (sizes[n].get("Y", 1), sizes[n].get("X", 1)), partial(_open, path, n))
            for n in numbers
        ]


def _open(path: Path, number: int) -> Image:
    with foreign_errors(path), _opened(path, number) as tiff:
        return _image(tiff)


def _image(tiff: _Tiff) -> Image:
    """One image of a TIFF, with its lower resolutions."""
    statements = tiff_statements(tiff.tif, tiff.number)
    return make_image(
        tiff.path, tiff.layout, partial(_opened, tiff.path, tiff.number), _names(tiff), statements, tiff.planes
    )


def list_companion(path: Path) -> list[Series]:
    """Images of the TIFF files in the same folder that an OME companion file (`.companion.ome`) describes."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    file = companion_data(path, text)
    if file is not None:
        with foreign_errors(file), _tifffile(file) as tif:
            if tif.is_ome and tif.ome_metadata == text:
                return list_tiff(file)
    raise ImageFileError(f"{path}: is XML, but not the companion of an OME-TIFF beside it; give the image's own file")


def open_label_tiff(path: Path) -> Image:
    """Open the first image of a TIFF as labels: the indices of a palette; planes along any axis are channels."""
    opened = partial(_opened, path, 0, as_labels=True)
    with foreign_errors(path), opened() as tiff:
        return make_image(path, tiff.layout, opened, _names(tiff), tiff_statements(tiff.tif, 0))


def suits_openslide(path: Path) -> bool:
    """Whether OpenSlide reads a TIFF without loss and without harm.

    It treats everything as upright 8-bit RGB without metadata of OME-TIFF and ImageJ, fails on tiles below 1 KiB and on
    uncompressed ones that are not a multiple of it, and crashes the whole program on absurd sizes in a damaged file.
    """
    try:
        with foreign_errors(path), _tifffile(path) as tif:
            page = tif.pages.first
            colours = page.photometric in (_RGB, _YCBCR) and page.samplesperpixel == 3 and page.dtype == np.uint8
            upright = page.tags.valueof("Orientation", 1) == 1
            plain = colours and upright and not (tif.is_ome or tif.is_imagej)
            return plain and all(_is_sound(page) for page in tif.pages)
    except ImageFileError:
        return False


def _is_sound(page: Any) -> bool:
    """Whether a page and its tiles are of a possible size."""
    tile = [page.tags.valueof(name) for name in ("TileWidth", "TileLength")]
    sides = [page.imagewidth, page.imagelength, *(tile if tile != [None, None] else ())]
    if not all(isinstance(side, int) and 0 < side < _LONGEST_PX for side in sides):
        return False
    if tile == [None, None]:
        return True
    count = tile[0] * tile[1]
    fits: bool = page.compression != 1 or count * (3 if page.planarconfig == 1 else 1) % _LEAST_TILE_BYTES == 0
    return fits and _LEAST_TILE_BYTES <= 3 * count <= _LARGEST_TILE_BYTES


@contextmanager
def _tifffile(path: Path) -> Iterator[Any]:
    """Open `TiffFile`, whose warnings about unusual files would be printed if its logger had no handler."""
    import tifffile

    logger, handler = logging.getLogger("tifffile"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with tifffile.TiffFile(path) as tif:
            other = checked_xml(path, tif)
            if other is None:
                yield tif
                return
        with tifffile.TiffFile(path, omexml=other) as tif:
            yield tif
    finally:
        logger.removeHandler(handler)


@contextmanager
def _opened_file(path: Path) -> Iterator[tuple[Any, Store]]:
    require_all_pages(path)
    with _tifffile(path) as tif, closing(Store(path)) as store:
        if tif.is_bif:
            install = "pip install openslide-python openslide-bin"
            raise ImageFileError(f"{path}: is a Ventana slide, whose tiles overlap; OpenSlide reads it: {install}")
        yield tif, store


@contextmanager
def _opened(path: Path, number: int, as_labels: bool = False) -> Iterator[_Tiff]:
    with _opened_file(path) as (tif, store):
        yield _Tiff(path, tif, store, number, as_labels)


class _Tiff:
    """One image of an open TIFF: its layout and regions."""

    def __init__(self, path: Path, tif: Any, store: Store, number: int = 0, as_labels: bool = False) -> None:
        self.path, self.number = path, number
        series = tif.series[number]
        _require_all_planes(path, tif, series)
        page = series.keyframe
        _require_known_values(path, series, page)
        _require_codec(path, page)
        self.planes = None if as_labels else _stack_planes(series)
        flat = series.size // (page.imagelength * page.imagewidth)
        samples = flat if as_labels or self.planes is not None else _channel_count(path, series)
        # ImageJ writes its lookup tables as a palette: they colour a grey image and are no part of it
        palette = page.photometric == _PALETTE and not (tif.is_imagej or tif.is_ome or as_labels)
        of_frame = samples if self.planes is None else self.planes.shape[2]
        in_colour = of_frame > 1
        in_colour = in_colour and not (as_labels and page.planarconfig != 1)  # stacks of 3 planes may be called RGB
        has_alpha = in_colour and bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA  # comes last
        self.tif, self.series = tif, series
        self.is_rgb = palette or (in_colour and page.photometric in (_RGB, _YCBCR) and of_frame in (3, 4))
        colours = page.colormap if palette else None  # (3, values) of 16 bits; some programs write 8
        self._colours = None if colours is None else (colours >> (8 * (colours.max() > 255))).astype(np.uint8)
        kind = _kind(series)  # a lower resolution of another, or without all its pages, is left out
        lower = [level for level in series.levels[1:] if _has_all_pages(level) and _kind(level) == kind]
        levels = {level: planes for level in (series, *lower) if (planes := planes_of(level, store))}
        if series not in levels:
            raise ImageFileError(f"{path}: its axes are in an unusual order ({series.axes}): save it as OME-TIFF")
        if self.planes is not None:
            if palette:
                raise ImageFileError(f"{path}: is a stack of pictures with a palette; convert it to RGB")
            self.planes = self.planes[:, :, : of_frame - has_alpha]
        self._levels = list(levels.values())
        shapes = [dict(zip(level.axes, map(int, level.shape), strict=True)) for level in levels]
        self.layout = Layout(
            (
                samples if self.planes is not None else 3 if self.is_rgb else samples - has_alpha,
                shapes[0]["Y"],
                shapes[0]["X"],
            ),
            np.dtype(np.uint8) if palette else series.dtype.newbyteorder("="),
            tuple((shape["Y"], shape["X"]) for shape in shapes),
        )
        for level, planes in enumerate(self._levels):
            if not all(plane.is_whole for plane in planes):
                raise cut_short(path, f"pixels of level {level} are missing")

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        """Read a region; only planes with a chosen channel are read."""
        planes = self._levels[level]
        if self._colours is not None:
            shown: NDArray[Any] = np.take(self._colours[list(channels)], planes[0].read(box_yxhw, [0])[0], axis=1)
            return shown
        result = np.empty((len(channels), *box_yxhw[2:]), self.layout.dtype)
        first = 0
        for plane in planes:
            here = [place for place, channel in enumerate(channels) if first <= channel < first + plane.samples]
            if here:
                result[here] = plane.read(box_yxhw, [channels[place] - first for place in here])
            first += plane.samples
        return result


def _stack_planes(series: Any) -> NDArray[np.int64] | None:
    """Numbers (T,Z,C) of the planes of a stack; None for a 2-D image and for axes that are not known."""
    outer = [(axis, int(size)) for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YX"]
    if not outer or any(size > 1 and axis not in "TZCS" for axis, size in outer):
        return None
    return flat_planes(*zip(*outer, strict=True))


def _require_all_planes(path: Path, tif: Any, series: Any) -> None:
    """Refuse a file that lacks channels or planes of its first image."""
    promised = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    in_one_run = series.dataoffset is not None  # ImageJ gives such data one page
    lost = promised > len(tif.pages) and not (in_one_run and series.kind == "imagej")
    if lost or not (in_one_run or _has_all_pages(series)):
        parts = missing_files(path, tif)
        named = f", {listed(parts)}, which {'is' if len(parts) == 1 else 'are'} missing or empty" if parts else ""
        raise ImageFileError(f"{path}: its metadata name planes that it does not hold{named}; copy or export it again")


def _has_all_pages(series: Any) -> bool:
    """Whether no page of a series is missing."""
    try:
        return None not in list(series)
    except IndexError:  # tifffile expects a page beyond the last one
        return False


def _kind(level: Any) -> tuple[Any, ...]:
    """Properties that the levels of a pyramid share."""
    return level.axes, level.dtype, level.keyframe.compression


def _channel_count(path: Path, series: Any) -> int:
    """Number of channels with alpha; refuse anything but a 2-D image."""
    sizes = list(zip(series.axes, series.shape, strict=True))
    others = [(axis, size) for axis, size in sizes if size > 1 and axis not in "YX"]
    strange = [(axis, size) for axis, size in others if axis not in "CS"]
    if not strange and len(others) < 2:
        return int(others[0][1]) if others else 1
    what, remedy = "two axes of channels", "save the channels along one axis, CYX"
    if strange:
        axis, size = strange[0]
        what = f"{size} {STACKS.get(axis.lower(), f'images along an axis of unknown meaning ({axis})')}"
        remedy = "give one plane, or a projection (in Fiji Image > Stacks > Z Project; in Python stack.max(axis=0))"
        if axis not in "ZT":
            remedy = (
                "if they are channels, say so in the file: tifffile.imwrite(path, array, imagej=True, "
                "metadata={'axes': 'CYX'}), or in Fiji Image > Properties; else give one plane"
            )
    text = ", ".join(f"{axis} {size}" for axis, size in sizes)
    raise ImageFileError(f"{path}: holds {what} ({text}); cytoseed takes 2-D images: {remedy}")


def _require_known_values(path: Path, series: Any, page: Any) -> None:
    if series.dtype is None or series.dtype.kind not in "buif":
        raise ImageFileError(f"{path}: holds values of type {series.dtype}; save it with integers or 32-bit floats")
    raw_ycbcr = page.photometric == _YCBCR and page.compression in _UNCONVERTED
    if page.photometric not in (*_GREY, _RGB, _PALETTE, _YCBCR) or raw_ycbcr:
        name = getattr(page.photometric, "name", page.photometric)
        raise ImageFileError(f"{path}: its colours are {name}; cytoseed takes grey and RGB: convert it to RGB")


def _require_codec(path: Path, page: Any) -> None:
    """Refuse a compression that is unknown, or that the installed imagecodecs cannot decode."""
    from tifffile import TIFF

    try:
        if getattr(TIFF.DECOMPRESSORS[page.compression], "__name__", "") != "stub_decode":  # of a codec left out
            return
    except KeyError:
        pass
    name = getattr(page.compression, "name", page.compression)
    raise ImageFileError(
        f"{path}: its pixels are compressed by {name}, which cannot be decoded here; save it with LZW, Deflate or no "
        f"compression: open and save it in Fiji, or tiffcp -c lzw IN OUT"
    )


def _names(tiff: _Tiff) -> Sequence[str | None]:
    """Channel names from OME-XML, ImageJ's labels or PerkinElmer's XML."""
    tif, pixels = tiff.tif, ome_pixels(tiff.tif, tiff.number)
    if tiff.is_rgb:
        return RGB_NAMES
    if pixels is not None:
        return [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    if tif.is_imagej:
        return list((tif.imagej_metadata or {}).get("Labels", ()))
    given = [perkinelmer_text(page, "Name") for page in tiff.series] if tif.is_qpi else []
    if len(set(given)) < len(given):  # the same dye in several rounds
        given = [perkinelmer_text(page, "Biomarker") or own for page, own in zip(tiff.series, given, strict=True)]
    return given


def require_all_pages(path: Path) -> None:
    """Follow a TIFF's chain of pages, and each page's pointers to lower resolutions, to the end.

    To decoders, a cut file seems to end with its last complete page. Private tags may point beyond the end of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(16)
        order = "<" if header[:2] == b"II" else ">"
        big = header[2:4] in (b"+\0", b"\0+")
        # number of tags, one tag, offset of the next page: of BigTIFF or classic TIFF
        structs = [struct.Struct(order + part) for part in (("Q", "HHQQ", "Q") if big else ("H", "HHII", "I"))]
        where = 8 if big else 4
        if len(header) < where + structs[2].size:
            raise cut_short(path, "its header is incomplete")
        offset = int(structs[2].unpack_from(header, where)[0])
        seen: set[int] = set()
        lower: set[int] = set()
        room = size  # directories of pages do not overlap
        while offset and offset not in seen:  # some writers close the chain into a ring
            seen.add(offset)
            offset, children, used = _page(path, file, structs, offset, size)
            room -= used
            for child in {*children} - lower:  # a lower resolution has no chain of its own
                lower.add(child)
                room -= 0 if child in seen else _page(path, file, structs, child, size)[2]
            if room < 0:
                raise cut_short(path, f"after {len(seen)} pages they overlap")
        if offset and len(seen) > 1:
            raise cut_short(path, f"its {len(seen)} pages follow each other in a ring")


def _page(
    path: Path, file: BinaryIO, structs: Sequence[struct.Struct], offset: int, size: int
) -> tuple[int, list[int], int]:
    """Offset of the page after the one at `offset`, offsets of its lower resolutions, and bytes of its directory."""
    number, tag, pointer = structs
    first = offset + number.size
    if first > size:
        raise cut_short(path, f"a page should begin at byte {offset} of {size}")
    file.seek(offset)
    tag_bytes = number.unpack(file.read(number.size))[0] * tag.size
    if first + tag_bytes + pointer.size > size:
        raise cut_short(path, f"the page at byte {offset} reaches beyond the file's {size} bytes")
    tags, rest = file.read(tag_bytes), file.read(pointer.size)
    children: list[int] = []
    for index, (code, kind, count, value) in enumerate(tag.iter_unpack(tags)):
        value_bytes = _TYPE_BYTES.get(kind, 0) * count
        inside = value_bytes <= pointer.size
        if not inside and value + value_bytes > size and code < _FIRST_PRIVATE_TAG:
            raise cut_short(path, f"the value of tag {code} reaches beyond the file's {size} bytes")
        if code == _SUB_IFDS and kind in _POINTERS:
            file.seek(first + (index + 1) * tag.size - pointer.size if inside else value)
            pointers = struct.iter_unpack(pointer.format[0] + _POINTERS[kind], file.read(value_bytes))
            children = [int(to) for (to,) in pointers if to >= 8]  # others point to nothing
    return int(pointer.unpack(rest)[0]), children, number.size + tag_bytes + pointer.size
