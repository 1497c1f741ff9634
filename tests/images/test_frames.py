"""z-stacks and time series: planes by number, projections, all of them; in files of each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from cytoseed.images import ImageFileError, open_frames, open_image
from cytoseed.images.frames import FrameName, parse_name

STACK = np.random.default_rng(0).integers(0, 4000, (2, 3, 2, 40, 50)).astype(np.uint16)  # TZCYX


def write_stack(path: Path) -> Path:
    """The stack in a file whose ending says how."""
    if path.name.endswith(".ome.tif"):
        tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "TZCYX", "Channel": {"Name": ["DAPI", "CD3"]}})
    elif path.suffix == ".tif":
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"})
    else:
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("0", data=STACK, chunks=(1, 1, 1, 40, 50))
        axes = [{"name": name} for name in "tzcyx"]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    return path


@pytest.fixture(params=["stack.tif", "stack.ome.tif", "stack.zarr"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return write_stack(tmp_path / request.param)


def test_a_plane_by_numbers_and_by_name(path: Path) -> None:
    image = open_image(path, z=1, time=1)
    assert (image.shape, image.series) == ((2, 40, 50), "t1_z1")
    assert np.array_equal(image.read(), STACK[1, 1])
    assert np.array_equal(image.read((3, 4, 5, 6), channels=[1]), STACK[1, 1, 1:, 3:8, 4:10])
    assert np.array_equal(open_image(path, "t1_z1").read(), STACK[1, 1])
    assert image.identity() != open_image(path, z=2, time=1).identity()
    if path.name == "stack.ome.tif":
        assert image.channel_names == ("DAPI", "CD3")


def test_projections_and_all(path: Path) -> None:
    assert np.array_equal(open_image(path, z="max", time=0).read(), STACK[0].max(0))
    assert np.array_equal(open_image(path, z="mean", time=0).read(), np.rint(STACK[0].mean(0)))
    assert np.array_equal(open_image(path, "t1_zmax").read(), STACK[1].max(0))
    frames = open_frames(path, z="all", time="all")
    assert [frame.series for frame in frames] == ["t0_z0", "t0_z1", "t0_z2", "t1_z0", "t1_z1", "t1_z2"]
    assert np.array_equal(np.stack([frame.read() for frame in frames]).reshape(STACK.shape), STACK)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, r"holds 2 time points; choose with --time N or all \(time= in Python\), N from 0 to 1"),
        ({"time": 0}, r"holds 3 z planes; choose with --z N, max, mean or all \(z= in Python\), N from 0 to 2"),
        ({"time": 0, "z": 3}, "z is 3, and it holds 3 z planes; give N, max, mean or all, N from 0 to 2"),
        ({"time": "max", "z": 0}, "time is 'max', and it holds 2 time points; give N or all"),
        ({"time": "all", "z": 0}, "2 planes are chosen by z=0 and time='all'; give one of each"),
    ],
)
def test_a_choice_that_is_missing_or_impossible_is_refused(path: Path, choice: dict, message: str) -> None:
    with pytest.raises(ImageFileError, match=message):
        open_image(path, **choice)


def test_a_plane_needs_no_choice_and_allows_the_first(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plane.tif", STACK[0, 0, 0])
    assert open_image(tmp_path / "plane.tif", z="max", time=0).series is None
    with pytest.raises(ImageFileError, match="z is 1, and it holds 1 z planes"):
        open_image(tmp_path / "plane.tif", z=1)


def test_names() -> None:
    assert parse_name("t2_z05") == FrameName(None, "05", "2")
    assert parse_name("scan_1_zmax") == FrameName("scan_1", "max", None)
    assert parse_name("A1_t3") == FrameName("A1", None, "3")
    assert parse_name("position_1") is None
