"""Settings of models and segmentations, with their defaults, ranges and help texts; imports no torch.

Command-line flags and a model's `config.json` are made from these classes. The defaults of thresholds are in
`ModelConfig`; in `SegmentOptions`, `None` means the model's own value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

NETWORKS = ("paper", "lite", "slim")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "bfloat16")
STAINS = ("haematoxylin", "eosin", "dab")
MOST_EXPANDED_UM = 50
TARGETS = (("nuclei",), ("cells",), ("nuclei", "cells"))
"""Allowed targets of a model, one for each plane of its labels."""
DEFAULT_FORMATS = ("labels", "geojson", "table", "overlay", "objects")
UNITS = {"um": "µm", "px": "px"}
"""Units at the ends of settings' names."""
NOMINAL_DIAMETER_UM = 8.5
"""Median diameter of a nucleus, by which images of unknown pixel size are scaled."""
_LARGEST_WINDOW_PX = 8192
_LARGEST_PEAK_PX = 512  # larger ones would only take time


def flag_of(name: str) -> str:
    """Command-line flag of a setting: `min_size_px` is `--min-size`, in px; `expand_um` says that it is a distance."""
    stem, _, unit = name.rpartition("_")
    short = stem if unit in UNITS and name != "expand_um" else name
    return f"--{short.replace('_', '-')}"


def known_keys_only(cls: type, values: Mapping[str, Any]) -> None:
    """Refuse keys that are no fields of a settings class."""
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}; its settings are: {', '.join(known)}")


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ValueError` with a setting's value and what it may be, unless a condition holds."""
    if not condition:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def check_device(name: str) -> None:
    """Raise `ValueError` if a name is not that of a device, such as `cpu`, `cuda` or `cuda:1`."""
    kind, colon, number = name.partition(":")
    is_known = kind in DEVICES and (not colon or (kind == "cuda" and number.isdecimal()))
    require(is_known, "device", name, f"one of {', '.join(DEVICES)}, or cuda:1 for the second GPU")


def require_type(name: str, value: object, like: object) -> None:
    """Refuse a value whose type differs from the default's; a whole number may stand for a float."""
    if isinstance(like, tuple):
        numbers = isinstance(value, tuple) and all(type(part) in (int, float) for part in value)
        require(numbers and len(value) == len(like), name, value, f"{len(like)} numbers")  # type: ignore[arg-type]
        return
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    fits = type(value) is type(like) or (type(like) is float and type(value) is int)
    require(fits, name, value, kinds[type(like)])


@dataclass(frozen=True)
class DatasetNote:
    """A data set that a model was trained on."""

    name: str
    """Short name of the data set."""
    licence: str
    """Licence of its images and masks."""
    source: str = ""
    """Where it was published."""
    images: int = 0
    """Number of its images used in training."""


def is_non_commercial(licence: str) -> bool:
    """Whether a licence (an SPDX identifier or a sentence) forbids commercial use."""
    words = licence.lower().replace("-", " ").replace("_", " ").replace(",", " ").split()
    return "nc" in words or "noncommercial" in words or ("non" in words and "commercial" in words)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture, scale and thresholds of a model, and where its weights come from.

    Saved as `config.json` beside `model.safetensors`. Symbols are those of the paper (arXiv 2408.15954).
    """

    name: str
    """Name of the model and of its folder."""
    version: str = "0.1.0"
    """Version of the weights."""
    description: str = ""
    """One sentence, shown by `cytoseed models`."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""

    network: str = "lite"
    """Backbone: `paper` (3.8 M parameters, section 2.4 of the paper), `lite`, or the lighter `slim`."""
    channels: int | str = 3
    """Number of image channels C, to all of which a grey image is copied; or `any`."""
    targets: tuple[str, ...] = ("nuclei",)
    """Objects in each label channel: `nuclei`, `cells`, or `nuclei` and `cells`."""
    positional_dims: int = 4
    """Dp, number of channels of the positional embedding P: 2 or more, the first two are x and y."""
    conditional_dims: int = 4
    """De, number of channels of the conditional embedding E: 0 or more."""
    classifier_widths: tuple[int, ...] = (5, 5)
    """Widths of the hidden layers of the pixel classifier phi."""
    grid_step: float = 0.25
    """Step of the coordinate grid O from one pixel to the next."""
    offset_limit: float = 4.0
    """Largest offset that P adds to a coordinate, in units of the grid."""
    pixel_size_um: float = 0.5
    """Pixel size in µm to which images of known pixel size are rescaled."""

    peak_radius_px: int = 4
    """Candidate objects whose centres are closer than this are merged: higher values give fewer objects."""
    seed_threshold: float = 0.5
    """Confidence, 0 to 1, that the model needs to report an object: higher values give fewer objects."""
    mask_threshold: float = 0.0
    """How tightly outlines are drawn: higher values give smaller objects. In log-odds: 0 is a probability of 0.5."""
    agreement_iou: float = 0.5
    """Overlap (IoU, 0 to 1) at which two candidates are merged: higher values merge fewer objects."""
    min_size_px: int = 10
    """Smallest area of an object, in pixels at the model's pixel size; smaller objects are left out."""
    window_px: int = 32
    """Side of the window around a seed in which the pixel classifier phi is evaluated first."""
    max_window_px: int = 512
    """Objects that reach the edge of their window get windows twice as wide, up to at least this side."""

    score_calibration: tuple[tuple[float, ...], ...] = ()
    """For each target the constant and the weights of the seed value and of the mean logit in the score of an object,
    the probability that it is right, fitted on validation images. Empty: not calibrated."""

    trained_on: tuple[DatasetNote, ...] = ()
    """Data sets used in training, with their licences."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Training settings, duration and machine."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Measured accuracy: data set and modality -> figure -> value."""
    sha256: str = ""
    """Checksum of the file of weights."""

    def __post_init__(self) -> None:
        """Check all values."""
        require_type("name", self.name, "")
        for each in dataclasses.fields(self):
            if isinstance(each.default, str | int | float) and each.name != "channels":
                require_type(each.name, getattr(self, each.name), each.default)
        for name in ("recipe", "figures"):
            require(isinstance(getattr(self, name), Mapping), name, getattr(self, name), "a mapping")
        require(self.network in NETWORKS, "network", self.network, f"one of {', '.join(NETWORKS)}")
        counted = type(self.channels) is int and self.channels >= 1
        require(counted or self.channels == "any", "channels", self.channels, "1 or more, or 'any'")
        require(self.targets in TARGETS, "targets", self.targets, "('nuclei',), ('cells',) or ('nuclei', 'cells')")
        require(self.positional_dims >= 2, "positional_dims", self.positional_dims, "2 or more")
        require(self.conditional_dims >= 0, "conditional_dims", self.conditional_dims, "0 or more")
        widths = self.classifier_widths
        is_given = bool(widths) and all(type(width) is int and width >= 1 for width in widths)
        require(is_given, "classifier_widths", widths, "one or more widths of 1 or more")
        calibration = self.score_calibration
        is_known = len(calibration) in (0, len(self.targets)) and all(len(of_target) == 3 for of_target in calibration)
        require(is_known, "score_calibration", calibration, "three numbers for each target, or nothing")
        for name in ("grid_step", "offset_limit", "pixel_size_um"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        _require_thresholds(self)
        require_window(self.window_px)
        largest, allowed = self.max_window_px, f"from window_px to {_LARGEST_WINDOW_PX}"
        require(self.window_px <= largest <= _LARGEST_WINDOW_PX, "max_window_px", largest, allowed)

    @property
    def fixed_channels(self) -> int:
        """Number of image channels; 0 if it may be any."""
        return 0 if isinstance(self.channels, str) else self.channels

    @property
    def example_channels(self) -> int:
        """Number of channels of an example image."""
        return self.fixed_channels or 3

    @property
    def stages(self) -> list[Any]:
        """Training runs and threshold searches of these weights, oldest first."""
        return list(self.recipe.get("stages", [self.recipe] if self.recipe else []))

    @property
    def diameter_px(self) -> float:
        """Median diameter of a nucleus at the model's pixel size: 8.5 µm are 17 px at 0.5 µm per pixel."""
        return NOMINAL_DIAMETER_UM / self.pixel_size_um

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; raises `ValueError` for an unknown key."""
        known_keys_only(cls, values)
        plain = dict(values)
        for key in ("targets", "classifier_widths", "score_calibration"):
            if key in plain:
                plain[key] = tuple(plain[key])
        notes = plain.get("trained_on", ())
        for note in notes:
            known_keys_only(DatasetNote, note)
        plain["trained_on"] = tuple(DatasetNote(**note) for note in notes)
        return cls(**plain)


def require_window(side: int) -> None:
    """Refuse a side that no window can have."""
    require(side >= 8 and side % 2 == 0, "window_px", side, "an even number, 8 or more")


def _require_thresholds(values: ModelConfig | SegmentOptions) -> None:
    """Refuse thresholds outside their range; `None` is the model's own value."""
    peak, seed = values.peak_radius_px, values.seed_threshold
    lowest, agree, smallest = values.mask_threshold, values.agreement_iou, values.min_size_px
    require(peak is None or 1 <= peak <= _LARGEST_PEAK_PX, "peak_radius_px", peak, f"from 1 to {_LARGEST_PEAK_PX}")
    require(seed is None or 0 <= seed <= 1, "seed_threshold", seed, "from 0 to 1")
    require(agree is None or 0 < agree <= 1, "agreement_iou", agree, "above 0 and at most 1")
    require(lowest is None or math.isfinite(lowest), "mask_threshold", lowest, "a finite number")
    require(smallest is None or smallest >= 0, "min_size_px", smallest, "0 or more")


@dataclass(frozen=True)
class SegmentOptions:
    """Settings of a segmentation. Thresholds that are `None` are the model's."""

    pixel_size_um: float | None = None
    """Pixel size of the image in µm; by default the one stored in the file."""
    diameter_px: float | None = None
    """Typical diameter of a nucleus in pixels, for images whose pixel size is unknown."""
    channels: tuple[str, ...] = ()
    """Channels to segment, by name or by number from 0, such as `DAPI`; by default all. Can be repeated."""
    stain: str | None = None
    """Segment a single stain of an RGB image: `hematoxylin` (for nuclei alongside DAB), `eosin` or `dab`."""
    expand_um: float | None = None
    """Also outline cells: nuclei grown by this distance in µm, never over a neighbour; for models of nuclei."""
    min_score: float = 0.0
    """Leave out objects of a lower score, 0 to 1: the probability that the model gives for an object being right."""
    nan: str = "refuse"
    """Pixels that are NaN or infinite, such as the borders of a stitched image: `refuse` or `zero`."""
    tta: bool = False
    """Test-time augmentation: a little more accurate, with eight times the run time and more memory."""
    device: str = "auto"
    """Processor: `cpu`, `cuda` (NVIDIA GPU; `cuda:1` is the second), `mps` (Apple GPU), or `auto` for the fastest."""
    precision: str = "float32"
    """`float32`, or `bfloat16`: faster on most GPUs and recent CPUs; a few border pixels change."""
    # thresholds: documented in `ModelConfig`
    peak_radius_px: int | None = None
    seed_threshold: float | None = None
    mask_threshold: float | None = None
    agreement_iou: float | None = None
    min_size_px: int | None = None
    region: tuple[int, ...] = ()
    """Segment only this box: x,y,width,height in pixels of the image, as QuPath shows them."""
    mask: str | None = None
    """Segment only this area: a GeoJSON file from QuPath, or an image in which 0 is outside."""
    tile_size_px: int | None = None
    """Side of the tiles of a large image: a multiple of 64, at the model's pixel size; by default as memory allows."""
    margin_px: int = 64
    """How far objects may reach beyond their tile: a multiple of 64, at the model's pixel size; 256 where needed."""
    skip_background: bool = True
    """Skip tiles of a large image that show only empty glass or a dark background."""

    def __post_init__(self) -> None:
        """Check all values; the American spelling of a stain becomes the British one."""
        if self.stain == "hematoxylin":
            object.__setattr__(self, "stain", "haematoxylin")
        side, margin, region = self.tile_size_px, self.margin_px, self.region
        fits = side is None or (side >= 128 and side % 64 == 0)
        require(fits, "tile_size_px", side, "a multiple of 64, 128 or more")
        require(margin >= 64 and margin % 64 == 0, "margin_px", margin, "a multiple of 64, 64 or more")
        is_box = not region or (len(region) == 4 and min(region) >= 0 and min(region[2:]) > 0)
        require(is_box, "region", region, "x, y, width and height in whole pixels: 0 or more, and sides of 1 or more")
        size, diameter = self.pixel_size_um, self.diameter_px
        require(size is None or 0 < size < 1000, "pixel_size_um", size, "above 0 and below 1000, in µm")
        require(diameter is None or 0 < diameter < math.inf, "diameter_px", diameter, "above 0, in pixels")
        remedy = "left out if pixel_size_um is given: each alone sets the scale"
        require(size is None or diameter is None, "diameter_px", diameter, remedy)
        grown = self.expand_um
        require(grown is None or 0 < grown <= MOST_EXPANDED_UM, "expand_um", grown, "above 0 and at most 50, in µm")
        require(0 <= self.min_score <= 1, "min_score", self.min_score, "from 0 to 1")
        require(self.stain in (None, *STAINS), "stain", self.stain, f"one of {', '.join(STAINS)}")
        remedy = "left out if a stain is given: stains are computed from red, green and blue"
        require(self.stain is None or not self.channels, "channels", self.channels, remedy)
        require(self.nan in ("refuse", "zero"), "nan", self.nan, "refuse or zero")
        check_device(self.device)
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        _require_thresholds(self)


def with_settings(options: SegmentOptions | None, settings: Mapping[str, Any]) -> SegmentOptions:
    """Options with some settings replaced; raises `TypeError` for a setting that does not exist."""
    allowed = [entry.name for entry in dataclasses.fields(SegmentOptions)]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise TypeError(f"segment has no setting {unknown[0]!r}; its settings are: {', '.join(allowed)}")
    return dataclasses.replace(options or SegmentOptions(), **settings)
