"""HoVer-Net as MONAI maintains it, in its fast mode without classes, trained from scratch; see README.md here.

python benchmarks/peers/hovernet.py train --data PREPARED --output RUN --minutes 60
python benchmarks/peers/hovernet.py predict --data PREPARED --split test --run RUN --output FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prepared import Run, Sample, main, padded

SIDE, MARGIN = 256, 46  # of a patch; at each edge the network predicts so much less
BATCH, WEIGHTS = 4, "hovernet.pt"


def train(run: Run, training: list[Sample], validation: list[Sample], arguments: argparse.Namespace) -> None:
    """MONAI's network, loss and second stage (the first needs a pre-trained encoder); keeps the lowest val loss."""
    import torch
    from monai.apps.pathology.losses import HoVerNetLoss
    from torch.utils.data import DataLoader, default_collate

    torch.manual_seed(run.seed)
    device, network = _network()
    loss_function = HoVerNetLoss(lambda_hv_mse=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    pairs = [padded(_scaled(sample.pixels), sample.mask, SIDE) for sample in training]

    def crops(indices: list[int]) -> Any:  # each depends on the seed and its index alone; runs in the workers
        generators = [np.random.default_rng([run.seed, index]) for index in indices]
        return default_collate([_patch(pairs[rng.integers(len(pairs))], rng) for rng in generators])

    workers = 8 if device.type == "cuda" else 0
    loader: Any = DataLoader(range(10**9), batch_size=BATCH, num_workers=workers, collate_fn=crops)
    centres = [_patch(padded(_scaled(sample.pixels), sample.mask, SIDE), None) for sample in validation]

    def loss_of(batch: Any) -> Any:
        pixels, inside, maps = (part.to(device) for part in batch)
        return loss_function(network(pixels), {"nucleus_prediction": inside, "horizontal_vertical": maps})

    best, losses = float("inf"), []
    for step, batch in enumerate(loader, start=1):
        optimizer.param_groups[0]["lr"] = 1e-4 if run.seconds_left() > 30 * run.minutes else 1e-5
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        over = not run.seconds_left()
        if over or step % arguments.validate_every == 0:
            network.eval()
            with torch.no_grad():
                mean = float(np.mean([loss_of(batch).item() for batch in DataLoader(centres, batch_size=BATCH)]))
            network.train()
            print(f"step {step}: loss {np.mean(losses):.3f}, validation {mean:.3f}", flush=True)
            if mean < best:
                torch.save(network.state_dict(), run.folder / WEIGHTS)
            best, losses = min(best, mean), []
        if over:
            break


def load(folder: Path) -> Callable[[Sample], NDArray[Any]]:
    import torch
    from monai.apps.pathology.inferers import SlidingWindowHoVerNetInferer
    from monai.apps.pathology.transforms import HoVerNetInstanceMapPostProcessing

    device, network = _network()
    network.load_state_dict(torch.load(folder / WEIGHTS, map_location=device))
    network.eval()
    slide = SlidingWindowHoVerNetInferer(SIDE, 8, overlap=2 * MARGIN / SIDE, extra_input_padding=(MARGIN,) * 4)
    instances = HoVerNetInstanceMapPostProcessing()

    @torch.no_grad()
    def segment(sample: Sample) -> NDArray[Any]:
        pixels = torch.from_numpy(_scaled(sample.pixels).transpose(2, 0, 1)[None].copy()).to(device)
        fields = {key: value[0].cpu() for key, value in slide(pixels, network).items()}
        try:
            return np.asarray(instances(fields["nucleus_prediction"], fields["horizontal_vertical"])[1])
        except ValueError:  # MONAI refuses maps of one value: nothing was found
            return np.zeros(sample.mask.shape, dtype=np.int32)

    return segment


def _network() -> tuple[Any, Any]:
    import torch
    from monai.networks.nets import HoVerNet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, HoVerNet(mode="fast", in_channels=3, out_classes=0).to(device)


def _scaled(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Scale to [0, 1] between the 0.1 and 99.9 percentiles: MONAI's fixed 0 to 255 would not fit 16 bit images."""
    low, high = np.percentile(pixels, (0.1, 99.9))
    return np.clip((pixels.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _patch(pair: tuple[NDArray[Any], NDArray[Any]], rng: np.random.Generator | None) -> tuple[NDArray[Any], ...]:
    """Cut, turn and flip at random, or take the centre: pixels, and for the middle 164 px its two targets."""
    from monai.transforms import ComputeHoVerMaps

    room = [side - SIDE for side in pair[1].shape]
    row, column = (int(rng.integers(free + 1)) if rng else free // 2 for free in room)
    turns, step = (int(rng.integers(4)), int(rng.choice([1, -1]))) if rng else (0, 1)
    pixels, mask = (np.rot90(part[row : row + SIDE, column : column + SIDE], turns)[::step].copy() for part in pair)
    edge = slice(MARGIN, SIDE - MARGIN)
    inside = np.stack([mask == 0, mask > 0]).astype(np.float32)
    maps = np.asarray(ComputeHoVerMaps()(mask[None]))
    return pixels.transpose(2, 0, 1).copy(), inside[:, edge, edge], maps[:, edge, edge]


if __name__ == "__main__":
    main(train, load, lambda parser: parser.add_argument("--validate-every", type=int, default=200, help="steps"))
