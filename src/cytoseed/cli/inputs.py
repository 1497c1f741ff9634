"""The images that a command line names: files, folders and patterns, here or at URLs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SLIDES = (".svs", ".qptiff", ".ndpi", ".scn", ".mrxs", ".bif", ".vsi")
_SUFFIXES = (*_PICTURES, *_SLIDES)  # a file named by itself may have any


def find_images(inputs: Sequence[str]) -> tuple[Path, ...]:
    """Find the images that a command line names.

    Parameters
    ----------
    inputs
        Each a file, a folder (the images directly in it, by name) or a pattern such as `a/*.tif`, here or at a URL
        (see `cytoseed.images.list_images`). Hidden files and what cytoseed itself writes are left out of folders and
        patterns.

    Returns
    -------
    tuple of Path
        Each file once, in the order named.

    Raises
    ------
    FileNotFoundError
        An input at which there is no image.
    OSError
        A URL that cannot be looked at.
    ModuleNotFoundError
        A URL, and what reaches it is not installed.
    ValueError
        Two images whose results would have the same name.
    """
    from cytoseed.paths import display
    from cytoseed.results import stem_of

    found: dict[Path, Path] = {}
    for name in inputs:
        for path in _images_at(name):
            found.setdefault(path.resolve() if isinstance(path, Path) else path, path)
    by_stem: dict[str, Path] = {}
    for path in found.values():
        other = by_stem.setdefault(stem_of(display(path)), path)
        if other is not path:
            pattern = f"*{path.suffix}"
            kind = path.parent / pattern
            raise ValueError(
                f"{display(other)} and {display(path)} would both be written as {stem_of(display(path))!r}; rename one, segment them into "
                f"different folders, or name only one kind of files, such as '{kind}'"
            )
    return tuple(found.values())


def _images_at(name: str) -> list[Path]:
    """Find the images that one input names, sorted; at least one."""
    from cytoseed.images import is_image_folder, is_url

    if is_url(name):
        return _images_far(name)
    path = Path(name)
    if is_image_folder(path):
        found = [path]
    elif path.is_dir():
        found = [entry for entry in sorted(path.iterdir()) if _is_image(entry)]
    elif path.exists() or path.is_symlink():
        found = [path]
    elif glob.has_magic(name):
        found = [entry for entry in map(Path, sorted(glob.glob(name, recursive=True))) if _is_image(entry)]
    else:
        raise FileNotFoundError(f"there is no file or folder {name!r}; check the name")
    if not found:
        deeper = f"; '{path / '**' / '*.tif'}' looks in the folders inside it too" if path.is_dir() else ""
        raise FileNotFoundError(f"no image found in {name!r}; looked for {', '.join(_SUFFIXES)}{deeper}")
    return list(found)


def _images_far(url: str) -> list[Path]:
    """Find the images that a URL names; at least one."""
    from cytoseed.images import list_images
    from cytoseed.paths import as_path

    here = as_path(url)
    if isinstance(here, Path):
        return _images_at(str(here))
    found = list_images(url, _is_picture)
    if not found:
        raise FileNotFoundError(f"no image found in {url!r}; looked for {', '.join(_SUFFIXES)}")
    return [as_path(one) for one in found]


def _is_picture(name: str) -> bool:
    """Tell whether a file is called like an image to segment, and not like what cytoseed writes."""
    from cytoseed.results import WRITERS

    own = tuple(writer.suffix for writer in WRITERS.values())
    return name.lower().endswith(_SUFFIXES) and not name.lower().endswith(own)


def _is_image(path: Path) -> bool:
    """Tell whether a file looks like an image to segment."""
    from cytoseed.images import is_image_folder

    is_file = path.is_file() or (path.is_symlink() and not path.exists())  # a broken link is an image that is missing
    return not path.name.startswith(".") and ((_is_picture(path.name) and is_file) or is_image_folder(path))
