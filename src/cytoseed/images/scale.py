"""The size of a TIFF's pixels: where it may be stated, and when it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

NOT_STATED = "not stated"

_COARSEST_PRINTABLE_UM = 10.0  # 2540 dpi: a stated cm or inch above this is the resolution of a print
_UM = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("in", "inch", "inches"), 25_400.0),
    "pm": 1e-6,
    "Å": 1e-4,
}
_PRINT_UNITS = frozenset(("cm", "centimeter", "centimetre", "in", "inch", "inches"))
_TAG_UNITS = {2: "inch", 3: "cm"}
_APERIO_MPP = re.compile(r"\bMPP\s*=\s*([0-9.eE+-]+)")


class PixelSize(NamedTuple):
    """Height and width of a pixel in µm, or None; and where they were found, in words."""

    yx_um: tuple[float, float] | None
    source: str


def tiff_pixel_size(tif: Any) -> PixelSize:
    """Find the pixel size of an open `tifffile.TiffFile`.

    OME metadata, Aperio's, ImageJ's and the resolution tags are asked in this order; the first credible
    answer counts. A size is credible if it is finite and above 0 in a known unit; in inches and centimetres
    it must also be 10 µm or less, for 72 to 300 dpi is what programs write for printers.
    """
    for source, found in _statements(tif):
        if found is not None and all(math.isfinite(side) and side > 0 for side in found):
            return PixelSize(found, source)
    return PixelSize(None, NOT_STATED)


def ome_pixels(tif: Any) -> ElementTree.Element | None:
    """Find the element that describes the first image in OME-XML; None where there is none to be read."""
    if not tif.is_ome:
        return None
    try:
        root = ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return None
    return root.find(".//{*}Image/{*}Pixels")


def _statements(tif: Any) -> Iterator[tuple[str, tuple[float, float] | None]]:
    """Give every statement of a pixel size in the file, in order of trust."""
    yield "OME metadata", _of_ome(tif)
    yield "Aperio metadata", _of_aperio(tif)
    unit = (tif.imagej_metadata or {}).get("unit", "") if tif.is_imagej else ""
    yield "ImageJ metadata", _of_resolution(tif, str(unit).replace("\\u00B5", "µ"))
    tag = tif.pages[0].tags.get("ResolutionUnit")
    yield "TIFF resolution tags", _of_resolution(tif, _TAG_UNITS.get(int(tag.value), "") if tag else "")


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
    """Read a length in µm; None where it is missing, no number, or in a unit that is no length."""
    factor = _UM.get(pixels.get(f"{name}Unit", "µm"))
    try:
        return float(pixels.get(name, "")) * factor if factor else None
    except ValueError:
        return None


def _of_aperio(tif: Any) -> tuple[float, float] | None:
    found = _APERIO_MPP.search(tif.pages[0].description) if tif.is_svs else None
    try:
        return (float(found[1]), float(found[1])) if found else None
    except ValueError:
        return None


def _of_resolution(tif: Any, unit: str) -> tuple[float, float] | None:
    """Work out the pixel size from the resolution tags, which count pixels to a `unit`."""
    factor = _UM.get(unit)
    tags = tif.pages[0].tags
    if factor is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    sides = []
    for name in ("YResolution", "XResolution"):
        pixels, units = tags[name].value
        sides.append(factor * units / pixels if pixels else math.inf)
    if unit in _PRINT_UNITS and max(sides) > _COARSEST_PRINTABLE_UM:
        return None
    return (sides[0], sides[1])
