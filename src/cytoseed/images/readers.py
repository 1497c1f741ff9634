"""The door for files: a file's first bytes, not its name, choose the reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cytoseed.images.image import Image, ImageFileError
from cytoseed.images.picture import open_jpeg, open_png
from cytoseed.images.tiff import open_tiff


class _Family(NamedTuple):
    """One family of files: what it is called, how its files begin, what opens them."""

    name: str
    beginnings: tuple[bytes, ...]
    open: Callable[[Path], Image]


_FAMILIES = (
    _Family("TIFF (plain, ImageJ, OME, Aperio SVS)", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), open_tiff),
    _Family("PNG", (b"\x89PNG\r\n\x1a\n",), open_png),
    _Family("JPEG", (b"\xff\xd8\xff",), open_jpeg),
)
_SHOWN_BYTES = 8


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open an image file: metadata now, pixels when `Image.read` is called.

    Takes PNG, JPEG and TIFF (plain, ImageJ, OME, Aperio SVS) with one 2-D image in any number of channels;
    of a file with several images or resolutions, the first at full resolution. An alpha channel is dropped,
    a palette becomes RGB (ImageJ's lookup tables, which only colour a grey image, do not), and values are
    as stored: neither rotated by EXIF nor inverted where white is 0.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    Image
        Its shape, type, channel names and pixel size.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageFileError
        A `ValueError`: a folder, an empty or damaged file, a format that is not read, or a stack of planes.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageFileError(f"{path}: is a folder; give the path of one image file")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: is a link to {str(path.readlink())!r}, which is not there; mend the link")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; check the name and the folder")
    with path.open("rb") as file:
        beginning = file.read(_SHOWN_BYTES)
    for family in _FAMILIES:
        if beginning.startswith(family.beginnings):
            return family.open(path)
    if not beginning:
        raise ImageFileError(f"{path}: is empty (0 bytes); copy or export it again")
    raise ImageFileError(
        f"{path}: begins with {beginning!r}, which is no format that cytoseed reads; "
        f"it reads {', '.join(family.name for family in _FAMILIES)}: export the image as one of these"
    )
