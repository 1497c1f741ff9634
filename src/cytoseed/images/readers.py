"""The door for files: what is in a file, not its name, chooses the reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cytoseed.images.errors import ImageFileError
from cytoseed.images.image import Image
from cytoseed.images.intact import survey_tiff
from cytoseed.images.ngff import is_image_folder, is_zarr_folder, open_ngff
from cytoseed.images.picture import open_jpeg, open_png
from cytoseed.images.slide import GENERIC_TIFF, open_slide, slide_family
from cytoseed.images.tiff import open_tiff, suits_openslide

_INSTALL = "pip install openslide-python openslide-bin"
_SHOWN_BYTES = 8
_NDPI = "hamamatsu"  # beyond 4 GiB no TIFF by the book


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open an image: metadata now, pixels when they are read.

    Takes one 2-D image in any number of channels: TIFF of all kinds (plain, tiled, striped, BigTIFF, pyramids, ImageJ,
    OME, QPTIFF), OME-Zarr 0.4 and 0.5 (a folder), PNG and JPEG up to 2^28 pixels, and whole slides as OpenSlide reads
    them, tested with Aperio SVS. A slide or TIFF of 8-bit RGB goes through OpenSlide, if it knows the file; any other
    TIFF through tifffile, so that no bits and no channels are lost. Without OpenSlide, tifffile reads Aperio too.

    Of a file with several images, the first is taken. An alpha channel is dropped, a palette becomes RGB (ImageJ's
    lookup tables, which only colour a grey image, do not), and values are as stored: neither rotated by EXIF nor
    inverted where white is 0.

    Parameters
    ----------
    path : str or path
        The file or folder.

    Returns
    -------
    Image
        Its shape, type, channel names, pixel size and levels, and what of it is missing.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageFileError
        A `ValueError`: a folder that is no OME-Zarr, an empty or damaged file, a format that is not read, a picture
        that is too large, or a stack of planes.
    """
    path = Path(path)
    if path.is_dir():
        if is_image_folder(path) or is_zarr_folder(path):
            return open_ngff(path)
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
    known = slide_family(path)
    if known:
        return open_slide(path)
    without = "" if known is not None else f" (and slides in other formats with OpenSlide: {_INSTALL})"
    raise ImageFileError(
        f"{path}: begins with {beginning!r}, which is no format that cytoseed reads; "
        f"it reads {', '.join(family.name for family in _FAMILIES)}, OME-Zarr and whole slides{without}: "
        f"export the image as one of these"
    )


def _open_any_tiff(path: Path) -> Image:
    """Choose between OpenSlide and tifffile.

    OpenSlide goes first where it knows the scanner, for it knows how its tiles lie; but it takes every image for 8-bit
    RGB, refuses cut files, and believes printers' resolutions.
    """
    family = slide_family(path)
    if family == _NDPI:
        return open_slide(path)
    if not family:
        _refuse_vsi(path)
    try:
        image = open_tiff(path)
    except ImageFileError:
        if not family or family == GENERIC_TIFF or survey_tiff(path).lost or not suits_openslide(path):
            raise
        return open_slide(path)
    return _through_openslide(path, family, image) if family and not image.damage and suits_openslide(path) else image


def _through_openslide(path: Path, family: str, image: Image) -> Image:
    """Open a whole TIFF with OpenSlide, if both see the same image in it; `image` is tifffile's."""
    try:
        slide = open_slide(path)
    except ImageFileError:  # a compression that OpenSlide does not know, say
        return image
    same = (slide.shape, slide.level_shapes) == (image.shape, image.level_shapes)
    if family == GENERIC_TIFF:
        return replace(image, connect=slide.connect) if same else image
    if slide.pixel_size_yx_um is None and same:
        return replace(slide, pixel_size_yx_um=image.pixel_size_yx_um, pixel_size_source=image.pixel_size_source)
    return slide


def _open_any_jpeg(path: Path) -> Image:
    """Open a JPEG, or the MRXS slide whose overview it is."""
    folder = path.with_suffix("")
    if not (folder / "Slidedat.ini").is_file():
        return open_jpeg(path)
    if slide_family(path) is None:
        raise ImageFileError(f"{path}: is a slide of MIRAX, which needs OpenSlide: {_INSTALL}")
    return open_slide(path)


def _refuse_vsi(path: Path) -> None:
    """Refuse a TIFF that is only the overview of a slide of Olympus."""
    folder = path.parent / f"_{path.stem}_"
    if folder.is_dir() and next(folder.rglob("*.ets"), None) is not None:
        raise ImageFileError(
            f"{path}: is a slide of Olympus (VSI), whose pixels are in {folder.name}, and this is only its overview; "
            f"cytoseed does not read it: export it as OME-TIFF"
        )


class _Family(NamedTuple):
    """One family of files: what it is called, how its files begin, what opens them."""

    name: str
    beginnings: tuple[bytes, ...]
    open: Callable[[Path], Image]


_FAMILIES = (
    _Family("TIFF (plain, ImageJ, OME, QPTIFF, Aperio SVS)", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _open_any_tiff),
    _Family("PNG", (b"\x89PNG\r\n\x1a\n",), open_png),
    _Family("JPEG", (b"\xff\xd8\xff",), _open_any_jpeg),
)
