"""What an opened image is: its metadata at once, its pixels when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.errors import ImageFileError, cut_short, foreign_errors
from cytoseed.images.identity import is_listed, path_digest, pixels_digest
from cytoseed.images.regions import Box, Checked, Kept, Layout, Regions
from cytoseed.images.remote import Place

RGB_NAMES = ("red", "green", "blue")

_LARGEST_RATIO = 1.01  # pixels whose sides differ by more than this are not taken for squares


@dataclass(frozen=True, eq=False)
class Image:
    """A 2-D image, in a file or an array: what is known of it, and a way to its pixels.

    Opening reads metadata only; no file stays open.
    """

    path: Place | None
    """The file, or the folder of an OME-Zarr, a `Remote` where a URL was given; None for an array given in Python."""
    shape: tuple[int, int, int]
    """Channels, height and width (C,H,W), in pixels, at full resolution."""
    dtype: np.dtype[Any]
    """Type of the pixels, in the machine's byte order."""
    channel_names: tuple[str, ...]
    """Name of each of the C channels: as the file has them; `red`, `green`, `blue`; else `channel 0`, ..."""
    pixel_size_yx_um: tuple[float, float] | None
    """Height and width of a pixel in µm, as the file says; None where it does not say so credibly."""
    pixel_size_source: str
    """Where the pixel size was found, in words; `not stated` where there is none."""
    level_shapes: tuple[tuple[int, int], ...]
    """Height and width of each resolution that can be read, full resolution first; one where there is no pyramid."""
    damage: str
    """What of the file is missing, in words; empty for a whole one. See `read`."""
    connect: Callable[[], AbstractContextManager[Regions]] = field(repr=False)
    """The reader's own way to the pixels; callers use `regions` and `read`."""

    @property
    def source(self) -> str:
        """The path or URL, as it may be shown: without passwords and signatures; `array` for an array."""
        return "array" if self.path is None else str(self.path)

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel in µm, the mean of height and width; None where the file states none.

        Raises
        ------
        ImageFileError
            If height and width differ by more than 1 %: no single number describes such pixels.
        """
        if self.pixel_size_yx_um is None:
            return None
        height, width = self.pixel_size_yx_um
        if max(height, width) > _LARGEST_RATIO * min(height, width):
            raise ImageFileError(
                f"{self.path}: its pixels are {width:g} µm wide and {height:g} µm high "
                f"({self.pixel_size_source}), and cytoseed takes square pixels; if one of the two is "
                f"right for both, state it with --pixel-size (pixel_size_um in Python), else resample the image"
            )
        return (height + width) / 2

    @contextmanager
    def regions(self) -> Iterator[Regions]:
        """Open the image for many reads; it is closed at the end of the `with` block.

        Yields
        ------
        Regions
            Reads regions, also from several threads, until the block ends.

        Raises
        ------
        ImageFileError
            If the file cannot be opened, or holds another image than when `open_image` looked at it.
        """
        with ExitStack() as stack:
            with foreign_errors(self.path):
                reader = stack.enter_context(self.connect())
            checked = Checked(self.path, Layout(self.shape, self.dtype, self.level_shapes), reader)
            try:
                yield checked
            finally:
                checked.close()

    def read(self, box_yxhw: Box | None = None, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Open the image, read all of a level or a part, and close it.

        Parameters
        ----------
        box_yxhw : Box, optional
            Row and column of the first pixel, height and width, in px of the level; without it everything.
        level : int, default 0
            Number of the resolution; 0 is the full one.
        channels : sequence of int, optional
            Numbers of the channels, in the order wished; without them all.

        Returns
        -------
        ndarray, shape (C,h,w), of the image's `dtype`
            Values as stored, C-contiguous, the caller's own to write to.

        Raises
        ------
        ImageFileError
            If the file is damaged or cut short: never half an image. Of a cut file (`damage`) everything is never
            given, and a box is where all its bytes are there.
        ValueError
            A box outside the level, or a level or channel that is not there.
        MemoryError
            If there is not enough memory for what is asked.
        """
        if box_yxhw is None and self.damage:
            raise cut_short(self.path, self.damage)
        if not 0 <= level < len(self.level_shapes):
            raise ValueError(f"level is {level}; the image has {len(self.level_shapes)}, counted from 0")
        box = (0, 0, *self.level_shapes[level]) if box_yxhw is None else box_yxhw
        with self.regions() as regions:
            return regions.read(box, level, channels)

    def in_memory(self) -> Image:
        """Read the full resolution once, and keep it: the same image, without the other levels.

        Raises
        ------
        ImageFileError, MemoryError
            As `read`.
        """
        return replace(
            self,
            level_shapes=self.level_shapes[:1],
            connect=partial(_reading_kept, self.read()),
        )

    def identity(self) -> Mapping[str, Any]:
        """Tell what decides that two inputs are the same image, without reading a whole slide.

        Of files up to 64 MiB every byte counts. Of larger ones the size, the first and last MiB, and 256 blocks of
        64 KiB spread evenly: a change of single pixels in between is not noticed, unless it changes the size. Of
        an OME-Zarr the metadata and the names and sizes of all files count: a chunk rewritten at its old size is
        not noticed. Of a slide in several files only the one given counts, of MRXS also its folder, as for
        OME-Zarr. A file has the same identity here and far away; but of an OME-Zarr whose store does not list its
        files, such as a web server, the pixels count, as of an array. Of arrays up to 256 blocks of 64 x 64 px
        spread evenly, which are all pixels up to 1024 x 1024. Folders above and times never count.

        Returns
        -------
        Mapping
            Plain values that JSON keeps: `name` (`array` for an array), `shape` (C,H,W), `dtype`, `bytes` (of the
            file; of all files of a folder; of an array's pixels) and `sha256`.

        Raises
        ------
        OSError
            If the file is no longer there.
        """
        return dict(self._identity)

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        """What `identity` gives: found once, since it is read from the file."""
        if self.path is None or not is_listed(self.path):
            with self.regions() as regions:
                digest = pixels_digest(regions, self.shape)
            size = self.dtype.itemsize * int(np.prod(self.shape, dtype=object))
        else:
            size, digest = path_digest(self.path)
        return {
            "name": "array" if self.path is None else self.path.absolute().name,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "bytes": size,
            "sha256": digest,
        }


def numbered_names(count: int) -> tuple[str, ...]:
    """Names for channels that have none: `channel 0`, `channel 1`, ..."""
    return tuple(f"channel {index}" for index in range(count))


def _reading_kept(pixels: NDArray[Any]) -> AbstractContextManager[Regions]:
    return nullcontext(Kept(pixels))
