"""Made slides: pixels and truth are at the same places, levels are means, a seed decides every byte."""

import importlib
import itertools
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
FIELDS = {
    "kumar_train16": ("brightfield", (96, 96)),
    "bbbc039": ("fluorescence", (80, 112)),
    "bitdepth_nucseg": ("fluorescence", (96, 96)),
    "dsb2018": ("fluorescence", (72, 80)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two fields per data set: discs of one size and one brightness on a dark background."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = ["dataset,stem,split,modality"]
    for dataset, (modality, shape) in FIELDS.items():
        for kind in ("images", "masks"):
            (folder / dataset / kind).mkdir(parents=True)
        for index in range(2):
            mask = np.zeros(shape, np.uint16)
            for number, (row, column) in enumerate(np.ndindex(shape[0] // 18, shape[1] // 18), start=1):
                centre = (18 * column + int(rng.integers(7, 11)), 18 * row + int(rng.integers(7, 11)))
                if rng.random() < 0.8:
                    cv2.circle(mask, centre, 6, number, -1)
            image = np.where(mask > 0, 200, 20).astype(np.uint8)
            pixels = np.dstack([image] * 3) if modality == "brightfield" else image
            cv2.imwrite(str(folder / dataset / "images" / f"{index}.png"), pixels)
            cv2.imwrite(str(folder / dataset / "masks" / f"{index}.png"), mask)
            rows.append(f"{dataset},{index},val,{modality}")
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def make(data):
    def made(path, kind="fluorescence", is_svs=True, **options):
        fields = maker.read_fields(maker.KINDS[kind], data)
        plan = maker.make_plan(kind, **{"side": 320, "seed": 0, "share": 0.5} | options, fields=fields, data=data)
        return plan, maker.make_slide(path, plan, fields, is_svs)

    return made


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(side=st.integers(4, 30).map(lambda n: 16 * n), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_pixels_and_truth_agree(make, data, tmp_path, side, seed, share):
    plan, json_path = make(tmp_path / "a.ome.tif", side=side, seed=seed, share=share)
    labels = plans.truth(json_path, (0, 0, side, side), data)
    pixels = tifffile.imread(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(pixels > 6000, labels != 0)
    assert plans.read_plan(json_path) == plan
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    assert len(ids) == sum(place.objects for place in plan.places)
    assert len(set(areas.tolist())) <= 1  # whole discs; those that the edge of the tissue cuts are -1
    inside = plans.tissue(plan, (0, 0, side, side))
    assert not labels[~inside].any()
    assert plan.tissue_px == inside.sum()


@pytest.mark.parametrize("share", [0, 1])
def test_extreme_shares_of_tissue(data, share):
    fields = maker.read_fields(maker.KINDS["he"], data)
    assert maker.make_plan("he", 320, 0, share, fields, data).tissue_px == share * 320**2


def test_truth_of_a_region(make, data, tmp_path):
    _, json_path = make(tmp_path / "a.ome.tif")
    whole = plans.truth(json_path, (0, 0, 320, 320), data)
    for top, left, height, width in ((0, 0, 1, 1), (37, 120, 100, 33), (200, 5, 120, 315)):
        part = plans.truth(json_path, (top, left, height, width), data)
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])
    for box_yxhw in ((-1, 0, 5, 5), (0, 0, 0, 5), (300, 0, 21, 5)):
        with pytest.raises(ValueError, match="320 x 320"):
            plans.truth(json_path, box_yxhw, data)


@pytest.mark.parametrize(("side", "share"), [(321, 0.5), (0, 0.5), (320, 1.1), (320, -0.1)])
def test_impossible_slides_are_refused(data, side, share):
    with pytest.raises(ValueError, match="must"):
        maker.make_plan("he", side, 0, share, maker.read_fields(maker.KINDS["he"], data), data)


@pytest.mark.parametrize("kind", ["he", "fluorescence"])
def test_a_seed_decides_every_byte(make, tmp_path, kind):
    files = []
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(tmp_path / folder / "s.ome.tif", kind, seed=seed)
        files.append(sorted((path.name, path.read_bytes()) for path in (tmp_path / folder).iterdir()))
    assert [name for name, _ in files[0]] == ["s.ome.tif", "s.truth.json"]
    assert files[0] == files[1] != files[2]


def test_levels_are_means(make, tmp_path):
    make(tmp_path / "a.ome.tif", side=1040)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        levels = [level.asarray() for level in tif.series[0].levels]
        assert tif.is_ome
    assert [level.shape for level in levels] == [(1040, 1040), (260, 260), (65, 65)]
    for larger, smaller in itertools.pairwise(levels):
        means = larger.reshape(len(smaller), 4, len(smaller), 4).mean(axis=(1, 3))
        assert np.abs(means - smaller).max() <= 0.5


@pytest.mark.parametrize(("is_svs", "vendor"), [(True, "aperio"), (False, "generic-tiff")])
def test_openslide_reads_sections(make, data, tmp_path, is_svs, vendor):
    import openslide

    plan, json_path = make(tmp_path / "a.svs", "he", side=1040, is_svs=is_svs)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.detect_format(tmp_path / "a.svs") == vendor
        assert slide.level_dimensions == ((1040, 1040), (260, 260), (65, 65))
        assert slide.properties["openslide.mpp-x"] == slide.properties["openslide.mpp-y"] == "0.25"
        assert ("thumbnail" in slide.associated_images) == is_svs
        pixels = np.asarray(slide.read_region((0, 0), 0, (1040, 1040)).convert("L"))[:960, :960]
    labels = plans.truth(json_path, (0, 0, 960, 960), data)  # fields of 96 px fill as much
    inside = plans.tissue(plan, (0, 0, 960, 960))
    assert ((pixels > 110)[inside] == (labels != 0)[inside]).mean() > 0.98  # JPEG blurs edges
    assert pixels[~inside].mean() > 235
