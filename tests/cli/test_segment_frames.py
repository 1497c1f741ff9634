"""`cytoseed segment --z --time`: results of each plane, and stacked."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import tifffile
from typer.testing import CliRunner

import cytoseed
from cytoseed.cli.main import app
from cytoseed.images.scenes import draw_nuclei

RUN = CliRunner()


def test_planes_and_their_stack(tmp_path: Path) -> None:
    planes = np.stack([draw_nuclei((96, 120), 8, 17, seed).image for seed in range(4)]).reshape(2, 2, 1, 96, 120)
    tifffile.imwrite(tmp_path / "a.tif", planes, imagej=True, metadata={"axes": "TZCYX"})
    command = ["segment", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out"), "--format", "labels,table"]
    refused = RUN.invoke(app, command)
    assert refused.exit_code == 1
    assert "choose with --time N or all" in " ".join(refused.output.split())
    done = RUN.invoke(app, [*command, "--z", "all", "--time", "all"])
    assert done.exit_code == 0, done.output
    with tifffile.TiffFile(tmp_path / "out" / "a.labels.tif") as tif:
        assert tif.is_imagej
        assert tif.series[0].axes == "TZYX"
        stack = tif.asarray()
    for time in range(2):
        for z in range(2):
            labels = cytoseed.segment(tmp_path / "a.tif", z=z, time=time).labels
            assert labels.max() > 3
            assert np.array_equal(stack[time, z], labels)
            assert np.array_equal(tifffile.imread(tmp_path / "out" / f"a_t{time}_z{z}.labels.tif"), labels)
    with (tmp_path / "out" / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]][:2] == ["t", "z"]
    counts = [sum((row["t"], row["z"]) == (str(t), str(z)) for row in rows) for t in range(2) for z in range(2)]
    assert counts == [int(plane.max()) for plane in stack.reshape(4, 96, 120)]
