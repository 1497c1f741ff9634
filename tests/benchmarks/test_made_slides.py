"""Made slides: pixels and truth are at the same places, a seed decides every byte."""

import importlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
maker, plans = importlib.import_module("make_slide"), importlib.import_module("slide_plan")
FIELDS = {"kumar_train16": (96, 96), "bbbc039": (80, 112), "bitdepth_nucseg": (96, 96), "dsb2018": (72, 80)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two fields per data set: discs of one size and one brightness on a dark background."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = ["dataset,stem,split,modality"]
    for dataset, shape in FIELDS.items():
        modality = "brightfield" if dataset.startswith("kumar") else "fluorescence"
        for index in range(2):
            mask = np.zeros(shape, np.uint16)
            for number, (row, column) in enumerate(np.ndindex(shape[0] // 18, shape[1] // 18), start=1):
                shift = rng.integers(7, 11, 2)
                cv2.circle(mask, (18 * column + int(shift[0]), 18 * row + int(shift[1])), 6, number, -1)
            image = np.where(mask > 0, 200, 20).astype(np.uint8)
            pixels = np.dstack([image] * 3) if modality == "brightfield" else image
            for kind, values in (("images", pixels), ("masks", mask)):
                (folder / dataset / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / dataset / kind / f"{index}.png"), values)
            rows.append(f"{dataset},{index},val,{modality}")
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder


def make(data, path, kind="fluorescence", side=320, seed=0, share=0.5):
    fields = maker.read_fields(maker.KINDS[kind], data)
    plan = maker.make_plan(kind, side, seed, share, fields, data)
    return plan, maker.make_slide(path, plan, fields)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(side=st.integers(4, 30).map(lambda n: 16 * n), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_pixels_and_truth_agree(data, tmp_path, side, seed, share):
    plan, json_path = make(data, tmp_path / "a.ome.tif", side=side, seed=seed, share=share)
    labels = plans.truth(json_path, (0, 0, side, side), data)
    pixels = tifffile.imread(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(pixels > 6000, labels != 0)
    assert plans.read_plan(json_path) == plan
    top, left = side // 3, side // 2
    region = plans.truth(json_path, (top, left, 9, 7), data)
    np.testing.assert_array_equal(region, labels[top : top + 9, left : left + 7])
    with pytest.raises(ValueError, match=f"{side} x {side}"):
        plans.truth(json_path, (side - 20, 0, 21, 5), data)
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    assert len(ids) == sum(place.objects for place in plan.places)
    assert len(set(areas.tolist())) <= 1  # whole discs; those that the edge of the tissue cuts are -1
    inside = plans.tissue(plan, (0, 0, side, side))
    assert not labels[~inside].any()
    assert plan.tissue_px == inside.sum()


def test_shares_of_tissue(data):
    fields = maker.read_fields(maker.KINDS["he"], data)
    for share in (0, 1):
        assert maker.make_plan("he", 320, 0, share, fields, data).tissue_px == share * 320**2
    for side, share in ((321, 0.5), (0, 0.5), (320, 1.1), (320, -0.1)):
        with pytest.raises(ValueError, match="must"):
            maker.make_plan("he", side, 0, share, fields, data)


@pytest.mark.parametrize("kind", ["he", "fluorescence"])
def test_a_seed_decides_every_byte(data, tmp_path, kind):
    files = []
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(data, tmp_path / folder / "s.ome.tif", kind, seed=seed)
        files.append(sorted((path.name, path.read_bytes()) for path in (tmp_path / folder).iterdir()))
    assert [name for name, _ in files[0]] == ["s.ome.tif", "s.truth.json"]
    assert files[0] == files[1] != files[2]


def test_openslide_reads_slides(data, tmp_path):
    import openslide

    plan, json_path = make(data, tmp_path / "a.svs", "he", side=1040)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.detect_format(tmp_path / "a.svs") == "aperio"
        assert slide.level_dimensions == ((1040, 1040), (260, 260), (65, 65))
        assert slide.properties["openslide.mpp-x"] == slide.properties["openslide.mpp-y"] == "0.25"
        assert "thumbnail" in slide.associated_images
        pixels = np.asarray(slide.read_region((0, 0), 0, (1040, 1040)).convert("L"))[:960, :960]
    labels = plans.truth(json_path, (0, 0, 960, 960), data)  # fields of 96 px fill as much
    inside = plans.tissue(plan, (0, 0, 960, 960))
    assert ((pixels > 110)[inside] == (labels != 0)[inside]).mean() > 0.98  # JPEG blurs edges
    assert pixels[~inside].mean() > 235
