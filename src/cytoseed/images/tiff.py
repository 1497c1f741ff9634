"""Reader of TIFF in all its dialects, by tifffile: which axes are channels, and what cannot be taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.errors import ImageFileError, cut_short, foreign_errors
from cytoseed.images.image import RGB_NAMES, Image, numbered_names
from cytoseed.images.intact import Blanked, Survey, survey_tiff
from cytoseed.images.regions import Box, Layout, Regions
from cytoseed.images.remote import Place, Remote, anew, require_read
from cytoseed.images.scale import ome_pixels, perkinelmer_text, tiff_pixel_size
from cytoseed.images.stored import Plane, Store, planes_of

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
_NDPI = ".ndpi"
_JPEG_2000_YCBCR = 33003  # Aperio's
_TRESTLE, _VENTANA, _XMP_BYTES = "MedScan", "<iScan", 1 << 12
_COUNTING = ("ome", "imagej", "shaped")  # kinds of description that tell how many planes there are


def open_tiff(path: Place) -> Image:
    """Open the first image of a TIFF, with its lower resolutions.

    Of a file that is cut short, what is still described is opened: see `Image.damage`.

    Raises
    ------
    ImageFileError
        If the first page is cut short or damaged, or planes are missing, if it holds a stack in z, in time or along
        an axis of unknown meaning, or if its colours are neither grey, RGB nor a palette.
    """
    with foreign_errors(path), _opened(path) as tiff:
        names, size = _names(tiff), tiff_pixel_size(tiff.tif)
        require_read(path)
        return Image(
            path=path,
            shape=tiff.layout.shape,
            dtype=tiff.layout.dtype,
            channel_names=names,
            pixel_size_yx_um=size.yx_um,
            pixel_size_source=size.source,
            level_shapes=tiff.layout.level_shapes,
            damage=tiff.damage,
            connect=partial(_connect, path, tiff.layout),
        )


def suits_openslide(path: Place) -> bool:
    """Tell whether OpenSlide reads a TIFF without loss and without harm.

    It takes everything for RGB of 8 bits, the right way up, and does not look at what OME-TIFF and ImageJ's say. It
    fails on tiles below 1 KiB, and ends the whole program where a damaged file states absurd sizes.
    """
    import tifffile

    try:
        with foreign_errors(path), _unheard(), _file(path) as file, tifffile.TiffFile(file) as tif:
            page = tif.pages.first
            colours = page.photometric in (_RGB, _YCBCR) and page.samplesperpixel == 3 and page.dtype == np.uint8
            upright = page.tags.valueof("Orientation", 1) == 1
            plain = colours and upright and not (tif.is_ome or tif.is_imagej)
            return plain and all(_is_sound(page) for page in tif.pages)
    except ImageFileError:
        return False


class Look(NamedTuple):
    """What decides how a TIFF far away is read."""

    needs_openslide: bool
    """Whether OpenSlide sees another image in it than tifffile does, for it knows how the scanner's tiles lie."""
    is_aperio: bool
    others: tuple[str, ...] = ()
    """Names of further files with planes of its first image."""


def look_at(path: Place) -> Look:
    """Look at the first page of a TIFF; of a damaged one nothing is told."""
    import tifffile

    if path.suffix.lower() == _NDPI:  # beyond 4 GiB its pages are not where a TIFF has them
        return Look(True, False)
    try:
        with foreign_errors(path), _unheard(), _file(path) as file, tifffile.TiffFile(file) as tif:
            page = tif.pages.first
            software = str(page.tags.valueof("Software", ""))
            ventana = _VENTANA in str(page.tags.valueof("XMP", b"")[:_XMP_BYTES])
            scanners = (page.is_ndpi, page.is_bif, ventana, page.is_scn, page.is_philips, software.startswith(_TRESTLE))
            unconverted = page.compression == _JPEG_2000_YCBCR  # tifffile leaves its colours as they are
            return Look(any(scanners) or unconverted, bool(page.is_svs), tuple(_other_files(tif, path.name)))
    except ImageFileError:
        return Look(False, False)


def _other_files(tif: Any, name: str) -> Iterator[str]:
    """Name the other files that OME-XML counts to the first image."""
    pixels = ome_pixels(tif)
    own = ElementTree.fromstring(tif.ome_metadata).get("UUID") if pixels is not None else None
    for uuid in () if pixels is None else pixels.findall("{*}TiffData/{*}UUID"):
        other = uuid.get("FileName")
        if other and other != name and uuid.text != own:
            yield other


@contextmanager
def _connect(path: Place, layout: Layout) -> Iterator[Regions]:
    """Open the file for reads; refuse it if it no longer holds what it held."""
    with _opened(anew(path)) as tiff:
        layout.require_same(path, tiff.layout)
        yield tiff


def _is_sound(page: Any) -> bool:
    """Tell whether a page and its tiles are of a size that can be."""
    if not all(isinstance(side, int) and 0 < side < _LONGEST_PX for side in (page.imagewidth, page.imagelength)):
        return False
    tile = (page.tags.valueof("TileWidth"), page.tags.valueof("TileLength"))
    if tile == (None, None):
        return True
    return all(isinstance(side, int) and side > 0 for side in tile) and (
        _LEAST_TILE_BYTES <= 3 * tile[0] * tile[1] <= _LARGEST_TILE_BYTES
    )


class _Axes(NamedTuple):
    """How the stored axes become (C,H,W)."""

    channels: int  # those kept: alpha comes last and is left out
    height: int
    width: int
    is_rgb: bool
    palette: bool


class _Tiff:
    """An open TIFF: its layout, and the way to its regions."""

    def __init__(self, path: Place, tif: Any, survey: Survey, store: Store) -> None:
        if tif.is_bif:
            raise ImageFileError(
                f"{path}: is a slide of Ventana, whose tiles overlap; OpenSlide reads it where it is installed: "
                f"pip install openslide-python openslide-bin"
            )
        series = tif.series[0]
        _require_all_planes(path, tif, series, survey)
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
        self.damage = "; ".join((*_lost_pages(survey), *_lost_pixels(self._levels)))

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Read a part of one level; see `Regions.read`. Only planes with a wished channel are read."""
        wished = range(self.axes.channels) if channels is None else channels
        planes = self._levels[level]
        if self._colours is not None:
            shown: NDArray[Any] = np.take(self._colours[list(wished)], planes[0].read(box_yxhw)[0], axis=1)
            return shown
        result = np.empty((len(wished), *box_yxhw[2:]), self.layout.dtype)
        first = 0
        for plane in planes:
            here = [place for place, channel in enumerate(wished) if first <= channel < first + plane.samples]
            if here:
                pixels = plane.read(box_yxhw)
                for place in here:
                    result[place] = pixels[wished[place] - first]
            first += plane.samples
        return result


@contextmanager
def _opened(path: Place) -> Iterator[_Tiff]:
    import tifffile

    with _unheard(), ExitStack() as stack:
        survey = survey_tiff(path)
        # tifffile sees a cut file as one that ends with the last page that is all there
        file: Any = stack.enter_context(Blanked(path, survey.blanks) if survey.blanks else _file(path))
        tif = stack.enter_context(tifffile.TiffFile(file))
        store = stack.enter_context(closing(Store(path)))
        tiff = _Tiff(path, tif, survey, store)
        require_read(path)
        yield tiff


def _file(path: Place) -> AbstractContextManager[Any]:
    """Give what tifffile opens: it opens files on a disk itself."""
    return path.open("rb") if isinstance(path, Remote) else nullcontext(path)


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep tifffile's remarks on unusual files from being printed where nobody listens to its logger."""
    logger, handler = logging.getLogger("tifffile"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _require_all_planes(path: Place, tif: Any, series: Any, survey: Survey) -> None:
    """Refuse a file that lacks channels or planes of its first image; lower levels and other images may be lost."""
    promised = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    in_one_run = series.dataoffset is not None  # ImageJ gives such data one page
    lost = promised > len(tif.pages) and not (in_one_run and series.kind == "imagej")
    if lost or not (in_one_run or _has_all_pages(series)):
        raise ImageFileError(f"{path}: its metadata name planes that it does not hold; copy or export it again")
    if not survey.chain_is_cut or series.kind in _COUNTING or len(tif.pages) > len(series):
        return  # the description counts the planes, or pages of another kind have begun after them
    page = series.keyframe
    if not (page.is_tiled and page.photometric in (_RGB, _YCBCR)):  # a slide's further pages are no channels
        raise cut_short(path, f"{survey.lost[0]}, which may be a channel")


def _has_all_pages(series: Any) -> bool:
    """Tell whether no page of a series is missing."""
    try:
        return None not in list(series)
    except IndexError:  # tifffile counts on a page that is beyond the last
        return False


def _find_axes(path: Place, series: Any, tif: Any) -> _Axes:
    """Decide which axis holds the channels; refuse what is no 2-D image."""
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


def _require_known_values(path: Place, series: Any, page: Any) -> None:
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


def _not_flat(path: Place, series: Any, what: str, remedy: str) -> ImageFileError:
    sizes = ", ".join(f"{axis} {size}" for axis, size in zip(series.axes, series.shape, strict=True))
    return ImageFileError(f"{path}: holds {what} ({sizes}); cytoseed takes 2-D images: {remedy}")


def _fits(level: Any, series: Any) -> bool:
    """Tell whether a lower resolution has all its pages, of the same kind as the full one's."""
    return bool(level.axes == series.axes and level.dtype == series.dtype and _has_all_pages(level))


def _length(series: Any, axis: str) -> int:
    return int(series.shape[series.axes.index(axis)])


def _palette(page: Any) -> NDArray[np.uint8]:
    """Give the colours (3, values) of a palette. TIFF says 16 bits a colour; some programs write 8."""
    colours = page.colormap
    table: NDArray[np.uint8] = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    return table


def _lost_pages(survey: Survey) -> Iterator[str]:
    """Tell in words which pages a cut file lacks."""
    if survey.lost:
        more = len(survey.lost) - 1
        yield survey.lost[0] + (f", as do {more} more" if more else "")


def _lost_pixels(levels: Sequence[Sequence[Plane]]) -> Iterator[str]:
    """Tell in words of which levels a cut file lacks pixels."""
    for number, planes in enumerate(levels):
        if not all(plane.is_whole for plane in planes):
            yield f"pixels of level {number} are missing"


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
