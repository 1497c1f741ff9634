"""Sizes of pixels: where files state them, and which statements are believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tifffile
from written import APERIO, noise

from cytoseed.images import Image, open_image


def tiff(path: Path, options: dict[str, Any]) -> Image:
    pixels = noise(32, 32, 3) if options.get("photometric") == "rgb" else noise(20, 30)
    tifffile.imwrite(path / "image.tif", pixels, **options)
    return open_image(path / "image.tif")


def imagej(unit: str, per_unit: float) -> dict[str, Any]:
    return {"imagej": True, "metadata": {"unit": unit}, "resolution": (per_unit, per_unit)}


def tags(unit: str, per_unit: float) -> dict[str, Any]:
    return {"resolution": (per_unit, per_unit), "resolutionunit": unit}


def ome(y: float, x: float, unit: str = "µm") -> dict[str, Any]:
    units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return {"ome": True, "metadata": {"PhysicalSizeY": y, "PhysicalSizeX": x, **units}}


def aperio(mpp: float) -> dict[str, Any]:
    text = APERIO.format(h=32, w=32).replace("0.4990", str(mpp))
    return {"photometric": "rgb", "metadata": None, "tile": (16, 16), "description": text}


IMPOSSIBLE = [0.0, -0.5, float("nan"), float("inf"), 0.000999, 10.001, 72.0]


@pytest.mark.parametrize(
    ("options", "um", "source"),
    [
        (imagej("um", 4.0), 0.25, "ImageJ metadata"),
        (imagej("\\u00B5m", 2.0), 0.5, "ImageJ metadata"),
        (imagej("nm", 0.004), 0.25, "ImageJ metadata"),
        (imagej("mm", 2000.0), 0.5, "ImageJ metadata"),
        (tags("CENTIMETER", 20_000), 0.5, "TIFF resolution tags"),
        (tags("INCH", 50_800), 0.5, "TIFF resolution tags"),
        *((ome(size, size), size, "OME metadata") for size in (0.001, 0.25, 10.0)),
        (ome(0.325, 0.325) | {"metadata": {"PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm"}}, 0.325, "OME metadata"),
        (ome(0.504, 0.500), 0.502, "OME metadata"),  # nearly square
        (ome(0.0, 0.0) | tags("CENTIMETER", 20_000), 0.5, "TIFF resolution tags"),  # the next statement
        (aperio(0.499), 0.499, "Aperio metadata"),
    ],
    ids=str,
)
def test_a_stated_pixel_size(tmp_path: Path, options: dict[str, Any], um: float, source: str) -> None:
    image = tiff(tmp_path, options)
    assert image.pixel_size_um == pytest.approx(um, rel=1e-6)
    assert image.pixel_size_source == source


@pytest.mark.parametrize(
    "options",
    [
        *(ome(*sides) for size in IMPOSSIBLE for sides in ((size, size), (size, 0.5), (0.5, size))),
        ome(0.5, 0.5, "pixel"),
        imagej("inch", 300.0),  # a printer's
        tags("INCH", 300),
        tags("INCH", 72),
        tags("NONE", 20_000),
        *(imagej("um", 1 / size) for size in (0.0009, 11.0)),
        *(tags("CENTIMETER", 10_000 / size) for size in (0.0009, 11.0)),
        *(aperio(size) for size in (0.0009, 11.0)),
    ],
    ids=str,
)
def test_what_no_microscope_can_have_is_not_believed(tmp_path: Path, options: dict[str, Any]) -> None:
    image = tiff(tmp_path, options)
    assert (image.pixel_size_um, image.pixel_size_source) == (None, "not stated")


def test_pixels_that_are_not_square_are_refused_when_asked(tmp_path: Path) -> None:
    image = tiff(tmp_path, ome(0.25, 0.5))
    assert image.pixel_size_yx_um == (0.25, 0.5)
    with pytest.raises(ValueError, match=r"0\.5 µm wide and 0\.25 µm high.*--pixel-size"):
        _ = image.pixel_size_um
