"""Reader of whole slides by OpenSlide, as RGB of 8 bits.

Aperio SVS and plain tiled TIFF are tested; other families (Hamamatsu, Leica, MIRAX, Philips, Sakura, Trestle, Ventana,
Zeiss, DICOM, ...) use the same code but are untested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.pixel_size import length_um
from cytoseed.images.regions import Box, Layout, foreign_errors, paste

if TYPE_CHECKING:
    from openslide import OpenSlide

GENERIC_TIFF = "generic-tiff"
"""OpenSlide's name for a tiled TIFF that is not from a known scanner."""

_BLOCK_PX = 1024


def slide_family(path: Path) -> str | None:
    """Family of slides to which OpenSlide assigns a file, such as `aperio`; empty if none, None without OpenSlide."""
    try:
        import openslide
    except (ImportError, OSError):  # the module, or the library behind it
        return None
    return openslide.OpenSlide.detect_format(path) or ""


def open_slide(path: Path) -> Image:
    """Open a slide, with its lower resolutions; areas that were not scanned have its background colour, or white."""
    with foreign_errors(path), _Slide(path) as slide:
        found = slide.properties
    height, width = (length_um(found.get(f"openslide.mpp-{axis}")) for axis in "yx")
    statement = f"{found['openslide.vendor'].capitalize()} metadata", (height, width)
    return make_image(path, slide.layout, partial(_Slide, path), RGB_NAMES, [statement])


class _Slide(AbstractContextManager["_Slide"]):
    """An open slide, with one handle per thread that reads at the same time.

    After a failed read a handle always fails, so it is discarded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[OpenSlide] = []
        with self._lent() as slide:
            levels = tuple((height, width) for width, height in slide.level_dimensions)
            self.layout = Layout((3, *levels[0]), np.dtype(np.uint8), levels)
            self.properties = dict(slide.properties)
            self._downsamples = tuple(slide.level_downsamples)
            colour = self.properties.get("openslide.background-color", "FFFFFF")
            self._background = np.frombuffer(bytes.fromhex(colour), np.uint8)

    def __exit__(self, *_: object) -> None:
        for slide in self._idle:
            slide.close()

    @contextmanager
    def _lent(self) -> Iterator[OpenSlide]:
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

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        top, left, height, width = box_yxhw
        result = np.empty((3, height, width), np.uint8)
        with self._lent() as slide:
            for block in self._blocks(box_yxhw, level):
                paste(np.moveaxis(result, 0, 2), self._block(slide, block, level), block[0] - top, block[1] - left)
        return result[list(channels)]

    def _blocks(self, box_yxhw: Box, level: int) -> Iterator[Box]:
        """Blocks of a region; OpenSlide takes their positions in px at full resolution.

        If the pixels of a level do not coincide with those, it interpolates; blocks that always begin at the same
        positions then give a pixel the same value in every region.
        """
        top, left, height, width = box_yxhw
        first_row, first_column, last_row, last_column = top, left, top + height, left + width
        if not float(self._downsamples[level]).is_integer():
            first_row, first_column = top - top % _BLOCK_PX, left - left % _BLOCK_PX
            last_row, last_column = self.layout.level_shapes[level]
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
