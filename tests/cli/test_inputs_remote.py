"""Images at URLs on the command line."""

from pathlib import Path

import pytest

from cytoseed.cli.inputs import find_images
from remote import put
from scenes import write_image


@pytest.fixture
def scenes(tmp_path, bucket):
    for name in ("a.tif", "b.tif", "b.labels.tif", ".hidden.tif", "a_masks.tif", "b_cp_masks.png", "b_flows.tif"):
        write_image(tmp_path / "scenes" / name, 1)
    return put(tmp_path / "scenes", f"{bucket}/scenes")


def test_files_folders_and_patterns(scenes, tmp_path):
    near = tmp_path / "scenes" / "b.labels.tif"
    found = find_images([f"{scenes}/b.tif", f"{scenes}/", f"{scenes}/b.*", str(near)])
    assert [str(path) for path in found] == [f"{scenes}/b.tif", f"{scenes}/a.tif", str(near)]
    assert [path.name for path in find_images([f"{scenes}/*_masks.tif"])] == ["a_masks.tif"]
    assert find_images([f"file://{tmp_path}/scenes/a.tif"]) == {tmp_path / "scenes" / "a.tif": Path()}
    with pytest.raises(ValueError, match="would both be written as 'a'"):
        find_images([f"{scenes}/a.tif", str(tmp_path / "scenes" / "a.tif")])
    with pytest.raises(FileNotFoundError, match=f"{scenes}/none"):
        find_images([f"{scenes}/none"])
    with pytest.raises(FileNotFoundError, match="no image found"):
        find_images([f"{scenes}/*.jpg"])


def test_info_and_segment_take_them(run, scenes):
    done = run("info", f"{scenes}/a.tif", f"{scenes}/none.tif")
    assert done.exit_code == 1
    assert f"{scenes}/a.tif\n  size        80 x 60 px" in done.stdout
    assert f"{scenes}/none.tif" in done.stderr
    for line in ("a.tif: 1 nucleus", "a.tif: already there"):
        assert line in run("segment", scenes, "-o", f"{scenes}-results", "--model", "grey").stdout
