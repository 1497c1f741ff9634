"""Draws the figures of docs/how-it-works.md from what the bundled model computes of a drawn image."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage.segmentation import find_boundaries

import cytoseed
from cytoseed.core.merge import agreeing_seeds
from cytoseed.core.pixels import Maps
from cytoseed.core.seeds import find_seeds
from cytoseed.images.scenes import draw_nuclei
from cytoseed.run.api import network_image
from cytoseed.settings import SegmentOptions

FOLDER = Path(__file__).parents[1] / "images" / "how"
_SIDE = 144
_SCENE = 1  # one of whose nuclei has two seeds
_COLOURS = np.array(mpl.color_sequences["tab20"])


def main() -> None:
    """Write the three figures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = cytoseed.load_model("nuclei")
    scene = draw_nuclei((_SIDE, _SIDE), 40, 24, _SCENE).image[0]
    image = network_image(scene, model.config, SegmentOptions(pixel_size_um=model.config.pixel_size_um))
    segmenter = model.segmenter
    with torch.inference_mode():
        fields = segmenter.fields(image[None])
        seed_map = fields[:, 0, -1]
        limits = segmenter.thresholds
        seeds = find_seeds(seed_map, limits.peak_radius_px, limits.seed_threshold)
        maps = segmenter.classifiers[0].maps(
            fields[None, :, 0], seed_map, seeds, limits.mask_threshold, segmenter.windows, segmenter.chunk_px, True
        )
        owner = agreeing_seeds(maps, len(seeds), limits.agreement_iou, seed_map.numel())
        labels = segmenter.labels(fields, limits)[0, 0].numpy()
    grey = (image[0].clip(0, 1).numpy() * 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    stages(picture, fields[0, 0].numpy(), seeds.numpy(), labels)
    embeddings(fields[0, 0].numpy(), labels, model.config.grid_step, model.config.positional_dims)
    merging(picture, seeds.numpy(), maps, owner.numpy(), labels)


def stages(picture: np.ndarray, fields: np.ndarray, seeds: np.ndarray, labels: np.ndarray) -> None:
    """Input, seed map with seeds, objects."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    axes[0].imshow(picture)
    axes[1].imshow(fields[-1], cmap="magma", vmin=0, vmax=1)
    axes[1].plot(seeds[:, 2], seeds[:, 1], "o", color="cyan", markersize=3)
    axes[2].imshow(_outlined(picture, labels))
    _finish(figure, axes, ("image, normalised", "seed map, and its maxima: seeds", "objects"), "stages.jpg")


def embeddings(fields: np.ndarray, labels: np.ndarray, step: float, dims: int) -> None:
    """Where pixels say that the centre of their object is; and the embedding in which touching objects differ."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    inside = labels > 0
    colours = _COLOURS[labels % len(_COLOURS)]
    axes[0].scatter(columns[inside], rows[inside], 2, colours[inside])
    x, y = columns + fields[0] / step, rows + fields[1] / step
    axes[1].scatter(x[inside], y[inside], 2, colours[inside])
    for axis in axes[:2]:
        axis.set(xlim=(0, _SIDE), ylim=(_SIDE, 0), aspect="equal")
    shown = fields[dims : dims + 3].transpose(1, 2, 0)
    low, high = np.percentile(shown, (1, 99), axis=(0, 1))
    axes[2].imshow(((shown - low) / (high - low)).clip(0, 1) * inside[..., None])
    titles = (
        "pixels of objects, where they are",
        "the same pixels, moved by their P",
        "E (three of four channels, as colours)",
    )
    _finish(figure, axes, titles, "embeddings.jpg")


def merging(picture: np.ndarray, seeds: np.ndarray, maps: Maps, owner: np.ndarray, labels: np.ndarray) -> None:
    """Maps of two seeds that agree, that of a neighbour, and the objects that they become."""
    margin = 28
    is_central = ((seeds[:, 1:] > margin) & (seeds[:, 1:] < _SIDE - margin)).all(1)
    pair = next(
        np.flatnonzero(owner == first) for first in np.unique(owner) if (is_central & (owner == first)).sum() > 1
    )
    distance = np.hypot(*(seeds[:, 1:] - seeds[pair[0], 1:]).T)
    distance[pair] = np.inf
    top, left = seeds[pair[0], 1:] - margin
    part = np.s_[top : top + 2 * margin, left : left + 2 * margin]
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
    pixels = []
    for axis, seed in zip(axes, (*pair[:2], int(np.argmin(distance))), strict=False):
        own = (maps.seed == int(seed)).nonzero()[:, 0]
        pixels.append(set(maps.pixel[own].tolist()))
        plane = np.full(_SIDE * _SIDE, np.nan)
        plane[maps.pixel[own].numpy()] = torch.sigmoid(maps.logit[own]).numpy()
        axis.imshow(picture[part] // 2)
        axis.imshow(plane.reshape(_SIDE, _SIDE)[part], cmap="viridis", vmin=0.5, vmax=1)
        axis.plot(seeds[seed, 2] - left, seeds[seed, 1] - top, "o", color="red", markersize=5)
    shown = (abs(seeds[:, 1:] - seeds[pair[0], 1:]) < margin).all(1)
    axes[3].imshow(_outlined(picture, labels)[part])
    axes[3].plot(seeds[shown, 2] - left, seeds[shown, 1] - top, "o", color="red", markersize=4)
    overlaps = [len(pixels[0] & other) / len(pixels[0] | other) for other in pixels[1:]]
    titles = (
        "map of one seed",
        f"another: IoU {overlaps[0]:.2f}, so merged",
        f"a neighbour: IoU {overlaps[1]:.2f}",
        "seeds and objects",
    )
    _finish(figure, axes, titles, "merging.jpg")


def _outlined(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    drawn = picture.copy()
    drawn[find_boundaries(labels, mode="inner")] = (255, 214, 10)
    return drawn


def _finish(figure: plt.Figure, axes: np.ndarray, titles: tuple[str, ...], name: str) -> None:
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(FOLDER / name, dpi=110, pil_kwargs={"quality": 85})
    plt.close(figure)


if __name__ == "__main__":
    main()
