"""The door for files: what is in a file, not its name, chooses the reader."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cytoseed.images.copies import local_copy
from cytoseed.images.errors import ImageFileError
from cytoseed.images.image import Image
from cytoseed.images.intact import survey_tiff
from cytoseed.images.ngff import is_image_folder, is_zarr_folder, open_ngff
from cytoseed.images.picture import open_jpeg, open_png
from cytoseed.images.regions import Layout, Regions
from cytoseed.images.remote import Place, Remote, place_of
from cytoseed.images.slide import GENERIC_TIFF, open_slide, slide_family
from cytoseed.images.tiff import look_at, open_tiff, suits_openslide
from cytoseed.url import is_url

_INSTALL = "pip install openslide-python openslide-bin"
_SHOWN_BYTES = 8
_NDPI = "hamamatsu"  # beyond 4 GiB no TIFF by the book
_ZARR, _MIRAX, _VSI = ".zarr", ".mrxs", ".vsi"
_COLLAPSED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_SLIDES = (b"ZISRAWFI", b"SQLite f")  # in one file, of formats that OpenSlide may know: Zeiss, Sakura
_DICOM, _DICOM_AT = b"DICM", 128
_VMS = b"[Virtual"


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open an image: metadata now, pixels when they are read.

    Takes one 2-D image in any number of channels: TIFF of all kinds (plain, tiled, striped, BigTIFF, pyramids, ImageJ,
    OME, QPTIFF), OME-Zarr 0.4 and 0.5 (a folder), PNG and JPEG up to 2^28 pixels, and whole slides as OpenSlide reads
    them, tested with Aperio SVS. A slide or TIFF of 8-bit RGB goes through OpenSlide, if it knows the file; any other
    TIFF through tifffile, so that no bits and no channels are lost. Without OpenSlide, tifffile reads Aperio too.

    Of a file with several images, the first is taken. An alpha channel is dropped, a palette becomes RGB (ImageJ's
    lookup tables, which only colour a grey image, do not), and values are as stored: neither rotated by EXIF nor
    inverted where white is 0.

    A URL that fsspec knows, such as `s3://bucket/slide.svs` or `https://host/image.zarr`, is taken like a path. Of TIFF
    and OME-Zarr only what is looked at is fetched, by tifffile and zarr; a slide that only OpenSlide reads (Hamamatsu,
    Leica, MIRAX, Philips, Ventana, Zeiss, ...) is copied to this machine first: see `cache_folder`. Credentials and
    options are those of fsspec, from its environment and configuration.

    Parameters
    ----------
    path : str or path
        The file or folder; a URL as a str, or a `UPath` of universal-pathlib.

    Returns
    -------
    Image
        Its shape, type, channel names, pixel size and levels, and what of it is missing.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        Of a URL: a `PermissionError`, `TimeoutError` or `ConnectionError`, or no room for a copy.
    ModuleNotFoundError
        If a package is not installed that the URL needs.
    ImageFileError
        A `ValueError`: a folder that is no OME-Zarr, an empty or damaged file, a format that is not read, a picture
        that is too large, or a stack of planes.
    """
    place = _place(path)
    return _open_far(place) if isinstance(place, Remote) else _open_here(place)


def _place(path: Any) -> Place:
    """Tell a path on this machine from a URL."""
    text = str(path) if hasattr(path, "storage_options") else path  # universal_pathlib's, which need not be installed
    return place_of(text, getattr(path, "storage_options", None)) if is_url(text) else Path(path)


def _open_here(path: Path) -> Image:
    """Open a file on this machine."""
    if path.is_dir():
        if is_image_folder(path) or is_zarr_folder(path):
            return open_ngff(path)
        raise ImageFileError(f"{path}: is a folder; give the path of one image file")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: is a link to {str(path.readlink())!r}, which is not there; mend the link")
    if not path.exists():
        collapsed = _COLLAPSED_URL.match(str(path))
        remedy = "give a URL as a str, not as a Path" if collapsed else "check the name and the folder"
        raise FileNotFoundError(f"{path}: there is no such file; {remedy}")
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
    raise _unknown(path, beginning, without)


def _open_far(remote: Remote) -> Image:
    """Open what is at a URL."""
    if _is_far_folder(remote):
        if is_image_folder(remote) or is_zarr_folder(remote):
            return open_ngff(remote)
        raise ImageFileError(f"{remote}: is a folder; give the URL of one image")
    return _open_far_file(remote) if remote.has_parts() else _open_copy(remote)


def _is_far_folder(remote: Remote) -> bool:
    """Tell whether a URL names a folder; a web server, and a bucket that is not to be listed, know of files only."""
    if remote.suffix.lower() == _ZARR and is_zarr_folder(remote):
        return True
    try:
        return (remote.is_page() and is_zarr_folder(remote)) or remote.info()["type"] == "directory"
    except (FileNotFoundError, PermissionError):
        if is_zarr_folder(remote):
            return True
        raise


def _open_far_file(remote: Remote) -> Image:
    """Open a file of which any bytes can be had."""
    beginning = remote.read(0, _SHOWN_BYTES)
    for family in _FAMILIES:
        if beginning.startswith(family.beginnings):
            return family.open(remote)
    if not beginning:
        raise ImageFileError(f"{remote}: is empty (0 bytes); copy or export it again")
    if beginning.startswith(_SLIDES):
        return _open_copy(remote)
    if beginning == _VMS or remote.read(_DICOM_AT, len(_DICOM)) == _DICOM:
        raise ImageFileError(
            f"{remote}: may be a slide in several files, and which they are is not told by its URL: copy its folder to "
            f"this machine"
        )
    raise _unknown(remote, beginning, "")


def _open_copy(remote: Remote, beside: Sequence[str] = ()) -> Image:
    """Open a copy of a file at a URL, made now if there is none, with what has to lie beside it."""
    place = remote.read_from_copy(beside)
    image = _of_copy(place)
    layout = Layout(image.shape, image.dtype, image.level_shapes)
    return replace(image, path=place, connect=partial(_connect_copy, place, layout))


def _of_copy(place: Remote) -> Image:
    copy = local_copy(place)
    try:
        return _open_here(copy)
    except ImageFileError as error:
        raise ImageFileError(str(error).replace(str(copy), str(place))) from error


@contextmanager
def _connect_copy(place: Remote, layout: Layout) -> Iterator[Regions]:
    """Open the copy for reads, made again if it was deleted; refuse it if the file is no longer what it was."""
    image = _of_copy(place)
    layout.require_same(place, Layout(image.shape, image.dtype, image.level_shapes))
    with image.connect() as regions:
        yield regions


def _unknown(path: Place, beginning: bytes, without: str) -> ImageFileError:
    return ImageFileError(
        f"{path}: begins with {beginning!r}, which is no format that cytoseed reads; "
        f"it reads {', '.join(family.name for family in _FAMILIES)}, OME-Zarr and whole slides{without}: "
        f"export the image as one of these"
    )


def _open_any_tiff(path: Place) -> Image:
    """Choose between OpenSlide and tifffile.

    OpenSlide goes first where it knows the scanner, for it knows how its tiles lie; but it takes every image for 8-bit
    RGB, refuses cut files, and believes printers' resolutions.
    """
    if isinstance(path, Remote):
        return _open_far_tiff(path)
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


def _open_far_tiff(remote: Remote) -> Image:
    """Read a TIFF where it lies, by tifffile, or a copy of it by OpenSlide where tifffile sees another image."""
    _refuse_vsi(remote)
    look = look_at(remote)
    others = [name for name in look.others if remote.beside(name).exists()]
    if look.needs_openslide or others:
        return _open_copy(remote, others)
    try:
        return open_tiff(remote)
    except ImageFileError:
        if not look.is_aperio or survey_tiff(remote).lost or not suits_openslide(remote):
            raise
        return _open_copy(remote)


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


def _open_any_jpeg(path: Place) -> Image:
    """Open a JPEG, or the MRXS slide whose overview it is."""
    folder = path.with_suffix("")
    if isinstance(path, Remote):
        return _open_copy(path, (f"{folder.name}/",)) if path.suffix.lower() == _MIRAX else open_jpeg(path)
    if not (folder / "Slidedat.ini").is_file():
        return open_jpeg(path)
    if slide_family(path) is None:
        raise ImageFileError(f"{path}: is a slide of MIRAX, which needs OpenSlide: {_INSTALL}")
    return open_slide(path)


def _refuse_vsi(path: Place) -> None:
    """Refuse a TIFF that is only the overview of a slide of Olympus."""
    name = f"_{path.stem}_"
    if isinstance(path, Remote):  # a server that lists nothing may have the folder
        has_pixels = path.suffix.lower() == _VSI and not (path.lists and not path.beside(name).is_dir())
    else:
        has_pixels = (path.parent / name).is_dir() and next((path.parent / name).rglob("*.ets"), None) is not None
    if has_pixels:
        raise ImageFileError(
            f"{path}: is a slide of Olympus (VSI), whose pixels are in {name}, and this is only its overview; "
            f"cytoseed does not read it: export it as OME-TIFF"
        )


class _Family(NamedTuple):
    """One family of files: what it is called, how its files begin, what opens them."""

    name: str
    beginnings: tuple[bytes, ...]
    open: Callable[[Place], Image]


_FAMILIES = (
    _Family("TIFF (plain, ImageJ, OME, QPTIFF, Aperio SVS)", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _open_any_tiff),
    _Family("PNG", (b"\x89PNG\r\n\x1a\n",), open_png),
    _Family("JPEG", (b"\xff\xd8\xff",), _open_any_jpeg),
)
