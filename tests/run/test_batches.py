"""Lists of images, and arrays whose axes are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import cytoseed
from cytoseed.images import as_image, open_frames
from cytoseed.images.scenes import draw_nuclei

IMAGES = [draw_nuclei((90, 100 + 10 * seed), 7, 17, seed).image[0] for seed in range(3)]


def test_a_list_of_images_gives_a_list_of_results(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "b.tif", IMAGES[1])
    results = cytoseed.segment([IMAGES[0], tmp_path / "b.tif", as_image(IMAGES[2])], "nuclei")
    assert [result.labels.shape for result in results] == [image.shape for image in IMAGES]
    for result, image in zip(results, IMAGES, strict=True):
        assert np.array_equal(result.labels, cytoseed.segment(image, "nuclei").labels)
    with pytest.raises(ValueError, match="whose results would all be called array"):
        cytoseed.segment(IMAGES, "nuclei", output=tmp_path / "out")
    assert cytoseed.segment(IMAGES[0][:4, :4].tolist()).labels.shape == (4, 4)  # the numbers of one image


def test_frames_of_a_stack_are_a_batch(tmp_path: Path) -> None:
    stack = np.stack([draw_nuclei((80, 80), 6, 17, seed).image[0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "s.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    results = cytoseed.segment(open_frames(tmp_path / "s.tif", z="all"), "nuclei", output=tmp_path / "out")
    assert [result.labels.max() for result in results] == [
        int(cytoseed.segment(plane, "nuclei").labels.max()) for plane in stack
    ]
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {f"s_z{z}.csv" for z in range(3)}


def test_dimensions_of_xarray() -> None:
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).integers(0, 900, (3, 40, 50, 2)).astype(np.uint16)
    far = {"dims": "y", "data": np.arange(40) * 0.5, "attrs": {"units": "µm"}}
    near = {"dims": "x", "data": np.arange(50) * 500, "attrs": {"units": "nm"}}
    data = xarray.DataArray(values, dims=("z", "y", "x", "channel"), coords={"channel": ["DAPI", "CD3"]})
    data = data.assign_coords(y=(far["dims"], far["data"], far["attrs"]), x=(near["dims"], near["data"], near["attrs"]))
    image = as_image(data, z=1)
    assert (image.shape, image.channel_names, image.pixel_size_um) == ((2, 40, 50), ("DAPI", "CD3"), 0.5)
    assert np.array_equal(image.read(), values[1].transpose(2, 0, 1))
    assert np.array_equal(as_image(data, z="max").read(), values.max(0).transpose(2, 0, 1))
    with pytest.raises(ValueError, match="holds 3 z planes; choose with"):
        as_image(data)
    with pytest.raises(ValueError, match="call them y and x"):
        as_image(data.rename(y="lines"))
