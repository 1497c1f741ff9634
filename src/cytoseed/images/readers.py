"""Opening of files and arrays: the content of a file, not its name, chooses the reader."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

from numpy.typing import ArrayLike

from cytoseed.images.arrays import image_of
from cytoseed.images.file_errors import CutFileError, ImageFileError
from cytoseed.images.identity import parts_of
from cytoseed.images.image import Image
from cytoseed.images.openslide_reader import GENERIC_TIFF, open_slide, slide_family
from cytoseed.images.picture import open_jpeg, open_png
from cytoseed.images.regions import Layout, Regions
from cytoseed.images.tiff import open_tiff, other_files, suits_openslide
from cytoseed.images.zarr_reader import is_image_folder, open_zarr
from cytoseed.images.zarr_store import is_zarr_folder
from cytoseed.paths import as_path, display, file_name, is_remote, is_web, local_copy, storage_errors

ImageLike = str | os.PathLike[str] | Image | ArrayLike
"""Path or URL of a file (a str or a `UPath`), an opened image, or an array."""

_INSTALL = "pip install openslide-python openslide-bin"
_SHOWN_BYTES = 8
_NDPI = "hamamatsu"  # beyond 4 GiB no TIFF by the book
_COLLAPSED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_REQUESTS = 16
_DICOM, _DICOM_AT = b"DICM", 128
_VMS = b"[Virtual"


def as_image(image: ImageLike) -> Image:
    """Open a path, a URL or an array as an `Image`; pixels are not read."""
    if isinstance(image, Image):
        return image
    is_path = isinstance(image, (str, os.PathLike)) or hasattr(image, "storage_options")  # a UPath is no PathLike
    return open_image(cast(Any, image)) if is_path else image_of(cast(Any, image))


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open an image: metadata now, pixels when they are read.

    Takes one 2-D image in any number of channels: TIFF of all kinds (plain, tiled, striped, BigTIFF, pyramids, ImageJ,
    OME, QPTIFF), OME-Zarr 0.4 and 0.5 (a folder), PNG and JPEG up to 2^28 pixels, and whole slides as OpenSlide reads
    them, tested with Aperio SVS. A slide or TIFF of 8-bit RGB goes through OpenSlide, if it knows the file; any other
    TIFF through tifffile, so that no bits and no channels are lost. Without OpenSlide, tifffile reads Aperio too.

    Of a file with several images, the first is taken. An alpha channel is dropped, a palette becomes RGB (ImageJ's
    lookup tables, which only colour a grey image, do not), and values are as stored: neither rotated by EXIF nor
    inverted where white is 0.

    A URL that fsspec knows, such as `s3://bucket/slide.svs` or `https://host/image.zarr`, is taken like a path. Of an
    OME-Zarr only what is read is fetched; any other file is copied to this machine first: see `cache_folder`.
    Credentials and options are those of fsspec, from its environment and configuration.

    Parameters
    ----------
    path : str or path
        The file or folder; a URL as a str, or a `UPath` of universal-pathlib.

    Returns
    -------
    Image

    Raises
    ------
    FileNotFoundError
        There is no such file.
    OSError
        Of a URL: a `PermissionError`, `TimeoutError` or `ConnectionError`, or no room for a copy.
    ModuleNotFoundError
        A package is not installed that the URL needs.
    ImageFileError
        A `ValueError`: a folder that is no OME-Zarr, an empty, cut or damaged file, a format that is not read, a
        picture that is too large, or a stack of planes.
    """
    place = as_path(path)
    if is_remote(place):
        return _open_remote_folder(place) if _is_remote_folder(place) else _open_copy(place)
    return _open_local(place)


def list_images(url: str, is_picture: Callable[[str], bool]) -> list[str]:
    """URLs of the images that a URL names: itself, or those directly in the folder that it names.

    Parameters
    ----------
    url : str
        Of an image, of a folder, or with `*` in its last part, such as `s3://bucket/folder/*.svs`. By HTTP, a folder is
        what its server's page about it links to.
    is_picture : callable
        Decides by the name of a file in a folder.

    Returns
    -------
    list of str
        By name: files for which `is_picture` is true, and OME-Zarr folders; no hidden ones. The given URL, where it
        names a file or an OME-Zarr.

    Raises
    ------
    FileNotFoundError
        There is neither a file nor a folder.
    OSError
        The store does not answer, or does not allow it.
    """
    path: Any = as_path(url)
    name = file_name(path)
    if "*" in name:
        pattern = "".join(f"[{character}]" if character in "?[" else character for character in name)
        return _listed(path.parent, lambda own: fnmatch.fnmatchcase(own, pattern), is_picture)
    if is_image_folder(path):
        return [str(path)]
    with storage_errors(path):
        info = path.fs.info(path.path)
    if info["type"] == "file" and info.get("mimetype") != "text/html":
        return [str(path)]
    return _listed(path, lambda _: True, is_picture)


def _listed(folder: Any, matches: Callable[[str], bool], is_picture: Callable[[str], bool]) -> list[str]:
    with storage_errors(folder):
        entries = folder.fs.ls(folder.path, detail=True)
    root = folder.path.strip("/")
    kinds: dict[str, str] = {}
    for entry in entries:
        path = entry["name"].strip("/")
        name = path.rpartition("/")[2]
        if path != root and name and not name.startswith(".") and matches(name):
            kinds[name] = entry["type"]
    names = sorted(kinds)

    def is_wanted(name: str) -> bool:
        return is_image_folder(folder / name) if kinds[name] == "directory" else is_picture(name)

    with ThreadPoolExecutor(_REQUESTS) as pool:  # of each folder its metadata are asked for
        wanted = list(pool.map(is_wanted, names))
    return [str(folder / name) for name, keep in zip(names, wanted, strict=True) if keep]


def _is_remote_folder(path: Path) -> bool:
    """Whether a URL names a folder; web servers, and buckets that may not be listed, know of files only."""
    far = cast(Any, path)
    if file_name(path).lower().endswith(".zarr") and is_zarr_folder(path):
        return True
    try:
        with storage_errors(path):
            info = far.fs.info(far.path)
    except (FileNotFoundError, PermissionError):
        if is_zarr_folder(path):
            return True
        raise
    is_page = is_web(path) and info.get("mimetype") == "text/html"
    return info["type"] == "directory" or (is_page and is_zarr_folder(path))


def _open_remote_folder(path: Path) -> Image:
    if is_zarr_folder(path):
        return open_zarr(path)
    raise ImageFileError(f"{display(path)}: is a folder; give the URL of one image")


def _open_copy(path: Path) -> Image:
    """Open the local copy of a remote file, with the files beside it that belong to it."""
    parts = parts_of(path)
    if file_name(path).lower().endswith(".vsi"):
        raise _only_overview(path)
    copy = local_copy(path, parts)
    with copy.open("rb") as file:
        beginning = file.read(_DICOM_AT + len(_DICOM))
    if beginning.startswith(_VMS) or beginning[_DICOM_AT:] == _DICOM:
        raise ImageFileError(
            f"{display(path)}: may be a slide in several files, and its URL does not tell which: copy its folder to "
            f"this machine"
        )
    with _named(copy, path):
        others = other_files(copy)
        if others:
            parts = (*parts, *others)
            copy = local_copy(path, parts)
        image = _open_local(copy)
    layout = Layout(image.shape, image.dtype, image.level_shapes)
    return replace(image, path=path, connect=partial(_connect_copy, path, parts, copy, layout))


@contextmanager
def _connect_copy(path: Path, parts: tuple[str, ...], copy: Path, layout: Layout) -> Iterator[Regions]:
    """Open the copy for reads, made again if it was deleted or this is another machine."""
    if not copy.is_file():
        copy = local_copy(path, parts)
    with _named(copy, path):
        image = _open_local(copy)
        layout.require_same(path, Layout(image.shape, image.dtype, image.level_shapes))
        with image.connect() as regions:
            yield regions


@contextmanager
def _named(copy: Path, path: Path) -> Iterator[None]:
    """Name the URL instead of the copy in errors."""
    try:
        yield
    except ImageFileError as error:
        raise type(error)(str(error).replace(str(copy), display(path))) from error


def _open_local(path: Path) -> Image:
    if path.is_dir():
        if is_image_folder(path) or is_zarr_folder(path):
            return open_zarr(path)
        raise ImageFileError(f"{path}: is a folder; give the path of one image file")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: is a link to {str(path.readlink())!r}, which is not there; mend the link")
    if not path.exists():
        collapsed = _COLLAPSED_URL.match(str(path))
        remedy = "give a URL as a str, not as a Path" if collapsed else "check the name and the folder"
        raise FileNotFoundError(f"{path}: there is no such file; {remedy}")
    with path.open("rb") as file:
        beginning = file.read(_SHOWN_BYTES)
    for _, beginnings, open_file in _READERS:
        if beginning.startswith(beginnings):
            return open_file(path)
    if not beginning:
        raise ImageFileError(f"{path}: is empty (0 bytes); copy or export it again")
    known = slide_family(path)
    if known:
        return open_slide(path)
    without = "" if known is not None else f" (and slides in other formats with OpenSlide: {_INSTALL})"
    raise ImageFileError(
        f"{path}: begins with {beginning!r}, which is no format that cytoseed reads; "
        f"it reads {', '.join(name for name, _, _ in _READERS)}, OME-Zarr and whole slides{without}: "
        f"export the image as one of these"
    )


def _open_any_tiff(path: Path) -> Image:
    """Choose between OpenSlide and tifffile.

    OpenSlide goes first where it knows the scanner, for it knows how its tiles lie; but it takes every image for 8-bit
    RGB, and believes printers' resolutions.
    """
    family = slide_family(path)
    if family == _NDPI:
        return open_slide(path)
    if not family:
        _refuse_vsi(path)
    try:
        image = open_tiff(path)
    except CutFileError:
        raise
    except ImageFileError:
        if not family or family == GENERIC_TIFF or not suits_openslide(path):
            raise
        return open_slide(path)
    return _through_openslide(path, family, image) if family and suits_openslide(path) else image


def _through_openslide(path: Path, family: str, image: Image) -> Image:
    """Open a TIFF with OpenSlide, if both see the same image in it; `image` is tifffile's."""
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
    if not (path.with_suffix("") / "Slidedat.ini").is_file():
        return open_jpeg(path)
    if slide_family(path) is None:
        raise ImageFileError(f"{path}: is a slide of MIRAX, which needs OpenSlide: {_INSTALL}")
    return open_slide(path)


def _refuse_vsi(path: Path) -> None:
    """Refuse a TIFF that is only the overview of a slide of Olympus."""
    name = f"_{path.stem}_"
    if (path.parent / name).is_dir() and next((path.parent / name).rglob("*.ets"), None) is not None:
        raise _only_overview(path)


def _only_overview(path: Path) -> ImageFileError:
    name = f"_{PurePosixPath(file_name(path)).stem}_"
    return ImageFileError(
        f"{display(path)}: is a slide of Olympus (VSI), whose pixels are in {name}, and this is only its overview; "
        f"cytoseed does not read it: export it as OME-TIFF"
    )


_READERS: tuple[tuple[str, tuple[bytes, ...], Callable[[Path], Image]], ...] = (
    ("TIFF (plain, ImageJ, OME, QPTIFF, Aperio SVS)", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _open_any_tiff),
    ("PNG", (b"\x89PNG\r\n\x1a\n",), open_png),
    ("JPEG", (b"\xff\xd8\xff",), _open_any_jpeg),
)
"""Formats: their name, the first bytes of their files, and the function that opens them."""
