"""Files of several images: their names, which is the main one, and the choice."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from test_images_ngff import VERSIONS, write
from written import noise, write_parts

from cytoseed.images import ImageFileError, Series, as_image, is_image_folder, list_series, open_image
from cytoseed.images.series import ranked
from remote import put


def write_ome(file: Path, images: dict[str, NDArray[Any]], sizes_um: dict[str, float] | None = None) -> Path:
    with tifffile.TiffWriter(file, ome=True) as writer:
        for name, pixels in images.items():
            size = (sizes_um or {}).get(name, 0.5)
            described = {"axes": "YX", "Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size}
            writer.write(pixels, metadata=described)
    return file


def write_plate(folder: Path, version: str, fields: dict[str, list[str]]) -> dict[str, NDArray[Any]]:
    """Write an HCS plate of the fields of each well; returns pixels by the names of its images."""

    def describe(path: Path, attributes: dict[str, Any]) -> None:
        group = zarr.open_group(path, mode="a", zarr_format=2 if version == "0.4" else 3)
        group.attrs.update(attributes if version == "0.4" else {"ome": attributes})

    describe(folder, {"plate": {"wells": [{"path": well} for well in fields]}})
    pixels = {}
    for well, names in fields.items():
        describe(folder / well, {"well": {"images": [{"path": name} for name in names]}})
        for name in names:
            own = noise(1, 20, 30, seed=len(pixels))
            write(folder / well / name, [own], version)
            pixels[f"{well.replace('/', '')}_{name}"] = own
    return pixels


def named(sizes: dict[str, tuple[int, int] | None]) -> tuple[Series, ...]:
    return ranked([Series(name, size, partial(as_image, np.zeros((2, 2)))) for name, size in sizes.items()])


@pytest.mark.parametrize(
    ("sizes", "pictures"),
    [
        ({"a": (64, 64), "b": (512, 512)}, "a"),  # a thumbnail by its aspect
        ({"a": (4000, 3001), "b": (100, 75)}, "b"),
        ({"a": (64, 300), "b": (512, 700)}, "a"),  # tiny
        ({"Label image": (900, 900), "macro image": (500, 1500), "b": (400, 600)}, "Label_image macro_image"),
        ({"a": (512, 512), "b": (512, 512), "c": (512, 512), "thumbnail": (64, 64)}, "thumbnail"),
        ({"a": (512, 512), "b": (400, 400)}, ""),  # regions of similar size
        ({"a": (512, 700), "b": (300, 250)}, ""),
        ({"label 1": (50, 50), "label 2": (50, 50)}, ""),  # there is nothing else
        ({"macrophages": (50, 50), "b": (50, 50)}, ""),
        ({"A1_0": None, "A2_0": None}, ""),
    ],
)
def test_smaller_pictures(sizes: dict[str, tuple[int, int] | None], pictures: str) -> None:
    found = named(sizes)
    assert " ".join(one.name for one in found if one.is_picture) == pictures
    peers = [one for one in found if not one.is_picture]
    assert [one.is_main for one in peers] == [len(peers) == 1] * len(peers)


def test_names_suit_files_and_differ() -> None:
    sizes = dict.fromkeys(("a/b: 1", "µ", "", "..", "x" * 300), (50, 50))
    names = [one.name for one in named(sizes)]
    assert names == ["a_b_1_0", "µ_1", "2", "3", f"{'x' * 60}_4"]
    assert [one.name for one in named({"pos": (50, 50), "Pos": (50, 50), "pos_1": (50, 50)})] == [
        *("pos_0", "Pos_1", "pos_1_2")
    ]
    assert [one.name for one in named({"pos a": (50, 50), "pos b": (50, 50)})] == ["pos_a", "pos_b"]


def test_positions_of_an_ome_tiff(tmp_path: Path) -> None:
    pixels = {f"pos{n}": noise(20, 30, seed=n) for n in range(3)}
    file = write_ome(tmp_path / "positions.ome.tif", pixels, {"pos1": 0.25})
    with pytest.raises(ImageFileError, match=r"holds 3 images: 0 pos0 \(30 x 20 px\), 1 pos1 .*series='pos0'"):
        open_image(file)
    for number, (name, own) in enumerate(pixels.items()):
        image = open_image(file, name)
        np.testing.assert_array_equal(image.read()[0], own)
        np.testing.assert_array_equal(open_image(file, number).read()[0], own)
        assert (image.series, image.identity()["series"]) == (name, name)
        assert image.pixel_size_um == (0.25 if name == "pos1" else 0.5)
    assert open_image(file, "2").series == "pos2"  # as typed on the command line
    for wanted in ("pos3", "3", 3, -1):
        with pytest.raises(ImageFileError, match=r"has no image .*0 pos0 .*2 pos2"):
            open_image(file, wanted)


def test_the_scan_is_taken_and_not_its_macro(tmp_path: Path) -> None:
    scan = noise(160, 160)
    macro_first = write_ome(tmp_path / "a.ome.tif", {"macro": scan[::8, ::8].copy(), "scan": scan}, {"macro": 4.0})
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        for own in (scan[::8, ::8].copy(), scan):
            writer.write(own, metadata=None)
    for file in (macro_first, tmp_path / "b.tif"):
        image = open_image(file)
        np.testing.assert_array_equal(image.read()[0], scan)
        assert image.series is None
        assert open_image(file, 0).shape == (1, 20, 20)
    assert open_image(macro_first).pixel_size_um == 0.5


def test_images_that_an_ome_tiff_has_in_another_file_are_left_to_that(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, noise(2, 20, 30, dtype=np.uint16))  # one image, of a channel in each file
    assert len(list_series(parts)) == len(list_series(parts.with_name("part1.ome.tif"))) == 1
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{own}">'
        + "".join(
            f'<Image ID="Image:{n}" Name="pos{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint8" '
            f'SizeX="30" SizeY="20" SizeC="1" SizeZ="1" SizeT="1"><Channel ID="Channel:{n}:0"/>'
            f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="pos{n}.ome.tif">urn:uuid:{n}</UUID></TiffData>'
            "</Pixels></Image>"
            for n in range(2)
        )
        + "</OME>"
    )
    for n in range(2):
        tifffile.imwrite(
            tmp_path / f"pos{n}.ome.tif", noise(20, 30, seed=n), description=xml.format(own=n), metadata=None
        )
    for n in range(2):
        np.testing.assert_array_equal(open_image(tmp_path / f"pos{n}.ome.tif").read()[0], noise(20, 30, seed=n))


@VERSIONS
def test_images_of_bioformats2raw(tmp_path: Path, version: str) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=2 if version == "0.4" else 3)
    attributes = {"bioformats2raw.layout": 3}
    group.attrs.update(attributes if version == "0.4" else {"ome": attributes})
    pixels = [noise(1, 10, 15), noise(1, 160, 240)]
    for number, own in enumerate(pixels):
        write(tmp_path / str(number), [own], version)
    assert is_image_folder(tmp_path)
    np.testing.assert_array_equal(open_image(tmp_path).read(), pixels[1])
    np.testing.assert_array_equal(open_image(tmp_path, "0").read(), pixels[0])
    (tmp_path / "OME").mkdir()
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image Name="macro"/><Image Name="scan"/></OME>'
    )
    (tmp_path / "OME" / "METADATA.ome.xml").write_text(xml)
    assert [one.name for one in list_series(tmp_path)] == ["macro", "scan"]
    assert open_image(tmp_path, "macro").shape == (1, 10, 15)


@VERSIONS
@pytest.mark.parametrize("far", [False, True])
def test_the_fields_of_a_plate(tmp_path: Path, bucket: str, version: str, far: bool) -> None:
    pixels = write_plate(tmp_path / "plate.zarr", version, {"A/1": ["0", "1"], "B/12": ["0"]})
    assert is_image_folder(tmp_path / "plate.zarr")
    plate: Any = put(tmp_path / "plate.zarr", f"{bucket}/plate.zarr") if far else tmp_path / "plate.zarr"
    assert [one.name for one in list_series(plate)] == ["A1_0", "A1_1", "B12_0"] == list(pixels)
    for name, own in pixels.items():
        image = open_image(plate, name)
        np.testing.assert_array_equal(image.read(), own)
        assert (image.identity()["name"], image.identity()["series"]) == ("plate.zarr", name)
    if not far:
        assert [one.name for one in list_series(plate / "A" / "1")] == ["0", "1"]
        np.testing.assert_array_equal(open_image(plate / "B" / "12").read(), pixels["B12_0"])


def test_a_plate_without_fields(tmp_path: Path) -> None:
    zarr.open_group(tmp_path, mode="w", zarr_format=2)
    for wells in ([], [{"path": "A/1"}]):
        (tmp_path / ".zattrs").write_text(json.dumps({"plate": {"wells": wells}}))
        with pytest.raises(ImageFileError, match="collection of images, but has none"):
            open_image(tmp_path)
    (tmp_path / ".zattrs").write_text('{"plate": 3}')
    with pytest.raises(ImageFileError, match="cannot be read"):
        open_image(tmp_path)
