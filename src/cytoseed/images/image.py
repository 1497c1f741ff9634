"""An opened image: its metadata are known at once, its pixels are read on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.identity import path_digest, pixels_digest
from cytoseed.images.pixel_size import Statement, as_pixel_size, first_credible
from cytoseed.images.regions import Box, ImageFileError, Layout, Reader, Regions, Slices, Stack, foreign_errors
from cytoseed.paths import display, file_name, is_remote

RGB_NAMES = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class Image:
    """A 2-D image in a file or an array: its metadata, and access to its pixels; no file stays open."""

    path: Path | None
    """The file, or the folder of an OME-Zarr; a `UPath` for a URL, None for an array given in Python."""
    shape: tuple[int, int, int]
    """Channels, height and width (C,H,W), in px, at full resolution."""
    dtype: np.dtype[Any]
    """Type of the pixels, in the machine's byte order."""
    channel_names: tuple[str, ...]
    """Name of each channel: as the file has them; `red`, `green`, `blue`; else `channel 0`, ..."""
    pixel_size_yx_um: tuple[float, float] | None
    """Height and width of a pixel in µm, as the file states them; None if it states no plausible size."""
    pixel_size_source: str
    """Where the pixel size was found, in words; `not stated` without one."""
    level_shapes: tuple[tuple[int, int], ...]
    """Height and width of each resolution, full resolution first; one without a pyramid."""
    connect: Callable[[], AbstractContextManager[Reader]] = field(repr=False)
    """The reader's own access to the pixels; use `regions` and `read`."""
    series: str | None = None
    """Name of the image in a file of several; None if it is the only one, or the others are smaller pictures of it."""
    offset_yx: tuple[int, int] = (0, 0)
    """Row and column of its first pixel on the slide's canvas, of which only the bounds of the scans are read."""
    full_canvas: bool = False
    """Whether the whole canvas of a slide was asked for."""
    stack: Stack | None = None
    """Planes of a z-stack or time series, of which one is to be chosen; None for a 2-D image."""
    data_path: Path | None = None
    """Folder of this image in an OME-Zarr of several; None for others."""

    @property
    def source(self) -> str:
        """Path or URL without passwords and signatures; `array` for an array."""
        return "array" if self.path is None else display(self.path)

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel in µm, the mean of height and width; None if the file states none.

        Raises `ImageFileError` if height and width differ by more than 1 %.
        """
        size = as_pixel_size(self.pixel_size_yx_um)
        if isinstance(size, tuple):
            raise ImageFileError(
                f"{self.source}: its pixels are not square but {size[1]:g} µm wide and {size[0]:g} µm high "
                f"({self.pixel_size_source}); give one size by --pixel-size (pixel_size_um in Python), or resample it"
            )
        return size

    @contextmanager
    def regions(self) -> Iterator[Regions]:
        """Open the image for many reads, also from several threads; it is closed at the end of the `with` block.

        Raises `ImageFileError` for a file that cannot be opened, or changed since `open_image`.
        """
        with ExitStack() as stack:
            with foreign_errors(self.path):
                reader = stack.enter_context(self.connect())
            Layout(self.shape, self.dtype, self.level_shapes).require_same(self.path, reader.layout)
            regions = Regions(self.path, reader)
            stack.callback(regions.close)
            yield regions

    def read(self, box_yxhw: Box | None = None, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Open the image, read a level or a part of it, and close it.

        Parameters, result and errors are those of `Regions.read`; without memory for the result, a `MemoryError`.
        """
        with self.regions() as regions:
            return regions.read(box_yxhw, level, channels)

    def in_memory(self) -> Image:
        """Copy with the pixels of the full resolution in memory, and without other levels; raises what `read` does."""
        return replace(self, level_shapes=self.level_shapes[:1], connect=Slices((self.read(),), "cyx").opened)

    def finite(self) -> Image:
        """Copy whose values are 0 where those of this image are NaN or infinite."""
        return self if self.dtype.kind != "f" else replace(self, connect=partial(_connect_finite, self.connect))

    def identity(self) -> Mapping[str, Any]:
        """Facts that show whether two inputs are the same image, found without reading a whole slide, as JSON values.

        `name`, `shape` (C,H,W), `dtype`, `bytes` (of the file, of all files of a folder, of an array) and `sha256`; of
        a file of several images the `series`; and `offset_xy` of a slide that is cropped to its bounds. The
        hash covers every byte of a file up to 64 MiB; for larger files the size, the first and last MiB, and 256 blocks
        of 64 KiB spread evenly; for an OME-Zarr the metadata and the names and sizes of all files, and likewise for the
        folder of an MRXS. A file has the same identity here and at a URL. For an array, and for an OME-Zarr on a store
        that lists no files, such as a web server, it covers 256 blocks of 64 x 64 px: all pixels up to 1024 x 1024.
        Parent folders and times are never included.
        """
        return dict(self._identity)

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        found = None if self.path is None else path_digest(self.data_path or self.path)
        if found is None:
            with self.regions() as regions:
                digest = pixels_digest(regions, self.shape)
            found = self.dtype.itemsize * int(np.prod(self.shape, dtype=object)), digest
        where: dict[str, Any] = {} if self.series is None else {"series": self.series}
        if self.offset_yx != (0, 0):
            where["offset_xy"] = [self.offset_yx[1], self.offset_yx[0]]
        return {
            "name": "array" if self.path is None else file_name(self.path.absolute()),
            **where,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "bytes": found[0],
            "sha256": found[1],
        }


@contextmanager
def _connect_finite(connect: Callable[[], AbstractContextManager[Reader]]) -> Iterator[Reader]:
    with connect() as reader:
        yield _Finite(reader)


class _Finite:
    """Regions in which 0 takes the place of NaN and infinity."""

    def __init__(self, reader: Reader) -> None:
        self.layout, self._reader = reader.layout, reader

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        pixels = self._reader.read(box_yxhw, level, channels)
        pixels[~np.isfinite(pixels)] = 0
        return pixels


def address(image: Image) -> str:
    """Absolute path or URL by which another process opens an image; `array` for one in memory."""
    if image.path is None:
        return "array"
    return str(image.path) if is_remote(image.path) else os.path.abspath(image.path)


def make_image(
    path: Path | None,
    layout: Layout,
    connect: Callable[[], AbstractContextManager[Reader]],
    names: Sequence[str | None] | None = None,
    statements: Iterable[Statement] = (),
    planes: NDArray[np.int64] | None = None,
) -> Image:
    """`Image` of a reader; channels without names are numbered; statements of the pixel size are in order of trust.

    `planes` (T,Z,C) are the channels of the reader that are time points and z planes.
    """
    if path is not None and 0 in layout.shape:
        channels, height, width = layout.shape
        raise ImageFileError(f"{display(path)}: has no pixels ({channels} x {height} x {width}, C x H x W)")
    size, source = first_credible(statements)
    numbered = [f"channel {index}" for index in range(layout.shape[0] if planes is None else planes.shape[2])]
    if names is None or len(names) != len(numbered):
        names = numbered
    channel_names = tuple(str(own or "").strip() or name for own, name in zip(names, numbered, strict=True))
    return Image(
        path=path,
        shape=layout.shape,
        dtype=layout.dtype,
        channel_names=channel_names,
        pixel_size_yx_um=size,
        pixel_size_source=source,
        level_shapes=layout.level_shapes,
        connect=connect,
        stack=None if planes is None else Stack(planes, channel_names),
    )
