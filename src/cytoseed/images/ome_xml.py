"""OME-XML of a TIFF, as it may be believed: files in its own folder, and no more planes than bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

from cytoseed.images.pixel_size import parse_xml
from cytoseed.images.regions import ImageFileError

_LEAST_PAGE_BYTES = 64  # that the description of a page takes in a file
_ALWAYS_PLANES = 1 << 10


def checked_xml(path: Path, tif: Any) -> str | None:
    """OME-XML to read an open TIFF by: a companion's, or its own with plain file names; None for its own as it is.

    Raises `ImageFileError` for metadata that claim more planes than the files can hold.
    """
    text = tif.ome_metadata if tif.is_ome else None
    root = None if text is None else parse_xml(text)
    if root is None:
        return None
    binary = root.find("{*}BinaryOnly")
    if binary is not None:
        companion = _beside(path, binary.get("MetadataFile", ""))
        if companion is None:
            return None
        text = companion.read_text(encoding="utf-8-sig")
        root = parse_xml(text)
    if root is None:
        return text
    changed = False
    for uuid in root.iterfind(".//{*}TiffData/{*}UUID"):
        own = uuid.get("FileName", "")
        if own and own != (name := _plain(own)):
            uuid.set("FileName", name)
            changed = True
    _require_possible(path, tif, root)
    if changed:
        return ElementTree.tostring(root, encoding="unicode")
    return None if binary is None else text


def companion_data(path: Path, text: str) -> Path | None:
    """First file that a companion's OME-XML names, in its own folder; None if there is none."""
    root = parse_xml(text)
    named = None if root is None else root.find(".//{*}TiffData/{*}UUID")
    return None if named is None else _beside(path, named.get("FileName", ""))


def missing_files(path: Path, tif: Any) -> list[str]:
    """Files that an OME-TIFF names as parts of it, and that are not in its folder, or empty."""
    root = parse_xml(tif.ome_metadata) if tif.is_ome else None
    uuids = () if root is None else root.iterfind(".//{*}TiffData/{*}UUID")
    names = {_plain(uuid.get("FileName", "")): None for uuid in uuids}
    files = {name: _beside(path, name) for name in names if name not in ("", path.name)}
    return [name for name, file in files.items() if file is None or not file.stat().st_size]


def named_parts(path: Path) -> list[str]:
    """Names of the other files that an OME-TIFF names as parts of its images; none if it is damaged."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            root = parse_xml(tif.ome_metadata or "") if tif.is_ome else None
    except Exception:  # reported when the image is opened
        return []
    uuids = () if root is None else root.iterfind(".//{*}TiffData/{*}UUID")
    return [
        name
        for name in dict.fromkeys(_plain(uuid.get("FileName", "")) for uuid in uuids)
        if name not in ("", path.name)
    ]


def _plain(name: str) -> str:
    """Name of a file without folders."""
    return PurePath(name.replace("\\", "/")).name


def _beside(path: Path, name: str) -> Path | None:
    """File of a name in the folder of another; None if there is none."""
    file = path.parent / (_plain(name) or ".")
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ImageFileError(f"{path}: its OME metadata name {file.name!r} as a file of it, which is a pipe or device")
    return file if file.is_file() else None


def _require_possible(path: Path, tif: Any, root: ElementTree.Element) -> None:
    """Refuse claims of more planes than the file, and those in its folder that it names, have room for."""
    names = {path.name, *(uuid.get("FileName", "") for uuid in root.iterfind(".//{*}TiffData/{*}UUID"))}
    files = [_beside(path, name) for name in names]
    room = sum(file.stat().st_size for file in files if file is not None) // _LEAST_PAGE_BYTES
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        planes = max(_claims(tif, pixels), default=0)
        if planes > max(room, _ALWAYS_PLANES):
            raise ImageFileError(
                f"{path}: its OME metadata claim {planes} planes, for which it is too small; the file is cut or damaged"
            )


def _claims(tif: Any, pixels: ElementTree.Element) -> Iterator[int]:
    """Numbers of planes that an image is said to have."""
    sizes = {name: int(pixels.get(f"Size{name}", 1)) for name in "XYCZT"}
    yield sizes["C"] * sizes["Z"] * sizes["T"]
    data = pixels.findall("{*}TiffData")
    for each in data:
        yield from (int(each.get(name, 0)) for name in ("NumPlanes", "PlaneCount"))
    if data and data[0].find("{*}UUID") is None:
        page = tif.pages[int(data[0].get("IFD", 0))]
        yield math.prod(sizes.values()) // max(1, page.imagewidth * page.imagelength)
