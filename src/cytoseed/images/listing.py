"""The images in a folder far away."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cytoseed.images.ngff import is_image_folder
from cytoseed.images.remote import Entry, Remote
from cytoseed.url import joined, split_url

_AT_ONCE = 16
_ANY = "*"


def list_images(url: str, is_picture: Callable[[str], bool]) -> list[str]:
    """Find the images that a URL names: itself, or those directly in the folder that it names.

    Parameters
    ----------
    url : str
        Of an image, of a folder, or with a pattern in its last part, such as `s3://bucket/folder/*.svs`, in which `*`
        stands for any characters. By HTTP, a folder is what its server's page about it links to, if there is one.
    is_picture : callable
        Tells from the name of a file in a folder whether it is an image to be taken.

    Returns
    -------
    list of str
        URLs that `open_image` takes, by name: files of which `is_picture` is true, and folders that are OME-Zarr
        images; no hidden ones. One URL, the given one, where it names a file or an OME-Zarr. Empty where the folder has
        no image.

    Raises
    ------
    FileNotFoundError
        If there is neither a file nor a folder.
    OSError
        A `PermissionError`, `TimeoutError` or `ConnectionError`, or whatever else the store says.
    """
    parts = split_url(url)
    folder, _, last = parts.path.rpartition("/")
    if _ANY in last:
        place = Remote(parts._replace(path=folder).joined())
        return _listed(place, lambda name: fnmatch.fnmatchcase(name, _literal(last)) and is_picture(name), last)
    place = Remote(url)
    if is_image_folder(place) or (place.is_file() and not place.is_page()):
        return [place.url]
    return _listed(place, is_picture, _ANY)


def _listed(folder: Remote, is_picture: Callable[[str], bool], pattern: str) -> list[str]:
    """List what is in a folder and wished for."""
    entries = folder.entries()
    if not entries and not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such file or folder; check the address")
    seen = [entry for entry in entries if not entry.name.startswith(".")]

    def is_wished(entry: Entry) -> bool:
        if entry.is_folder:
            return fnmatch.fnmatchcase(entry.name, _literal(pattern)) and is_image_folder(folder / entry.name)
        return is_picture(entry.name)

    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a folder has to be asked what it is
        wished = list(pool.map(is_wished, seen))
    return [joined(folder.url, entry.name) for entry, keep in zip(seen, wished, strict=True) if keep]


def _literal(pattern: str) -> str:
    """Take all but `*` in a pattern as it is: other characters with a meaning are common in URLs."""
    return "".join(f"[{character}]" if character in "?[" else character for character in pattern)
