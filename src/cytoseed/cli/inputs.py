"""Files named on the command line by files, folders and patterns, local or at URLs: images, and stored results."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cytoseed.images import is_image_folder, list_images
from cytoseed.images.ome_xml import named_parts
from cytoseed.images.openslide_reader import dicom_slide
from cytoseed.learn.samples import NOT_IMAGES
from cytoseed.paths import as_path, display, is_remote, is_url
from cytoseed.results import WRITERS, stem_of
from cytoseed.results.formats.objects_zip import SUFFIX

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".jp2", ".jxl")
_SLIDES = (".svs", ".qptiff", ".ndpi", ".scn", ".mrxs", ".bif", ".vsi", ".czi", ".nd2", ".lif", ".lsm", ".stk")
_DICOM = ".dcm"
_SUFFIXES = (*_PICTURES, *_SLIDES, _DICOM)  # in folders and patterns; a file named by itself may have any suffix


def find_images(inputs: Sequence[str], recursive: bool = False) -> dict[Path, Path]:
    """Images named by files, folders (the images directly in them) or patterns such as `a/*.tif`, local or at URLs.

    Returns each image's folder below the one that was named: `.` unless `recursive`, which looks in all subfolders.

    Each image once, in the order of `inputs`. In folders and patterns hidden files, results of cytoseed, masks such as
    `a_masks.png` beside `a.png`, files that an OME-TIFF before them names as its parts, and all but the first DICOM
    file of a slide are skipped. Two images whose results would have the same name are refused.
    """
    below = {path: place for name in inputs for path, place in _images_below(name, recursive).items()}
    found = _each_once(below)
    by_stem: dict[tuple[Path, str], Path] = {}
    for path in found:
        stem = stem_of(display(path))
        other = by_stem.setdefault((below[path], stem), path)
        if other is not path:
            raise ValueError(
                f"{display(other)} and {display(path)} would both be written as {stem!r}; rename one, segment them "
                f"into different folders, or name only one kind of files, such as '{path.parent / f'*{path.suffix}'}'"
            )
    return {path: below[path] for path in found}


def find_results(inputs: Sequence[str]) -> tuple[Path, ...]:
    """Files of stored results, each once, named by files, folders or patterns such as `a/*.objects.zip`."""
    return _each_once(path for name in inputs for path in _results_at(name))


def _each_once(paths: Iterable[Path]) -> tuple[Path, ...]:
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path if is_remote(path) else path.resolve(), path)
    return tuple(found.values())


def _images_below(name: str, recursive: bool) -> dict[Path, Path]:
    """Images that a name stands for, and their folders below the one that it names."""
    root = as_path(name)
    if not recursive or is_remote(root) or not root.is_dir() or is_image_folder(root):
        return dict.fromkeys(_images_at(name), Path())
    folders = [root, *(Path(at) for at in sorted(glob.glob(f"{glob.escape(str(root))}/**/", recursive=True)))]
    kept = [one for one in dict.fromkeys(folders) if not any(part.suffix == ".zarr" for part in (one, *one.parents))]
    found = {path: folder.relative_to(root) for folder in kept for path in _without_parts(_expand(folder, _is_image))}
    if not found:
        raise FileNotFoundError(f"no image found in {name!r} and its subfolders; looked for {', '.join(_SUFFIXES)}")
    return found


def _without_parts(paths: Sequence[Path]) -> list[Path]:
    """Images without masks beside them, and without the files that belong to an OME-TIFF before them."""
    images = {one.with_suffix("") for one in paths}
    made = {one.with_name(one.name + ending) for one in images for ending in NOT_IMAGES}
    parts: set[Path] = set()
    slides: set[str] = set()
    kept = []
    for one in paths:
        if one.with_suffix("") in made or one in parts:
            continue
        if one.suffix.lower() == _DICOM and not _is_new_slide(slides, one):
            continue
        kept.append(one)
        if one.name.lower().endswith((".ome.tif", ".ome.tiff")) and one.is_file():
            parts.update(one.parent / name for name in named_parts(one))
    return kept


def _is_new_slide(slides: set[str], file: Path) -> bool:
    """Add the slide of a DICOM file to those that were met; False for one that is known, and for other DICOM."""
    slide = dicom_slide(file)
    is_new = slide is not None and slide not in slides
    slides.update([] if slide is None else [slide])
    return is_new


def _images_at(name: str) -> list[Path]:
    path, deeper = as_path(name), ""
    if is_remote(path):
        found = [as_path(one) for one in list_images(name, _is_picture)]
    else:
        found = [path] if is_image_folder(path) else _expand(path, _is_image)
        deeper = f"; '{path / '**' / '*.tif'}' also looks in the folders inside it" if path.is_dir() else ""
    if not found:
        raise FileNotFoundError(f"no image found in {name!r}; looked for {', '.join(_SUFFIXES)}{deeper}")
    return found if found == [path] else _without_parts(found)


def _results_at(name: str) -> list[Path]:
    if is_url(name):
        raise ValueError(f"{name}: stored results are read from local files only; copy it, then convert the copy")
    found = _expand(Path(name), lambda path: path.name.endswith(SUFFIX) and path.name[0] != "." and path.is_file())
    if not found:
        raise FileNotFoundError(
            f"no stored result found in {name!r}: those are files that end in {SUFFIX}, which `cytoseed segment` "
            f"writes; for a run whose folder STEM.cytoseed still exists, with --resume --format objects"
        )
    return found


def _expand(path: Path, accepts: Callable[[Path], bool]) -> list[Path]:
    """Accepted entries of a folder, a file of any kind, or accepted files that match a pattern."""
    if path.is_dir():
        return [entry for entry in sorted(path.iterdir()) if accepts(entry)]
    if path.exists() or path.is_symlink():
        return [path]
    if glob.has_magic(str(path)):
        return [entry for entry in map(Path, sorted(glob.glob(str(path), recursive=True))) if accepts(entry)]
    raise FileNotFoundError(f"there is no file or folder {str(path)!r}; check the name")


def _is_picture(name: str) -> bool:
    """Whether a file has the suffix of an image, and not that of a result."""
    results = tuple(writer.suffix for writer in WRITERS.values())
    return name.lower().endswith(_SUFFIXES) and not name.lower().endswith(results)


def _is_image(path: Path) -> bool:
    is_file = path.is_file() or (path.is_symlink() and not path.exists())  # a broken link is reported, not skipped
    if path.name.startswith("."):
        return False
    return (_is_picture(path.name) and is_file) or is_image_folder(path) or _may_be_damaged(path)


def _may_be_damaged(path: Path) -> bool:
    """Whether a folder is called like an OME-Zarr; one that does not describe an image is reported, not skipped."""
    name, results = path.name.lower(), tuple(writer.suffix for writer in WRITERS.values())
    return name.endswith(".zarr") and path.is_dir() and not name.endswith(results)
