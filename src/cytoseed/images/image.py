"""What an opened image is: its metadata at once, its pixels when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB_NAMES = ("red", "green", "blue")

_LARGEST_RATIO = 1.01  # pixels whose sides differ by more than this are not taken for squares


class ImageFileError(ValueError):
    """A file that cannot be taken as an image; the message names the file, the cause and what to do."""


@dataclass(frozen=True, eq=False)
class Image:
    """A 2-D image in a file: what its metadata says, and a way to its pixels.

    Opening reads metadata only; no file stays open.
    """

    path: Path
    """The file."""
    shape: tuple[int, int, int]
    """Channels, height and width (C,H,W), in pixels."""
    dtype: np.dtype[Any]
    """Type of the pixels, in the machine's byte order."""
    channel_names: tuple[str, ...]
    """Name of each of the C channels: as the file has them; `red`, `green`, `blue`; else `channel 0`, ..."""
    pixel_size_yx_um: tuple[float, float] | None
    """Height and width of a pixel in µm, as the file says; None where it does not say so credibly."""
    pixel_size_source: str
    """Where the pixel size was found, in words; `not stated` where there is none."""
    decode: Callable[[], NDArray[Any]] = field(repr=False)
    """The reader's own way to the pixels; callers use `read`."""

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

    def read(self) -> NDArray[Any]:
        """Read all pixels.

        Returns
        -------
        ndarray, shape (C,H,W), of the image's `dtype`
            Values as stored, C-contiguous, the caller's own to write to.

        Raises
        ------
        ImageFileError
            If the file is damaged or cut short: never half an image.
        """
        with foreign_errors(self.path):
            pixels = self.decode()
        if pixels.shape != self.shape or pixels.dtype != self.dtype:
            raise ImageFileError(
                f"{self.path}: announces pixels of shape {self.shape} and type {self.dtype}, but holds "
                f"{pixels.shape} and {pixels.dtype}; the file is damaged: copy or export it again"
            )
        return np.require(pixels, requirements=["C", "W"])


def numbered_names(count: int) -> tuple[str, ...]:
    """Names for channels that have none: `channel 0`, `channel 1`, ..."""
    return tuple(f"channel {index}" for index in range(count))


@contextmanager
def foreign_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into an `ImageFileError` that names the file."""
    try:
        yield
    except (ImageFileError, MemoryError, OSError):
        raise
    except Exception as error:  # decoders raise RuntimeError, struct.error, KeyError, ... on damaged files
        raise ImageFileError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); "
            f"the file is damaged, cut short or of an unusual kind: copy or export it again"
        ) from error
