"""The size of pixels: where a TIFF states it, and which statements are believed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

NOT_STATED = "not stated"

_FINEST_UM, _COARSEST_UM = 0.001, 10.0  # 2540 dpi: what is coarser is the resolution of a print, or a wrong unit
_UM = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("in", "inch", "inches"), 25_400.0),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
}
_TAG_UNITS = {2: "inch", 3: "cm"}
_APERIO_MPP = re.compile(r"\bMPP\s*=\s*([0-9.eE+-]+)")


class PixelSize(NamedTuple):
    """Height and width of a pixel in µm, or None; and where they were found, in words."""

    yx_um: tuple[float, float] | None
    source: str


def first_credible(statements: Iterable[tuple[str, tuple[float, float] | None]]) -> PixelSize:
    """First statement (source, (height, width) in µm or None), in order of trust, that a microscope's pixels can have.

    Both sides are believed from 0.001 µm to 10 µm: beyond is a wrong unit, a placeholder, or the 72 to 300 dpi that
    programs write for printers.
    """
    for source, found in statements:
        if found is not None and all(_FINEST_UM <= side <= _COARSEST_UM for side in found):
            return PixelSize(found, source)
    return PixelSize(None, NOT_STATED)


def tiff_pixel_size(tif: Any) -> PixelSize:
    """Pixel size that an open `tifffile.TiffFile` states."""
    return first_credible(_statements(tif))


def in_um(length: float, unit: str) -> float | None:
    """A length in µm; None where the unit is unknown."""
    factor = _UM.get(unit)
    return None if factor is None else length * factor


def ome_pixels(tif: Any) -> ElementTree.Element | None:
    """Element of OME-XML that describes the first image; None without one that can be read."""
    if not tif.is_ome:
        return None
    try:
        root = ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return None
    return root.find(".//{*}Image/{*}Pixels")


def perkinelmer_text(page: Any, path: str) -> str:
    """Text in the XML that describes a page of a QPTIFF; empty where there is none."""
    try:
        return (ElementTree.fromstring(page.description.lstrip("\ufeff")).findtext(path) or "").strip()
    except ElementTree.ParseError:
        return ""


def _statements(tif: Any) -> Iterator[tuple[str, tuple[float, float] | None]]:
    """Every statement of a pixel size in the file, in order of trust."""
    yield "OME metadata", _of_ome(tif)
    yield "Aperio metadata", _of_aperio(tif)
    unit = (tif.imagej_metadata or {}).get("unit", "") if tif.is_imagej else ""
    yield "ImageJ metadata", _of_resolution(tif, str(unit).replace("\\u00B5", "µ"))
    tag = tif.pages[0].tags.get("ResolutionUnit")
    yield "TIFF resolution tags", _of_resolution(tif, _TAG_UNITS.get(int(tag.value), "") if tag else "")
    yield "PerkinElmer metadata", _of_perkinelmer(tif)


def _of_ome(tif: Any) -> tuple[float, float] | None:
    pixels = ome_pixels(tif)
    if pixels is None:
        return None
    x = _ome_length(pixels, "PhysicalSizeX")
    y = _ome_length(pixels, "PhysicalSizeY")
    if x is None and y is None:
        return None
    return (y if y is not None else x or 0.0, x if x is not None else y or 0.0)


def _ome_length(pixels: ElementTree.Element, name: str) -> float | None:
    """A length in µm; None where it is missing, no number, or in an unknown unit."""
    try:
        return in_um(float(pixels.get(name, "")), pixels.get(f"{name}Unit", "µm"))
    except ValueError:
        return None


def _of_aperio(tif: Any) -> tuple[float, float] | None:
    found = _APERIO_MPP.search(tif.pages[0].description) if tif.is_svs else None
    try:
        return (float(found[1]), float(found[1])) if found else None
    except ValueError:
        return None


def _of_resolution(tif: Any, unit: str) -> tuple[float, float] | None:
    """Pixel size by the resolution tags, which count pixels per `unit`."""
    factor = _UM.get(unit)
    tags = tif.pages[0].tags
    if factor is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    height, width = (tags[name].value for name in ("YResolution", "XResolution"))  # numbers of pixels and of units
    return (
        factor * height[1] / height[0] if height[0] else math.inf,
        factor * width[1] / width[0] if width[0] else math.inf,
    )


def _of_perkinelmer(tif: Any) -> tuple[float, float] | None:
    found = perkinelmer_text(tif.pages[0], "ScanProfile/root/PixelSizeMicrons") if tif.is_qpi else ""
    try:
        return (float(found), float(found)) if found else None
    except ValueError:
        return None
