"""Reader of whole slides by OpenSlide, as RGB of 8 bits.

Aperio SVS and plain tiled TIFF are tested; other families (Hamamatsu, Leica, MIRAX, Philips, Sakura, Trestle, Ventana,
Zeiss, DICOM, ...) use the same code but are untested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.pixel_size import length_um
from cytoseed.images.regions import Box, Layout, Slices, foreign_errors, paste
from cytoseed.images.series import Series, single

if TYPE_CHECKING:
    from openslide import OpenSlide

GENERIC_TIFF = "generic-tiff"
"""OpenSlide's name for a tiled TIFF that is not from a known scanner."""

_BLOCK_PX = 1024
_BOUNDS = ("x", "y", "width", "height")


def slide_family(path: Path) -> str | None:
    """Family of slides to which OpenSlide assigns a file, such as `aperio`; empty if none, None without OpenSlide."""
    try:
        import openslide
    except (ImportError, OSError):  # the module, or the library behind it
        return None
    return openslide.OpenSlide.detect_format(path) or ""


def dicom_slide(path: Path) -> str | None:
    """Identifier of the slide (series) that a DICOM file is a part of; None for other files and without OpenSlide."""
    if slide_family(path) != "dicom":
        return None
    import openslide

    with foreign_errors(path), openslide.OpenSlide(path) as slide:
        return str(slide.properties.get("dicom.SeriesInstanceUID", path))


def open_slide(path: Path, full_canvas: bool = False) -> Image:
    """Open a slide, with its lower resolutions; areas that were not scanned have its background colour, or white.

    A slide that states the bounds of its scans is cropped to them, as in QuPath, unless `full_canvas`.
    """
    with foreign_errors(path), _Slide(path, full_canvas) as slide:
        found = slide.properties
    height, width = (length_um(found.get(f"openslide.mpp-{axis}")) for axis in "yx")
    statement = f"{found['openslide.vendor'].capitalize()} metadata", (height, width)
    image = make_image(path, slide.layout, partial(_Slide, path, full_canvas), RGB_NAMES, [statement])
    return replace(image, offset_yx=slide.offset_yx, full_canvas=full_canvas)


def list_slide(path: Path, full_canvas: bool = False) -> list[Series]:
    """The slide, and its further pictures, such as `macro` and `label`."""
    with foreign_errors(path), _Slide(path) as slide:
        found = slide.properties
    names = [match[1] for key in found if (match := re.fullmatch(r"openslide\.associated\.(.+)\.width", key))]
    sizes = [tuple(int(found[f"openslide.associated.{name}.{side}"]) for side in ("height", "width")) for name in names]
    others = [
        Series(name, (height, width), partial(_open_associated, path, name))
        for name, (height, width) in zip(names, sizes, strict=True)
    ]
    return [single(open_slide(path, full_canvas), "slide"), *others]


def _open_associated(path: Path, name: str) -> Image:
    import openslide

    with foreign_errors(path), openslide.OpenSlide(path) as slide:
        reader = Slices((np.asarray(slide.associated_images[name]),), "yxc", 3)
    return make_image(path, reader.layout, reader.opened, RGB_NAMES)


def _bounds(properties: Mapping[str, str], canvas_yx: tuple[int, int]) -> Box | None:
    """Box around the scans on a slide's canvas, in px at full resolution; None if none is stated, or no part of it."""
    try:
        left, top, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return None
    bottom, right = min(top + height, canvas_yx[0]), min(left + width, canvas_yx[1])
    top, left = max(top, 0), max(left, 0)
    box = (top, left, bottom - top, right - left)
    return None if min(box[2:]) < 1 or box == (0, 0, *canvas_yx) else box


class _Slide(AbstractContextManager["_Slide"]):
    """An open slide, with one handle per thread that reads at the same time.

    After a failed read a handle always fails, so it is discarded.
    """

    def __init__(self, path: Path, full_canvas: bool = False) -> None:
        self._path = path
        self._idle: list[OpenSlide] = []
        with self._lent() as slide:
            levels = tuple((height, width) for width, height in slide.level_dimensions)
            self.properties = dict(slide.properties)
            self._downsamples = tuple(slide.level_downsamples)
            bounds = None if full_canvas else _bounds(self.properties, levels[0])
            self.offset_yx = (0, 0) if bounds is None else bounds[:2]
            if bounds is not None:
                height, width = bounds[2:]
                steps = self._downsamples
                levels = tuple((max(1, round(height / step)), max(1, round(width / step))) for step in steps)
            self.layout = Layout((3, *levels[0]), np.dtype(np.uint8), levels)
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
        step = float(self._downsamples[level])
        if not step.is_integer() or any(start % step for start in self.offset_yx):
            first_row, first_column = top - top % _BLOCK_PX, left - left % _BLOCK_PX
            last_row, last_column = self.layout.level_shapes[level]
        for row in range(first_row, top + height, _BLOCK_PX):
            for column in range(first_column, left + width, _BLOCK_PX):
                yield row, column, min(_BLOCK_PX, last_row - row), min(_BLOCK_PX, last_column - column)

    def _block(self, slide: OpenSlide, block_yxhw: Box, level: int) -> NDArray[np.uint8]:
        """Read one block as (h, w, 3)."""
        top, left, height, width = block_yxhw
        step, (first_row, first_column) = self._downsamples[level], self.offset_yx
        place = (first_column + round(left * step), first_row + round(top * step))
        rgba: NDArray[np.uint8] = np.asarray(slide.read_region(place, level, (width, height)))
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return rgba[..., :3]
        share = alpha.astype(np.uint16)
        blended = rgba[..., :3] * share + self._background * (255 - share)
        return ((blended + 127) // 255).astype(np.uint8)
