"""Images that speed is measured on: mosaics of real fields with a given number of nuclei, and a crop of a slide."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cytoseed.models.weights import Model

PART_PX = 256
SLIDE = Path("slides") / "CMU-1-Small-Region.svs"
CROP_YXHW = (1400, 800, 1000, 1000)
"""Where the slide has the most nuclei."""
TEACHER = "nuclei-paper"
"""Model whose fields instanseg-torch gets, and whose labels stand for the truth of the slide."""


class Part(NamedTuple):
    """A square of a fluorescence field, (PART_PX, PART_PX)."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.int32]
    """Ids are 1..`objects`."""
    objects: int
    is_unseen: bool
    """No model was trained on it."""


class Files(NamedTuple):
    """One image on disk."""

    name: str
    side: int
    channels: int
    objects: int
    """Objects of the truth."""
    image: Path
    truth: Path
    fields: Path | None
    """Raw output of the teacher's network; None for an image that peers are not run on."""


def find_parts(data: Path) -> list[Part]:
    """Parts of every fluorescence field of DSB 2018, each field stretched to 0..255: they differ tenfold."""
    from cytoseed.learn.samples import find_samples

    parts = []
    for sample in find_samples(data, datasets=["dsb2018"]):
        if sample.modality != "fluorescence":
            continue
        pixels, mask = sample.read()
        bright = stretch(pixels[0])
        for row, column in np.ndindex(mask.shape[0] // PART_PX, mask.shape[1] // PART_PX):
            box = _box(row, column)
            ids, objects = renumbered(mask[box])
            parts.append(Part(bright[box], ids, objects, sample.split != "train"))
    return parts


def stretch(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Intensities stretched to 0..255 between percentiles 0.1 and 99.9; an image of one value becomes 0."""
    low, high = np.percentile(pixels, [0.1, 99.9])
    scaled = (pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-9))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def renumbered(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Mask with the ids 1..K, in the order of the old ones, and K; values below 1 become 0."""
    ids, place = np.unique(np.maximum(mask, 0), return_inverse=True)
    numbers = (np.cumsum(ids > 0) * (ids > 0)).astype(np.int32)
    return numbers[place].reshape(mask.shape), int(numbers.max(initial=0))


def choose_parts(counts: Sequence[int], number: int, target: int, seed: int = 0) -> list[int]:
    """Indices of `number` parts, in random order, whose counts add up to nearly `target`, each near to the mean.

    Starts with the counts nearest to the mean; then exchanges the best pair until no exchange improves the sum.
    """
    if number > len(counts):
        raise ValueError(f"{number} parts are needed, there are {len(counts)}")
    order = list(range(len(counts)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda index: abs(counts[index] - target / number))
    chosen, others = order[:number], order[number:]
    known = np.asarray(counts)
    while others:
        left = target - int(known[chosen].sum())
        change = known[others][None, :] - known[chosen][:, None]
        best = np.unravel_index(np.argmin(np.abs(left - change)), change.shape)
        if abs(left - change[best]) >= abs(left):
            break
        out, into = (int(index) for index in best)
        chosen[out], others[into] = others[into], chosen[out]
    random.Random(seed).shuffle(chosen)
    return chosen


def mosaic(parts: Sequence[Part], side: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Image and truth (side, side) of parts laid side by side; a nucleus that a part's edge cuts stays cut."""
    across = side // PART_PX
    if side % PART_PX or across**2 != len(parts):
        raise ValueError(f"{len(parts)} parts of {PART_PX} px do not fill a square of {side} px")
    image, truth, count = np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32), 0
    for part, (row, column) in zip(parts, np.ndindex(across, across), strict=True):
        box = _box(row, column)
        image[box] = part.pixels
        truth[box] = np.where(part.mask > 0, part.mask + count, 0)
        count += part.objects
    return image, truth


def draw(parts: Sequence[Part], side: int, objects: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Mosaic with about `objects` nuclei, of unseen parts where they suffice; 0 gives a black image."""
    if objects == 0:
        return np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32)
    number = (side // PART_PX) ** 2
    unseen = [part for part in parts if part.is_unseen]
    most = sum(sorted((part.objects for part in unseen), reverse=True)[:number])
    pool = unseen if len(unseen) >= number and most >= objects else parts
    chosen = choose_parts([part.objects for part in pool], number, objects)
    return mosaic([pool[index] for index in chosen], side)


class Shelf:
    """Images on disk, each made once."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder, self._data = folder, data
        self._parts: list[Part] = []

    def mosaic(self, name: str, side: int, objects: int, with_fields: bool = True) -> Files:
        """Mosaic with about `objects` nuclei."""
        image_path, truth_path, _ = self._paths(name)
        if not truth_path.exists():
            self._parts = self._parts or find_parts(self._data)
            image, truth = draw(self._parts, side, objects)
            _save(image_path, image)
            _save(truth_path, truth)
        return self._files(name, with_fields)

    def slide(self, name: str) -> Files:
        """Crop of the slide; the teacher's labels stand for the truth."""
        image_path, truth_path, _ = self._paths(name)
        if not truth_path.exists():
            from cytoseed.images import open_image

            crop = open_image(self._data / SLIDE).read(CROP_YXHW)
            _save(image_path, np.ascontiguousarray(np.moveaxis(crop, 0, -1)))
            _run_apart(_save_labels, image_path, truth_path)
        return self._files(name, with_fields=True)

    def phi(self) -> Path:
        """File of the teacher's pixel classifier, in the names of instanseg-torch."""
        path = self._folder / "phi.npz"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            classifier: Any = _load_teacher().segmenter.classifiers[0]
            layers = enumerate([classifier.first, *classifier.layers], start=1)
            states = {f"fc{i}.{key}": value for i, layer in layers for key, value in layer.state_dict().items()}
            np.savez(path, **{key: value.numpy() for key, value in states.items()})
        return path

    def _paths(self, name: str) -> tuple[Path, Path, Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return tuple(self._folder / f"{name}{suffix}" for suffix in (".npy", ".truth.npy", ".fields.npy"))  # type: ignore[return-value]

    def _files(self, name: str, with_fields: bool) -> Files:
        image_path, truth_path, fields_path = self._paths(name)
        if with_fields and not fields_path.exists():
            _run_apart(_save_fields, image_path, fields_path)
        image, truth = np.load(image_path, mmap_mode="r"), np.load(truth_path, mmap_mode="r")
        channels = 1 if image.ndim == 2 else image.shape[2]
        fields = fields_path if with_fields else None
        return Files(name, image.shape[0], channels, int(truth.max()), image_path, truth_path, fields)


def raw_fields(image: NDArray[np.uint8], model: Model) -> NDArray[np.float32]:
    """Unbounded output (F, H, W) of a model's network alone: channels that become P, then E, and 15 (S - 0.5)."""
    import torch
    from torch.nn import functional as F

    from cytoseed.run.api import network_image

    pixels = network_image(image, model.config)[None]
    height, width = pixels.shape[2:]
    stride = model.segmenter.stride
    padded = F.pad(pixels, [0, -width % stride, 0, -height % stride], mode="replicate")
    with torch.inference_mode():
        fields = model.segmenter.eval().network(padded)[0, :, :height, :width]
    return np.ascontiguousarray(fields.numpy())


def _box(row: int, column: int) -> tuple[slice, slice]:
    return np.s_[row * PART_PX : (row + 1) * PART_PX, column * PART_PX : (column + 1) * PART_PX]


def _load_teacher() -> Model:
    from cytoseed.models.weights import load_model

    return load_model(TEACHER)


def _run_apart(function: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Run a function in a process of its own, so that its memory is free again while others are measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(function, (source, target))


def _save_labels(source: Path, target: Path) -> None:
    import cytoseed

    _save(target, cytoseed.segment(np.load(source), _load_teacher()).labels)


def _save_fields(source: Path, target: Path) -> None:
    _save(target, raw_fields(np.load(source), _load_teacher()))


def _save(path: Path, array: NDArray[Any]) -> None:
    beside = path.with_name(f".{path.name}")
    np.save(beside, array)
    beside.replace(path)
