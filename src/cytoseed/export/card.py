"""README of an exported model: what it finds, accuracy, training data, licence, and how to use it in QuPath."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cytoseed.export.rdf import summary
from cytoseed.settings import DatasetNote, ModelConfig, is_non_commercial

_UNKNOWN = "Not stated."
_SAMPLE = (
    "`test_input.npy`, `sample_input.tif` and the cover show part of an example image of scikit-image, "
    "`skimage.data.immunohistochemistry` (Center for Microscopy and Molecular Imaging; no known copyright "
    "restrictions): its haematoxylin stain alone, not rescaled, because its pixel size is unknown. `test_output.npy` "
    "and `sample_output.tif` hold the objects that the model finds in it."
)
_INSTALLATION = (
    "1. In QuPath 0.6 or later, install the extensions *Deep Java Library* and *InstanSeg*, and download PyTorch in\n"
    "   *Extensions > Deep Java Library > Manage DJL engines*.\n"
    "2. Open *Extensions > InstanSeg* and choose a model directory. Put this folder, `{folder}`, into its\n"
    "   subfolder `local`; if you have the zip, unpack it there.\n"
    "3. Choose the model, select an annotation, and run. {channels}\n"
)
_MEANING = (
    "f1: harmonic mean of precision and recall, where objects are matched at an overlap (IoU) of 0.5. f1_mean: mean of "
    "f1 over IoU 0.5 to 0.9. aji: aggregated Jaccard index. 1 is best.\n\n"
)
_VALIDATION = (
    "The figures above are for images like the training images; on other images the model may do worse. Before you "
    "rely on it, outline the objects in a few fields of your own, difficult ones included, and compare: how many of "
    "them does the model find, and how many of its objects are real? With cytoseed:\n\n"
    "```\n"
    "cytoseed segment images --output found --model {name} --format labels\n"
    "cytoseed evaluate found masks\n"
    "```"
)


def model_card(config: ModelConfig, folder: str) -> str:
    """README in Markdown for a model whose package is called `folder`."""
    parts = [
        f"# {config.name} {config.version}",
        summary(config),
        _facts(config),
        "## Licence",
        _licence(config),
        "## In QuPath",
        _INSTALLATION.format(folder=folder, channels=_channels(config)),
        "## Accuracy",
        _MEANING + "\n".join(_figures(config.figures)) if config.figures else _UNKNOWN,
        "## Validation",
        _VALIDATION.format(name=config.name),
        "## How it was trained",
        "\n".join(_training(config)) or _UNKNOWN,
        "## Sample image",
        _SAMPLE,
        "## Method",
        "InstanSeg: Goldsborough et al. 2024, https://doi.org/10.48550/arXiv.2408.15954; cytoseed is an independent "
        "implementation of it.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _facts(config: ModelConfig) -> str:
    counts = {"any": "any number of channels", 1: "one channel"}
    image = counts.get(config.channels, f"{config.channels} channels, or one, which is copied to all")
    return (
        f"- Finds: {' and '.join(config.targets)}\n"
        f"- Pixel size: {config.pixel_size_um:g} µm; QuPath rescales images whose pixel size is known\n"
        f"- Image: {image}\n"
        f"- Weights: {config.network} network, SHA-256 {config.sha256 or 'not stored'}"
    )


def _channels(config: ModelConfig) -> str:
    if config.channels == 1:
        return "Tick one input channel: that of the nuclear stain."
    if config.channels == "any":
        return "Tick the nuclear stain and the markers of membrane and cytoplasm, in any order."
    which = "red, green and blue" if config.channels == 3 else "those of the training images, in their order"
    return (
        f"Tick {config.channels} input channels ({which}),\n   or a single one if the model was trained on such images "
        f"too. With any other number of channels every tile fails."
    )


def _licence(config: ModelConfig) -> str:
    lines = [f"Weights: {config.licence}."]
    if any(is_non_commercial(licence) for licence in (config.licence, *(note.licence for note in config.trained_on))):
        lines.append("**Not for commercial use**: the licence of the weights, or of the training images, forbids it.")
    if config.trained_on:
        lines.append("Trained on images of:\n")
        lines += [f"- {_source(note)}" for note in config.trained_on]
    return "\n".join(lines)


def _source(note: DatasetNote) -> str:
    """Origin of training images, as a line of a list: QuPath shows no tables."""
    count = f"{note.images} images, " if note.images else ""
    return f"{note.name}: {count}{note.licence}{f' ({note.source})' if note.source else ''}"


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a list: figures per data set, and per kind of image in it."""
    for name, found in figures.items():
        if isinstance(found, Mapping):
            plain = {key: value for key, value in found.items() if not isinstance(value, Mapping)}
            kinds = {f"{name}, {kind}": own for kind, own in found.items() if isinstance(own, Mapping)}
            yield from _figures({**({name: _listed(plain)} if plain else {}), **kinds})
        else:
            yield f"- {name}: {_short(found)}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items())


def _training(config: ModelConfig) -> Iterator[str]:
    """Lines of a list: training stages, machine and data of the recipe."""
    wanted = ("steps", "batch_size", "crop_px", "learning_rate", "scale_range", "augment", "optimizer")
    for number, stage in enumerate(config.stages, 1):
        if isinstance(stage, Mapping):
            yield f"{number}. {_listed({key: stage[key] for key in wanted if key in stage})}"
    for key in ("machine", "data"):
        if key in config.recipe:
            yield f"\n{key.capitalize()}: {config.recipe[key]}."


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(_short(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
