"""Folders of downloads: found by name, at a depth that unpacking may vary, and complete or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from cytoseed.learn.folders import by_stem

_Other = TypeVar("_Other")
_DEPTH = 4  # below the folder given; the deepest layout, and a folder more that an unpacker may have added


def find_folders(root: Path, pattern: str) -> list[Path]:
    """Find folders by name, the root itself among them, in any case; hidden ones and `__MACOSX` are passed over.

    Parameters
    ----------
    root : Path
        Where to look, four levels deep.
    pattern : str
        Name, with `*` for any characters.

    Returns
    -------
    list of Path
        Sorted; at least one.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found, level = [], [root]
    for _ in range(_DEPTH + 1):
        found += [folder for folder in level if fnmatch(folder.name.lower(), pattern.lower())]
        level = [child for folder in level for child in subfolders(folder)]
    if not found:
        raise FileNotFoundError(f"there is no folder {pattern!r} in it")
    return sorted(found)


def find_folder(root: Path, name: str) -> Path:
    """Find the one folder of a name; of several within each other, as unpacking into `images` gives, the innermost.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If there are several side by side.
    """
    found = find_folders(root, name)
    innermost = max(found, key=lambda folder: len(folder.parts))
    beside = [folder for folder in found if folder != innermost and folder not in innermost.parents]
    if beside:
        raise ValueError(f"there are two folders {name!r}: {beside[0]} and {innermost}")
    return innermost


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted; hidden ones and `__MACOSX` are left out."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    )


def files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """List the files of a folder by stem.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or none of its files has one of the suffixes.
    ValueError
        If two files share a stem.
    """
    found = by_stem(folder, suffixes)
    if not found:
        lacking = "holds no files" if folder.is_dir() else "is missing, which should hold files"
        raise FileNotFoundError(f"{folder} {lacking} {', '.join('*' + suffix for suffix in suffixes)}")
    return found


def pair(
    these: Mapping[str, Path], those: Mapping[str, _Other], this: str = "image", that: str = "mask"
) -> list[tuple[str, Path, _Other]]:
    """Match what belongs together, by name.

    Parameters
    ----------
    these, those : mapping of str
        Such as images and masks, by stem.
    this, that : str
        What the message calls one of them.

    Returns
    -------
    list of (name, one of these, one of those)
        In the order of these.

    Raises
    ------
    FileNotFoundError
        If one is without its counterpart, as after a file was lost or renamed.
    """
    require(f"no {that} of", these.keys() - those.keys())
    require(f"no {this} of", those.keys() - these.keys())
    return [(name, each, those[name]) for name, each in these.items()]


def require(complaint: str, missing: Iterable[str]) -> None:
    """Refuse a download that lacks something.

    Raises
    ------
    FileNotFoundError
        If anything is missing; up to three are named.
    """
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise FileNotFoundError(f"there is {complaint} {', '.join(names[:3])}{more}")
