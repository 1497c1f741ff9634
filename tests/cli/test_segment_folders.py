"""Folders with subfolders, plates and companions: what is segmented, where results go, and one table of all."""

from __future__ import annotations

import csv
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from typer.testing import CliRunner

from cytoseed.cli.inputs import find_images
from cytoseed.cli.main import app
from cytoseed.images import open_image
from cytoseed.images.scenes import draw_nuclei
from cytoseed.results.run_table import find_well

RUN = CliRunner()


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Two images of equal names in subfolders, one beside them, and a damaged OME-Zarr."""
    names = ("day1/r02c03f01-ch1.tif", "day2/r02c03f01-ch1.tif", "overview.tif")
    for seed, name in enumerate(names):
        path = tmp_path / "plate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, draw_nuclei((80, 90), 6, 17, seed).image[0])
    (tmp_path / "plate" / "damaged.zarr").mkdir()
    return tmp_path / "plate"


def test_subfolders_are_kept_and_one_table_has_all(plate: Path, tmp_path: Path) -> None:
    table = tmp_path / "all.csv"
    command = ["segment", str(plate), "-o", str(tmp_path / "out"), "--recursive", "--format", "labels"]
    done = RUN.invoke(app, [*command, "--table", str(table)])
    assert done.exit_code == 1  # of the damaged one
    assert "damaged.zarr" in done.output
    assert (tmp_path / "out" / "day2" / "r02c03f01-ch1.labels.tif").is_file()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]][:4] == ["image", "well", "field", "id"]
    for image, well, field in (
        ("day1/r02c03f01-ch1.tif", "B03", "01"),
        ("day2/r02c03f01-ch1.tif", "B03", "01"),
        ("overview.tif", "", ""),
    ):
        labels = tifffile.imread(tmp_path / "out" / Path(image).with_suffix(".labels.tif"))
        own = [row for row in rows if row["image"] == image]
        assert [int(row["id"]) for row in own] == [*range(1, int(labels.max()) + 1)]
        assert {(row["well"], row["field"]) for row in own} == {(well, field)}


def test_the_table_as_parquet_is_made_again_from_results_that_are_there(plate: Path, tmp_path: Path) -> None:
    command = ["segment", str(plate / "day1"), str(plate / "overview.tif"), "-o", str(tmp_path / "out")]
    for _ in range(2):
        done = RUN.invoke(app, [*command, "--table", str(tmp_path / "all.parquet")])
        assert done.exit_code == 0, done.output
        table = pq.read_table(tmp_path / "all.parquet")
        assert table.column_names[:4] == ["image", "well", "field", "id"]
        assert sorted(set(table["image"].to_pylist())) == ["overview.tif", "r02c03f01-ch1.tif"]
        (tmp_path / "all.parquet").unlink()
    wrong = RUN.invoke(app, [*command, "--table", "all.xlsx"])
    assert wrong.exit_code == 2
    assert "its name must end in .csv or .parquet" in " ".join(wrong.output.split())


def test_the_parts_of_a_set_are_one_image(tmp_path: Path) -> None:
    planes = np.zeros((2, 40, 50), np.uint8)
    uuid = '<UUID FileName="{0}">urn:uuid:{0}</UUID>'
    data = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1">{uuid.format(f"set_{c}.ome.tif")}</TiffData>' for c in range(2)
    )
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{}"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" SizeC="2" SizeZ="1" SizeT="1">'
        f"{data}</Pixels></Image></OME>"
    )
    for c in range(2):
        name = f"set_{c}.ome.tif"
        tifffile.imwrite(tmp_path / name, planes[c], description=text.replace("{}", name), metadata=None)
    tifffile.imwrite(tmp_path / "z.tif", planes[0])
    assert [path.name for path in find_images([str(tmp_path)])] == ["set_0.ome.tif", "z.tif"]


@pytest.mark.parametrize(
    ("name", "well"),
    [
        ("r02c03f01p01-ch1sk1fk1fl1", ("B03", "01")),
        ("B - 2(fld 4 wv DAPI)", ("B02", "4")),
        ("plate_B02_s1_w1", ("B02", "1")),
        ("A1_0", ("A01", "0")),
        ("MFGTMP_A01f00d0", ("A01", "00")),
        ("overview", None),
        ("CD3_PanCK", None),
    ],
)
def test_wells_by_name(name: str, well: tuple[str, str] | None) -> None:
    assert find_well(name) == well


def write_dicom(path: Path, pixels: np.ndarray, series: str, um: float) -> None:
    """One level of a whole slide in DICOM, a tile per frame."""
    pydicom = pytest.importorskip("pydicom")
    encaps, uid = pytest.importorskip("pydicom.encaps"), pytest.importorskip("pydicom.uid")
    height, width = pixels.shape[:2]
    tiles = [pixels[y : y + 256, x : x + 256] for y in range(0, height, 256) for x in range(0, width, 256)]
    whole = [np.pad(tile, [(0, 256 - tile.shape[0]), (0, 256 - tile.shape[1]), (0, 0)]) for tile in tiles]
    codec = {"level": 98, "colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": "444"}
    slide = pydicom.Dataset()
    slide.file_meta = pydicom.dataset.FileMetaDataset()
    slide.file_meta.MediaStorageSOPClassUID = slide.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    slide.file_meta.MediaStorageSOPInstanceUID = slide.SOPInstanceUID = uid.generate_uid()
    slide.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    slide.SeriesInstanceUID, slide.StudyInstanceUID, slide.FrameOfReferenceUID = series, series + ".1", series + ".2"
    slide.Modality, slide.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.Rows = slide.Columns = 256
    slide.NumberOfFrames, slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = len(whole), height, width
    slide.SamplesPerPixel, slide.PhotometricInterpretation, slide.PlanarConfiguration = 3, "YBR_FULL_422", 0
    slide.BitsAllocated = slide.BitsStored = 8
    slide.HighBit, slide.PixelRepresentation, slide.DimensionOrganizationType = 7, 0, "TILED_FULL"
    slide.TotalPixelMatrixFocalPlanes = slide.NumberOfOpticalPaths = 1
    measures, shared = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = [um / 1000, um / 1000]
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    slide.PixelData = encaps.encapsulate([imagecodecs.jpeg_encode(tile, **codec) for tile in whole])
    slide["PixelData"].VR = "OB"
    slide.save_as(path, enforce_file_format=True)


def test_a_folder_of_dicom_files_is_one_slide(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8).repeat(64, 0).repeat(64, 1)
    for name, step in (("1.dcm", 1), ("2.dcm", 4)):
        write_dicom(tmp_path / name, np.ascontiguousarray(pixels[::step, ::step]), "1.2.3", 0.5 * step)
    write_dicom(tmp_path / "other.dcm", pixels, "1.2.4", 0.25)
    (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert [path.name for path in find_images([str(tmp_path)])] == ["1.dcm", "other.dcm"]
    image = open_image(tmp_path / "1.dcm")
    assert image.level_shapes == ((512, 640), (128, 160))
    assert image.pixel_size_um == pytest.approx(0.5)
    assert np.abs(image.read().transpose(1, 2, 0).astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("suffix", [".lsm", ".stk"])
def test_suffixes_of_microscopes_are_images(tmp_path: Path, suffix: str) -> None:
    tifffile.imwrite(tmp_path / f"a{suffix}", np.zeros((8, 8), np.uint8))
    assert [path.name for path in find_images([str(tmp_path)])] == [f"a{suffix}"]


@pytest.mark.parametrize("command", sorted(str(one.name or one.callback.__name__) for one in app.registered_commands))
def test_h_is_help(command: str) -> None:
    short, long = (RUN.invoke(app, [command, flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
    assert "Usage" in short.output
