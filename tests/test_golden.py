"""A model that was shipped finds tomorrow what it found: to the pixel here, and nearly so on other machines."""

import json

import imagecodecs
import numpy as np
import pytest

from cytoseed.learn.metrics import score
from cytoseed.models.weights import list_models, load_model
from golden import ROOT, SETTINGS, VERSION, find_objects, folder_of, here

VERSIONS = sorted(path.parent.name for path in (ROOT / "tests" / "kept").glob("*/golden"))
BUNDLED = {config.name: config.sha256 for config in list_models()}
FACTS = {version: json.loads((folder_of(version) / "golden.json").read_text(encoding="utf-8")) for version in VERSIONS}
CASES = [
    (version, model, image)
    for version in VERSIONS
    for model, sha256 in FACTS[version]["sha256"].items()
    if BUNDLED.get(model) == sha256  # later versions may have other weights, with golden objects of their own
    for image in SETTINGS
]


def check(version, model, image, **settings):
    folder = folder_of(version)
    kept = imagecodecs.png_decode((folder / f"{image}.{model}.png").read_bytes()).astype(np.int32)
    found = find_objects(folder, image, load_model(model), **settings)
    assert kept.max() > 0
    if FACTS[version]["made_with"] == here():
        np.testing.assert_array_equal(found, kept)
    else:
        same = score(found, kept).metrics
        assert same["f1"] >= 0.95
        assert same["sq"] >= 0.98  # mean IoU of pairs


@pytest.mark.parametrize(("version", "model", "image"), CASES)
def test_golden_objects(version, model, image):
    check(version, model, image)


@pytest.mark.parametrize("change", [{"mask_threshold": 0.5}, {"seed_threshold": 0.8}])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_another_threshold_is_noticed(change, elsewhere, monkeypatch):
    if elsewhere:
        monkeypatch.setitem(FACTS[VERSION], "made_with", {})
    with pytest.raises(AssertionError):
        check(VERSION, "nuclei", "tissue", **change)


def test_every_bundled_model_has_golden_objects():
    assert FACTS[VERSION]["sha256"] == BUNDLED, "weights changed: `make golden` (of a released version, raise it first)"
