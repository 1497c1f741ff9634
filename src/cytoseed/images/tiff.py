"""Reader of TIFF in all its dialects, by tifffile: which axes are channels, and what cannot be taken."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image, ImageFileError, foreign_errors, numbered_names
from cytoseed.images.intact import require_whole_tiff
from cytoseed.images.scale import ome_pixels, tiff_pixel_size

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


def open_tiff(path: Path) -> Image:
    """Open the first image of a TIFF, at full resolution.

    Raises
    ------
    ImageFileError
        If the file is cut short or damaged, if it holds a stack in z, in time or along an axis of unknown
        meaning, or if its colours are neither grey, RGB nor a palette.
    """
    import tifffile

    with foreign_errors(path):
        require_whole_tiff(path)
        with tifffile.TiffFile(path) as tif:
            series = _first_image(path, tif)
            layout = _layout(path, series, tif)
            size = tiff_pixel_size(tif)
            return Image(
                path=path,
                shape=(layout.channels, layout.height, layout.width),
                dtype=np.dtype(np.uint8) if layout.palette else series.dtype.newbyteorder("="),
                channel_names=_names(tif, layout),
                pixel_size_yx_um=size.yx_um,
                pixel_size_source=size.source,
                decode=partial(_decode, path, layout),
            )


class _Layout(NamedTuple):
    """How the stored axes become (C,H,W)."""

    axes: str  # one letter an axis, as tifffile names them: S samples, C channels, Y, X, ...
    channels: int  # those kept: alpha comes last and is left out
    height: int
    width: int
    is_rgb: bool
    palette: bool


def _first_image(path: Path, tif: Any) -> Any:
    """Take the first series, once it is sure that the file holds all its pages and their data."""
    series = tif.series[0]
    promised = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    in_one_run = series.dataoffset is not None  # such data tifffile checks itself; ImageJ gives them one page
    lost = promised > len(tif.pages) and not (in_one_run and series.kind == "imagej")
    pages = [] if in_one_run or lost else list(series)
    if lost or None in pages:
        raise ImageFileError(f"{path}: its metadata name planes that it does not hold; copy or export it again")
    for page in pages:
        size = page.parent.filehandle.size
        ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > size:
            raise ImageFileError(
                f"{path}: is cut short (pixels reach beyond the file's {size} bytes); copy or export it again"
            )
    return series


def _layout(path: Path, series: Any, tif: Any) -> _Layout:
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
    return _Layout(
        axes=series.axes,
        channels=3 if is_rgb else _without_alpha(page, samples),
        height=series.shape[series.axes.index("Y")],
        width=series.shape[series.axes.index("X")],
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


def _names(tif: Any, layout: _Layout) -> tuple[str, ...]:
    """Channel names from OME-XML or ImageJ's labels; numbers for those that have none."""
    if layout.is_rgb:
        return RGB_NAMES
    given: list[Any] = []
    pixels = ome_pixels(tif)
    if pixels is not None:
        given = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    elif tif.is_imagej:
        given = list((tif.imagej_metadata or {}).get("Labels", ()))
    names = numbered_names(layout.channels)
    if len(given) != layout.channels:
        return names
    return tuple(str(own or "").strip() or name for own, name in zip(given, names, strict=True))


def _decode(path: Path, layout: _Layout) -> NDArray[Any]:
    """Read the pixels of the first image as (C,H,W)."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        series = _first_image(path, tif)
        stored: NDArray[Any] = series.asarray()
        colours = series.keyframe.colormap if layout.palette else None
    kept = [axis in "YX" or size > 1 for axis, size in zip(layout.axes, stored.shape, strict=True)]
    plane = stored[tuple(slice(None) if keep else 0 for keep in kept)]
    axes = "".join(axis for axis, keep in zip(layout.axes, kept, strict=True) if keep)
    if colours is not None:
        # TIFF says 16 bits a colour; some programs write 8
        table: NDArray[np.uint8] = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
        return table[:, plane]
    channel_axis = axes.translate({ord("Y"): None, ord("X"): None})
    plane = plane.transpose([axes.index(axis) for axis in channel_axis + "YX"])
    return plane[: layout.channels] if channel_axis else plane[None]
