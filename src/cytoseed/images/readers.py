"""Opening of files and arrays: the content of a file, not its name, chooses the reader."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from numpy.typing import ArrayLike

from cytoseed.images.arrays import array_image, open_npy, open_npz
from cytoseed.images.frames import choose_frames, parse_name
from cytoseed.images.identity import is_zarr_folder
from cytoseed.images.image import Image
from cytoseed.images.microscope import list_czi, list_lif, list_nd2
from cytoseed.images.openslide_reader import GENERIC_TIFF, list_slide, slide_family
from cytoseed.images.picture import open_jpeg, open_png
from cytoseed.images.rare_pictures import open_by
from cytoseed.images.regions import CutFileError, ImageFileError, Reader
from cytoseed.images.series import Series, choose_series, largest_of, listed, ranked, single
from cytoseed.images.tiff import list_companion, list_tiff, suits_openslide
from cytoseed.images.zarr_reader import is_image_folder, list_zarr
from cytoseed.paths import as_path, display, file_name, is_remote, is_web, local_copy, require_file, storage_errors

ImageLike = str | os.PathLike[str] | Image | ArrayLike
"""Path or URL of a file (a str or a `UPath`), an opened image, or an array."""

_INSTALL = "pip install openslide-python openslide-bin"


def as_image(
    image: ImageLike,
    series: str | int | None = None,
    full_canvas: bool = False,
    *,
    z: str | int | None = None,
    time: str | int | None = None,
) -> Image:
    """Open a path, a URL or an array as an `Image`; pixels are neither read nor copied.

    `series`, `full_canvas`, `z` and `time` are those of `open_image`; the first two are for files only.

    Accepted shapes of arrays, of any boolean, integer or floating type: (H,W), one channel; (H,W,3) and (H,W,4), RGB
    and RGBA, whose alpha is dropped; (C,H,W), everything else with three axes. A Dask or Zarr array, or a memory
    map, is read region by region; no array may change while the image is in use. Of an xarray DataArray the names of
    its dimensions (y, x, c, z, t) decide, channels are called by their coordinates, and those of y and x give the
    pixel size where they state a unit. Raises `TypeError` for other types and
    `ValueError` for other or ambiguous axes; for files, what `open_image` does.
    """
    if isinstance(image, Image):
        return image
    if isinstance(image, (str, os.PathLike)) or hasattr(image, "storage_options"):  # a UPath is not a PathLike
        return open_image(cast(Any, image), series, full_canvas, z=z, time=time)
    frames = choose_frames(array_image(image), z, time)
    if len(frames) > 1:
        raise ValueError(f"{len(frames)} planes are chosen by z={z!r} and time={time!r}; give one of each")
    return frames[0]


def open_image(
    path: str | os.PathLike[str],
    series: str | int | None = None,
    full_canvas: bool = False,
    *,
    z: str | int | None = None,
    time: str | int | None = None,
) -> Image:
    """Open an image: metadata now, pixels when they are read.

    Takes one 2-D image in any number of channels: TIFF of all kinds (plain, tiled, striped, BigTIFF, pyramids, ImageJ,
    OME, also by its companion file, QPTIFF, LSM, MetaMorph), OME-Zarr 0.4 and 0.5 (a folder), PNG and JPEG up to 2^28
    pixels, and whole slides as OpenSlide reads them, tested with Aperio SVS. A slide or TIFF of 8-bit RGB goes through
    OpenSlide, if it knows the file; any other TIFF through tifffile, so that no bits and no channels are lost. Without
    OpenSlide, tifffile reads Aperio too.

    From a file with several images `series` takes one, by its name or its number from 0, as `list_series` lists them.
    Without it the file must have one image, and otherwise only smaller pictures of it: a macro, label or thumbnail. A
    slide that states the bounds of its scans, such as MRXS and SCN, is cropped to them, as in QuPath, unless
    `full_canvas`; `Image.offset_yx` is their place on the canvas.

    An alpha channel is dropped, a palette becomes RGB (ImageJ's lookup tables, which only colour a grey image, do not),
    and values are as stored: neither rotated by EXIF nor inverted where white is 0.

    Of a z-stack or time series `z` takes a plane by its number from 0, or the projection `max` or `mean`, and `time` a
    time point; `open_frames` opens several. As `series`, the name of a plane such as `t02_z05` does the same.

    A URL that fsspec knows, such as `s3://bucket/slide.svs` or `https://host/image.zarr`, is taken like a path, as a
    str or a `UPath` of universal-pathlib. From an OME-Zarr only the parts that are read are fetched; any other file is
    copied to this machine first: see `cache_folder`. Credentials and options are those of fsspec.

    Raises `FileNotFoundError`; for a URL another `OSError`, such as a `PermissionError`, or a `ModuleNotFoundError` for
    the package that it needs; and `ImageFileError`, a `ValueError`, for a folder that is not an OME-Zarr, an empty, cut
    or damaged file, a format that is not read, a picture that is too large, a stack, or several images.
    """
    frames = open_frames(path, series, full_canvas, z=z, time=time)
    if len(frames) > 1:
        raise ImageFileError(
            f"{display(as_path(path))}: {len(frames)} planes are chosen by z={z!r} and time={time!r}; give one of "
            f"each, or open them all by cytoseed.images.open_frames"
        )
    return frames[0]


def open_frames(
    path: str | os.PathLike[str],
    series: str | int | None = None,
    full_canvas: bool = False,
    *,
    z: str | int | None = None,
    time: str | int | None = None,
) -> list[Image]:
    """Open planes of a z-stack or time series, time by time; `z` and `time` may be `all`. See `open_image`."""
    source = display(as_path(path))
    found = list_series(path, full_canvas)
    named = parse_name(series) if isinstance(series, str) and z is None and time is None else None
    if named is not None and series not in {one.name for one in found}:
        series, z, time = named
    chosen = choose_series(source, found, series)
    if len(chosen) > 1:
        raise ImageFileError(
            f"{source}: holds {len(found)} images: {listed(found)}; give one by name or number, as --series "
            f"{chosen[0].name} (series={chosen[0].name!r} in Python)"
        )
    return choose_frames(chosen[0].open(), z, time)


def list_series(path: str | os.PathLike[str], full_canvas: bool = False) -> tuple[Series, ...]:
    """Images of a file or of an OME-Zarr, in its order; each can be opened. Raises what `open_image` does."""
    place = as_path(path)
    return ranked(_list_remote(place, full_canvas) if is_remote(place) else _list_local(place, full_canvas))


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


def _list_remote(path: Path, full_canvas: bool) -> Sequence[Series]:
    """Images at a URL; web servers, and buckets that may not be listed, know only files."""
    far = cast(Any, path)
    if file_name(path).lower().endswith(".zarr") and is_zarr_folder(path):
        return list_zarr(path)
    try:
        with storage_errors(path):
            info = far.fs.info(far.path)
    except (FileNotFoundError, PermissionError):
        if is_zarr_folder(path):
            return list_zarr(path)
        raise
    is_folder, is_page = info["type"] == "directory", is_web(path) and info.get("mimetype") == "text/html"
    if (is_folder or is_page) and is_zarr_folder(path):
        return list_zarr(path)
    if is_folder:
        raise ImageFileError(f"{display(path)}: is a folder; give the URL of one image")
    return _list_copy(path, full_canvas)


def _list_copy(path: Path, full_canvas: bool) -> Sequence[Series]:
    """Images in the local copy of a remote file; refuse slides in several files."""
    copy = local_copy(path)
    with copy.open("rb") as file:
        beginning = file.read(132)
    is_vms, is_dicom = beginning.startswith(b"[Virtual"), beginning[128:] == b"DICM"
    if is_vms or is_dicom or file_name(path).lower().endswith((".mrxs", ".vsi")):
        raise ImageFileError(f"{display(path)}: may be a slide of several files; copy its folder to this machine")

    def load(number: int, one: Series) -> Image:
        with _named(copy, path):
            return replace(one.load(), path=path, connect=partial(_connect_copy, path, copy, number, full_canvas))

    with _named(copy, path):
        found = _list_local(copy, full_canvas)
        return [replace(one, load=partial(load, number, one)) for number, one in enumerate(found)]


@contextmanager
def _connect_copy(path: Path, copy: Path, number: int, full_canvas: bool) -> Iterator[Reader]:
    """Open an image of the copy for reads, made again if it was deleted or this is another machine."""
    if not copy.is_file():
        copy = local_copy(path)
    with _named(copy, path), _list_local(copy, full_canvas)[number].load().connect() as reader:
        yield reader


@contextmanager
def _named(copy: Path, path: Path) -> Iterator[None]:
    """Name the URL instead of the copy in errors."""
    try:
        yield
    except ImageFileError as error:
        raise type(error)(str(error).replace(str(copy), display(path))) from error


def _list_local(path: Path, full_canvas: bool) -> Sequence[Series]:
    if path.is_dir():
        if is_image_folder(path) or is_zarr_folder(path):
            return list_zarr(path)
        raise ImageFileError(f"{path}: is a folder; give the path of one image file")
    if not path.exists():
        what = f"is a link to {str(path.readlink())!r}, which" if path.is_symlink() else "this file"
        raise FileNotFoundError(f"{path}: {what} does not exist; check the name and the folder; give a URL as a str")
    require_file(path)
    with path.open("rb") as file:
        beginning = file.read(8)
    for _, beginnings, list_file in _READERS:
        if beginning.startswith(beginnings):
            return list_file(path, full_canvas)
    if not beginning:
        raise ImageFileError(f"{path}: is empty (0 bytes); copy or export it again")
    family = slide_family(path)
    if family:
        return list_slide(path, full_canvas)
    formats = ", ".join(name for name, _, _ in _READERS)
    without = f" (slides in other formats need OpenSlide: {_INSTALL})" if family is None else ""
    raise ImageFileError(
        f"{path}: begins with {beginning!r}, which is not a format that cytoseed reads; it reads {formats}, OME-Zarr "
        f"and whole slides{without}: export the image as one of these"
    )


def _list_any_tiff(path: Path, full_canvas: bool) -> Sequence[Series]:
    """Images by OpenSlide if it knows the scanner and the image is 8-bit RGB, as OpenSlide returns it."""
    family = slide_family(path)
    if family == "hamamatsu":  # not a valid TIFF if larger than 4 GiB
        return list_slide(path, full_canvas)
    inside = path.parent / f"_{path.stem}_"
    if not family and inside.is_dir() and next(inside.rglob("*.ets"), None) is not None:
        raise ImageFileError(
            f"{path}: is only the overview of an Olympus slide (VSI), whose pixels are in {inside.name}; cytoseed "
            f"does not read it: export it as OME-TIFF"
        )
    try:
        found = list_tiff(path)
        if not family or (family == GENERIC_TIFF and len(found) > 1) or not suits_openslide(path):
            return found
        image = largest_of(found).load()  # refuses a cut file, which OpenSlide may not notice
    except ImageFileError as error:
        if isinstance(error, CutFileError) or family in (None, "", GENERIC_TIFF) or not suits_openslide(path):
            raise
        return list_slide(path, full_canvas)
    return _through_openslide(path, family, found, image, full_canvas)


def _through_openslide(
    path: Path, family: str, found: Sequence[Series], image: Image, full_canvas: bool
) -> Sequence[Series]:
    """Images of a TIFF by OpenSlide, if it sees the same `image`; that and `found` are tifffile's."""
    try:
        slide, *pictures = list_slide(path, full_canvas)
    except ImageFileError:  # for example, a compression that OpenSlide does not know
        return found
    opened = slide.load()
    same = (opened.shape, opened.level_shapes) == (image.shape, image.level_shapes)
    if family == GENERIC_TIFF:
        return [single(replace(image, connect=opened.connect))] if same else found
    if opened.pixel_size_yx_um is None and same:
        size, source = image.pixel_size_yx_um, image.pixel_size_source
        slide = single(replace(opened, pixel_size_yx_um=size, pixel_size_source=source), slide.name)
    return [slide, *pictures]


def _list_any_jpeg(path: Path, full_canvas: bool) -> Sequence[Series]:
    """A JPEG, or the MRXS slide whose overview it is."""
    if not (path.with_suffix("") / "Slidedat.ini").is_file():
        return [single(open_jpeg(path))]
    if slide_family(path) is None:
        raise ImageFileError(f"{path}: is a MIRAX slide, which needs OpenSlide: {_INSTALL}")
    return list_slide(path, full_canvas)


_Lister = Callable[[Path, bool], Sequence[Series]]


def _one(open_file: Callable[[Path], Image]) -> _Lister:
    """Lister for files of one image."""
    return lambda path, _: [single(open_file(path))]


_READERS: tuple[tuple[str, tuple[bytes, ...], _Lister], ...] = (  # name, first bytes, function
    ("TIFF (plain, ImageJ, OME, QPTIFF, Aperio SVS)", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _list_any_tiff),
    ("OME companion files", (b"<?xml", b"<OME", b"\xef\xbb\xbf<"), lambda path, _: list_companion(path)),
    ("PNG", (b"\x89PNG\r\n\x1a\n",), _one(open_png)),
    ("JPEG", (b"\xff\xd8\xff",), _list_any_jpeg),
    ("JPEG 2000", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), _one(open_by("jpeg2k"))),
    ("JPEG XL", (b"\0\0\0\x0cJXL ", b"\xff\x0a"), _one(open_by("jpegxl"))),
    ("WebP", (b"RIFF",), _one(open_by("webp"))),
    ("BMP", (b"BM",), _one(open_by("bmp"))),
    ("Zeiss CZI", (b"ZISRAWFI",), list_czi),
    ("Nikon ND2", (b"\xda\xce\xbe\x0a",), list_nd2),
    ("Leica LIF", (b"\x70\0\0\0",), list_lif),
    ("NumPy (.npy)", (b"\x93NUMPY",), _one(open_npy)),
    ("NumPy (.npz)", (b"PK\x03\x04",), _one(open_npz)),
)
