"""OME-Zarr label images: valid, opened by others, and at every level where the image is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Pieced, files_of, planes_of

from cytoseed.images import is_image_folder, open_image
from cytoseed.results import Result, pyramid
from cytoseed.results.formats import ngff
from cytoseed.results.formats.ngff import write_ngff

VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])


def small_pieces(patch: pytest.MonkeyPatch) -> None:
    """Small images with many chunks, regions and levels."""
    patch.setattr(ngff, "_CHUNK_PX", 16)
    patch.setattr(pyramid, "_READ_PX", 24)
    patch.setattr(pyramid, "_SMALLEST_LARGE_PX", 8)


def scattered(height: int, width: int, targets: int = 2, pixel_size_um: float | None = 0.25) -> Result:
    """Rectangles that do not touch, with gaps between their ids."""
    rng = np.random.default_rng(height * width)
    labels = np.zeros((targets, height, width), np.int32)
    for number, (top, left) in enumerate(np.ndindex(-(-height // 20), -(-width // 20)), start=1):
        tall, wide = rng.integers(1, 18, 2)
        for plane in labels[rng.integers(0, targets) :]:
            plane[20 * top : 20 * top + tall, 20 * left : 20 * left + wide] = 7 * number
    names = ("nuclei", "cells")[:targets]
    image = np.zeros((1, height, width), np.uint8)
    return Result.from_labels(
        labels[0] if targets == 1 else labels, image, targets=names, pixel_size_um=pixel_size_um, source="a.tif"
    )


def attributes_of(group: Path) -> dict[str, Any]:
    if (group / "zarr.json").exists():
        found: dict[str, Any] = json.loads((group / "zarr.json").read_text())["attributes"]["ome"]
    else:
        found = json.loads((group / ".zattrs").read_text())
    return found


def multiscale(folder: Path) -> dict[str, Any]:
    """Metadata of a label image."""
    found: dict[str, Any] = attributes_of(folder)["multiscales"][0]
    return found


def levels_of(folder: Path) -> list[NDArray[Any]]:
    return [np.asarray(zarr.open_array(folder / own["path"], mode="r")[:]) for own in multiscale(folder)["datasets"]]


# What is written


@VERSIONS
@settings(max_examples=12)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 2), st.integers(1, 3))
@example(1, 1, 2, 1)
@example(8, 8, 1, 1)
@example(16, 33, 2, 5)
def test_levels_are_the_labels_at_their_centres(
    tmp_path_factory: pytest.TempPathFactory, version: str, height: int, width: int, targets: int, objects: int
) -> None:
    whole = scattered(height, width, targets)
    folder = tmp_path_factory.mktemp("ngff")
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch)
        levels = pyramid.halved((height, width))
        write_ngff(whole, folder / "whole", version)
        write_ngff(Pieced(whole, objects), folder / "pieced", version)
    assert sorted(path.name for path in (folder / "whole").iterdir() if path.is_dir()) == sorted(whole.targets)
    for name, labels in zip(whole.targets, planes_of(whole), strict=True):
        found = levels_of(folder / "whole" / name)
        assert {level.dtype for level in found} == {np.dtype(np.uint32)}
        np.testing.assert_array_equal(found[0], labels)
        for level, own in zip(found, levels, strict=True):
            np.testing.assert_array_equal(level, labels[own.rows[:, None], own.columns])
    assert files_of(folder / "pieced") == files_of(folder / "whole")


@VERSIONS
def test_a_validator_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    small_pieces(monkeypatch)
    write_ngff(scattered(50, 61), tmp_path / "a", version)
    for name in ("nuclei", "cells"):
        yaozarrs.validate_zarr_store(tmp_path / "a" / name)
        text = (tmp_path / "a" / name / ("zarr.json" if version == "0.5" else ".zattrs")).read_text()
        model = yaozarrs.v05.OMEZarrGroupJSON if version == "0.5" else yaozarrs.v04.LabelImage
        yaozarrs.validate_ome_json(text, model)
    if version == "0.5":
        yaozarrs.validate_zarr_store(tmp_path / "a")
    else:  # the group alone does not tell its version
        yaozarrs.validate_ome_json((tmp_path / "a" / ".zattrs").read_text(), yaozarrs.v04.LabelsGroup)


@VERSIONS
def test_ome_zarr_reads_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    small_pieces(monkeypatch)
    whole = scattered(50, 61)
    write_ngff(whole, tmp_path / "a.labels.zarr", version)
    nodes = [node for node in Reader(parse_url(tmp_path / "a.labels.zarr"))() if node.load(Label)]
    assert [node.metadata["name"] for node in nodes] == ["nuclei", "cells"]
    for node, labels in zip(nodes, whole.labels, strict=True):
        assert [level.shape for level in node.data] == [(50, 61), (25, 31), (13, 16), (7, 8)]
        np.testing.assert_array_equal(node.data[0].compute(), labels)
        assert node.metadata["visible"]
        assert node.metadata["color"] == {}, "else napari would show the labels named, and no others"
    assert not is_image_folder(tmp_path / "a.labels.zarr"), "a group of images, not one"
    image = open_image(tmp_path / "a.labels.zarr" / "cells")
    assert image.pixel_size_yx_um == (0.25, 0.25)
    assert image.level_shapes == ((50, 61), (25, 31), (13, 16), (7, 8))
    np.testing.assert_array_equal(image.read()[0], whole.labels[1])


@VERSIONS
def test_without_a_pixel_size_there_is_no_unit(tmp_path: Path, version: str) -> None:
    write_ngff(scattered(20, 30, 1, pixel_size_um=None), tmp_path / "a", version)
    found = multiscale(tmp_path / "a" / "nuclei")
    assert found["axes"] == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    assert found["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0]}]
    assert open_image(tmp_path / "a" / "nuclei").pixel_size_yx_um is None


# How it is written


def test_arrays_that_old_and_new_programs_read(tmp_path: Path) -> None:
    whole = scattered(30, 2100, 1)
    for version in ("0.4", "0.5"):
        write_ngff(whole, tmp_path / version, version)
    old = json.loads((tmp_path / "0.4" / "nuclei" / "0" / ".zarray").read_text())
    assert (old["zarr_format"], old["dtype"], old["chunks"]) == (2, "<u4", [30, 1024])
    assert (old["dimension_separator"], old["compressor"]["id"]) == ("/", "zlib")
    new = json.loads((tmp_path / "0.5" / "nuclei" / "0" / "zarr.json").read_text())
    assert (new["zarr_format"], new["data_type"], new["dimension_names"]) == (3, "uint32", ["y", "x"])
    assert [codec["name"] for codec in new["codecs"]] == ["bytes", "zstd"]
    assert sum(map(len, files_of(tmp_path / "0.5").values())) < 0.1 * whole.labels.nbytes


@VERSIONS
def test_chunks_without_objects_are_not_written(tmp_path: Path, version: str) -> None:
    labels = np.zeros((2, 3000, 2500), np.int32)
    labels[1, 2990:, 2490:] = 1
    result = Result.from_labels(labels, np.zeros((1, 3000, 2500), np.uint8), targets=("nuclei", "cells"))
    write_ngff(result, tmp_path / "a", version)
    files = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    chunks = sorted(name for name in files if not name.endswith((".json", ".zattrs", ".zgroup", ".zarray")))
    between = "c/" if version == "0.5" else ""
    assert chunks == [f"cells/0/{between}2/2", f"cells/1/{between}1/1", f"cells/2/{between}0/0"]
    assert not open_image(tmp_path / "a" / "nuclei").read().any()
