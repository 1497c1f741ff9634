"""Nucleus, cytoplasm and cell: NumPy's numbers of their pixels, in every format, from six channels in tiles."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from pieced import pixels_of

from bright import GREY
from cytoseed.results import Result
from cytoseed.run.api import segment

MARKERS = ("DAPI", "CD3", "CD8", "CD20", "PanCK", "Ki67")


def statistics(values: NDArray[Any]) -> NDArray[np.float64]:
    own = values.astype(np.float64)
    return np.array([own.mean(), own.std(), *np.percentile(own, [5, 25, 50, 75, 95])])


def assert_compartments(table: pd.DataFrame, planes: NDArray[np.int32], image: NDArray[Any], names: Any) -> None:
    """The row of each cell has all three, that of a nucleus without a cell its own, others none."""
    nuclei, cells = planes
    for row in table.to_dict("records"):
        inner, outer = nuclei == row["id"], cells == row["id"]
        is_shown = row["target"] == "cells" or not outer.any()
        wanted = {
            "nucleus": inner & is_shown,
            "cytoplasm": outer & ~inner & (row["target"] == "cells") & inner.any(),
            "cell": outer & (row["target"] == "cells"),
        }
        for part, mask in wanted.items():
            for channel, name in zip(image, names, strict=True):
                columns = [f"{part}_{each}_{name}" for each in ("mean", "sd", "p05", "p25", "p50", "p75", "p95")]
                expected = statistics(channel[mask]) if mask.any() else np.full(7, np.nan)
                np.testing.assert_allclose([row[column] for column in columns], expected, rtol=1e-6)


def test_compartments_are_measured_and_come_back(cells: Result, tmp_path: Path) -> None:
    assert_compartments(cells.table, cells.labels, pixels_of(cells), cells.channel_names)
    parts = [name.split("_")[0] for name in cells.table if name.startswith(("nucleus", "cytoplasm", "cell_"))]
    assert parts == ["nucleus"] * 14 + ["cytoplasm"] * 14 + ["cell"] * 14
    assert list(cells.table)[-42].startswith("nucleus"), "old columns keep their places"
    (path, _) = cells.save(tmp_path, ["objects"])
    from cytoseed.results import open_result

    with open_result(path) as stored:
        pd.testing.assert_frame_equal(stored.table, cells.table, check_exact=True)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint16]]:
    """An OME-TIFF of six markers, 0.5 µm/px: bright discs in the first, noise that differs from disc to disc in all."""
    rng = np.random.default_rng(5)
    rows, columns = np.ogrid[:300, :280]
    image = rng.integers(5, 60, (6, 300, 280))
    for y, x in [(128, 60), (130, 132), (250, 128), *rng.uniform(0, (300, 280), (30, 2))]:
        near = (rows - y) ** 2 + (columns - x) ** 2
        image[:, near < 14**2] += rng.integers(0, 90, (6, 1))
        image[0][near < rng.uniform(4, 9) ** 2] = 220
    pixels = image.clip(0, 255).astype(np.uint16) * 100
    path = tmp_path_factory.mktemp("six") / "six.ome.tif"
    described = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": list(MARKERS)}}
    tifffile.imwrite(path, pixels, metadata=described, tile=(128, 128))
    return path, pixels


@pytest.fixture(scope="module")
def pair(six: tuple[Path, NDArray[np.uint16]]) -> tuple[Result, Result]:
    """Nuclei with cells grown from them, in one pass and in tiles."""
    settings: Any = {"channels": ["DAPI"], "expand_um": 3}
    return segment(six[0], GREY, **settings), segment(six[0], GREY, **settings, tile_size_px=128, skip_background=False)


def test_tiles_measure_compartments_as_one_pass_does(
    six: tuple[Path, NDArray[np.uint16]], pair: tuple[Result, Result]
) -> None:
    whole, tiles = pair
    assert_compartments(whole.table, whole.labels, six[1], MARKERS)
    assert tiles.count == whole.count > 20
    number = np.zeros(tiles.count + 1, np.int64)
    number[tiles.labels[1]] = whole.labels[1]
    once, parts = (each.table.drop(columns="touches_tile_edge") for each in pair)
    once = once.set_index(["target", "id"]).loc[list(zip(parts["target"], number[parts["id"]], strict=True))]
    pd.testing.assert_frame_equal(parts.drop(columns=["target", "id"]), once.reset_index(drop=True), check_exact=True)


def test_every_format_has_compartments(pair: tuple[Result, Result], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anndata
        import spatialdata
        import squidpy
    result = pair[1]
    result.save(tmp_path, ["anndata", "spatialdata", "geojson", "parquet"])
    rows = pd.read_parquet(tmp_path / "six.parquet").query("target == 'cells'").set_index("id")
    store = spatialdata.read_zarr(tmp_path / "six.spatialdata.zarr")
    for cells in (anndata.read_h5ad(tmp_path / "six.h5ad"), store["table"]):
        assert tuple(cells.var_names) == MARKERS
        of_marker = cells[:, "CD8"]
        own = rows.loc[cells.obs["cell_id"]]
        for values, part in (
            (of_marker.X, "cell"),
            *((of_marker.layers[name], name) for name in ("nucleus", "cytoplasm")),
        ):
            np.testing.assert_array_equal(values[:, 0], own[f"{part}_mean_CD8"].to_numpy(np.float32))
        np.testing.assert_array_equal(of_marker.layers["cytoplasm_p95"][:, 0], own["cytoplasm_p95_CD8"].astype("f4"))
        squidpy.gr.spatial_neighbors(cells, coord_type="generic", delaunay=True)
        assert cells.obsp["spatial_connectivities"].nnz >= 5 * len(own)
    assert "nucleus" not in store["nuclei_table"].layers, "of nuclei alone"
    features = json.loads((tmp_path / "six.geojson").read_text())["features"]
    for feature in features:
        numbers = feature["properties"]["measurements"]
        own = rows.loc[numbers["label"]]
        for part in ("Nucleus", "Cytoplasm", "Cell"):
            assert numbers[f"{part}: CD3 mean"] == own[f"{part.lower()}_mean_CD3"]
            assert numbers[f"{part}: CD3 std dev"] == own[f"{part.lower()}_sd_CD3"]
        assert numbers["Cell: area_um2"] == own["area_um2"]
