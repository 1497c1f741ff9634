"""What `rdf.yaml` says of a model: as bioimage.io defines it, and within that as QuPath's reader expects it.

QuPath's reader (Java) asks more than the definition: every size is written out, offsets too, texts are in quotes, and
numbers with an exponent have a point.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cytoseed.settings import ModelConfig, is_non_commercial

FORMAT_VERSION = "0.5.4"  # the lowest that knows all that is said, so that older readers can read it too
RDF_FILE = "rdf.yaml"
PERCENTILES = (0.1, 99.9)
EPS = 1e-6
CLIP = (-0.5, 1.5)

_NAME = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,2}([.+-]?[A-Za-z0-9]+)*")
_SPDX = re.compile(r"[A-Za-z0-9.+-]+")
_PAPER = (
    "Goldsborough, T. et al. (2024) InstanSeg: an embedding-based instance segmentation algorithm optimized for "
    "accurate, efficient and portable cell segmentation. arXiv."
)
_PAPER_DOI = "10.48550/arXiv.2408.15954"


def package_name(config: ModelConfig) -> str:
    """Give the name of a model's package, `<name>-<version>`.

    Raises
    ------
    ValueError
        A name, version or licence that bioimage.io does not know how to write.
    """
    wrong = f"model {config.name!r} cannot be described as bioimage.io does:"
    remedy = "change it in the model's config.json"
    if not _NAME.fullmatch(config.name):
        raise ValueError(
            f"{wrong} its name may hold 5 to 128 letters without accents, digits, spaces, brackets and any of _ - +; "
            f"{remedy}"
        )
    if not _VERSION.fullmatch(config.version):
        raise ValueError(f"{wrong} its version is {config.version!r}, not one such as 0.1.0; {remedy}")
    if not _SPDX.fullmatch(config.licence):
        raise ValueError(
            f"{wrong} its licence is {config.licence!r}, not an SPDX identifier such as Apache-2.0 or CC-BY-4.0; "
            f"{remedy}"
        )
    return f"{config.name}-{config.version}"


def describe(config: ModelConfig, weights: Mapping[str, Any], hashes: Mapping[str, str], any_channels: bool) -> str:
    """Write `rdf.yaml` of a package that holds `NAME_README.md`, `cover.png` and the tensors of `sample.Sample`.

    Parameters
    ----------
    config : ModelConfig
        The model's.
    weights : mapping
        Weights' entries by their format, as bioimage.io defines them.
    hashes : mapping
        SHA-256 of each file of the package, by its name.
    any_channels : bool
        Say that any number of channels is taken, as QuPath needs it of a model that takes one or several.

    Returns
    -------
    str
        YAML.
    """
    whole = " and ".join(config.targets)
    sizes = {"min": 32, "step": 1}
    content = {
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "version": config.version,
        "description": (config.description or f"Finds {whole} in microscopy images.")[:512],
        "license": config.licence,
        "authors": [{"name": "cytoseed"}],
        "cite": [{"text": _PAPER, "doi": _PAPER_DOI}],
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
                **_tensors("input", hashes),
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
                **_tensors("output", hashes),
            }
        ],
        "weights": weights,
        "config": {"bioimageio": {"reproducibility_tolerance": [_tolerance()]}},
    }
    return "\n".join(_lines(content, 0)) + "\n"


def readme_file(config: ModelConfig) -> str:
    """Give the name of the package's description for people, where QuPath looks for it."""
    return f"{config.name}_README.md"


def is_for_research(config: ModelConfig) -> bool:
    """Tell whether a licence, of the weights or of what they were trained on, allows no commercial use."""
    return any(is_non_commercial(licence) for licence in (config.licence, *(n.licence for n in config.trained_on)))


def _channels(config: ModelConfig, any_channels: bool) -> dict[str, Any]:
    if any_channels and config.channels > 1:
        size = {"min": 1, "step": 1}
        return {"type": "index", "id": "index", "description": f"{config.channels} channels, or one", "size": size}
    names = {1: ["grey"], 3: ["red", "green", "blue"]}
    numbered = [f"channel_{number}" for number in range(1, config.channels + 1)]
    return {"type": "channel", "id": "channel", "channel_names": names.get(config.channels, numbered)}


def _space(name: str, config: ModelConfig, size: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "space", "id": name, "unit": "micrometer", "scale": float(config.pixel_size_um), "size": size}


def _normalisation() -> list[dict[str, Any]]:
    """Say what `core.prepare.normalise` does, but that percentiles are interpolated."""
    low, high = PERCENTILES
    scale = {"axes": ["y", "x"], "min_percentile": low, "max_percentile": high, "eps": EPS}
    return [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "scale_range", "kwargs": scale},
        {"id": "clip", "kwargs": {"min": CLIP[0], "max": CLIP[1]}},
    ]


def _tensors(which: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    test, sample = f"test_{which}.npy", f"sample_{which}.tif"
    return {
        "test_tensor": {"source": test, "sha256": hashes[test]},
        "sample_tensor": {"source": sample, "sha256": hashes[sample]},
    }


def _tolerance() -> dict[str, Any]:
    """Say that rounding may move single pixels at the edge of objects; a label itself is right or wrong."""
    return {"relative_tolerance": 0.0, "absolute_tolerance": 0.0, "mismatched_elements_per_million": 1000}


def _lines(value: Any, depth: int) -> list[str]:
    """Write plain values as YAML, a key or an entry to a line."""
    indent = "  " * depth
    lines: list[str] = []
    entries = value.items() if isinstance(value, Mapping) else [(None, entry) for entry in value]
    for key, entry in entries:
        head = f"{indent}-" if key is None else f"{indent}{key}:"
        if not isinstance(entry, Mapping | list | tuple):
            lines.append(f"{head} {_scalar(entry)}")
        elif not entry:
            lines.append(f"{head} {'{}' if isinstance(entry, Mapping) else '[]'}")
        elif key is None:
            first, *rest = _lines(entry, depth + 1)
            lines += [f"{head} {first.lstrip()}", *rest]
        else:
            lines += [head, *_lines(entry, depth + 1)]
    return lines


def _scalar(value: str | float | bool | None) -> str:
    """Write one value; a text in quotes, so that no reader takes it for something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{"".join(_letter(letter) for letter in value)}"'
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
