"""Golden objects: small images, and the objects that each bundled model finds in them (`make golden` writes them anew).

They are kept for every version, in `tests/kept/VERSION/golden`; those of a version that was released never change.
"""

import json
import platform
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from skimage.data import immunohistochemistry

import cytoseed
from cytoseed.models.weights import list_models, load_model

ROOT = Path(__file__).parents[1]
VERSION = cytoseed.__version__.rsplit(".", 1)[0]
SETTINGS = {"grey": {"pixel_size_um": 0.5}, "stained": {"pixel_size_um": 0.3}, "tissue": {}}  # by image
_SIDE_PX = 160


def here():
    """What rounding depends on."""
    machine = (platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability())
    return {"torch": torch.__version__, "machine": " ".join(machine)}


def find_objects(folder, image, model, **settings):
    """Labels (H,W) of an image of a golden folder; of two targets, one below the other."""
    pixels = imagecodecs.png_decode((folder / f"{image}.png").read_bytes())
    labels = cytoseed.segment(pixels, model, device="cpu", **{**SETTINGS[image], **settings}).labels
    return labels.reshape(-1, labels.shape[-1])


def folder_of(version):
    return ROOT / "tests" / "kept" / version / "golden"


def _draw_ellipses(rng):
    """How much of each pixel is in nuclei, (H,W) from 0 to 1: ellipses, some of which touch."""
    y, x = np.mgrid[:_SIDE_PX, :_SIDE_PX].astype(np.float32)
    inside = np.zeros((_SIDE_PX, _SIDE_PX))
    for top in range(14, _SIDE_PX, 22):
        for left in range(14, _SIDE_PX, 22):
            dy, dx, turn = y - top - rng.uniform(-3, 3), x - left - rng.uniform(-3, 3), rng.uniform(0, np.pi)
            u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
            radius = np.hypot(u / rng.uniform(8, 11), v / rng.uniform(6, 8))
            inside = np.maximum(inside, rng.uniform(0.4, 1) / (1 + np.exp(12 * (radius - 1))))
    return inside


def _images():
    rng = np.random.default_rng(0)
    inside = _draw_ellipses(rng)
    yield "grey", (12 + 160 * inside + rng.normal(0, 4, inside.shape)).clip(0, 255).astype(np.uint8)
    paper, ink = np.array([232, 190, 214]), np.array([150, 110, 40])
    noise = rng.normal(0, 6, (*inside.shape, 3))
    yield "stained", (paper - ink * _draw_ellipses(rng)[..., None] + noise).clip(0, 255).astype(np.uint8)
    yield "tissue", immunohistochemistry()[288:, 288:]


def main():
    """Write the golden objects of this version, unless it was released."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"## {VERSION}.0 (unreleased)" not in changes:
        sys.exit(f"{VERSION} was released: its golden objects never change; raise the version, or restore the weights")
    folder = folder_of(VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    for name, pixels in _images():
        (folder / f"{name}.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=9))
    weights = {}
    for config in list_models():
        weights[config.name] = config.sha256
        for image in SETTINGS:
            labels = find_objects(folder, image, load_model(config.name)).astype(np.uint16)
            (folder / f"{image}.{config.name}.png").write_bytes(imagecodecs.png_encode(labels, level=9))
            print(f"{config.name} finds {labels.max()} in {image}")
    facts = {"made_with": here(), "sha256": weights}
    (folder / "golden.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
