"""The images that speed is measured on: mosaics of real fields with as many nuclei as wanted, and a crop of a slide."""

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
"""Model whose fields instanseg-torch is given, and whose labels stand for the truth where there is none."""


class Part(NamedTuple):
    """A square of a fluorescence field, `PART_PX` to a side."""

    pixels: NDArray[np.uint8]
    """(PART_PX, PART_PX)"""
    mask: NDArray[np.int32]
    """(PART_PX, PART_PX); ids are 1..`objects`."""
    objects: int
    is_unseen: bool
    """No model was trained on it."""


class Files(NamedTuple):
    """One image on disk, ready for the adapters."""

    name: str
    side: int
    channels: int
    objects: int
    """True ones; where nobody annotated any, those that the teacher found."""
    image: Path
    truth: Path
    fields: Path | None
    """Raw output of the teacher's network; None: not made, so instanseg-torch is not run."""


def find_parts(data: Path) -> list[Part]:
    """Cut every fluorescence field of DSB 2018 into parts; what remains at its right and lower edge is left out.

    Parameters
    ----------
    data : Path
        Folder with `samples.csv`.

    Returns
    -------
    list of Part
        Each field's intensities are stretched to 0..255 (percentiles 0.1 and 99.9): fields differ tenfold in
        brightness, and side by side the dark ones would be black.
    """
    from cytoseed.learn.samples import find_samples

    parts = []
    for sample in find_samples(data, datasets=["dsb2018"]):
        if sample.modality != "fluorescence":
            continue
        pixels, mask = sample.read()
        bright = stretch(pixels[0])
        for row, column in np.ndindex(mask.shape[0] // PART_PX, mask.shape[1] // PART_PX):
            box = np.s_[row * PART_PX : (row + 1) * PART_PX, column * PART_PX : (column + 1) * PART_PX]
            ids, objects = renumbered(mask[box])
            parts.append(Part(bright[box], ids, objects, sample.split != "train"))
    return parts


def stretch(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch intensities to 0..255 between percentiles 0.1 and 99.9; an image of one value becomes 0."""
    low, high = np.percentile(pixels, [0.1, 99.9])
    scaled = (pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-9))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def renumbered(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Give the objects of a mask the ids 1..K, in the order of their own, and K; what is below 1 becomes 0."""
    ids, place = np.unique(np.maximum(mask, 0), return_inverse=True)
    numbers = (np.cumsum(ids > 0) * (ids > 0)).astype(np.int32)
    return numbers[place].reshape(mask.shape), int(numbers.max(initial=0))


def choose_parts(counts: Sequence[int], number: int, target: int, seed: int = 0) -> list[int]:
    """Choose parts that together have as near as can be to `target` objects, and each about as many as the others.

    Those nearest to the mean are improved by exchanges, each time the best one, until none brings the sum nearer.

    Parameters
    ----------
    counts : sequence of int
        Objects of each part.
    number : int
        Parts to choose, at most as many as there are.
    target : int
    seed : int

    Returns
    -------
    list of int
        Indices of distinct parts, in random order.

    Raises
    ------
    ValueError
        If there are fewer parts.
    """
    if number > len(counts):
        raise ValueError(f"{number} parts are wanted, there are {len(counts)}")
    order = list(range(len(counts)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda index: abs(counts[index] - target / number))
    chosen, others = order[:number], order[number:]
    known = np.asarray(counts)
    while others:
        left = target - int(known[chosen].sum())
        change = known[others][None, :] - known[chosen][:, None]  # of exchanging one for another
        best = np.unravel_index(np.argmin(np.abs(left - change)), change.shape)
        if abs(left - change[best]) >= abs(left):
            break
        out, into = (int(index) for index in best)
        chosen[out], others[into] = others[into], chosen[out]
    random.Random(seed).shuffle(chosen)
    return chosen


def mosaic(parts: Sequence[Part], side: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Lay distinct parts side by side.

    Parameters
    ----------
    parts : sequence of Part
        As many as fill the square.
    side : int
        Of the mosaic in px, a multiple of `PART_PX`.

    Returns
    -------
    image, truth : ndarray, shape (side, side)
        Ids are 1..K without gaps; a nucleus cut by a part's edge stays cut.

    Raises
    ------
    ValueError
        If the parts do not fill the square.
    """
    across = side // PART_PX
    if side % PART_PX or across**2 != len(parts):
        raise ValueError(f"{len(parts)} parts of {PART_PX} px do not fill a square of {side} px")
    image, truth, count = np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32), 0
    for part, (row, column) in zip(parts, np.ndindex(across, across), strict=True):
        box = np.s_[row * PART_PX : (row + 1) * PART_PX, column * PART_PX : (column + 1) * PART_PX]
        image[box] = part.pixels
        truth[box] = np.where(part.mask > 0, part.mask + count, 0)
        count += part.objects
    return image, truth


def draw(parts: Sequence[Part], side: int, objects: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Make a mosaic with about so many nuclei, of fields of the validation and test splits where they suffice.

    Parameters
    ----------
    parts : sequence of Part
    side : int
        In px, a multiple of `PART_PX`.
    objects : int
        0 gives a black image.
    """
    if objects == 0:
        return np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32)
    number = (side // PART_PX) ** 2
    unseen = [part for part in parts if part.is_unseen]
    most = sum(sorted((part.objects for part in unseen), reverse=True)[:number])
    pool = unseen if len(unseen) >= number and most >= objects else parts
    chosen = choose_parts([part.objects for part in pool], number, objects)
    return mosaic([pool[index] for index in chosen], side)


def slide_crop(data: Path) -> NDArray[np.uint8]:
    """Read the crop of the real slide, (1000, 1000, 3)."""
    from cytoseed.images import open_image

    top, left, height, width = CROP_YXHW
    pixels = open_image(data / SLIDE).read()[:, top : top + height, left : left + width]
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


class Shelf:
    """Images on disk, each made once.

    Parameters
    ----------
    folder : Path
        Where they lie.
    data : Path
        Folder with `samples.csv` and the slide.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder, self._data = folder, data
        self._parts: list[Part] = []

    def mosaic(self, name: str, side: int, objects: int, with_fields: bool = True) -> Files:
        """Give a mosaic with about so many nuclei; see `draw`."""
        paths = self._paths(name)
        if not paths[1].exists():
            self._parts = self._parts or find_parts(self._data)
            image, truth = draw(self._parts, side, objects)
            _save(paths[0], image)
            _save(paths[1], truth)
        return self._files(name, with_fields)

    def slide(self, name: str) -> Files:
        """Give the crop of the slide; the teacher's labels stand for the truth."""
        paths = self._paths(name)
        if not paths[1].exists():
            _save(paths[0], slide_crop(self._data))
            _apart(_save_labels, paths[0], paths[1])
        return self._files(name, True)

    def phi(self) -> Path:
        """Give the file of the teacher's pixel classifier, in the names of instanseg-torch."""
        path = self._folder / "phi.npz"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            classifier: Any = _load_teacher().segmenter.classifiers[0]
            layers = [classifier.first, *classifier.layers]
            weights = {f"fc{i}.{key}": value for i, layer in enumerate(layers, 1) for key, value in _state(layer)}
            np.savez(path, **weights)
        return path

    def tiles(self, name: str, whole: Files, side: int) -> Files:
        """Cut an image into a batch of tiles, (N, side, side)."""
        paths = self._paths(name)
        for source, target in ((whole.image, paths[0]), (whole.truth, paths[1])):
            if not target.exists():
                _save(target, cut(np.load(source), side))
        if whole.fields is not None and not paths[2].exists():
            _save(paths[2], np.stack([cut(plane, side) for plane in np.load(whole.fields)], axis=1))
        return Files(name, side, whole.channels, whole.objects, paths[0], paths[1], paths[2])

    def _paths(self, name: str) -> tuple[Path, Path, Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return tuple(self._folder / f"{name}{suffix}" for suffix in (".npy", ".truth.npy", ".fields.npy"))  # type: ignore[return-value]

    def _files(self, name: str, with_fields: bool) -> Files:
        image_path, truth_path, fields_path = self._paths(name)
        if with_fields and not fields_path.exists():
            _apart(_save_fields, image_path, fields_path)
        image, truth = np.load(image_path, mmap_mode="r"), np.load(truth_path, mmap_mode="r")
        channels = 1 if image.ndim == 2 else image.shape[2]
        fields = fields_path if with_fields else None
        return Files(name, image.shape[0], channels, int(truth.max()), image_path, truth_path, fields)


def raw_fields(image: NDArray[np.uint8], model: Model) -> NDArray[np.float32]:
    """Run a model's network alone, and leave its output as it comes, before it is bounded.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W) or (H, W, 3)
    model : Model

    Returns
    -------
    ndarray of float32, shape (F, H, W)
        Dp channels that become P, De of E, and 15 (S - 0.5).
    """
    import torch
    from torch.nn import functional as F

    from cytoseed.run.api import network_image

    seen = network_image(image, model.config)[None]
    height, width = seen.shape[2:]
    stride = model.segmenter.stride
    padded = F.pad(seen, [0, -width % stride, 0, -height % stride], mode="replicate")
    with torch.inference_mode():
        fields = model.segmenter.eval().network(padded)[0, :, :height, :width]
    return np.ascontiguousarray(fields.numpy())


def cut(image: NDArray[Any], side: int) -> NDArray[Any]:
    """Cut (H, W) into tiles (N, side, side), row by row; sides are multiples of `side`."""
    down, across = image.shape[0] // side, image.shape[1] // side
    rows = image.reshape(down, side, across, side).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(down * across, side, side))


def _load_teacher() -> Model:
    from cytoseed.models.weights import load_model

    return load_model(TEACHER)


def _apart(function: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Run a function in a process of its own: the memory that it takes is not kept while others are measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(function, (source, target))


def _save_labels(source: Path, target: Path) -> None:
    import cytoseed

    _save(target, cytoseed.segment(np.load(source), _load_teacher()).labels)


def _save_fields(source: Path, target: Path) -> None:
    _save(target, raw_fields(np.load(source), _load_teacher()))


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write an array beside its place and put it there, so that a kill leaves no half of one."""
    beside = path.with_name(f".{path.name}")
    np.save(beside, array)
    beside.replace(path)


def _state(layer: Any) -> list[tuple[str, NDArray[Any]]]:
    return [(key, value.numpy()) for key, value in layer.state_dict().items()]
