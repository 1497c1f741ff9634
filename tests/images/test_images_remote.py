"""Images in a bucket: the same shape, scale, levels and pixels as on the disk, without reading all of it."""

import numpy as np
import pytest
import tifffile

from cytoseed.images import open_image
from remote import bucket, s3_server  # noqa: F401 - fixtures

BOXES = [(0, 0, 40, 50), (300, 411, 100, 89), (511, 0, 1, 700)]


def copied(path, url):
    import fsspec

    fsspec.filesystem("s3").put(str(path), url, recursive=path.is_dir())
    return url


def same(local, there):
    assert there.shape == local.shape
    assert there.dtype == local.dtype
    assert there.channel_names == local.channel_names
    assert there.level_shapes == local.level_shapes
    assert there.pixel_size_um == local.pixel_size_um
    assert there.identity() == local.identity()
    with local.regions() as here, there.regions() as far:
        for box in BOXES:
            np.testing.assert_array_equal(far.read(box), here.read(box))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 60_000, (2, 600, 700)).astype(np.uint16)


def test_a_tiff_in_a_bucket(tmp_path, pixels, bucket):  # noqa: F811
    path = tmp_path / "cells.ome.tif"
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "CD3"]}}
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="zlib", ome=True, metadata=metadata)
    same(open_image(path), open_image(copied(path, f"{bucket}/cells.ome.tif")))


def test_an_ome_zarr_in_a_bucket(tmp_path, pixels, bucket):  # noqa: F811
    import zarr

    path = tmp_path / "cells.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=pixels, chunks=(1, 128, 128))
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    same(open_image(path), open_image(copied(path, f"{bucket}/cells.zarr")))


def test_what_is_not_there(bucket):  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"s3://.*nothing\.tif"):
        open_image(f"{bucket}/nothing.tif")
