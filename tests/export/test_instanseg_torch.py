"""The published package, instanseg-torch, loads our file and finds the objects that our Python finds.

It lives in an environment of its own (`benchmarks/peers/environments.sh`), in the folder that the environment variable
CYTOSEED_PEERS names, or else in `runs/peers`.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from packed import discs, small_model, wanted
from skimage import data

from cytoseed.core.prepare import normalise
from cytoseed.export.torchscript import to_torchscript
from cytoseed.learn.metrics import score
from cytoseed.models.weights import Model
from same import assert_same_objects

PEERS = Path(os.environ.get("CYTOSEED_PEERS") or Path(__file__).parents[2] / "runs" / "peers")
PYTHON = PEERS / "instanseg" / "venv" / "bin" / "python"
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(),
    reason=f"no instanseg-torch at {PYTHON}: run benchmarks/peers/environments.sh, or set CYTOSEED_PEERS to its folder",
)

TWO = discs(96, 128, (40, 40, 15, 1.0), (60, 90, 15, 1.0))[0].numpy()
"""Two discs in nothing, (1, 96, 128)."""

THEIR_SIDE = """
import sys
import numpy as np
from instanseg import InstanSeg

folder, model = sys.argv[1:]
given = np.load(f"{folder}/given.npz")
one = InstanSeg(model, device="cpu", image_reader="skimage.io", verbosity=0)
pair = InstanSeg("pair", device="cpu", image_reader="skimage.io", verbosity=0)
assert one.instanseg.pixel_size == 0.5 and not one.instanseg.cells_and_nuclei and pair.instanseg.cells_and_nuclei

def run(model, image, **options):
    return model.eval_small_image(image.copy(), return_image_tensor=False, **options).numpy()

seen, raw, discs = given["seen"], given["raw"], given["discs"]
np.savez(
    f"{folder}/found.npz",
    seen=run(one, seen, normalise=False),
    raw=run(one, raw, pixel_size=0.5),
    medium=one.eval_medium_image(raw.copy(), pixel_size=0.5, tile_size=256, return_image_tensor=False).numpy(),
    strict=run(one, seen, normalise=False, min_size=150, mask_threshold=0.7, seed_threshold=0.6),
    both=run(pair, discs, normalise=False),
    nuclei=run(pair, discs, normalise=False, target="nuclei"),
    cells=run(pair, discs, normalise=False, target="cells"),
    small=run(one, seen[:, :20, :31], normalise=False),
)
"""


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    """A real image, (3, 256, 288), 0 to 255."""
    section = data.immunohistochemistry()[:256, :288].astype(np.float32).mean(2)
    return np.repeat((255 - section)[None], 3, axis=0)


@pytest.fixture(scope="module")
def found(nuclei, raw, tmp_path_factory) -> dict[str, np.ndarray]:
    """Labels that the package finds."""
    folder = tmp_path_factory.mktemp("theirs")
    for model, name in ((nuclei, "nuclei-0.1.0"), (small_model(targets=("nuclei", "cells")), "pair")):
        (folder / name).mkdir()
        to_torchscript(model, folder / name / "instanseg.pt")
    np.savez(folder / "given.npz", seen=normalise(torch.from_numpy(raw)).numpy(), raw=raw, discs=TWO)
    environment = {**os.environ, "INSTANSEG_BIOIMAGEIO_PATH": str(folder), "OMP_NUM_THREADS": "1"}
    script = ["-W", "ignore", "-c", THEIR_SIDE, str(folder), "nuclei-0.1.0"]
    done = subprocess.run([PYTHON, *script], env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as arrays:
        return dict(arrays)


def ours(model: Model, raw: np.ndarray, **changed: float) -> np.ndarray:
    """Labels (T, H, W) that our Python finds."""
    return wanted(model, normalise(torch.from_numpy(raw))[None], **changed)[0].numpy()


def test_the_same_objects(nuclei, raw, found):
    own = ours(nuclei, raw)
    assert own.max() > 30
    assert found["seen"].dtype == np.float32
    assert_same_objects(found["seen"][0], own, iou=0.95)


def test_the_same_objects_with_options(nuclei, raw, found):
    logit = float(np.log(0.7 / 0.3))
    own = ours(nuclei, raw, min_size_px=150, mask_threshold=logit, seed_threshold=0.6)
    assert 5 < own.max() < found["seen"].max()
    assert_same_objects(found["strict"][0], own, iou=0.95)


@pytest.mark.parametrize(("way", "least"), [("raw", 0.95), ("medium", 0.9)])
def test_raw_pixels_that_the_package_normalises_and_tiles(nuclei, raw, found, way, least):
    """It interpolates percentiles, does not clip, and cuts some objects in two at the edges of tiles."""
    agreement = score(found[way].reshape(raw.shape[1:]).astype(np.int32), ours(nuclei, raw)[0])
    assert agreement.f1_at(0.5) > least


def test_an_image_smaller_than_the_package_can_segment_itself(nuclei, raw, found):
    own = wanted(nuclei, normalise(torch.from_numpy(raw))[None, :, :20, :31])[0]
    assert_same_objects(found["small"][0], own, iou=0.95)


def test_nuclei_and_cells(found):
    assert found["both"].shape == (1, 2, 96, 128)
    for labels in (found["both"][0, 0], found["both"][0, 1], found["nuclei"][0, 0], found["cells"][0, 0]):
        assert labels.max() == 2
        assert np.array_equal(labels > 0, TWO[0] > 0)
