"""Results at a URL: the files of a local folder, byte for byte, also after interruptions."""

import botocore.exceptions
import fsspec
import pytest
import s3fs
from typer.testing import CliRunner

from cytoseed.cli.main import app
from cytoseed.run.shards import find_shards
from remote import bucket, put, s3_server  # noqa: F401 - fixtures
from runs import run

FORMATS = ("labels", "geojson", "table", "overlay", "objects", "ngff")


def tiled(place, output, existing="refuse", formats=FORMATS, **settings):
    settings = {"tile_size_px": 128, **settings}
    return run(place / "scene.tif", output, place / "bright", formats=formats, existing=existing, **settings)


def files(folder):
    """Every file of the results, those of folders too, by path; not of the tiles' store."""
    fs, root = fsspec.url_to_fs(str(folder), use_listings_cache=False)
    found = {path[len(root) + 1 :]: fs.cat_file(path) for path in fs.find(root)}
    return {name: data for name, data in found.items() if ".cytoseed/" not in name}


def command(*parts):
    return CliRunner().invoke(app, [str(part) for part in parts])


def test_files_equal_those_of_a_local_folder(place, bucket):  # noqa: F811
    there = f"{bucket}/deep/results"
    tiled(place, place / "here")
    report = tiled(place, there)
    assert report.result is not None
    assert str(report.files[1]) == f"{there}/scene.geojson"
    assert files(there) == files(place / "here")
    assert len(files(there)) > len(FORMATS)
    assert tiled(place, there).already_done
    with pytest.raises(FileExistsError, match=r"s3://.*made differently"):
        tiled(place, there, seed_threshold=0.6)


def test_overwriting_removes_the_files_of_the_earlier_run(place, bucket):  # noqa: F811
    tiled(place, bucket, formats=("ngff", "table"))
    before = set(files(bucket))
    tiled(place, bucket, "overwrite", ("ngff",), region=(0, 0, 100, 100))
    tiled(place, place / "here", "overwrite", ("ngff",), region=(0, 0, 100, 100))
    assert files(bucket) == files(place / "here")
    assert "scene.csv" in before
    assert "scene.csv" not in files(bucket)


def test_a_kill_between_two_files_is_noticed(place, bucket, monkeypatch):  # noqa: F811
    formats = ("labels", "geojson", "table")
    tiled(place, bucket, formats=formats)
    with monkeypatch.context() as patch:
        from cytoseed import paths

        honest = paths._upload

        def upload(staged, target):
            if target.name == "scene.geojson":
                raise KeyboardInterrupt
            honest(staged, target)

        patch.setattr(paths, "_upload", upload)
        with pytest.raises(KeyboardInterrupt):
            tiled(place, bucket, "overwrite", formats, seed_threshold=0.6)
    assert b"pending" in files(bucket)["scene.cytoseed.json"]
    assert not tiled(place, bucket, "resume", formats, seed_threshold=0.6).already_done
    tiled(place, place / "here", formats=formats, seed_threshold=0.6)
    assert files(bucket) == files(place / "here")


def test_shards_in_a_bucket_are_joined(place, bucket):  # noqa: F811
    model, kinds = ("--model", place / "bright", "--tile-size", "128"), ("--format", "labels,geojson,table")
    image = put(place / "scene.tif", f"{bucket}/images/scene.tif")
    there = f"{bucket}/results"
    for number in (2, 1):
        result = command("segment", image, "--output", there, *model, *kinds, "--shard", f"{number}/2")
        assert result.exit_code == 0, result.output
        assert f"-> {there}/scene.shard-{number}-of-2.cytoseed" in result.output
    assert len(find_shards(there)["scene"]) == 2
    result = command("merge", there)
    assert result.exit_code == 0, result.output
    assert command("segment", image, "--output", place / "here", *model, *kinds).exit_code == 0
    assert files(there) == files(place / "here")
    assert not find_shards(there)
    assert "already there" in command("segment", image, "--output", there, *model, *kinds).output


def test_a_read_only_bucket_is_refused_before_the_run(place, bucket, monkeypatch):  # noqa: F811
    honest = s3fs.S3FileSystem._call_s3

    def refused(error):
        async def call(self, method, *args, **kwargs):
            if method == "put_object":
                raise error
            return await honest(self, method, *args, **kwargs)

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
        return command("segment", place / "scene.tif", "-o", f"{bucket}/a", "--model", place / "bright")

    def worked(*_):
        raise AssertionError

    monkeypatch.setattr("cytoseed.run.slide.survey", worked)
    for error in (PermissionError("Access Denied"), botocore.exceptions.NoCredentialsError()):
        result = refused(error)
        assert result.exit_code == 2
        assert f"{bucket}/a: may not be written to" in result.stderr
        assert "AWS_PROFILE" in result.stderr
        with pytest.raises(PermissionError, match="check the rights"):
            tiled(place, f"{bucket}/a")


def test_a_run_that_loses_its_connection_resumes(place, bucket, monkeypatch):  # noqa: F811
    honest, left = s3fs.S3FileSystem._call_s3, [6]

    async def call(self, method, *args, **kwargs):
        left[0] -= method == "put_object"
        if left[0] < 0:
            raise botocore.exceptions.EndpointConnectionError(endpoint_url="nowhere")
        return await honest(self, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", call)
        with pytest.raises(OSError, match=f"{bucket}/scene.cytoseed/tiles: cannot be written to"):
            tiled(place, bucket)
    tiled(place, bucket, "resume")
    tiled(place, place / "here")
    assert files(bucket) == files(place / "here")


def test_a_missing_bucket_is_not_created(place, bucket):  # noqa: F811
    nowhere = f"{bucket}-nowhere"
    with pytest.raises(FileNotFoundError, match="make the bucket first"):
        tiled(place, nowhere)
    result = command("segment", place / "scene.tif", "-o", f"{nowhere}/a", "--model", place / "bright")
    assert result.exit_code == 2
    assert "make the bucket first" in result.stderr
    assert not fsspec.filesystem("s3", use_listings_cache=False).exists(nowhere)


def test_a_missing_package_is_named_with_its_extra(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "upath", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cytoseed\[cloud\]'"):
        tiled(place, "s3://bucket/results")


def test_other_stores(place):
    tiled(place, place / "here")
    tiled(place, "memory://far/results")
    tiled(place, f"file://{place}/there")
    assert files("memory://far/results") == files(place / "there") == files(place / "here")
