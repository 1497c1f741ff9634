"""Every setting of cytoseed, with its default and its meaning, in one place and free of torch.

The command line's flags, the configuration saved beside a model's weights and the tests read these classes.
Thresholds have their defaults in `ModelConfig` alone; in `SegmentOptions` an option left `None` means the
model's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

NETWORKS = ("paper", "lite", "slim")
DEVICES = ("auto", "cpu", "cuda", "mps")
RUNTIMES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("float32", "bfloat16")
STAINS = ("haematoxylin", "eosin", "dab")
NOMINAL_DIAMETER_UM = 8.5
"""Median diameter of a nucleus that images of unknown pixel size are scaled by."""


def _known_keys_only(cls: type, values: Mapping[str, Any]) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}; its settings are: {', '.join(known)}")


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def _require_type(name: str, value: object, like: object) -> None:
    """Refuse a value of another type than a setting's default; whole numbers do where numbers are wanted."""
    if isinstance(like, tuple):
        numbers = isinstance(value, tuple) and all(type(part) in (int, float) for part in value)
        _require(numbers and len(value) == len(like), name, value, f"{len(like)} numbers")  # type: ignore[arg-type]
        return
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    fits = type(value) is type(like) or (type(like) is float and type(value) is int)
    _require(fits, name, value, kinds[type(like)])


@dataclass(frozen=True)
class DatasetNote:
    """One source of training images, as a model's configuration names it."""

    name: str
    """Short name of the data set."""
    licence: str
    """Licence of the images and masks."""
    source: str = ""
    """Where it was published."""
    images: int = 0
    """How many images of it the weights were trained on."""


def is_non_commercial(licence: str) -> bool:
    """Tell whether a licence, an SPDX identifier or a sentence, allows no commercial use."""
    words = licence.lower().replace("-", " ").replace("_", " ").replace(",", " ").split()
    return "nc" in words or "noncommercial" in words or ("non" in words and "commercial" in words)


@dataclass(frozen=True)
class ModelConfig:
    """What a model is: its architecture, its scale, its thresholds, and where its weights come from.

    Saved as `config.json` beside `model.safetensors`. Symbols are the paper's (arXiv 2408.15954).
    """

    name: str
    """Name of the model; also the name of its folder."""
    version: str = "0.1.0"
    """Version of the weights."""
    description: str = ""
    """One sentence for `cytoseed models`."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""

    network: str = "lite"
    """Backbone: `paper` (3.8 M parameters, the paper's section 2.4), or ours: `lite`, and the lighter `slim`."""
    channels: int = 3
    """Image channels C that the network takes; a grey image fills them all."""
    targets: tuple[str, ...] = ("nuclei",)
    """What the label channels show, in order: `nuclei`, or `nuclei` and `cells`."""
    positional_dims: int = 4
    """Dp, channels of the positional embedding P (2 or more: the first two are x and y)."""
    conditional_dims: int = 4
    """De, channels of the conditional embedding E (0 or more)."""
    classifier_widths: tuple[int, ...] = (5, 5)
    """Widths of the hidden layers of the pixel classifier phi."""
    grid_step: float = 0.25
    """Units of the coordinate grid O to a pixel."""
    offset_limit: float = 4.0
    """Largest offset, in units, that P may add to a coordinate."""
    pixel_size_um: float = 0.5
    """Pixel size, in µm, that images are rescaled to where their own is known."""

    peak_radius_px: int = 4
    """A seed is the maximum of the seed map within this many pixels, in rows and in columns."""
    seed_threshold: float = 0.5
    """Lowest value of the seed map S, 0 to 1, at which a maximum is a seed."""
    mask_threshold: float = 0.0
    """Lowest logit of phi at which a pixel belongs to a seed's object."""
    agreement_iou: float = 0.5
    """Two seeds whose maps agree with at least this IoU (0 to 1) are one object."""
    min_size_px: int = 10
    """Objects of fewer pixels, at the model's pixel size, are left out."""
    window_px: int = 32
    """Window around a seed in which phi is evaluated first; it reaches half of this to each side of the seed."""
    max_window_px: int = 512
    """A map that reaches its window's edge is made again in a window twice as wide, until at least this wide."""

    trained_on: tuple[DatasetNote, ...] = ()
    """The data sets behind the weights, with their licences."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The training settings, and how long on what machine."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Measured accuracy: set and modality -> figure -> value."""
    sha256: str = ""
    """Checksum of the weights' file."""

    def __post_init__(self) -> None:
        """Refuse values that no model can have."""
        _require(self.network in NETWORKS, "network", self.network, f"one of {', '.join(NETWORKS)}")
        _require(self.channels >= 1, "channels", self.channels, "1 or more")
        _require(
            self.targets in (("nuclei",), ("cells",), ("nuclei", "cells")),
            "targets",
            self.targets,
            "('nuclei',), ('cells',) or ('nuclei', 'cells')",
        )
        _require(self.positional_dims >= 2, "positional_dims", self.positional_dims, "2 or more")
        _require(self.conditional_dims >= 0, "conditional_dims", self.conditional_dims, "0 or more")
        _require(
            len(self.classifier_widths) >= 1 and min(self.classifier_widths) >= 1,
            "classifier_widths",
            self.classifier_widths,
            "one or more widths of 1 or more",
        )
        _require(self.grid_step > 0, "grid_step", self.grid_step, "above 0")
        _require(self.offset_limit > 0, "offset_limit", self.offset_limit, "above 0")
        _require(self.pixel_size_um > 0, "pixel_size_um", self.pixel_size_um, "above 0")
        _require_thresholds(self)
        _require(
            self.window_px >= 8 and self.window_px % 2 == 0,
            "window_px",
            self.window_px,
            "an even number, 8 or more",
        )
        _require(self.max_window_px >= self.window_px, "max_window_px", self.max_window_px, "at least window_px")

    @property
    def stages(self) -> list[Any]:
        """What the weights went through, one entry a training or choice of thresholds, the first one first."""
        return list(self.recipe.get("stages", [self.recipe] if self.recipe else []))

    @property
    def diameter_px(self) -> float:
        """Median diameter of a nucleus as the model likes to see it: 8.5 µm, 17 px at 0.5 µm a pixel."""
        return NOMINAL_DIAMETER_UM / self.pixel_size_um

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `config.json` holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` gave; an unknown key raises `ValueError`."""
        _known_keys_only(cls, values)
        plain = dict(values)
        for key in ("targets", "classifier_widths"):
            if key in plain:
                plain[key] = tuple(plain[key])
        notes = plain.get("trained_on", ())
        for note in notes:
            _known_keys_only(DatasetNote, note)
        plain["trained_on"] = tuple(DatasetNote(**note) for note in notes)
        return cls(**plain)


def _require_thresholds(values: ModelConfig | SegmentOptions) -> None:
    """Refuse thresholds outside their range; `None` stands for the model's own."""
    peak, seed = values.peak_radius_px, values.seed_threshold
    agree, smallest = values.agreement_iou, values.min_size_px
    _require(peak is None or peak >= 1, "peak_radius_px", peak, "1 or more")
    _require(seed is None or 0 <= seed <= 1, "seed_threshold", seed, "from 0 to 1")
    _require(agree is None or 0 < agree <= 1, "agreement_iou", agree, "above 0 and at most 1")
    lowest = values.mask_threshold
    _require(lowest is None or math.isfinite(lowest), "mask_threshold", lowest, "a finite number")
    _require(smallest is None or smallest >= 0, "min_size_px", smallest, "0 or more")


@dataclass(frozen=True)
class SegmentOptions:
    """How one image is segmented. A threshold left `None` is the model's."""

    pixel_size_um: float | None = None
    """Pixel size of the image in µm; without it, what the file says."""
    diameter_px: float | None = None
    """Typical diameter of a nucleus in the image's pixels, for images of unknown pixel size."""
    channels: tuple[str, ...] = ()
    """Channels to use, by number from 0 or by name, in the model's order; without it, all of them."""
    stain: str | None = None
    """Use what one stain alone shows of an RGB image: `haematoxylin`, for nuclei beside DAB; `eosin` or `dab`."""
    tta: bool = False
    """Test-time augmentation: see an image's eight flips and quarter turns, in eight times the time and memory."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`; `auto` takes the fastest one present."""
    runtime: str = "auto"
    """What runs the network: `torch`, `onnxruntime` or `openvino` (these on a CPU); `auto` takes the fastest one."""
    precision: str = "float32"
    """`float32`, or `bfloat16` for the network: faster on a GPU or a CPU with units for it; a few borders change."""
    peak_radius_px: int | None = None
    """See `ModelConfig.peak_radius_px`."""
    seed_threshold: float | None = None
    """See `ModelConfig.seed_threshold`."""
    mask_threshold: float | None = None
    """See `ModelConfig.mask_threshold`."""
    agreement_iou: float | None = None
    """See `ModelConfig.agreement_iou`."""
    min_size_px: int | None = None
    """See `ModelConfig.min_size_px`."""
    region: tuple[int, ...] = ()
    """Only objects in this box: x,y,width,height in pixels of the image, as QuPath shows them."""
    mask: str | None = None
    """Only objects in this area: a GeoJSON of QuPath, or a picture in which 0 is outside."""
    tile_size_px: int | None = None
    """Side of the tiles of a large image, at the model's pixel size, a multiple of 64; else what memory allows."""
    margin_px: int = 64
    """How far objects are followed beyond their tile, at the model's pixel size, a multiple of 64; 256 where that is
    not enough."""
    skip_background: bool = True
    """Leave out those tiles of a large image in which there is nothing but glass or darkness."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        side, margin = self.tile_size_px, self.margin_px
        _require(
            side is None or (side >= 128 and side % 64 == 0), "tile_size_px", side, "a multiple of 64, 128 or more"
        )
        _require(margin >= 64 and margin % 64 == 0, "margin_px", margin, "a multiple of 64, 64 or more")
        _require(
            not self.region or (len(self.region) == 4 and min(self.region) >= 0 and min(self.region[2:]) > 0),
            "region",
            self.region,
            "x, y, width and height in whole pixels: 0 or more, and sides of 1 or more",
        )
        size, diameter = self.pixel_size_um, self.diameter_px
        _require(size is None or 0 < size < 1000, "pixel_size_um", size, "above 0 and below 1000, in µm")
        _require(diameter is None or 0 < diameter < math.inf, "diameter_px", diameter, "above 0, in pixels")
        _require(
            size is None or diameter is None,
            "diameter_px",
            diameter,
            "left out where pixel_size_um is given: each alone sets the scale",
        )
        _require(self.stain is None or self.stain in STAINS, "stain", self.stain, f"one of {', '.join(STAINS)}")
        _require(
            self.stain is None or not self.channels,
            "channels",
            self.channels,
            "left out where a stain is given: it takes red, green and blue",
        )
        _require(self.device in DEVICES, "device", self.device, f"one of {', '.join(DEVICES)}")
        _require(self.runtime in RUNTIMES, "runtime", self.runtime, f"one of {', '.join(RUNTIMES)}")
        _require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        _require_thresholds(self)


def with_settings(options: SegmentOptions | None, settings: Mapping[str, Any]) -> SegmentOptions:
    """Give options in which some settings are others; without options, the defaults.

    Raises
    ------
    TypeError
        If there is no such setting.
    """
    allowed = [entry.name for entry in dataclasses.fields(SegmentOptions)]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise TypeError(f"segment has no setting {unknown[0]!r}; its settings are: {', '.join(allowed)}")
    return dataclasses.replace(options or SegmentOptions(), **settings)


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained: the paper's sections 2.5 and 2.6, and what `docs/experiments.md` found better."""

    steps: int = 4000
    """Optimiser steps, pre-training included."""
    pretrain_steps: int = 400
    """First steps, with binary cross-entropy for the seeds and Dice for the instances."""
    batch_size: int = 6
    """Crops to a step."""
    crop_px: int = 256
    """Side of a crop; a multiple of 32."""
    optimizer: str = "adamw"
    """`adamw` with a warm-up and a cosine decay, or `adam` at a fixed rate (the paper's)."""
    learning_rate: float = 2e-3
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of `adamw`."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm at most; 0 leaves them as they are."""
    average_decay: float = 0.998
    """Decay of the running average of weights that is validated and saved; 0 switches it off."""
    seed_weight: float = 1.0
    """Weight of the seed term, on the scale of 15 (d - 0.5)."""
    instance_weight: float = 1.5
    """Weight of the instance term."""
    teacher_weight: float = 1.0
    """Weight of how far the fields are from those of a teacher, where there is one."""
    max_seeds: int = 50
    """Most seeds drawn from one crop for the instance term (the paper's K)."""
    window_px: int = 64
    """Windows of the instance term; every fourth batch takes them twice as wide, around a quarter of the seeds."""
    augment: str = "full"
    """`full`, or `minimal`: the paper's flips, quarter turns and crops."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest random scale."""
    nominal_scale_share: float = 0.5
    """Share of crops of unknown pixel size that are first scaled to nuclei of 8.5 µm; the others keep their scale."""
    synthetic_stain_share: float = 0.0
    """Share of grey crops that are coloured like a stained section, the nuclei dark on a mottled ground."""
    balance: str = "modality"
    """`modality`: a kind of image is drawn as the square root of its number of objects; `image`: each image alike."""
    validate_every: int = 500
    """Steps between validations on whole images."""
    patience: int = 0
    """Training stops after this many validations in a row without a better mean F1; 0: never before its end."""
    precision: str = "auto"
    """`auto` (bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16, else float32), `float32` or `bfloat16`."""
    compile: bool = False
    """Compile the network with `torch.compile`: pays on a GPU in long runs."""
    memory_gb: float = 4.0
    """Training images that take more than this many GB stay on disk; on a GPU, more than half of its memory."""
    seed: int = 0
    """Seed of every random draw."""

    def __post_init__(self) -> None:
        """Refuse values that no training can have."""
        for name in ("steps", "batch_size", "max_seeds", "validate_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        for name in ("pretrain_steps", "clip_norm", "patience", "memory_gb"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(self.crop_px % 32 == 0 and self.crop_px > 0, "crop_px", self.crop_px, "a positive multiple of 32")
        _require(
            self.window_px >= 8 and self.window_px % 2 == 0,
            "window_px",
            self.window_px,
            "an even number, 8 or more",
        )
        _require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "at least 0, below 1")
        _require(self.optimizer in ("adamw", "adam"), "optimizer", self.optimizer, "adamw or adam")
        _require(self.augment in ("full", "minimal"), "augment", self.augment, "full or minimal")
        _require(self.balance in ("modality", "image"), "balance", self.balance, "modality or image")
        _require(
            self.precision in ("auto", "float32", "bfloat16"),
            "precision",
            self.precision,
            "auto, float32 or bfloat16",
        )
        for name in ("nominal_scale_share", "synthetic_stain_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        for name in ("seed_weight", "instance_weight", "teacher_weight", "weight_decay"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        low, high = self.scale_range
        _require(0 < low <= high, "scale_range", self.scale_range, "two numbers above 0, the smaller first")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint and a log hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` gave; an unknown key raises `ValueError`."""
        _known_keys_only(cls, values)
        plain = dict(values)
        if isinstance(plain.get("scale_range"), list):
            plain["scale_range"] = tuple(plain["scale_range"])
        for entry in dataclasses.fields(cls):
            if entry.name in plain:
                _require_type(entry.name, plain[entry.name], entry.default)
        return cls(**plain)


RECIPES = {
    "default": TrainConfig(),
    "paper": TrainConfig(
        steps=510_000,  # 500 epochs of 1000 batches after 10 of pre-training
        pretrain_steps=10_000,
        batch_size=3,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        clip_norm=0.0,
        average_decay=0.0,
        augment="minimal",
        balance="image",
        validate_every=1000,
    ),
    "finetune": TrainConfig(
        steps=1500,
        pretrain_steps=0,
        learning_rate=1e-3,
        average_decay=0.99,
        scale_range=(0.7, 1.4),
        nominal_scale_share=0.25,
        validate_every=100,
        patience=5,
    ),
}
"""Named training settings: ours; the paper's (sections 2.5 and 2.6); and for going on from a model on a few images."""
