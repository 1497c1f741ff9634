"""Reader of whole slides by OpenSlide, as RGB of 8 bits.

Aperio SVS and plain tiled TIFF are tested; other families (Hamamatsu, Leica, MIRAX, Philips, Sakura, Trestle, Ventana,
Zeiss, DICOM, ...) go the same way, untested here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.file_errors import foreign_errors
from cytoseed.images.image import RGB_NAMES, Image
from cytoseed.images.pixel_size import first_credible
from cytoseed.images.regions import Box, Layout, Regions

if TYPE_CHECKING:
    from openslide import OpenSlide

GENERIC_TIFF = "generic-tiff"
"""OpenSlide's name for a tiled TIFF of no scanner."""

_BLOCK_PX = 1024
_WHITE = "FFFFFF"


def slide_family(path: Path) -> str | None:
    """Family of slides that OpenSlide counts a file to, such as `aperio`; empty for none, None without OpenSlide."""
    try:
        import openslide
    except (ImportError, OSError):  # the module, or the library behind it
        return None
    return openslide.OpenSlide.detect_format(path) or ""


def open_slide(path: Path) -> Image:
    """Open a slide, with its lower resolutions.

    Areas that were not scanned have the slide's background colour, white where it states none.
    """
    import openslide

    with foreign_errors(path), openslide.OpenSlide(path) as slide:
        layout = _layout(slide)
        family = slide.properties[openslide.PROPERTY_NAME_VENDOR]
        sides = [_number(slide.properties.get(f"openslide.mpp-{axis}")) for axis in "yx"]
    size = first_credible([(f"{family.capitalize()} metadata", (sides[0], sides[1]))])
    return Image(
        path=path,
        shape=layout.shape,
        dtype=layout.dtype,
        channel_names=RGB_NAMES,
        pixel_size_yx_um=size.yx_um,
        pixel_size_source=size.source,
        level_shapes=layout.level_shapes,
        connect=partial(_connect, path, layout),
    )


@contextmanager
def _connect(path: Path, layout: Layout) -> Iterator[Regions]:
    """Open the slide for reads; refuse it if it changed."""
    with closing(_Handles(path)) as handles:
        with handles.lent() as slide:
            layout.require_same(path, _layout(slide))
            downsamples = tuple(slide.level_downsamples)
            background = slide.properties.get("openslide.background-color", _WHITE)
        colour = np.frombuffer(bytes.fromhex(background), np.uint8)
        yield _SlideRegions(handles, layout, downsamples, colour)


class _Handles:
    """Open handles of one slide, one per thread that reads at once.

    A handle on which one read has failed fails for ever after, so each is used by one thread at a time, and thrown
    away when a read fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[OpenSlide] = []

    @contextmanager
    def lent(self) -> Iterator[OpenSlide]:
        import openslide

        try:
            slide = self._idle.pop()
        except IndexError:
            slide = openslide.OpenSlide(self._path)
        try:
            yield slide
        except BaseException:
            slide.close()
            raise
        self._idle.append(slide)

    def close(self) -> None:
        for slide in self._idle:
            slide.close()


class _SlideRegions:
    """Regions of an open slide."""

    def __init__(
        self, handles: _Handles, layout: Layout, downsamples: tuple[float, ...], background: NDArray[np.uint8]
    ) -> None:
        self._handles, self._layout, self._downsamples, self._background = handles, layout, downsamples, background

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        top, left, height, width = box_yxhw
        result = np.empty((3, height, width), np.uint8)
        with self._handles.lent() as slide:
            for block in self._blocks(box_yxhw, level):
                pixels = np.moveaxis(self._block(slide, block, level), 2, 0)  # (3, h, w)
                to_rows, from_rows = _overlap(top, height, block[0], block[2])
                to_columns, from_columns = _overlap(left, width, block[1], block[3])
                result[:, to_rows, to_columns] = pixels[:, from_rows, from_columns]
        return result if channels is None else result[list(channels)]

    def _blocks(self, box_yxhw: Box, level: int) -> Iterator[Box]:
        """Blocks of a region.

        OpenSlide takes a region's place in px of the full resolution. Where those of a level do not fall on them, it
        interpolates by the fraction; blocks that always begin at the same places then give a pixel the same value
        whatever the region.
        """
        top, left, height, width = box_yxhw
        first_row, first_column, last_row, last_column = top, left, top + height, left + width
        if not float(self._downsamples[level]).is_integer():
            first_row, first_column = top - top % _BLOCK_PX, left - left % _BLOCK_PX
            last_row, last_column = self._layout.level_shapes[level]
        for row in range(first_row, top + height, _BLOCK_PX):
            for column in range(first_column, left + width, _BLOCK_PX):
                yield row, column, min(_BLOCK_PX, last_row - row), min(_BLOCK_PX, last_column - column)

    def _block(self, slide: OpenSlide, block_yxhw: Box, level: int) -> NDArray[np.uint8]:
        """Read one block as (h, w, 3)."""
        top, left, height, width = block_yxhw
        place = (round(left * self._downsamples[level]), round(top * self._downsamples[level]))
        rgba: NDArray[np.uint8] = np.asarray(slide.read_region(place, level, (width, height)))
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return rgba[..., :3]
        share = alpha.astype(np.uint16)
        blended = rgba[..., :3] * share + self._background * (255 - share)
        return ((blended + 127) // 255).astype(np.uint8)


def _layout(slide: OpenSlide) -> Layout:
    levels = tuple((height, width) for width, height in slide.level_dimensions)
    return Layout((3, *levels[0]), np.dtype(np.uint8), levels)


def _overlap(first: int, length: int, other_first: int, other_length: int) -> tuple[slice, slice]:
    """Where two stretches of an axis meet, counted in the one and in the other."""
    start, stop = max(first, other_first), min(first + length, other_first + other_length)
    return slice(start - first, stop - first), slice(start - other_first, stop - other_first)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
