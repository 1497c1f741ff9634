"""`rdf.yaml`, the description of a model as bioimage.io defines it and QuPath's reader expects it.

QuPath's reader (Java) is stricter than the definition: sizes and offsets must be explicit. It reads YAML 1.1, as PyYAML
writes it: texts that could be numbers are quoted, and numbers with an exponent have a decimal point.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from cytoseed.settings import ModelConfig

FORMAT_VERSION = "0.5.4"  # the lowest with all fields used here, so that older readers can read it too
RDF_FILE = "rdf.yaml"
PERCENTILES = (0.1, 99.9)
EPS = 1e-6
CLIP = (-0.5, 1.5)

_ALLOWED = {
    "name": (r"[A-Za-z0-9_+\- ()]{5,128}", "5 to 128 letters (without accents), digits, spaces, brackets or _ - +"),
    "version": (r"[0-9]+(\.[0-9]+){0,2}([.+-]?[A-Za-z0-9]+)*", "a version such as 0.1.0"),
    "licence": (r"[A-Za-z0-9.+-]+", "an SPDX identifier such as Apache-2.0 or CC-BY-4.0"),
}
_PAPER = (
    "Goldsborough, T. et al. (2024) InstanSeg: an embedding-based instance segmentation algorithm optimized for "
    "accurate, efficient and portable cell segmentation. arXiv."
)
_TOLERANCE = {  # rounding may move single pixels at the edges of objects
    "relative_tolerance": 0.0,
    "absolute_tolerance": 0.0,
    "mismatched_elements_per_million": 1000,
}


def package_name(config: ModelConfig) -> str:
    """Name of a model's package, `NAME-VERSION`; `ValueError` for a name, version or licence outside `_ALLOWED`."""
    for setting, (pattern, allowed) in _ALLOWED.items():
        value = getattr(config, setting)
        if not re.fullmatch(pattern, value):
            raise ValueError(
                f"model {config.name!r} cannot be described for bioimage.io: its {setting} is {value!r}; it must be "
                f"{allowed}: change it in the model's config.json"
            )
    return f"{config.name}-{config.version}"


def file_entry(files: Mapping[str, bytes], name: str) -> dict[str, str]:
    """Entry in `rdf.yaml` for one of a package's files: its name and checksum."""
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def rdf_yaml(config: ModelConfig, weights: Mapping[str, Any], files: Mapping[str, bytes], any_channels: bool) -> str:
    """Text of `rdf.yaml`, from the entries of weights by format and the contents of files by name.

    `any_channels` declares any number of channels, as QuPath needs it for a model that takes one or several.
    """
    sizes = {"min": 32, "step": 1}
    content = {
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "version": config.version,
        "description": summary(config)[:512],
        "license": config.licence,
        "authors": [{"name": "cytoseed"}],
        "cite": [{"text": _PAPER, "doi": "10.48550/arXiv.2408.15954"}],
        "tags": ["cytoseed", "instance-segmentation", "2d", "microscopy", "pytorch", *config.targets],
        "documentation": readme_file(config),
        "covers": ["cover.png"],
        "inputs": [
            {
                "id": "image",
                "description": "Raw pixels, at the model's pixel size.",
                "axes": [
                    {"type": "batch", "size": 1},
                    _channels(config, any_channels),
                    *(_space(name, config, sizes) for name in "yx"),
                ],
                "data": {"type": "float32"},
                "preprocessing": _normalisation(),
                **_tensors("input", files),
            }
        ],
        "outputs": [
            {
                "id": "instance_segmentation",
                "description": "0 is background, each object has a number of its own from 1.",
                "axes": [
                    {"type": "batch", "size": 1},
                    {"type": "channel", "channel_names": list(config.targets)},
                    *(_space(name, config, {"tensor_id": "image", "axis_id": name, "offset": 0}) for name in "yx"),
                ],
                "data": {"type": "float32"},
                **_tensors("output", files),
            }
        ],
        "weights": weights,
        "config": {"bioimageio": {"reproducibility_tolerance": [_TOLERANCE]}},
    }
    plain = json.loads(json.dumps(content))  # no part occurs twice, so that there are no anchors
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def readme_file(config: ModelConfig) -> str:
    """Name of a package's README, where QuPath looks for it."""
    return f"{config.name}_README.md"


def summary(config: ModelConfig) -> str:
    """Description of a model, by default a sentence with its targets."""
    return config.description or f"Finds {' and '.join(config.targets)} in microscopy images."


def _channels(config: ModelConfig, any_channels: bool) -> dict[str, Any]:
    if config.fixed_channels == 0 or (any_channels and config.fixed_channels > 1):
        size = {"min": 1, "step": 1}
        count = f"{config.fixed_channels} channels, or one" if config.fixed_channels else "any number of channels"
        return {"type": "index", "id": "index", "description": count, "size": size}
    names = {1: ["grey"], 3: ["red", "green", "blue"]}
    numbered = [f"channel_{number}" for number in range(1, config.fixed_channels + 1)]
    return {"type": "channel", "id": "channel", "channel_names": names.get(config.fixed_channels, numbered)}


def _space(name: str, config: ModelConfig, size: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "space", "id": name, "unit": "micrometer", "scale": float(config.pixel_size_um), "size": size}


def _normalisation() -> list[dict[str, Any]]:
    """Steps of `core.prepare.normalise`, except that readers interpolate percentiles."""
    low, high = PERCENTILES
    scale = {"axes": ["y", "x"], "min_percentile": low, "max_percentile": high, "eps": EPS}
    return [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "scale_range", "kwargs": scale},
        {"id": "clip", "kwargs": {"min": CLIP[0], "max": CLIP[1]}},
    ]


def _tensors(which: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    test, sample = file_entry(files, f"test_{which}.npy"), file_entry(files, f"sample_{which}.tif")
    return {"test_tensor": test, "sample_tensor": sample}
