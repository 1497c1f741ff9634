"""Cellpose 3, trained from scratch on all three channels and run as its command line does; see README.md here.

python benchmarks/peers/cellpose.py train --data PREPARED --output RUN --minutes 60
python benchmarks/peers/cellpose.py predict --data PREPARED --split test --run RUN --output FOLDER
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prepared import Run, Sample, main

NAME = "cellpose"


def train(run: Run, training: list[Sample], validation: list[Sample], arguments: argparse.Namespace) -> None:
    """Defaults of `cellpose --train --all_channels`: AdamW 0.005, batches of 8 crops of 224 px, diameter 30 px.

    The validation loss is logged; Cellpose keeps the last weights, not the best.
    """
    import torch
    from cellpose import dynamics, io, models
    from cellpose.train import train_seg

    torch.manual_seed(run.seed)  # Cellpose itself seeds numpy with the epoch's number
    io.logger_setup()
    model = models.CellposeModel(gpu=torch.cuda.is_available(), pretrained_model=False, nchan=3)
    images, labels = _columns(training)
    val_images, val_labels = _columns(validation)
    labels = dynamics.labels_to_flows(labels, device=model.device)
    val_labels = dynamics.labels_to_flows(val_labels, device=model.device)
    epoch = _seconds_a_step(model.net, images[:8], labels[:8], run) * max(len(images) / 8, 1)
    left = run.seconds_left() * (0.8 if arguments.size_epochs else 1.0)
    epochs = int(min(max(left / epoch, 1), arguments.epochs))
    print(f"{epoch:.1f} s an epoch of {len(images)} crops: {epochs} epochs", flush=True)
    options: dict[str, Any] = {"test_data": val_images, "test_labels": val_labels, "rgb": True, "model_name": NAME}
    path = train_seg(model.net, images, labels, n_epochs=epochs, save_path=run.folder, **options)[0]
    if arguments.size_epochs:
        _train_size(model, path, images, labels, arguments.size_epochs)


def load(folder: Path) -> Callable[[Sample], NDArray[Any]]:
    """Segment at the diameter that the size model estimates; without one, at the mean of the training masks."""
    import torch
    from cellpose import models

    path = folder / "models" / NAME
    model = models.CellposeModel(gpu=torch.cuda.is_available(), pretrained_model=str(path), nchan=3)
    size_path = path.with_name(f"{NAME}_size.npy")
    size = models.SizeModel(model, pretrained_size=str(size_path)) if size_path.is_file() else None

    def segment(sample: Sample) -> NDArray[Any]:
        pixels = sample.pixels.astype(np.float32)
        diameter = size.eval(pixels, channel_axis=2)[0] if size else None
        return np.asarray(model.eval(pixels, channel_axis=2, diameter=diameter)[0])

    return segment


def _columns(samples: list[Sample]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Images as (3, H, W) and masks: what training takes where no channels are named."""
    return [s.pixels.transpose(2, 0, 1).astype(np.float32) for s in samples], [s.mask for s in samples]


def _seconds_a_step(net: Any, images: list[Any], labels: list[Any], run: Run) -> float:
    """Time steps on a copy: Cellpose plans its learning rate over a number of epochs that it is given beforehand."""
    from cellpose.train import train_seg

    options: dict[str, Any] = {"n_epochs": 1, "min_train_masks": 0, "rgb": True, "model_name": "probe"}
    for steps in (1, 5):  # the first time compiles
        start = time.monotonic()
        train_seg(copy.deepcopy(net), images, labels, nimg_per_epoch=8 * steps, save_path=run.folder, **options)
    (run.folder / "models" / "probe").unlink()
    return (time.monotonic() - start) / steps


def _train_size(model: Any, path: Any, images: list[Any], labels: list[Any], epochs: int) -> None:
    """Fit Cellpose's estimate of an image's diameter: the regression behind its `diameter=None`."""
    from cellpose.train import train_size

    model.net.eval()
    train_size(model.net, path, images, labels, rgb=True, batch_size=8, n_epochs=epochs)


def _extras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=2000, help="at most; fewer where the minutes allow no more")
    parser.add_argument("--size-epochs", type=int, default=10, help="of the size model; 0 trains none")


if __name__ == "__main__":
    main(train, load, _extras)
