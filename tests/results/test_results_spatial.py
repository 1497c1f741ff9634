"""AnnData and SpatialData: what scanpy, squidpy and spatialdata read is what was found."""

from __future__ import annotations

import json
import shutil
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pieced import Nothing, Pieced, changed, files_of
from test_results_blocks import scattered

from cytoseed.results import Result
from cytoseed.results.formats import spatialdata as store
from cytoseed.results.formats.anndata import write_anndata
from cytoseed.results.formats.spatialdata import write_spatialdata


@pytest.fixture(scope="module")
def tools() -> types.SimpleNamespace:
    """The packages that read the files; imported once, and late, as it takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anndata
        import spatialdata
        import squidpy
    return types.SimpleNamespace(ad=anndata, sd=spatialdata, sq=squidpy)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ROWS", 12)


def read_h5ad(result: Result, folder: Path, tools: Any) -> Any:
    path = folder / "a.h5ad"
    path.unlink(missing_ok=True)
    write_anndata(result, path)
    return tools.ad.read_h5ad(path)


def read_store(result: Result, folder: Path, tools: Any) -> Any:
    path = folder / "a.spatialdata.zarr"
    shutil.rmtree(path, ignore_errors=True)
    write_spatialdata(result, path)
    return tools.sd.read_zarr(path)


# AnnData


def test_measurements_lie_where_anndata_has_them(nuclei: Result, tmp_path: Path, tools: Any) -> None:
    adata, table = read_h5ad(nuclei, tmp_path, tools), nuclei.table
    channels, stains = ["red", "green", "blue"], [f"od_{stain}" for stain in nuclei.stains]
    assert list(adata.var_names) == channels + stains
    assert adata.var["kind"].tolist() == ["channel"] * 3 + ["stain"] * len(stains)
    assert adata.X.dtype == np.float32
    for name, matrix in {"mean": adata.X, **adata.layers}.items():
        expected = table[[f"{name}_{feature}" for feature in adata.var_names]].to_numpy(np.float32)
        np.testing.assert_array_equal(matrix, expected)
    assert set(adata.layers) == {"sd", "p05", "p25", "p50", "p75", "p95"}
    assert list(adata.obs_names) == ["tissue_1", "tissue_2", "tissue_3", "tissue_4"]
    assert adata.obs["cell_id"].tolist() == [1, 2, 3, 4]
    assert adata.obs["slide"].tolist() == ["tissue"] * 4
    np.testing.assert_array_equal(adata.obs["area"], table["area_px"])
    measured = [name for name in table if name != "id" and name.split("_")[0] not in ("mean", *adata.layers)]
    assert list(adata.obs) == ["cell_id", "region", "slide", "area", *measured]
    for name in measured:
        np.testing.assert_array_equal(adata.obs[name], table[name])
    assert adata.obs["touches_image_edge"].dtype == bool, "so that ~ turns it round"
    np.testing.assert_array_equal(adata.obsm["spatial"], table[["centroid_x_px", "centroid_y_px"]])
    np.testing.assert_array_equal(adata.obsm["spatial_um"], adata.obsm["spatial"] / 4)
    made = adata.uns["cytoseed"]
    assert (made["source"], made["model"], made["pixel_size_um"]) == ("tissue", "nuclei 0.1.0", 0.25)
    assert json.loads(made["settings"])["seed_threshold"] == 0.5
    assert json.loads(made["input"]) == nuclei.input
    keys = {"region": "nuclei_boundaries", "region_key": "region", "instance_key": "cell_id"}
    assert adata.uns["spatialdata_attrs"] == keys
    assert adata.uns["sopa_attrs"] == {"transcripts": False, "intensities": True}
    assert adata.obs["region"].cat.categories.tolist() == ["nuclei_boundaries"]


def test_a_cell_is_a_row_with_its_nucleus(cells: Result, tmp_path: Path, tools: Any) -> None:
    adata = read_h5ad(cells, tmp_path, tools)
    obs, table = adata.obs.set_index("cell_id"), cells.table.set_index(["target", "id"])
    assert obs.index.tolist() == [1, 2, 4, 5]
    assert obs["region"].tolist() == ["cells_boundaries"] * 3 + ["nuclei_boundaries"]
    assert list(adata.uns["spatialdata_attrs"]["region"]) == ["cells_boundaries", "nuclei_boundaries"]
    assert obs["area_px"].tolist() == [64, 64, 12, 9]
    np.testing.assert_array_equal(obs["nuclei_area_px"], [9, 12, np.nan, 9])
    np.testing.assert_array_equal(adata.obsm["spatial"][0], [5, 5])
    assert "spatial_um" not in adata.obsm
    assert "pixel_size_um" not in adata.uns["cytoseed"]
    inner = [table.loc[("nuclei", label), "p50_CD3"] if label != 4 else np.nan for label in obs.index]
    outer = [table.loc[("nuclei" if label == 5 else "cells", label), "p50_CD3"] for label in obs.index]
    np.testing.assert_array_equal(adata[:, "CD3"].layers["nucleus_p50"][:, 0], np.float32(inner))
    np.testing.assert_array_equal(adata[:, "CD3"].layers["p50"][:, 0], np.float32(outer))


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.usefixtures("small_batches")
def test_rows_come_in_batches_whatever_the_blocks(targets: int, tmp_path: Path, tools: Any) -> None:
    whole = changed(scattered(80, 130, targets), pixel_size_um=0.5)
    assert len(whole) == 26, "three batches"
    for count, result in enumerate((whole, Pieced(whole, 7))):
        for write in (write_anndata, write_spatialdata):
            write(result, tmp_path / f"{write.__name__}{count}")
    for write in (write_anndata, write_spatialdata):
        assert files_of(tmp_path / f"{write.__name__}1") == files_of(tmp_path / f"{write.__name__}0")
    adata, table = tools.ad.read_h5ad(tmp_path / "write_anndata0"), whole.table
    outer = table if targets == 1 else table[table["target"] == "cells"]
    np.testing.assert_array_equal(adata.obs["cell_id"], np.arange(1, 27))
    np.testing.assert_array_equal(adata.obs["perimeter_um"], outer["perimeter_um"])
    np.testing.assert_array_equal(adata.X[:, 1], outer["mean_channel 1"].to_numpy(np.float32))
    assert adata.obs_names[-1] == "tissue_26"
    sdata = tools.sd.read_zarr(tmp_path / "write_spatialdata0")
    outlines = sdata[("nuclei_boundaries", "cells_boundaries")[targets - 1]]
    np.testing.assert_array_equal(outlines.index, np.arange(1, 27))
    np.testing.assert_array_equal(outlines.area, outer["area_px"])


def test_a_source_that_is_not_utf8(nuclei: Result, tmp_path: Path, tools: Any) -> None:
    result = changed(nuclei, source=b"gewebe\xfc.tif".decode("utf-8", "surrogateescape"))
    assert read_h5ad(result, tmp_path, tools).obs_names[0] == "gewebe\\udcfc_1"
    assert read_store(result, tmp_path, tools)["table"].obs_names[0] == "gewebe\\udcfc_1"


# squidpy


def test_squidpy_finds_outlines_of_a_table(tmp_path: Path, tools: Any) -> None:
    sdata = read_store(scattered(60, 80, targets=2), tmp_path, tools)
    for name, target in {"table": "cells", "nuclei_table": "nuclei"}.items():
        table = sdata[name]
        places = table.obsm["spatial"].copy()
        regions = {f"{target}_boundaries": "global"}
        tools.sq.gr.spatial_neighbors(sdata, elements_to_coordinate_systems=regions, table_key=name)
        np.testing.assert_allclose(table.obsm["spatial"], places, err_msg="squidpy's own centroids are ours")
        assert table.obsp["spatial_connectivities"].nnz >= 6 * len(places)
        assert table.uns["spatial_neighbors"]["params"]["coord_type"] == "generic", "not the spots of a grid"


# SpatialData


def box_of(mask: NDArray[np.bool_]) -> Any:
    import shapely

    y, x = np.nonzero(mask)
    return shapely.union_all(shapely.box(x, y, x + 1, y + 1))


def test_labels_outlines_and_table_go_together(nuclei: Result, tmp_path: Path, tools: Any) -> None:
    sdata = read_store(nuclei, tmp_path, tools)
    assert sorted(name for _, name, _ in sdata.gen_elements()) == ["nuclei", "nuclei_boundaries", "table"]
    np.testing.assert_array_equal(sdata["nuclei"].values, nuclei.labels)
    outlines = sdata["nuclei_boundaries"]
    assert outlines.index.tolist() == [1, 2, 3, 4]
    assert outlines.is_valid.all()
    for label, shape in outlines.geometry.items():
        assert shape.equals(box_of(nuclei.labels == label))
    assert outlines.geom_type.tolist() == ["Polygon"] * 3 + ["MultiPolygon"]
    assert len(outlines.geometry[4].geoms[0].interiors) == 1
    _, table = tools.sd.match_element_to_table(sdata, "nuclei_boundaries", "table")
    assert table.obs["cell_id"].tolist() == tools.sd.get_element_instances(sdata["nuclei"]).tolist() == [1, 2, 3, 4]
    assert sdata.attrs == {"boundaries_shapes": "nuclei_boundaries"}
    assert table.uns["spatialdata_attrs"]["region"] == "nuclei_boundaries"
    assert set(sdata.coordinate_systems) == {"global", "um"}
    for element in (sdata["nuclei"], outlines):
        for system, key in {"global": "spatial", "um": "spatial_um"}.items():
            centroids = tools.sd.get_centroids(element, system).compute()[["x", "y"]]
            np.testing.assert_allclose(centroids, table.obsm[key])
    assert_spatialdata_itself_would_write_it(sdata, tmp_path)


def assert_spatialdata_itself_would_write_it(sdata: Any, folder: Path) -> None:
    """Compare the attributes of the store `a.spatialdata.zarr` with those that spatialdata writes."""
    del sdata.labels["nuclei"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(folder / "again.zarr")

    def attributes(store: str, name: str) -> Any:
        return json.loads((folder / store / name / "zarr.json").read_text())["attributes"]

    for name in ("shapes", "shapes/nuclei_boundaries", "tables", "tables/table", "tables/table/obs"):
        assert attributes("a.spatialdata.zarr", name) == attributes("again.zarr", name)
    ours, theirs = (attributes(store, ".") for store in ("a.spatialdata.zarr", "again.zarr"))
    del theirs["spatialdata_attrs"]["spatialdata_software_version"]
    assert ours == theirs


def test_a_store_of_two_targets(cells: Result, tmp_path: Path, tools: Any) -> None:
    sdata = read_store(cells, tmp_path, tools)
    for plane, (target, name, ids) in enumerate((("nuclei", "nuclei_table", [1, 2, 5]), ("cells", "table", [1, 2, 4]))):
        np.testing.assert_array_equal(sdata[target].values, cells.labels[plane])
        assert sdata[f"{target}_boundaries"].index.tolist() == ids
        table = sdata[name]
        assert table.obs["cell_id"].tolist() == ids
        assert table.obs["region"].cat.categories.tolist() == [f"{target}_boundaries"]
        own = cells.table[cells.table["target"] == target]
        np.testing.assert_array_equal(table.X[:, 0], own["mean_DAPI"].to_numpy(np.float32))
        assert not any(column.startswith("nuclei_") for column in (*table.obs, *table.layers))
    assert sdata.attrs["boundaries_shapes"] == "cells_boundaries"
    assert sdata.coordinate_systems == ["global"]


# Nothing


@pytest.mark.parametrize("targets", [("nuclei",), ("nuclei", "cells")])
def test_no_objects(targets: tuple[str, ...], tmp_path: Path, tools: Any) -> None:
    labels = np.zeros((2, 30, 40) if len(targets) == 2 else (30, 40), np.int32)
    whole = Result.from_labels(labels, np.zeros((3, 30, 40)), targets=targets)
    for result in (whole, Nothing((3, 30, 40), targets=targets)):
        adata = read_h5ad(result, tmp_path, tools)
        assert adata.shape == (0, 3)
        assert "area_px" in adata.obs
        assert "spatialdata_attrs" not in adata.uns
        sdata = read_store(result, tmp_path, tools)
        assert sorted(sdata.labels) == sorted(targets)
        assert not sdata[targets[0]].values.any()
        assert not sdata.shapes
        assert sdata["table"].shape == (0, 3)


def test_cells_without_nuclei(tmp_path: Path, tools: Any) -> None:
    labels = np.zeros((2, 20, 20), np.int32)
    labels[1, 3:9, 3:9] = 1
    result = Result.from_labels(labels, np.ones((1, 20, 20)), targets=("nuclei", "cells"))
    adata = read_h5ad(result, tmp_path, tools)
    assert np.isnan(adata.layers["nucleus"]).all()
    assert adata.X.tolist() == [[1]]
    sdata = read_store(result, tmp_path, tools)
    assert list(sdata.shapes) == ["cells_boundaries"]
    assert {name: len(table) for name, table in sdata.tables.items()} == {"table": 1, "nuclei_table": 0}
