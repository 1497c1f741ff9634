"""StarDist 2D, trained from scratch and run as its own examples do; see README.md here for the environment.

python benchmarks/peers/stardist.py train --data PREPARED --output RUN --minutes 60
python benchmarks/peers/stardist.py predict --data PREPARED --split test --run RUN --output FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prepared import Run, Sample, main, padded

NAME = "stardist"


def train(run: Run, training: list[Sample], validation: list[Sample], arguments: argparse.Namespace) -> None:
    """All defaults of Config2D but three input channels: 32 rays, patches of 256 px, batches of 4, Adam 3e-4.

    Validated after every 100 steps; the weights with the lowest validation loss are kept, and the two thresholds
    are then chosen on the validation images, as StarDist's examples do.
    """
    import tensorflow as tf
    from csbdeep.utils.tf import keras_import
    from stardist.models import Config2D, StarDist2D

    tf.keras.utils.set_random_seed(run.seed)
    config = Config2D(
        n_channel_in=3,
        train_epochs=arguments.epochs,
        train_steps_per_epoch=arguments.steps,
        train_tensorboard=False,
    )
    model = StarDist2D(config, name=NAME, basedir=str(run.folder))
    model.prepare_for_training()
    # ends an epoch in its midst; it is validated and its weights are kept nevertheless
    stop = keras_import("callbacks", "LambdaCallback")(
        on_train_batch_end=lambda *_, **__: setattr(model.keras_model, "stop_training", not run.seconds_left())
    )
    model.callbacks.append(stop)
    least = max(config.train_patch_size)
    sides = [[padded(_normalised(s.pixels), s.mask, least) for s in side] for side in (training, validation)]
    model.train(*_columns(sides[0]), validation_data=_columns(sides[1]), augmenter=_augment, seed=run.seed)
    model.optimize_thresholds(*_columns(sides[1]))


def load(folder: Path) -> Callable[[Sample], NDArray[Any]]:
    from stardist.models import StarDist2D

    model = StarDist2D(None, name=NAME, basedir=str(folder))
    return lambda sample: model.predict_instances(_normalised(sample.pixels))[0]


def _normalised(pixels: NDArray[Any]) -> NDArray[np.float32]:
    from csbdeep.utils import normalize

    return np.asarray(normalize(pixels, 1, 99.8, axis=(0, 1)), dtype=np.float32)


def _columns(pairs: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [pixels for pixels, _ in pairs], [mask for _, mask in pairs]


def _augment(pixels: NDArray[Any], mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Flips and quarter turns, as in section 2.6 of the paper; random crops are StarDist's own."""
    turns, flip = np.random.randint(4), np.random.randint(2)  # noqa: NPY002  (StarDist seeds numpy's global state)
    pixels, mask = np.rot90(pixels, turns), np.rot90(mask, turns)
    return (np.flipud(pixels), np.flipud(mask)) if flip else (pixels, mask)


def _extras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100, help="steps between validations")


if __name__ == "__main__":
    main(train, load, _extras)
