"""Images named on the command line: files, folders and patterns, local or at URLs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SLIDES = (".svs", ".qptiff", ".ndpi", ".scn", ".mrxs", ".bif", ".vsi")
_SUFFIXES = (*_PICTURES, *_SLIDES)  # in folders and patterns; a file named by itself may have any suffix


def find_images(inputs: Sequence[str]) -> tuple[Path, ...]:
    """Images named by files, folders (the images directly in them) or patterns such as `a/*.tif`, local or at URLs.

    Each image once, in the order of `inputs`; hidden files and results of cytoseed in folders and patterns are skipped.

    Raises
    ------
    FileNotFoundError
        An input without an image.
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
        stem = stem_of(display(path))
        other = by_stem.setdefault(stem, path)
        if other is not path:
            raise ValueError(
                f"{display(other)} and {display(path)} would both be written as {stem!r}; rename one, segment them "
                f"into different folders, or name only one kind of files, such as '{path.parent / f'*{path.suffix}'}'"
            )
    return tuple(found.values())


def _images_at(name: str) -> list[Path]:
    from cytoseed.images import is_image_folder, list_images
    from cytoseed.paths import as_path, is_remote

    path, deeper = as_path(name), ""
    if is_remote(path):
        found = [as_path(one) for one in list_images(name, _is_picture)]
    elif is_image_folder(path):
        found = [path]
    elif path.is_dir():
        found = [entry for entry in sorted(path.iterdir()) if _is_image(entry)]
        deeper = f"; '{path / '**' / '*.tif'}' also looks in the folders inside it"
    elif path.exists() or path.is_symlink():
        found = [path]
    elif glob.has_magic(str(path)):
        found = [entry for entry in map(Path, sorted(glob.glob(str(path), recursive=True))) if _is_image(entry)]
    else:
        raise FileNotFoundError(f"there is no file or folder {name!r}; check the name")
    if not found:
        raise FileNotFoundError(f"no image found in {name!r}; looked for {', '.join(_SUFFIXES)}{deeper}")
    return found


def _is_picture(name: str) -> bool:
    """Whether a file has the suffix of an image, and not that of a result."""
    from cytoseed.results import WRITERS

    results = tuple(writer.suffix for writer in WRITERS.values())
    return name.lower().endswith(_SUFFIXES) and not name.lower().endswith(results)


def _is_image(path: Path) -> bool:
    from cytoseed.images import is_image_folder

    is_file = path.is_file() or (path.is_symlink() and not path.exists())  # a broken link is reported, not skipped
    return not path.name.startswith(".") and ((_is_picture(path.name) and is_file) or is_image_folder(path))
