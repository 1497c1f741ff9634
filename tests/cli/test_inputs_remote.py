"""Images at URLs on the command line."""

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from bright import bright_config, bright_segmenter
from cytoseed.cli.inputs import find_images
from cytoseed.cli.main import app
from cytoseed.models.weights import save_model
from remote import put


def command(*parts):
    return CliRunner().invoke(app, [str(part) for part in parts])


@pytest.fixture
def scenes(tmp_path, bucket):
    image = np.full((60, 70), 10, np.uint8)
    image[20:32, 30:42] = 200
    image[0, 0], image[-1, -1] = 0, 255
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "b.labels.tif", ".hidden.tif"):
        tifffile.imwrite(folder / name, image)
    return put(folder, f"{bucket}/scenes")


def test_files_folders_and_patterns(scenes, tmp_path):
    found = find_images([f"{scenes}/b.tif", f"{scenes}/", f"{scenes}/b.*", str(tmp_path / "scenes" / "b.labels.tif")])
    assert [str(path) for path in found] == [
        f"{scenes}/b.tif",
        f"{scenes}/a.tif",
        str(tmp_path / "scenes" / "b.labels.tif"),
    ]
    assert find_images([f"file://{tmp_path}/scenes/a.tif"]) == (tmp_path / "scenes" / "a.tif",)
    with pytest.raises(ValueError, match="would both be written as 'a'"):
        find_images([f"{scenes}/a.tif", str(tmp_path / "scenes" / "a.tif")])
    with pytest.raises(FileNotFoundError, match=f"{scenes}/none"):
        find_images([f"{scenes}/none"])
    with pytest.raises(FileNotFoundError, match="no image found"):
        find_images([f"{scenes}/*.png"])


def test_they_are_segmented_as_those_of_a_disk(scenes, tmp_path):
    save_model(bright_segmenter(), bright_config(), tmp_path / "bright")
    flags = ("--model", tmp_path / "bright", "--format", "labels,geojson,table,overlay")
    assert command("segment", tmp_path / "scenes", "-o", tmp_path / "here", *flags).exit_code == 0
    for image, output in ((f"{scenes}/", tmp_path / "far"), (scenes, f"{scenes}-results")):
        result = command("segment", image, "-o", output, *flags)
        assert result.exit_code == 0, result.output
        assert "a.tif: 1 nucleus" in result.stdout
        assert "b.tif: already there" in command("segment", image, "-o", output, *flags).stdout
    made = {path.name: path.read_bytes() for path in (tmp_path / "far").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}


def test_info_tells_of_them(scenes):
    result = command("info", f"{scenes}/a.tif", f"{scenes}/none.tif")
    assert result.exit_code == 1
    assert f"{scenes}/a.tif\n  size        70 x 60 px" in result.stdout
    assert f"{scenes}/none.tif" in result.stderr
