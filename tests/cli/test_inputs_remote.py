"""Images at URLs on the command line."""

import pytest

from cytoseed.cli.inputs import find_images
from remote import put
from scenes import contents, write_image


@pytest.fixture
def scenes(tmp_path, bucket):
    for name in ("a.tif", "b.tif", "b.labels.tif", ".hidden.tif"):
        write_image(tmp_path / "scenes" / name, 1)
    return put(tmp_path / "scenes", f"{bucket}/scenes")


def test_files_folders_and_patterns(scenes, tmp_path):
    near = tmp_path / "scenes" / "b.labels.tif"
    found = find_images([f"{scenes}/b.tif", f"{scenes}/", f"{scenes}/b.*", str(near)])
    assert [str(path) for path in found] == [f"{scenes}/b.tif", f"{scenes}/a.tif", str(near)]
    assert find_images([f"file://{tmp_path}/scenes/a.tif"]) == (tmp_path / "scenes" / "a.tif",)
    with pytest.raises(ValueError, match="would both be written as 'a'"):
        find_images([f"{scenes}/a.tif", str(tmp_path / "scenes" / "a.tif")])
    with pytest.raises(FileNotFoundError, match=f"{scenes}/none"):
        find_images([f"{scenes}/none"])
    with pytest.raises(FileNotFoundError, match="no image found"):
        find_images([f"{scenes}/*.png"])


def test_they_are_segmented_and_shown_as_those_of_a_disk(run, scenes, tmp_path):
    flags = ("--model", "grey", "--format", "labels,geojson,table,overlay")
    assert run("segment", tmp_path / "scenes", "-o", tmp_path / "here", *flags).exit_code == 0
    for image, output in ((f"{scenes}/", tmp_path / "far"), (scenes, f"{scenes}-results")):
        result = run("segment", image, "-o", output, *flags)
        assert result.exit_code == 0, result.output
        assert "a.tif: 1 nucleus" in result.stdout
        assert "b.tif: already there" in run("segment", image, "-o", output, *flags).stdout
    assert contents(tmp_path / "far") == contents(tmp_path / "here")
    result = run("info", f"{scenes}/a.tif", f"{scenes}/none.tif")
    assert result.exit_code == 1
    assert f"{scenes}/a.tif\n  size        80 x 60 px" in result.stdout
    assert f"{scenes}/none.tif" in result.stderr
