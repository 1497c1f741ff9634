"""Settings of trainings; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cytoseed.settings import PRECISIONS, known_keys_only, require, require_type, require_window


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run: sections 2.5 and 2.6 of the paper, with the improvements of `docs/experiments.md`."""

    steps: int = 4000
    """Number of training steps, pre-training included."""
    pretrain_steps: int = 400
    """Number of initial steps, with simpler losses: binary cross-entropy for seeds, Dice for instances."""
    batch_size: int = 6
    """Image crops per step."""
    crop_px: int = 256
    """Side of an image crop: a multiple of 32."""
    optimizer: str = "adamw"
    """`adamw` with warm-up and cosine decay, or `adam` with a fixed learning rate, as in the paper."""
    learning_rate: float = 2e-3
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Weight decay of `adamw`."""
    clip_norm: float = 5.0
    """Largest norm of the gradients; 0 for no limit."""
    average_decay: float = 0.998
    """Decay of the running average of the weights, which is validated and saved; 0 for no average."""
    seed_weight: float = 1.0
    """Weight of the seed term in the loss."""
    instance_weight: float = 1.5
    """Weight of the instance term in the loss."""
    teacher_weight: float = 1.0
    """Weight of the difference from the teacher's output in the loss, with `--teacher`."""
    max_seeds: int = 50
    """Largest number of seeds drawn per crop for the instance term (K in the paper)."""
    window_px: int = 64
    """Side of the windows of the instance term; in every fourth batch twice as wide, with a quarter of the seeds."""
    augment: str = "full"
    """Augmentation: `full`, or `minimal` (flips, quarter turns and crops, as in the paper)."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest random scale factor."""
    nominal_scale_share: float = 0.5
    """Share of crops of unknown pixel size that are first rescaled so that nuclei measure 8.5 µm."""
    synthetic_stain_share: float = 0.0
    """Share of grey crops that are recoloured to look like a stained tissue section."""
    balance: str = "modality"
    """`modality` (draw kinds of images by the square root of their object counts) or `image` (draw all equally)."""
    validate_every: int = 500
    """Number of steps between validations on whole images."""
    patience: int = 0
    """Stop after this many validations without a better mean F1; 0 to train to the end."""
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16."""
    compile: bool = False
    """Compile the network with `torch.compile`: worthwhile for long runs on a GPU."""
    memory_gb: float = 4.0
    """Read training images from disk if they take more than this many GB (on a GPU, more than half of its memory)."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        """Check all values."""
        for name in ("steps", "batch_size", "max_seeds", "validate_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        weights = ("seed_weight", "instance_weight", "teacher_weight", "weight_decay")
        for name in ("pretrain_steps", "clip_norm", "patience", "memory_gb", *weights):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("nominal_scale_share", "synthetic_stain_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.crop_px % 32 == 0 and self.crop_px > 0, "crop_px", self.crop_px, "a positive multiple of 32")
        require_window(self.window_px)
        require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "at least 0, below 1")
        require(self.optimizer in ("adamw", "adam"), "optimizer", self.optimizer, "adamw or adam")
        require(self.augment in ("full", "minimal"), "augment", self.augment, "full or minimal")
        require(self.balance in ("modality", "image"), "balance", self.balance, "modality or image")
        allowed = ("auto", *PRECISIONS)
        require(self.precision in allowed, "precision", self.precision, "auto, float32 or bfloat16")
        low, high = self.scale_range
        require(0 < low <= high, "scale_range", self.scale_range, "two numbers above 0, the smaller first")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for checkpoints and logs."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; raises `ValueError` for an unknown key."""
        known_keys_only(cls, values)
        plain = dict(values)
        if isinstance(plain.get("scale_range"), list):
            plain["scale_range"] = tuple(plain["scale_range"])
        for entry in dataclasses.fields(cls):
            if entry.name in plain:
                require_type(entry.name, plain[entry.name], entry.default)
        return cls(**plain)


RECIPES = {
    "default": TrainConfig(),
    "paper": TrainConfig(
        steps=510_000,  # 500 epochs of 1000 batches, after 10 epochs of pre-training
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
"""Named training settings: the default, the paper's (sections 2.5 and 2.6), and those for fine-tuning on few images."""
