"""Reader of TIFF in all its dialects, by tifffile: which axes are channels, and what cannot be taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.file_errors import ImageFileError, cut_short, foreign_errors
from cytoseed.images.image import RGB_NAMES, Image, numbered_names
from cytoseed.images.pixel_size import ome_pixels, perkinelmer_text, tiff_pixel_size
from cytoseed.images.regions import Box, Layout, Regions
from cytoseed.images.tiff_pages import require_all_pages
from cytoseed.images.tiff_segments import Plane, Store, planes_of

_REMEDY_STACK = "give one plane, or a projection (in Fiji Image > Stacks > Z Project; in Python stack.max(axis=0))"
_REMEDY_AXIS = (
    "if they are channels, say so in the file: tifffile.imwrite(path, array, imagej=True, "
    "metadata={'axes': 'CYX'}), or in Fiji Image > Properties; else give one plane"
)
_STACKS = {"Z": "planes in z", "T": "points in time"}
_RGB, _PALETTE, _YCBCR = 2, 3, 6
_GREY = (0, 1)
_ALPHA = (1, 2)
_UNCONVERTED = (1, 5, 8, 32773, 32946)  # compressions under which YCbCr stays YCbCr: none, LZW, ...
_LONGEST_PX = 1 << 31
_LEAST_TILE_BYTES, _LARGEST_TILE_BYTES = 1 << 10, 1 << 28


def open_tiff(path: Path) -> Image:
    """Open the first image of a TIFF, with its lower resolutions.

    Raises
    ------
    ImageFileError
        The file is cut short or damaged, or its first image lacks planes, is a stack in z, in time or along an axis of
        unknown meaning, or has colours that are neither grey, RGB nor a palette.
    """
    with foreign_errors(path), _opened(path) as tiff:
        names, size = _names(tiff), tiff_pixel_size(tiff.tif)
        return Image(
            path=path,
            shape=tiff.layout.shape,
            dtype=tiff.layout.dtype,
            channel_names=names,
            pixel_size_yx_um=size.yx_um,
            pixel_size_source=size.source,
            level_shapes=tiff.layout.level_shapes,
            connect=partial(_connect, path, tiff.layout),
        )


def suits_openslide(path: Path) -> bool:
    """Whether OpenSlide reads a TIFF without loss and without harm.

    It takes everything for RGB of 8 bits, the right way up, and does not look at what OME-TIFF and ImageJ's say. It
    fails on tiles below 1 KiB, and ends the whole program where a damaged file states absurd sizes.
    """
    import tifffile

    try:
        with foreign_errors(path), _quiet(), tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            colours = page.photometric in (_RGB, _YCBCR) and page.samplesperpixel == 3 and page.dtype == np.uint8
            upright = page.tags.valueof("Orientation", 1) == 1
            plain = colours and upright and not (tif.is_ome or tif.is_imagej)
            return plain and all(_is_sound(page) for page in tif.pages)
    except ImageFileError:
        return False


def other_files(path: Path) -> tuple[str, ...]:
    """Names of further files beside an OME-TIFF with planes of its first image; none for other files."""
    import tifffile

    try:
        with foreign_errors(path), _quiet(), tifffile.TiffFile(path) as tif:
            pixels = ome_pixels(tif)
            if pixels is None:
                return ()
            own = ElementTree.fromstring(str(tif.ome_metadata)).get("UUID")
            uuids = [uuid for uuid in pixels.findall("{*}TiffData/{*}UUID") if uuid.text != own]
            names = dict.fromkeys(uuid.get("FileName") for uuid in uuids)
            return tuple(name for name in names if name and name != path.name)
    except ImageFileError:
        return ()


@contextmanager
def _connect(path: Path, layout: Layout) -> Iterator[Regions]:
    """Open the file for reads; refuse it if it changed."""
    with _opened(path) as tiff:
        layout.require_same(path, tiff.layout)
        yield tiff


def _is_sound(page: Any) -> bool:
    """Whether a page and its tiles are of a possible size."""
    if not all(isinstance(side, int) and 0 < side < _LONGEST_PX for side in (page.imagewidth, page.imagelength)):
        return False
    tile = (page.tags.valueof("TileWidth"), page.tags.valueof("TileLength"))
    if tile == (None, None):
        return True
    return all(isinstance(side, int) and side > 0 for side in tile) and (
        _LEAST_TILE_BYTES <= 3 * tile[0] * tile[1] <= _LARGEST_TILE_BYTES
    )


class _Axes(NamedTuple):
    """Meaning of the stored axes."""

    channels: int  # those kept: alpha comes last and is left out
    height: int
    width: int
    is_rgb: bool
    palette: bool


class _Tiff:
    """An open TIFF: its layout and regions."""

    def __init__(self, path: Path, tif: Any, store: Store) -> None:
        if tif.is_bif:
            raise ImageFileError(
                f"{path}: is a slide of Ventana, whose tiles overlap; OpenSlide reads it where it is installed: "
                f"pip install openslide-python openslide-bin"
            )
        series = tif.series[0]
        _require_all_planes(path, tif, series)
        self.tif, self.series = tif, series
        self.axes = _find_axes(path, series, tif)
        levels = [series, *(level for level in series.levels[1:] if _fits(level, series))]
        self._levels: list[tuple[Plane, ...]] = [planes_of(level, store) for level in levels]
        self._colours = _palette(series.keyframe) if self.axes.palette else None
        self.layout = Layout(
            (self.axes.channels, self.axes.height, self.axes.width),
            np.dtype(np.uint8) if self.axes.palette else series.dtype.newbyteorder("="),
            tuple((_length(level, "Y"), _length(level, "X")) for level in levels),
        )
        for number, planes in enumerate(self._levels):
            if not all(plane.is_whole for plane in planes):
                raise cut_short(path, f"pixels of level {number} are missing")

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Read a region; see `Regions.read`. Only planes with a chosen channel are read."""
        chosen = range(self.axes.channels) if channels is None else channels
        planes = self._levels[level]
        if self._colours is not None:
            shown: NDArray[Any] = np.take(self._colours[list(chosen)], planes[0].read(box_yxhw)[0], axis=1)
            return shown
        result = np.empty((len(chosen), *box_yxhw[2:]), self.layout.dtype)
        first = 0
        for plane in planes:
            here = [place for place, channel in enumerate(chosen) if first <= channel < first + plane.samples]
            if here:
                pixels = plane.read(box_yxhw)
                for place in here:
                    result[place] = pixels[chosen[place] - first]
            first += plane.samples
        return result


@contextmanager
def _opened(path: Path) -> Iterator[_Tiff]:
    import tifffile

    require_all_pages(path)
    with _quiet(), tifffile.TiffFile(path) as tif, closing(Store(path)) as store:
        yield _Tiff(path, tif, store)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile's remarks on unusual files from being printed where its logger has no handler."""
    logger, handler = logging.getLogger("tifffile"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _require_all_planes(path: Path, tif: Any, series: Any) -> None:
    """Refuse a file that lacks channels or planes of its first image."""
    promised = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    in_one_run = series.dataoffset is not None  # ImageJ gives such data one page
    lost = promised > len(tif.pages) and not (in_one_run and series.kind == "imagej")
    if lost or not (in_one_run or _has_all_pages(series)):
        raise ImageFileError(f"{path}: its metadata name planes that it does not hold; copy or export it again")


def _has_all_pages(series: Any) -> bool:
    """Whether no page of a series is missing."""
    try:
        return None not in list(series)
    except IndexError:  # tifffile counts on a page that is beyond the last
        return False


def _find_axes(path: Path, series: Any, tif: Any) -> _Axes:
    """Meaning of the axes; refuse what is no 2-D image."""
    page = series.keyframe
    _require_known_values(path, series, page)
    long = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if size > 1]
    others = [(axis, size) for axis, size in long if axis not in "YX"]
    for axis, size in others:
        if axis not in "CS":
            what = _STACKS.get(axis, f"images along an axis of unknown meaning ({axis})")
            remedy = _REMEDY_STACK if axis in _STACKS else _REMEDY_AXIS
            raise _not_flat(path, series, f"{size} {what}", remedy)
    if len(others) > 1:
        raise _not_flat(path, series, "two axes of channels", "save the channels along one axis, CYX")
    samples = others[0][1] if others else 1
    # ImageJ writes its lookup tables as a palette: they colour a grey image and are no part of it
    palette = page.photometric == _PALETTE and not (tif.is_imagej or tif.is_ome)
    is_rgb = palette or (page.photometric in (_RGB, _YCBCR) and samples in (3, 4))
    return _Axes(
        channels=3 if is_rgb else _without_alpha(page, samples),
        height=_length(series, "Y"),
        width=_length(series, "X"),
        is_rgb=is_rgb,
        palette=palette,
    )


def _require_known_values(path: Path, series: Any, page: Any) -> None:
    if series.dtype is None or series.dtype.kind not in "buif":
        raise ImageFileError(
            f"{path}: holds values of type {series.dtype}; cytoseed takes booleans, integers and real "
            f"numbers: convert the image, for example to 32-bit float"
        )
    raw_ycbcr = page.photometric == _YCBCR and page.compression in _UNCONVERTED
    if page.photometric not in (*_GREY, _RGB, _PALETTE, _YCBCR) or raw_ycbcr:
        name = getattr(page.photometric, "name", page.photometric)
        raise ImageFileError(f"{path}: its colours are {name}; cytoseed takes grey and RGB: convert it to RGB")


def _without_alpha(page: Any, samples: int) -> int:
    has_alpha = samples > 1 and bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA
    return samples - has_alpha


def _not_flat(path: Path, series: Any, what: str, remedy: str) -> ImageFileError:
    sizes = ", ".join(f"{axis} {size}" for axis, size in zip(series.axes, series.shape, strict=True))
    return ImageFileError(f"{path}: holds {what} ({sizes}); cytoseed takes 2-D images: {remedy}")


def _fits(level: Any, series: Any) -> bool:
    """Whether a lower resolution has all its pages, of the same kind as the full one's."""
    return bool(level.axes == series.axes and level.dtype == series.dtype and _has_all_pages(level))


def _length(series: Any, axis: str) -> int:
    return int(series.shape[series.axes.index(axis)])


def _palette(page: Any) -> NDArray[np.uint8]:
    """Colours (3, values) of a palette. TIFF has 16 bits per colour; some programs write 8."""
    colours = page.colormap
    table: NDArray[np.uint8] = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    return table


def _names(tiff: _Tiff) -> tuple[str, ...]:
    """Channel names from OME-XML, ImageJ's labels or PerkinElmer's XML; numbers for those that have none."""
    tif, channels = tiff.tif, tiff.axes.channels
    if tiff.axes.is_rgb:
        return RGB_NAMES
    given: list[Any] = []
    pixels = ome_pixels(tif)
    if pixels is not None:
        given = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    elif tif.is_imagej:
        given = list((tif.imagej_metadata or {}).get("Labels", ()))
    elif tif.is_qpi:
        given = [perkinelmer_text(page, "Name") for page in tiff.series]
        if len(set(given)) < len(given):  # the same dye in several rounds
            given = [perkinelmer_text(page, "Biomarker") or own for page, own in zip(tiff.series, given, strict=True)]
    names = numbered_names(channels)
    if len(given) != channels:
        return names
    return tuple(str(own or "").strip() or name for own, name in zip(given, names, strict=True))
