"""TIFF: axes, channels, names, values, pixel sizes, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from written import APERIO, assert_regions, halves, noise, write_parts, write_qptiff

from cytoseed.images import Image, ImageFileError, open_image


def write(path: Path, array: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path / "image.tif", array, **options)
    return path / "image.tif"


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}], ids=str)
def test_rgb_that_imagej_and_ome_describe(tmp_path: Path, options: dict[str, Any]) -> None:
    array = noise(40, 50, 3)
    image = open_image(write(tmp_path, array, photometric="rgb", **options))
    assert image.channel_names == ("red", "green", "blue")
    assert_regions(image, [np.moveaxis(array, 2, 0)], examples=12)


@pytest.mark.parametrize(("samples", "photometric", "kept"), [(4, "rgb", 3), (2, "minisblack", 1)])
def test_alpha_is_dropped(tmp_path: Path, samples: int, photometric: str, kept: int) -> None:
    array = noise(20, 30, samples)
    file = write(tmp_path, array, photometric=photometric, planarconfig="contig", extrasamples=["unassalpha"])
    image = open_image(file)
    assert image.shape == (kept, 20, 30)
    np.testing.assert_array_equal(image.read(), np.moveaxis(array[:, :, :kept], 2, 0))


def test_names_of_channels_in_imagej_and_ome(tmp_path: Path) -> None:
    array = noise(3, 20, 30, dtype=np.float32)
    metadata: dict[str, Any] = {"axes": "CYX", "Labels": ["DAPI", "GFP", "CD3"]}
    image = open_image(write(tmp_path, array, imagej=True, metadata=metadata))
    assert image.channel_names == ("DAPI", "GFP", "CD3")
    np.testing.assert_array_equal(image.read(), array)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "", "CD3"]}}
    image = open_image(write(tmp_path, array, ome=True, photometric="minisblack", metadata=metadata))
    assert image.channel_names == ("DAPI", "channel 1", "CD3")
    np.testing.assert_array_equal(image.read(), array)


def test_single_planes_and_times_are_dropped_and_thin_images_keep_their_sides(tmp_path: Path) -> None:
    array = noise(1, 2, 1, 20, 30)
    image = open_image(write(tmp_path, array, ome=True, photometric="minisblack", metadata={"axes": "TCZYX"}))
    np.testing.assert_array_equal(image.read(), array[0, :, 0])
    for shape in ((1, 1), (1, 5), (5, 1), (1, 20, 30)):
        array = noise(*shape)
        np.testing.assert_array_equal(open_image(write(tmp_path, array)).read(), array.reshape(1, *shape[-2:]))


def test_a_palette_becomes_rgb_but_a_lookup_table_of_imagej_does_not(tmp_path: Path) -> None:
    indices = noise(20, 30)
    colours = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    file = write(tmp_path, indices, photometric="palette", colormap=colours * 257)
    image = open_image(file)
    assert image.channel_names == ("red", "green", "blue")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image.read(), colours[:, indices])

    file = write(tmp_path, indices, photometric="palette", colormap=colours * 257, description="ImageJ=1.54f\n")
    np.testing.assert_array_equal(open_image(file).read()[0], indices)


def test_channels_that_are_not_chosen_are_not_decoded(tmp_path: Path) -> None:
    pixels, file = noise(9, 60, 70, dtype=np.uint16), tmp_path / "nine.ome.tif"
    own: dict[str, Any] = {"photometric": "minisblack", "compression": "deflate", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(file, pixels, ome=True, **own)
    with tifffile.TiffFile(file) as tif:
        page = tif.pages[7]
        spoiled = bytearray(file.read_bytes())
        spoiled[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]] = bytes(page.databytecounts[0])
    file.write_bytes(spoiled)
    image, others = open_image(file), [8, 3, 2, 5]
    np.testing.assert_array_equal(image.read((3, 4, 50, 60), channels=others), pixels[others, 3:53, 4:64])
    with pytest.raises(ImageFileError, match=r"nine\.ome\.tif.*damaged"):
        image.read(channels=[6, 7])


def test_an_image_in_several_files(tmp_path: Path) -> None:
    pixels = noise(2, 50, 60, dtype=np.uint16)
    file = write_parts(tmp_path, pixels)
    assert_regions(open_image(file), [pixels], examples=12)
    (tmp_path / "part1.ome.tif").write_bytes((tmp_path / "part1.ome.tif").read_bytes()[:-100])
    with pytest.raises(ImageFileError, match=r"part0\.ome\.tif: is cut short .*pixels of level 0"):
        open_image(file)


def test_the_companion_file_of_an_ome_tiff(tmp_path: Path) -> None:
    pixels = noise(2, 50, 60, dtype=np.uint16)
    write_parts(tmp_path, pixels)
    with tifffile.TiffFile(tmp_path / "part0.ome.tif") as tif:
        own = str(tif.ome_metadata)
    sizes = 'PhysicalSizeX="0.5" PhysicalSizeY="500" PhysicalSizeYUnit="nm" SizeX='
    companion = tmp_path / "set.companion.ome"
    companion.write_text(own.replace("0000000", "1", 1).replace("SizeX=", sizes, 1), encoding="utf-8-sig")
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = f'<OME xmlns="{namespace}"><BinaryOnly MetadataFile="elsewhere/set.companion.ome"/></OME>'
    for number, part in enumerate(pixels):
        tifffile.imwrite(tmp_path / f"part{number}.ome.tif", part, description=xml, metadata=None)
    for name in ("set.companion.ome", "part0.ome.tif", "part1.ome.tif"):
        image = open_image(tmp_path / name)
        assert (image.pixel_size_um, image.pixel_size_source) == (0.5, "OME metadata")
        np.testing.assert_array_equal(image.read(), pixels)
    (tmp_path / "notes.xml").write_text('<?xml version="1.0"?><notes/>')
    with pytest.raises(ImageFileError, match=r"notes\.xml: is XML, but not the companion"):
        open_image(tmp_path / "notes.xml")


def test_a_compression_that_cannot_be_decoded_is_refused_by_its_name_when_opened(tmp_path: Path) -> None:
    file = write(tmp_path, noise(20, 30), compression="deflate", metadata=None)
    with tifffile.TiffFile(file) as tif:
        tag = tif.pages.first.tags["Compression"]
    for code, name in ((4, "CCITTFAX4"), (34661, "JBIG"), (42112, "42112")):
        data = bytearray(file.read_bytes())
        struct.pack_into("<H", data, tag.valueoffset, code)
        file.write_bytes(data)
        with pytest.raises(ImageFileError, match=rf"compressed by {name}, .*LZW.*tiffcp -c lzw"):
            open_image(file)


def test_qptiff(tmp_path: Path) -> None:
    levels = halves(noise(3, 150, 201, dtype=np.uint16), 3)
    options = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    image = open_image(write_qptiff(tmp_path / "image.qptiff", levels, ["DAPI", "Opal 520", "Opal 690"], **options))
    assert image.channel_names == ("DAPI", "Opal 520", "Opal 690")
    assert image.pixel_size_um == pytest.approx(0.5)
    assert image.pixel_size_source == "TIFF resolution tags"
    assert_regions(image, levels)


def test_qptiff_of_one_dye_in_several_rounds_and_with_its_size_in_xml(tmp_path: Path) -> None:
    size = "<ScanProfile><root><PixelSizeMicrons>0.4966</PixelSizeMicrons></root></ScanProfile>"
    file = write_qptiff(tmp_path / "image.qptiff", halves(noise(3, 64, 96), 1), ["DAPI", "Cy5", "Cy5"], size)
    image = open_image(file)
    assert image.channel_names == ("CD0", "CD1", "CD2")
    assert image.pixel_size_um == pytest.approx(0.4966)
    assert image.pixel_size_source == "PerkinElmer metadata"


# Refusals


@pytest.mark.parametrize("options", [{}, {"metadata": None}], ids=["described", "bare pages"])
def test_an_axis_of_unknown_meaning_is_refused_with_the_remedy(tmp_path: Path, options: dict[str, Any]) -> None:
    file = write(tmp_path, noise(4, 20, 30), photometric="minisblack", **options)
    with pytest.raises(ImageFileError, match=r"4 images along an axis of unknown meaning.*'CYX'"):
        open_image(file)


@pytest.mark.parametrize(
    ("array", "photometric", "says"),
    [(np.ones((20, 30), np.complex64), None, "complex64"), (noise(20, 30, 4), "separated", r"SEPARATED.*RGB")],
)
def test_complex_values_and_cmyk_are_refused(tmp_path: Path, array: Any, photometric: Any, says: str) -> None:
    with pytest.raises(ImageFileError, match=says):
        open_image(write(tmp_path, array, photometric=photometric))


def test_planes_that_the_metadata_promise_must_be_there(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "two.tif", noise(2, 20, 30), ome=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "two.tif") as tif:
        xml = str(tif.ome_metadata).replace('SizeC="2"', 'SizeC="3"').replace('PlaneCount="2"', 'PlaneCount="3"')
    imagej = "ImageJ=1.54f\nimages=3\nchannels=3\nhyperstack=true\n"
    for array, text in ((noise(2, 20, 30), xml), (noise(20, 30), imagej)):
        own = {"metadata": None, "photometric": "minisblack", "compression": "deflate"}
        with pytest.raises(ImageFileError, match="planes that it does not hold"):
            open_image(write(tmp_path, array, description=text, **own))


# Pixel sizes


def stating(path: Path, options: dict[str, Any]) -> Image:
    pixels = noise(32, 32, 3) if options.get("photometric") == "rgb" else noise(20, 30)
    return open_image(write(path, pixels, **options))


def imagej(unit: str, per_unit: float) -> dict[str, Any]:
    return {"imagej": True, "metadata": {"unit": unit}, "resolution": (per_unit, per_unit)}


def tags(unit: str, per_unit: float) -> dict[str, Any]:
    return {"resolution": (per_unit, per_unit), "resolutionunit": unit}


def ome(y: float, x: float, unit: str = "µm") -> dict[str, Any]:
    units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return {"ome": True, "metadata": {"PhysicalSizeY": y, "PhysicalSizeX": x, **units}}


def aperio(mpp: object) -> dict[str, Any]:
    text = APERIO.format(h=32, w=32).replace("0.4990", str(mpp))
    return {"photometric": "rgb", "metadata": None, "tile": (16, 16), "description": text}


def metamorph(unit: str, side: str, state: str = "on") -> dict[str, Any]:
    values = {"state": state, "x": side, "y": side, "units": unit}
    text = "".join(f'<prop id="spatial-calibration-{name}" value="{value}"/>' for name, value in values.items())
    return {"metadata": None, "description": f"<MetaData><PlaneInfo>{text}</PlaneInfo></MetaData>"}


IMPOSSIBLE = [0.0, -0.5, float("nan"), float("inf"), 0.000999, 10.001, 72.0]


@pytest.mark.parametrize(
    ("options", "um", "source"),
    [
        (imagej("um", 4.0), 0.25, "ImageJ metadata"),
        (imagej("\\u00B5m", 2.0), 0.5, "ImageJ metadata"),
        (imagej("mm", 2000.0), 0.5, "ImageJ metadata"),
        (tags("INCH", 50_800), 0.5, "TIFF resolution tags"),
        *((imagej(unit, 1 / 650), 0.65, "ImageJ metadata") for unit in ("nanometers", "NM", " Nanometres ")),
        *((imagej(unit, 1 / 0.65), 0.65, "ImageJ metadata") for unit in ("micrometers", "micrometre", "MICRONS")),
        (imagej("millimeters", 1 / 0.00065), 0.65, "ImageJ metadata"),
        (imagej("inches", 25400 / 0.65), 0.65, "ImageJ metadata"),
        (ome(6.5e-7, 6.5e-7, "m"), 0.65, "OME metadata"),
        (aperio("0,4990"), 0.499, "Aperio metadata"),
        (metamorph("um", "0,65"), 0.65, "MetaMorph metadata"),
        (metamorph("um", "0.65", state="off") | tags("CENTIMETER", 20_000), 0.5, "TIFF resolution tags"),
        *((ome(size, size), size, "OME metadata") for size in (0.001, 0.25, 10.0)),
        (ome(0.325, 0.325) | {"metadata": {"PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm"}}, 0.325, "OME metadata"),
        (ome(0.504, 0.500), 0.502, "OME metadata"),  # nearly square
        (ome(0.0, 0.0) | tags("CENTIMETER", 20_000), 0.5, "TIFF resolution tags"),  # the next statement
        (aperio(0.499), 0.499, "Aperio metadata"),
    ],
    ids=str,
)
def test_a_stated_pixel_size(tmp_path: Path, options: dict[str, Any], um: float, source: str) -> None:
    image = stating(tmp_path, options)
    assert image.pixel_size_um == pytest.approx(um, rel=1e-6)
    assert image.pixel_size_source == source


def test_the_pixel_size_of_lsm_is_in_metres(tmp_path: Path) -> None:
    info, pixels = bytearray(512), noise(20, 30)
    struct.pack_into("<Ii5i8xi", info, 0, 0x0400494C, 512, 30, 20, 1, 1, 1, 2)
    struct.pack_into("<3d", info, 40, 5e-7, 5e-7, 1e-6)
    with tifffile.TiffWriter(tmp_path / "zeiss.lsm") as writer:
        tag = (34412, 1, len(info), bytes(info), True)
        writer.write(pixels, metadata=None, photometric="minisblack", extratags=[tag])
        writer.write(noise(3, 8, 8), metadata=None, photometric="rgb", planarconfig="separate", subfiletype=1)
    image = open_image(tmp_path / "zeiss.lsm")
    assert (image.pixel_size_um, image.pixel_size_source) == (0.5, "LSM metadata")
    np.testing.assert_array_equal(image.read(), pixels[None])


@pytest.mark.parametrize(
    "options",
    [
        *(ome(*sides) for size in IMPOSSIBLE for sides in ((size, 0.5), (0.5, size))),
        ome(0.5, 0.5, "pixel"),
        metamorph("um", "0.65", state="off"),
        imagej("ms", 1e6),
        imagej("inch", 300.0),  # a printer's
        tags("INCH", 300),
        tags("NONE", 20_000),
        imagej("um", 1 / 11.0),
        tags("CENTIMETER", 10_000 / 0.0009),
        aperio(11.0),
    ],
    ids=str,
)
def test_what_no_microscope_can_have_is_not_believed(tmp_path: Path, options: dict[str, Any]) -> None:
    image = stating(tmp_path, options)
    assert (image.pixel_size_um, image.pixel_size_source) == (None, "not stated")


def test_pixels_that_are_not_square_are_refused_when_asked(tmp_path: Path) -> None:
    image = stating(tmp_path, ome(0.25, 0.5))
    assert image.pixel_size_yx_um == (0.25, 0.5)
    with pytest.raises(ValueError, match=r"0\.5 µm wide and 0\.25 µm high.*--pixel-size"):
        _ = image.pixel_size_um
