"""Pixel size: where a TIFF states it, and which statements are plausible."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

_FINEST_UM, _COARSEST_UM = 0.001, 10.0  # 2540 dpi: anything coarser is a print resolution, or a wrong unit
_UNITS = {  # in the singular
    "µm um micron micrometer micrometre": 1.0,
    "m meter metre": 1e6,
    "mm millimeter millimetre": 1e3,
    "nm nanometer nanometre": 1e-3,
    "cm centimeter centimetre": 1e4,
    "in inch inche": 25_400.0,
    "pm picometer picometre": 1e-6,
    "Å angstrom ångström": 1e-4,
}
_UM = {name.casefold(): factor for names, factor in _UNITS.items() for name in names.split()}
_OME_SIDES = ("PhysicalSizeY", "PhysicalSizeX")
_TAG_SIDES = ("YResolution", "XResolution")
_TAG_UNITS = {2: "inch", 3: "cm"}
_APERIO_MPP = re.compile(r"\bMPP\s*=\s*([0-9.,eE+-]+)")
_METAMORPH_SIDES = ("spatial-calibration-y", "spatial-calibration-x")

PixelSize = float | tuple[float, float] | None
"""Side of a pixel in µm; height and width of one that is not square; None if unknown."""
Statement = tuple[str, tuple[float, float]]
"""Where a pixel size was found, in words; height and width in µm, NaN if unknown."""


def first_credible(statements: Iterable[Statement]) -> tuple[tuple[float, float] | None, str]:
    """Height and width of a pixel in µm, and their source: of the first statement that suits a microscope.

    Both sides must be from 0.001 µm to 10 µm: anything else is a wrong unit, a placeholder, or the 72 to 300 dpi that
    programs write for printers.
    """
    for source, found in statements:
        if all(_FINEST_UM <= side <= _COARSEST_UM for side in found):
            return found, source
    return None, "not stated"


def as_pixel_size(sides_yx_um: tuple[float, float] | None) -> PixelSize:
    """One side, the mean, for pixels whose height and width differ by 1 % at most."""
    if sides_yx_um is None or max(sides_yx_um) > 1.01 * min(sides_yx_um):
        return sides_yx_um
    return sum(sides_yx_um) / 2


def sides_um(size: float | tuple[float, float]) -> tuple[float, float]:
    """Height and width of a pixel."""
    return size if isinstance(size, tuple) else (size, size)


def side_text(size: float | tuple[float, float]) -> str:
    """Side of a pixel in µm as text, or its height and width where it is not square."""
    return " x ".join(f"{side:g}" for side in dict.fromkeys(sides_um(size)))


def length_um(length: float | str | None, unit: str = "µm") -> float:
    """A length in µm, with a decimal point or comma; NaN if it is not a number or the unit is unknown.

    Units are known in any case, in the plural, and in US and UK spelling.
    """
    name = unit.strip().casefold()
    singular = name.removesuffix("s") if len(name) > 3 else name  # "ms" is no length
    try:
        return float(str(length or 0).replace(",", ".")) * _UM.get(singular, math.nan)
    except ValueError:
        return math.nan


def ome_pixels(tif: Any, number: int = 0) -> ElementTree.Element | None:
    """Element of OME-XML that describes one of the images; None if there is no readable one."""
    root = parse_xml(tif.ome_metadata) if tif.is_ome else None
    if root is None:
        return None
    images = root.findall(".//{*}Image")
    same = [image for image in images if image.get("Name") == tif.series[number].name]  # tifffile leaves out empty ones
    found = same if len(same) == 1 else images[number : number + 1]
    return found[0].find("{*}Pixels") if found else None


def perkinelmer_text(page: Any, path: str) -> str:
    """Text in the XML that describes a page of a QPTIFF; empty if there is none."""
    root = parse_xml(page.description.lstrip("\ufeff"))
    return "" if root is None else (root.findtext(path) or "").strip()


def parse_xml(text: str) -> ElementTree.Element | None:
    """Root of an XML document; None if it cannot be read."""
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None


def tiff_statements(tif: Any, number: int = 0) -> Iterator[Statement]:
    """Every statement of the pixel size of one image in an open `tifffile.TiffFile`, in order of trust."""
    page, pixels = tif.series[number].keyframe, ome_pixels(tif, number)
    if pixels is not None:
        y, x = (length_um(pixels.get(name), pixels.get(f"{name}Unit", "µm")) for name in _OME_SIDES)
        yield "OME metadata", (y if pixels.get(_OME_SIDES[0]) else x, x if pixels.get(_OME_SIDES[1]) else y)
    if tif.is_svs and (found := _APERIO_MPP.search(page.description)):
        yield "Aperio metadata", (length_um(found[1]),) * 2
    if tif.is_imagej:
        unit = str((tif.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        yield "ImageJ metadata", _of_resolution(page, unit)
    if tif.is_lsm:
        lsm = tif.lsm_metadata or {}
        y, x = (length_um(lsm.get(name), "m") for name in ("VoxelSizeY", "VoxelSizeX"))
        yield "LSM metadata", (y, x)
    if tif.is_stk:
        stk = tif.stk_metadata or {}
        y, x = (length_um(stk.get(name), str(stk.get("CalibrationUnits"))) for name in ("YCalibration", "XCalibration"))
        yield "MetaMorph metadata", (y, x)
    if page.description.startswith("<MetaData>"):
        yield "MetaMorph metadata", _of_metamorph(page.description)
    tag = page.tags.get("ResolutionUnit")
    yield "TIFF resolution tags", _of_resolution(page, _TAG_UNITS.get(int(tag.value), "") if tag else "")
    if tif.is_qpi:
        yield "PerkinElmer metadata", (length_um(perkinelmer_text(page, "ScanProfile/root/PixelSizeMicrons")),) * 2


def _of_metamorph(text: str) -> tuple[float, float]:
    """Pixel size in the XML of MetaMorph and MetaXpress; 1 pixel is also a unit there."""
    root = parse_xml(text.strip("\0"))
    values = {} if root is None else {prop.get("id"): prop.get("value") for prop in root.iter("prop")}
    unit = values.get("spatial-calibration-units") or ""
    is_calibrated = values.get("spatial-calibration-state") != "off"
    y, x = (length_um(values.get(name), unit if is_calibrated else "") for name in _METAMORPH_SIDES)
    return y, x


def _of_resolution(page: Any, unit: str) -> tuple[float, float]:
    """Pixel size by the resolution tags, which count pixels per `unit`."""
    ratios = [page.tags[name].value for name in _TAG_SIDES if name in page.tags]  # numbers of pixels and of units
    sides = [length_um(units / px if px else math.inf, unit) for px, units in ratios]
    return (sides[0], sides[1]) if len(sides) == 2 else (math.nan, math.nan)
