"""The TIFF reader: axes, channels, names, pixel sizes, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cytoseed.images import ImageFileError, open_image

RNG = np.random.default_rng(7)


def pixels(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return RNG.integers(0, 2 if dtype is bool else 200, shape).astype(dtype)


def write(path: Path, array: NDArray[Any], **options: Any) -> Path:
    file = path / "image.tif"
    tifffile.imwrite(file, array, **options)
    return file


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32])
def test_grey_of_every_type_is_read_as_written(tmp_path: Path, dtype: Any) -> None:
    array = pixels(20, 31, dtype=dtype)
    image = open_image(write(tmp_path, array))
    assert image.shape == (1, 20, 31)
    assert image.dtype == dtype
    assert image.channel_names == ("channel 0",)
    read = image.read()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read[0], array)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (16, 16)},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate", "rowsperstrip": 5},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"imagej": True},
        {"ome": True},
        {"metadata": None},
    ],
    ids=str,
)
def test_rgb_in_every_arrangement(tmp_path: Path, options: dict[str, Any]) -> None:
    array = pixels(40, 50, 3)
    planar = options.get("planarconfig") == "separate"
    file = write(tmp_path, np.moveaxis(array, 2, 0) if planar else array, photometric="rgb", **options)
    image = open_image(file)
    assert image.shape == (3, 40, 50)
    assert image.channel_names == ("red", "green", "blue")
    read = image.read()
    np.testing.assert_array_equal(read, np.moveaxis(array, 2, 0))
    assert read.flags.c_contiguous
    read[:] = 0  # the caller's own
    np.testing.assert_array_equal(image.read(), np.moveaxis(array, 2, 0))


def test_jpeg_compressed_tiles_come_out_as_rgb(tmp_path: Path) -> None:
    array = np.broadcast_to(np.array([200, 40, 90], np.uint8), (64, 64, 3))
    image = open_image(write(tmp_path, array, photometric="rgb", tile=(32, 32), compression="jpeg"))
    assert np.abs(image.read().astype(int) - np.moveaxis(array, 2, 0)).max() <= 4


@pytest.mark.parametrize(("samples", "photometric", "kept"), [(4, "rgb", 3), (2, "minisblack", 1)])
def test_alpha_is_dropped(tmp_path: Path, samples: int, photometric: str, kept: int) -> None:
    array = pixels(20, 30, samples)
    file = write(tmp_path, array, photometric=photometric, planarconfig="contig", extrasamples=["unassalpha"])
    image = open_image(file)
    assert image.shape == (kept, 20, 30)
    np.testing.assert_array_equal(image.read(), np.moveaxis(array[:, :, :kept], 2, 0))


def test_a_fully_grey_rgb_stays_rgb(tmp_path: Path) -> None:
    array = np.repeat(pixels(20, 30, 1), 3, axis=2)
    assert open_image(write(tmp_path, array, photometric="rgb")).shape == (3, 20, 30)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_imagej_channels_labels_and_pixel_size(tmp_path: Path, dtype: Any) -> None:
    array = pixels(2, 20, 30, dtype=dtype)
    metadata = {"axes": "CYX", "Labels": ["DAPI", "GFP"], "unit": "um"}
    image = open_image(write(tmp_path, array, imagej=True, metadata=metadata, resolution=(4.0, 4.0)))
    assert image.channel_names == ("DAPI", "GFP")
    assert image.pixel_size_um == pytest.approx(0.25)
    assert image.pixel_size_source == "ImageJ metadata"
    np.testing.assert_array_equal(image.read(), array)


@pytest.mark.parametrize(("unit", "per_unit", "um"), [("\\u00B5m", 2.0, 0.5), ("nm", 0.004, 0.25), ("mm", 2000.0, 0.5)])
def test_imagej_units(tmp_path: Path, unit: str, per_unit: float, um: float) -> None:
    file = write(tmp_path, pixels(20, 30), imagej=True, metadata={"unit": unit}, resolution=(per_unit, per_unit))
    assert open_image(file).pixel_size_um == pytest.approx(um, rel=1e-6)


def test_ome_channels_names_and_pixel_size(tmp_path: Path) -> None:
    array = pixels(3, 20, 30, dtype=np.uint16)
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "", "CD3"]},
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.325,
    }
    image = open_image(write(tmp_path, array, ome=True, photometric="minisblack", metadata=metadata))
    assert image.channel_names == ("DAPI", "channel 1", "CD3")
    assert image.pixel_size_um == pytest.approx(0.325)
    assert image.pixel_size_source == "OME metadata"
    np.testing.assert_array_equal(image.read(), array)


def test_single_planes_and_times_are_dropped(tmp_path: Path) -> None:
    array = pixels(1, 2, 1, 20, 30)
    image = open_image(write(tmp_path, array, ome=True, photometric="minisblack", metadata={"axes": "TCZYX"}))
    np.testing.assert_array_equal(image.read(), array[0, :, 0])


def test_many_channels_from_interleaved_samples(tmp_path: Path) -> None:
    array = pixels(20, 30, 7)
    image = open_image(write(tmp_path, array, photometric="minisblack", planarconfig="contig"))
    assert image.shape == (7, 20, 30)
    assert image.channel_names[6] == "channel 6"
    np.testing.assert_array_equal(image.read(), np.moveaxis(array, 2, 0))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (1, 20, 30)])
def test_thin_images_keep_their_sides(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = pixels(*shape)
    image = open_image(write(tmp_path, array))
    assert image.shape == (1, *shape[-2:])
    np.testing.assert_array_equal(image.read()[0], array.reshape(shape[-2:]))


def test_of_a_pyramid_the_full_resolution_is_read(tmp_path: Path) -> None:
    array = pixels(64, 64, 3)
    file = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(file) as writer:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (16, 16)}
        writer.write(array, subifds=1, **options)
        writer.write(array[::2, ::2], subfiletype=1, **options)
    np.testing.assert_array_equal(open_image(file).read(), np.moveaxis(array, 2, 0))


def test_a_palette_becomes_rgb_but_a_lookup_table_of_imagej_does_not(tmp_path: Path) -> None:
    indices = pixels(20, 30)
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    file = write(tmp_path, indices, photometric="palette", colormap=colours * 257)
    image = open_image(file)
    assert image.channel_names == ("red", "green", "blue")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image.read(), colours[:, indices])

    file = write(tmp_path, indices, photometric="palette", colormap=colours * 257, description="ImageJ=1.54f\n")
    np.testing.assert_array_equal(open_image(file).read()[0], indices)


# Pixel sizes


@pytest.mark.parametrize(
    ("unit", "per_unit", "um"),
    [("CENTIMETER", 20_000, 0.5), ("INCH", 50_800, 0.5), ("INCH", 300, None), ("INCH", 72, None)],
)
def test_resolution_tags_are_believed_where_a_microscope_wrote_them(
    tmp_path: Path, unit: str, per_unit: float, um: float | None
) -> None:
    image = open_image(write(tmp_path, pixels(20, 30), resolution=(per_unit, per_unit), resolutionunit=unit))
    assert image.pixel_size_um == (None if um is None else pytest.approx(um))
    assert image.pixel_size_source == ("not stated" if um is None else "TIFF resolution tags")


def test_the_printer_rule_holds_for_imagej_inches_too(tmp_path: Path) -> None:
    file = write(tmp_path, pixels(20, 30), imagej=True, metadata={"unit": "inch"}, resolution=(300.0, 300.0))
    assert open_image(file).pixel_size_um is None


def test_a_resolution_without_unit_is_no_pixel_size(tmp_path: Path) -> None:
    file = write(tmp_path, pixels(20, 30), resolution=(20_000, 20_000), resolutionunit="NONE")
    assert open_image(file).pixel_size_source == "not stated"


IMPOSSIBLE = [0.0, -0.5, float("nan"), float("inf"), 0.000999, 10.001, 72.0]


@pytest.mark.parametrize("size", IMPOSSIBLE)
@pytest.mark.parametrize("other", [0.5, None])
def test_impossible_sizes_are_not_believed_even_of_one_side(tmp_path: Path, size: float, other: float | None) -> None:
    for metadata in (
        {"PhysicalSizeX": size, "PhysicalSizeY": other or size},
        {"PhysicalSizeY": size, "PhysicalSizeX": other or size},
    ):
        image = open_image(write(tmp_path, pixels(20, 30), ome=True, metadata=metadata))
        assert (image.pixel_size_um, image.pixel_size_source) == (None, "not stated")


@pytest.mark.parametrize("size", [0.001, 0.25, 10.0])
def test_the_least_and_the_largest_size_of_a_microscope(tmp_path: Path, size: float) -> None:
    metadata = {"PhysicalSizeX": size, "PhysicalSizeY": size}
    image = open_image(write(tmp_path, pixels(20, 30), ome=True, metadata=metadata))
    assert image.pixel_size_um == pytest.approx(size)


@pytest.mark.parametrize("size", [0.0009, 11.0])
def test_the_rule_is_the_same_for_every_source(tmp_path: Path, size: float) -> None:
    text = f"Aperio Image Library v1\n32x32 (16x16)|MPP = {size}"
    own: dict[str, Any] = {"photometric": "rgb", "metadata": None, "tile": (16, 16)}
    files = [
        {"imagej": True, "metadata": {"unit": "um"}, "resolution": (1 / size, 1 / size)},
        {"resolution": (10_000 / size, 10_000 / size), "resolutionunit": "CENTIMETER"},
        {"description": text, **own},
    ]
    for options in files:
        array = pixels(32, 32, 3) if "tile" in options else pixels(20, 30)
        assert open_image(write(tmp_path, array, **options)).pixel_size_source == "not stated"


def test_the_next_statement_is_asked_where_the_first_is_not_credible(tmp_path: Path) -> None:
    metadata = {"PhysicalSizeX": 0.0, "PhysicalSizeY": 0.0}
    own = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    image = open_image(write(tmp_path, pixels(20, 30), ome=True, metadata=metadata, **own))
    assert image.pixel_size_um == pytest.approx(0.5)
    assert image.pixel_size_source == "TIFF resolution tags"


def test_sizes_in_units_that_are_no_length_are_not_believed(tmp_path: Path) -> None:
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel", "PhysicalSizeY": 0.5}
    assert open_image(write(tmp_path, pixels(20, 30), ome=True, metadata=metadata)).pixel_size_um is None


def test_nearly_square_pixels_have_their_mean_and_others_are_refused_when_asked(tmp_path: Path) -> None:
    metadata = {"PhysicalSizeX": 0.500, "PhysicalSizeY": 0.504}
    assert open_image(write(tmp_path, pixels(20, 30), ome=True, metadata=metadata)).pixel_size_um == pytest.approx(
        0.502
    )
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    image = open_image(write(tmp_path, pixels(20, 30), ome=True, metadata=metadata))
    assert image.pixel_size_yx_um == (0.25, 0.5)
    with pytest.raises(ValueError, match=r"0\.5 µm wide and 0\.25 µm high.*--pixel-size"):
        _ = image.pixel_size_um


def test_aperio_states_its_size_in_the_description(tmp_path: Path) -> None:
    text = "Aperio Image Library v1\n32x32 (16x16)|AppMag = 20|MPP = 0.4990|Left = 1"
    file = write(tmp_path, pixels(32, 32, 3), photometric="rgb", description=text, metadata=None, tile=(16, 16))
    image = open_image(file)
    assert image.pixel_size_um == pytest.approx(0.499)
    assert image.pixel_size_source == "Aperio metadata"


def test_a_real_slide_region() -> None:
    root = Path(__file__).parents[2]
    data = Path(os.environ.get("CYTOSEED_DATA", root.parent / "shared" / "data"))
    slide = data / "slides" / "CMU-1-Small-Region.svs"
    if not slide.exists():
        pytest.skip("the real data are not here (CYTOSEED_DATA)")
    image = open_image(slide)
    assert image.shape == (3, 2967, 2220)
    assert image.pixel_size_um == pytest.approx(0.499)
    assert image.read().mean() > 100


# Refusals


@pytest.mark.parametrize(
    ("axes", "shape", "says"),
    [
        ("ZYX", (5, 20, 30), "5 planes in z"),
        ("TYX", (4, 20, 30), "4 points in time"),
        ("ZCYX", (5, 2, 20, 30), "Z 5, C 2, Y 20, X 30"),
    ],
)
def test_stacks_are_refused_with_their_sizes(tmp_path: Path, axes: str, shape: tuple[int, ...], says: str) -> None:
    file = write(tmp_path, pixels(*shape), imagej=True, metadata={"axes": axes})
    with pytest.raises(ImageFileError, match="2-D") as caught:
        open_image(file)
    assert says in str(caught.value)
    assert "projection (in Fiji Image > Stacks > Z Project" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"metadata": None}], ids=["described", "bare pages"])
def test_an_axis_of_unknown_meaning_is_refused_with_the_remedy(tmp_path: Path, options: dict[str, Any]) -> None:
    file = write(tmp_path, pixels(4, 20, 30), photometric="minisblack", **options)
    with pytest.raises(ImageFileError, match=r"4 images along an axis of unknown meaning.*'CYX'"):
        open_image(file)


def test_complex_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="complex64"):
        open_image(write(tmp_path, pixels(20, 30).astype(np.complex64)))


def test_cmyk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"SEPARATED.*RGB"):
        open_image(write(tmp_path, pixels(20, 30, 4), photometric="separated"))


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "deflate"},
        {"compression": "lzw", "tile": (64, 64)},
        {"compression": "jpeg"},
        {"compression": "jpeg", "tile": (64, 64)},
        {"imagej": True},
        {"ome": True},
        {"metadata": None, "bigtiff": True},
    ],
    ids=str,
)
def test_a_cut_file_is_refused_and_never_half_read(tmp_path: Path, options: dict[str, Any], share: float) -> None:
    channels = 1 if "compression" in options else 3
    metadata = {"metadata": {"axes": "CYX"}} if channels > 1 else {}
    file = write(tmp_path, pixels(channels, 100, 120).squeeze(), photometric="minisblack", **(metadata | options))
    whole = file.read_bytes()
    file.write_bytes(whole[: max(9, int(len(whole) * share))])
    with pytest.raises(ImageFileError, match=r"image\.tif"):
        open_image(file).read()


def test_planes_that_the_metadata_promise_must_be_there(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "two.tif", pixels(2, 20, 30), ome=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "two.tif") as tif:
        xml = str(tif.ome_metadata).replace('SizeC="2"', 'SizeC="3"').replace('PlaneCount="2"', 'PlaneCount="3"')
    file = write(tmp_path, pixels(2, 20, 30), description=xml, metadata=None, photometric="minisblack")
    with pytest.raises(ImageFileError, match="planes that it does not hold"):
        open_image(file)


def test_planes_that_imagej_promises_must_be_there(tmp_path: Path) -> None:
    text = "ImageJ=1.54f\nimages=3\nchannels=3\nhyperstack=true\n"
    file = write(tmp_path, pixels(20, 30), description=text, metadata=None, compression="deflate")
    with pytest.raises(ImageFileError, match="planes that it does not hold"):
        open_image(file)


def test_a_file_that_changed_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    image = open_image(write(tmp_path, pixels(20, 30)))
    write(tmp_path, pixels(25, 30))
    with pytest.raises(ImageFileError, match=r"\(1, 20, 30\).*\(1, 25, 30\)"):
        image.read()
