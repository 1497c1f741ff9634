"""A result in memory saved at a URL, and converted to one: the files are those on a disk."""

import fsspec
import numpy as np
import pytest
from pieced import pixels_of
from typer.testing import CliRunner

from cytoseed.cli.main import app
from cytoseed.paths import as_path, list_names
from cytoseed.results import Result
from remote import bucket, s3_server  # noqa: F401 - fixtures

FORMATS = ("labels", "table", "ngff", "rois", "objects")


@pytest.fixture
def result():
    labels = np.zeros((40, 50), np.int32)
    labels[5:15, 5:20], labels[20:30, 10:30] = 1, 2
    image = np.random.default_rng(1).integers(0, 255, (1, 40, 50), np.uint8)
    return Result.from_labels(labels, image, source="cells.tif", settings={"threshold": 0.5})


def files(folder):
    fs, root = fsspec.url_to_fs(str(folder), use_listings_cache=False)
    return {path[len(root) + 1 :]: fs.cat_file(path) for path in fs.find(root)}


def test_the_files_are_those_of_a_disk(result, bucket, tmp_path):  # noqa: F811
    there = f"{bucket}/a/b"
    made = result.save(there, FORMATS)
    result.save(tmp_path, FORMATS)
    assert str(made[-1]) == f"{there}/cells.cytoseed.json"
    assert files(there) == files(tmp_path)
    with pytest.raises(FileExistsError, match="overwrite"):
        Result.from_labels(result.labels, pixels_of(result), source="cells.tif").save(there, ("table",))


def test_what_is_missing_is_added_and_folders_are_replaced_whole(result, bucket, tmp_path):  # noqa: F811
    result.save(bucket, ("table", "ngff"))
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{bucket}/cells.csv", b"1")
    fs.pipe_file(f"{bucket}/cells.labels.zarr/stranger", b"1")
    result.save(bucket, FORMATS)
    result.save(tmp_path, FORMATS)
    assert files(bucket)["cells.csv"] == b"1"
    result.save(bucket, FORMATS, overwrite=True)
    assert files(bucket) == files(tmp_path)


def test_a_stored_result_is_converted_to_a_url(result, bucket, tmp_path):  # noqa: F811
    result.save(tmp_path / "stored", ("objects",))
    result.save(tmp_path / "all", ("table", "rois"))
    command = ["convert", str(tmp_path / "stored"), "-f", "table,rois", "-o", f"{bucket}/made"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"{bucket}/made/cells.csv" in done.output
    assert files(f"{bucket}/made") == files(tmp_path / "all")
    assert "already there" in CliRunner().invoke(app, command).output
    refused = CliRunner().invoke(app, [*command[:-1], f"{bucket}-nowhere"])
    assert refused.exit_code == 2
    assert "make the bucket first" in refused.stderr
    far = CliRunner().invoke(app, ["convert", f"{bucket}/cells.objects.zip", "-f", "table"])
    assert "copy it" in far.stderr


def test_what_others_write_meanwhile_is_seen(bucket):  # noqa: F811
    folder = as_path(f"{bucket}/tiles")
    other = fsspec.filesystem("s3")
    for number in range(3):
        assert list_names(folder) == [f"{name}.npz" for name in range(number)]
        other.pipe_file(f"{bucket}/tiles/{number}.npz", b"1")
        assert (folder / f"{number}.npz").exists()
