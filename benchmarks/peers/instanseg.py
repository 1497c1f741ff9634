"""The published InstanSeg (instanseg-torch), trained from scratch by its own training script; see README.md here.

python benchmarks/peers/instanseg.py train --data PREPARED --output RUN --minutes 60
python benchmarks/peers/instanseg.py predict --data PREPARED --split test --run RUN --output FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prepared import Run, Sample, main

NAME = "instanseg"


class _TimeUpError(Exception):
    """Raised where the next epoch would begin; the best weights so far are already on disk."""


def train(run: Run, training: list[Sample], validation: list[Sample], arguments: argparse.Namespace) -> None:
    """Defaults of the script, which are the paper's: batches of 3 crops of 256 px, Adam 0.001, minimal augmentation.

    An epoch is 1000 crops, the first 10 are pre-training; the weights with the best F1 on validation crops stay.
    """
    _declare_torchvision_operators()
    import instanseg.utils.AI_utils as epochs
    from instanseg.scripts.train import instanseg_training

    seed = run.seed or 2**31  # the script takes 0 for no seed
    train_epoch = epochs.train_epoch

    def limited(model: Any, device: Any, loader: Iterable[Any], *rest: Any, **options: Any) -> Any:
        if not run.seconds_left():
            raise _TimeUpError
        return train_epoch(model, device, _Timed(loader, run), *rest, **options)

    epochs.train_epoch = limited
    items = {"Train": [_item(s) for s in training], "Validation": [_item(s) for s in validation]}
    options = {"length_of_epoch": arguments.crops, "hotstart_training": arguments.pretrain_epochs, "rng_seed": seed}
    names = ",".join(sorted({sample.dataset for sample in training}))  # its default, "all", keeps nothing in 0.1.2
    place = {"output_path": str(run.folder), "experiment_str": NAME, "source_dataset": f"[{names}]"}
    with contextlib.suppress(_TimeUpError):
        instanseg_training(items, on_cluster=True, **place, **options)


def load(folder: Path) -> Callable[[Sample], NDArray[Any]]:
    """Segment a whole image as the package's own test script does: its thresholds, windows of 128 px, no resizing."""
    _declare_torchvision_operators()
    import torch
    from instanseg.utils.augmentations import Augmentations
    from instanseg.utils.loss.instanseg_loss import InstanSeg
    from instanseg.utils.model_loader import load_model
    from instanseg.utils.tiling import _instanseg_padding, _recover_padding

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, settings = load_model(folder=NAME, path=str(folder), device=device)
    model.eval().to(device)
    own = {key: settings[key] for key in ("n_sigma", "dim_coords", "dim_seeds", "cells_and_nuclei")}
    engineering = settings["feature_engineering"]
    method = InstanSeg(feature_engineering_function=engineering, window_size=128, device=device, **own)
    method.initialize_pixel_classifier(model)
    prepare = Augmentations(dim_in=3, shape=None)

    @torch.no_grad()
    def segment(sample: Sample) -> NDArray[Any]:
        image, _ = prepare.to_tensor(sample.pixels.transpose(2, 0, 1).copy(), normalize=True)
        padded, pad = _instanseg_padding(image.to(device), extra_pad=0, min_dim=32, ensure_square=False)
        fields = _recover_padding(model(padded[None]), pad).squeeze(0)
        # its limit of 2000 seeds would give an empty map of a crowded image; its test script raises it as well
        return np.asarray(method.postprocessing(fields, window_size=128, max_seeds=10000, device=device).cpu())

    return segment


class _Timed:
    """Batches of a loader until the time is up, at least one."""

    def __init__(self, loader: Iterable[Any], run: Run) -> None:
        self.loader, self.run = loader, run

    def __iter__(self) -> Iterator[Any]:
        start = time.monotonic()
        for step, batch in enumerate(self.loader):
            if step and not self.run.seconds_left():
                break
            yield batch
        print(f"{(time.monotonic() - start) / (step + 1):.2f} s a step, last epoch {step + 1} steps", flush=True)


def _item(sample: Sample) -> dict[str, Any]:
    """Describe a sample in the package's own terms; a pixel size of NaN is unknown, nothing is resized."""
    modality = "Fluorescence" if sample.modality == "fluorescence" else "Brightfield"
    entry = {"parent_dataset": sample.dataset, "image_modality": modality, "pixel_size": float("nan")}
    return {"image": sample.pixels.transpose(2, 0, 1).copy(), "nucleus_masks": sample.mask, **entry}


def _declare_torchvision_operators() -> None:
    """Let torchvision's CUDA wheel, of which only flips, crops and resizing are used, load beside a CPU torch."""
    import torch

    if torch.version.cuda is None:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _extras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crops", type=int, default=1000, help="per epoch; a fifth as many validate it")
    parser.add_argument("--pretrain-epochs", type=int, default=10)


if __name__ == "__main__":
    main(train, load, _extras)
