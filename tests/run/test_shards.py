"""Shards together write the files of one run; missing, unfinished and different ones are refused."""

import shutil

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cytoseed.cli.main import app
from cytoseed.results.store import Store
from cytoseed.run.resume import Shard
from cytoseed.run.shards import find_shards, merge
from scenes import contents

FORMATS = "labels,geojson,table,overlay"


def segment(place, output, *flags):
    command = ["segment", place / "scene.tif", "--model", place / "bright", "--output", output, "--tile-size", "128"]
    return run(*command, "--format", FORMATS, *flags)


def run(*command):
    return CliRunner().invoke(app, [str(part) for part in command])


def test_shards_together_write_the_files_of_one_run(place):
    assert segment(place, place / "one").exit_code == 0
    for number in (3, 1, 2):
        result = segment(place, place / "parts", "--shard", f"{number}/3")
        assert result.exit_code == 0, result.output
        assert f"shard {number} of 3" in result.output
    assert not contents(place / "parts")
    assert len(find_shards(place / "parts")["scene"]) == 3
    result = run("merge", place / "parts")
    assert result.exit_code == 0, result.output
    assert contents(place / "parts") == contents(place / "one")
    assert sorted(path.name for path in (place / "parts").iterdir() if path.is_dir()) == ["scene.cytoseed"]
    again = segment(place, place / "parts")
    assert "already there" in again.output, again.output


def test_more_shards_than_tiles(place):
    assert segment(place, place / "one", "--region", "0,0,200,100").exit_code == 0
    for number in range(1, 8):
        assert segment(place, place / "parts", "--region", "0,0,200,100", "--shard", f"{number}/7").exit_code == 0
    assert run("merge", place / "parts").exit_code == 0
    assert contents(place / "parts") == contents(place / "one")


def test_missing_shards_are_named(place):
    segment(place, place / "parts", "--shard", "2/3")
    result = run("merge", place / "parts")
    assert result.exit_code == 1
    assert "shards 1, 3 of 3 of 'scene'" in result.stderr
    assert "--shard 1/3" in result.stderr


def test_a_stopped_shard_is_resumed_before_it_is_joined(place, monkeypatch):
    written = []
    honest = Store.write

    def write(self, tile, objects):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(tile)
        honest(self, tile, objects)

    monkeypatch.setattr(Store, "write", write)
    assert segment(place, place / "parts", "--shard", "1/2").exit_code == 130
    monkeypatch.undo()
    assert segment(place, place / "parts", "--shard", "2/2").exit_code == 0
    result = run("merge", place / "parts")
    assert result.exit_code == 1
    assert f"shard 1 of 2 of 'scene' in {place / 'parts'} has tiles to go" in result.stderr
    refused = segment(place, place / "parts", "--shard", "1/2")
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    assert segment(place, place / "parts", "--shard", "1/2", "--resume").exit_code == 0
    assert "already there" in segment(place, place / "parts", "--shard", "1/2").output
    assert run("merge", place / "parts").exit_code == 0
    assert segment(place, place / "one").exit_code == 0
    assert contents(place / "parts") == contents(place / "one")


def test_different_shards_are_not_joined(place):
    segment(place, place / "parts", "--shard", "1/2")
    segment(place, place / "parts", "--shard", "2/2", "--seed-threshold", "0.6")
    result = run("merge", place / "parts")
    assert result.exit_code == 1
    says = f"in {place / 'parts'} was made differently than the first (settings.seed_threshold: 0.5 -> 0.6)"
    assert f"shard 2 of 2 of 'scene' {says}" in result.stderr
    segment(place, place / "parts", "--shard", "2/3")
    assert "in 2 and in 3 parts" in run("merge", place / "parts").stderr


def test_a_stopped_merge_is_repeated(place, monkeypatch):
    for number in (1, 2):
        segment(place, place / "parts", "--shard", f"{number}/2")
    removed = []
    honest = shutil.rmtree

    def remove(path, **flags):
        if ".shard-" in str(path) and removed:
            raise KeyboardInterrupt
        removed.extend([path] if ".shard-" in str(path) else [])
        honest(path, **flags)

    monkeypatch.setattr("cytoseed.paths.shutil.rmtree", remove)
    with pytest.raises(KeyboardInterrupt):
        merge(place / "parts", "scene")
    monkeypatch.undo()
    assert len(find_shards(place / "parts")["scene"]) == 1
    assert merge(place / "parts", "scene").already_done
    assert not find_shards(place / "parts")


def test_the_image_may_have_moved(place):
    for number in (1, 2):
        segment(place, place / "parts", "--shard", f"{number}/2")
    (place / "elsewhere").mkdir()
    (place / "scene.tif").rename(place / "elsewhere" / "scene.tif")
    assert "scene.tif" in run("merge", place / "parts").stderr
    assert run("merge", place / "parts", "--image", place / "elsewhere" / "scene.tif").exit_code == 0


def test_overwriting_shards_replace_files_only_when_merged(place):
    segment(place, place / "parts", "--seed-threshold", "0.6")
    before = contents(place / "parts")
    assert "made differently" in segment(place, place / "parts", "--shard", "1/1").stderr
    assert segment(place, place / "parts", "--shard", "1/1", "--overwrite").exit_code == 0
    assert contents(place / "parts") == before
    result = run("merge", place / "parts")
    assert result.exit_code == 0, result.stderr
    segment(place, place / "one")
    assert contents(place / "parts") == contents(place / "one")


def test_small_images_belong_to_one_shard_each(place):
    for index in range(5):
        pixels = np.zeros((50, 60), np.uint8)
        pixels[5:15, 10:30] = 200
        (place / "small").mkdir(exist_ok=True)
        tifffile.imwrite(place / "small" / f"{index}.tif", pixels)
    seen = []
    for number in (1, 2):
        run("segment", place / "small", "--model", place / "bright", "-o", place / str(number), "-f", "table",
            "--shard", f"{number}/2")  # fmt: skip
        seen.append({name for name in contents(place / str(number)) if name.endswith(".csv")})
    assert sorted(map(len, seen)) == [2, 3]
    assert len(seen[0] | seen[1]) == 5


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_impossible_shards_are_refused(place, text):
    result = segment(place, place / "parts", "--shard", text)
    assert result.exit_code == 2
    assert f"shard is '{text}'" in result.stderr
    assert not (place / "parts").exists()


@given(st.integers(1, 40), st.integers(0, 200))
def test_shares_are_even_and_cover_everything_once(of, count):
    shares = [list(Shard(number, of).share(count)) for number in range(1, of + 1)]
    assert [place for share in shares for place in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 40), st.integers(1, 200))
def test_every_small_image_belongs_to_one_shard(of, place):
    assert sum(Shard(number, of).takes(place) for number in range(1, of + 1)) == 1
