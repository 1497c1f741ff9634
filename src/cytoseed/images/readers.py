"""Opening of files and arrays: the content of a file, not its name, chooses the reader."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytoseed.images.identity import is_zarr_folder
from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.openslide_reader import GENERIC_TIFF, open_slide, slide_family
from cytoseed.images.picture import open_jpeg, open_png
from cytoseed.images.regions import CutFileError, ImageFileError, Reader, Slices
from cytoseed.images.tiff import open_companion, open_tiff, suits_openslide
from cytoseed.images.zarr_reader import is_image_folder, open_zarr
from cytoseed.paths import as_path, display, file_name, is_remote, is_web, local_copy, storage_errors

ImageLike = str | os.PathLike[str] | Image | ArrayLike
"""Path or URL of a file (a str or a `UPath`), an opened image, or an array."""

_INSTALL = "pip install openslide-python openslide-bin"
_COLOURS = (3, 4)  # lengths of a last axis that is RGB or RGBA


def as_image(image: ImageLike) -> Image:
    """Open a path, a URL or an array as an `Image`; pixels are neither read nor copied.

    Accepted shapes of arrays, of any boolean, integer or floating type: (H,W), one channel; (H,W,3) and (H,W,4), RGB
    and RGBA, whose alpha is dropped; (C,H,W), everything else with three axes. A Dask or Zarr array, or a memory
    map, is read region by region; no array may change while the image is in use. Raises `TypeError` for other types and
    `ValueError` for other or ambiguous axes; for files, what `open_image` does.
    """
    if isinstance(image, Image):
        return image
    if isinstance(image, (str, os.PathLike)) or hasattr(image, "storage_options"):  # a UPath is not a PathLike
        return open_image(cast(Any, image))
    if np.ma.is_masked(image):
        raise ValueError("image is a masked array with masked values; give plain ones: array.filled(0)")
    plain: Any = image.detach().cpu() if hasattr(image, "detach") else image  # a tensor with gradients, or of a GPU
    source: Any = plain if _is_lazy(plain) else np.asarray(plain)
    axes = _axes(tuple(source.shape), source.dtype)
    is_rgb = axes == "yxc"
    reader = Slices((source,), axes, 3 if is_rgb else None)
    return make_image(None, reader.layout, reader.opened, RGB_NAMES if is_rgb else None)


def check_pixels(pixels: NDArray[Any]) -> None:
    """Raise `ValueError` for pixels (C,H,W) that are empty, or hold values that are NaN or infinite."""
    if 0 in pixels.shape:
        raise ValueError(f"image has shape {pixels.shape} (C,H,W), so no pixels; every axis must be 1 or more")
    if pixels.dtype.kind != "f":
        return
    finite = np.isfinite(pixels)
    bad = finite.size - int(np.count_nonzero(finite))
    if bad:
        channel, row, column = np.unravel_index(int(np.argmin(finite)), finite.shape)
        raise ValueError(
            f"image has {bad} px that are NaN or infinite, the first in channel {channel}, row {row}, column {column}; "
            f"values must be finite: segment with --nan zero (nan='zero' in Python), or write numbers (np.nan_to_num)"
        )


def _axes(shape: tuple[int, ...], dtype: Any) -> str:
    """Axes by the shape: `yx`, `yxc` or `cyx`; refuse shapes that are ambiguous."""
    if np.dtype(dtype).kind not in "buif":
        raise TypeError(
            f"image has values of type {dtype}; allowed are booleans, integers and real numbers: convert it"
        )
    if not all(isinstance(size, Integral) for size in shape):
        raise ValueError(f"image has shape {shape}; its size must be known: in Dask, array.compute_chunk_sizes()")
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        raise ValueError(
            f"image has shape {shape}; allowed are (H,W), (H,W,3), (H,W,4) and (C,H,W): "
            f"give one 2-D plane, or a projection such as stack.max(axis=0)"
        )
    if shape[2] in _COLOURS:
        if shape[0] in _COLOURS:
            raise ValueError(
                f"image has shape {shape}, which can be read as (C,H,W) and as (H,W,C); "
                f"save it as a TIFF whose axes are named and give its path, or pad it by a pixel"
            )
        return "yxc"
    if min(shape[:2]) > 16 >= shape[2]:  # more channels than columns
        raise ValueError(f"image has shape {shape}; channels go first, (C,H,W): np.moveaxis(image, -1, 0)")
    return "cyx"


def _is_lazy(array: Any) -> bool:
    """Whether an object can be read slice by slice like a NumPy array; not a tensor, whose type NumPy does not know."""
    try:
        np.dtype(array.dtype)
    except (AttributeError, TypeError):
        return False
    return all(hasattr(array, name) for name in ("shape", "ndim", "__getitem__"))


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open an image: metadata now, pixels when they are read.

    Takes one 2-D image in any number of channels: TIFF of all kinds (plain, tiled, striped, BigTIFF, pyramids, ImageJ,
    OME, also by its companion file, QPTIFF, LSM, MetaMorph), OME-Zarr 0.4 and 0.5 (a folder), PNG and JPEG up to 2^28
    pixels, and whole slides as OpenSlide reads them, tested with Aperio SVS. A slide or TIFF of 8-bit RGB goes through
    OpenSlide, if it knows the file; any other TIFF through tifffile, so that no bits and no channels are lost. Without
    OpenSlide, tifffile reads Aperio too.

    From a file with several images, the first is taken. An alpha channel is dropped, a palette becomes RGB (ImageJ's
    lookup tables, which only colour a grey image, do not), and values are as stored: neither rotated by EXIF nor
    inverted where white is 0.

    A URL that fsspec knows, such as `s3://bucket/slide.svs` or `https://host/image.zarr`, is taken like a path, as a
    str or a `UPath` of universal-pathlib. From an OME-Zarr only the parts that are read are fetched; any other file is
    copied to this machine first: see `cache_folder`. Credentials and options are those of fsspec.

    Raises `FileNotFoundError`; for a URL another `OSError`, such as a `PermissionError`, or a `ModuleNotFoundError` for
    the package that it needs; and `ImageFileError`, a `ValueError`, for a folder that is not an OME-Zarr, an empty, cut
    or damaged file, a format that is not read, a picture that is too large, or a stack of planes.
    """
    place = as_path(path)
    return _open_remote(place) if is_remote(place) else _open_local(place)


def list_images(url: str, is_picture: Callable[[str], bool]) -> list[str]:
    """URLs of the images that a URL names, sorted by name.

    The URL names an image or a folder, or has `*` in its last part. From a folder (by HTTP: from the links on its page)
    all OME-Zarr are taken, and files whose name `is_picture` accepts, unless hidden. Raises `OSError` if it is missing.
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
        entries = {entry["name"].strip("/"): entry["type"] for entry in folder.fs.ls(folder.path, detail=True)}
    entries.pop(folder.path.strip("/"), None)
    kinds = {path.rpartition("/")[2]: kind for path, kind in sorted(entries.items())}
    names = [name for name in sorted(kinds) if name and not name.startswith(".") and matches(name)]

    def is_wanted(name: str) -> bool:
        return is_image_folder(folder / name) if kinds[name] == "directory" else is_picture(name)

    with ThreadPoolExecutor(16) as pool:  # the metadata of each folder are requested
        wanted = list(pool.map(is_wanted, names))
    return [str(folder / name) for name, keep in zip(names, wanted, strict=True) if keep]


def _open_remote(path: Path) -> Image:
    """Open the image at a URL; web servers, and buckets that may not be listed, know only files."""
    far = cast(Any, path)
    if file_name(path).lower().endswith(".zarr") and is_zarr_folder(path):
        return open_zarr(path)
    try:
        with storage_errors(path):
            info = far.fs.info(far.path)
    except (FileNotFoundError, PermissionError):
        if is_zarr_folder(path):
            return open_zarr(path)
        raise
    is_folder, is_page = info["type"] == "directory", is_web(path) and info.get("mimetype") == "text/html"
    if (is_folder or is_page) and is_zarr_folder(path):
        return open_zarr(path)
    if is_folder:
        raise ImageFileError(f"{display(path)}: is a folder; give the URL of one image")
    return _open_copy(path)


def _open_copy(path: Path) -> Image:
    """Open the local copy of a remote file; refuse slides in several files."""
    copy = local_copy(path)
    with copy.open("rb") as file:
        beginning = file.read(132)
    is_vms, is_dicom = beginning.startswith(b"[Virtual"), beginning[128:] == b"DICM"
    if is_vms or is_dicom or file_name(path).lower().endswith((".mrxs", ".vsi")):
        raise ImageFileError(f"{display(path)}: may be a slide of several files; copy its folder to this machine")
    with _named(copy, path):
        return replace(_open_local(copy), path=path, connect=partial(_connect_copy, path, copy))


@contextmanager
def _connect_copy(path: Path, copy: Path) -> Iterator[Reader]:
    """Open the copy for reads, made again if it was deleted or this is another machine."""
    if not copy.is_file():
        copy = local_copy(path)
    with _named(copy, path), _open_local(copy).connect() as reader:
        yield reader


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
    if not path.exists():
        what = f"is a link to {str(path.readlink())!r}, which" if path.is_symlink() else "this file"
        raise FileNotFoundError(f"{path}: {what} does not exist; check the name and the folder; give a URL as a str")
    with path.open("rb") as file:
        beginning = file.read(8)
    for _, beginnings, open_file in _READERS:
        if beginning.startswith(beginnings):
            return open_file(path)
    if not beginning:
        raise ImageFileError(f"{path}: is empty (0 bytes); copy or export it again")
    family = slide_family(path)
    if family:
        return open_slide(path)
    formats = ", ".join(name for name, _, _ in _READERS)
    without = f" (slides in other formats need OpenSlide: {_INSTALL})" if family is None else ""
    raise ImageFileError(
        f"{path}: begins with {beginning!r}, which is not a format that cytoseed reads; it reads {formats}, OME-Zarr "
        f"and whole slides{without}: export the image as one of these"
    )


def _open_any_tiff(path: Path) -> Image:
    """Open with OpenSlide if it knows the scanner and the image is 8-bit RGB, as OpenSlide returns it."""
    family = slide_family(path)
    if family == "hamamatsu":  # not a valid TIFF if larger than 4 GiB
        return open_slide(path)
    inside = path.parent / f"_{path.stem}_"
    if not family and inside.is_dir() and next(inside.rglob("*.ets"), None) is not None:
        raise ImageFileError(
            f"{path}: is only the overview of an Olympus slide (VSI), whose pixels are in {inside.name}; cytoseed "
            f"does not read it: export it as OME-TIFF"
        )
    try:
        image = open_tiff(path)
    except ImageFileError as error:
        if isinstance(error, CutFileError) or family in (None, "", GENERIC_TIFF) or not suits_openslide(path):
            raise
        return open_slide(path)
    return _through_openslide(path, family, image) if family and suits_openslide(path) else image


def _through_openslide(path: Path, family: str, image: Image) -> Image:
    """Open a TIFF with OpenSlide, if both see the same image in it; `image` is tifffile's."""
    try:
        slide = open_slide(path)
    except ImageFileError:  # for example, a compression that OpenSlide does not know
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
        raise ImageFileError(f"{path}: is a MIRAX slide, which needs OpenSlide: {_INSTALL}")
    return open_slide(path)


_READERS: tuple[tuple[str, tuple[bytes, ...], Callable[[Path], Image]], ...] = (  # name, first bytes, function
    ("TIFF (plain, ImageJ, OME, QPTIFF, Aperio SVS)", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _open_any_tiff),
    ("OME companion files", (b"<?xml", b"<OME", b"\xef\xbb\xbf<"), open_companion),
    ("PNG", (b"\x89PNG\r\n\x1a\n",), open_png),
    ("JPEG", (b"\xff\xd8\xff",), _open_any_jpeg),
)
