"""Scores of many images at once: of folders of label images, or of a function run over samples."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.metrics import ImageScore, pool, score
from cytoseed.learn.samples import MASK_SUFFIXES, Sample, read_mask
from cytoseed.paths import atomic_file

_HEADER = ("", "images", "objects", "F1@0.5", "mean F1", "AP", "PQ", "AJI", "Dice")


class ScoredImage(NamedTuple):
    """One image's score, and what the image is."""

    name: str
    """Name of the image's file, without suffix."""
    dataset: str
    """Name of the data set; empty where unknown."""
    modality: str
    """Kind of image, such as `fluorescence`; `unknown` where nothing says."""
    score: ImageScore
    """The counts."""
    predicted_path: Path | None = None
    """File of the predicted label image; None where a function gave it."""
    true_path: Path | None = None
    """File of the true label image; None where a sample gave it."""


class Row(NamedTuple):
    """The figures of one image, as a line of a table: all in [0, 1] but the counts."""

    name: str
    dataset: str
    modality: str
    true_objects: int
    predicted_objects: int
    tp: int
    fp: int
    fn: int
    f1: float
    f1_mean: float
    ap: float
    precision: float
    recall: float
    pq: float
    sq: float
    aji: float
    dice: float


@dataclass(frozen=True)
class Evaluation:
    """The scores of a set of images."""

    images: tuple[ScoredImage, ...]
    """One entry an image, at least one."""
    unpaired: int = 0
    """Predicted files that no true mask belongs to; they were left out."""

    @property
    def pooled(self) -> ImageScore:
        """All images together, every object weighing the same: the headline."""
        return pool(image.score for image in self.images)

    @property
    def members(self) -> Mapping[tuple[str, str], tuple[ImageScore, ...]]:
        """Scores of the images of each (data set, modality), sorted."""
        members: dict[tuple[str, str], list[ImageScore]] = {}
        for image in self.images:
            members.setdefault((image.dataset, image.modality), []).append(image.score)
        return {key: tuple(scores) for key, scores in sorted(members.items())}

    @property
    def groups(self) -> Mapping[tuple[str, str], ImageScore]:
        """Pooled score by (data set, modality), sorted; empty where no image's data set is known."""
        members = self.members
        known = any(dataset for dataset, _ in members)
        return {key: pool(scores) for key, scores in members.items()} if known else {}

    def to_rows(self) -> tuple[Row, ...]:
        """One line of figures an image; TP, FP and FN are counted at IoU 0.5."""
        return tuple(_row(image) for image in self.images)

    def to_table(self) -> str:
        """Plain text for a terminal: a line for each group, and one for all images together."""
        lines: list[tuple[str, ...]] = [_HEADER]
        lines += [_line(" ".join(key), group) for key, group in self.groups.items()]
        lines.append(_line("all", self.pooled))
        return align(lines)

    def write_csv(self, path: str | Path) -> None:
        """Write `to_rows` with a header line; an existing file is replaced, whole or not at all."""
        with atomic_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(Row._fields)
            writer.writerows(self.to_rows())


def evaluate_folders(predicted: str | Path, true: str | Path, samples_csv: str | Path | None = None) -> Evaluation:
    """Score a folder of predicted label images against a folder of true ones.

    Files belong together when their names are equal without suffix; `STEM.labels.tif`, as `cytoseed` writes
    it, is a label image of STEM and goes before another file of that stem.

    Parameters
    ----------
    predicted : str or Path
        Folder of label images, PNG or TIFF; 0 is background.
    true : str or Path
        Folder of masks, PNG or TIFF; 0 is background, -1 marks pixels that nobody annotated.
    samples_csv : str or Path, optional
        Table with the columns `stem`, `dataset` and `modality`, to pool by. Stems that it lacks have no data
        set and the modality `unknown`.

    Returns
    -------
    Evaluation
        One entry for each true mask, by name.

    Raises
    ------
    FileNotFoundError
        If a folder or the table is missing, `true` holds no masks, or a true mask has no prediction.
    ValueError
        If a pair differs in size, a file is no label image, two files share a stem, the table lacks a
        column, or it gives one stem two meanings.
    """
    predictions, masks = _label_files(Path(predicted), "predicted"), _label_files(Path(true), "true")
    if not masks:
        raise FileNotFoundError(f"folder {str(true)!r} holds no masks ({', '.join(MASK_SUFFIXES)})")
    missing = [stem for stem in masks if stem not in predictions]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(masks)} true masks have no prediction in {str(predicted)!r}: "
            f"{', '.join(missing)}; predict these as well, or leave their masks out"
        )
    kinds = {} if samples_csv is None else _kinds(Path(samples_csv))
    images = []
    for stem, mask_path in masks.items():
        dataset, modality = kinds.get(stem, ("", "unknown"))
        pair = f"{predictions[stem]} and {mask_path}"
        result = _score_named(read_mask(predictions[stem]), read_mask(mask_path), pair)
        images.append(ScoredImage(stem, dataset, modality, result, predictions[stem], mask_path))
    return Evaluation(tuple(images), unpaired=len(predictions.keys() - masks.keys()))


def evaluate_samples(
    label_function: Callable[[NDArray[Any], Sample], NDArray[Any]],
    samples: Sequence[Sample],
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run a function over samples, one at a time, and score what it gives.

    Parameters
    ----------
    label_function : callable
        Takes pixels (C, H, W) as they are stored and the sample that they are of, and returns labels (H, W), integers
        with 0 for background.
    samples : sequence of Sample
        At least one.
    progress : callable, optional
        Called after each sample with the number done and the number of all.

    Returns
    -------
    Evaluation
        One entry a sample, in the same order.

    Raises
    ------
    ValueError
        If there are no samples, or labels differ in size from the mask.
    TypeError
        If the function gives anything but an array of integers.
    """
    if not samples:
        raise ValueError("samples is empty; give at least one")
    images = []
    for done, sample in enumerate(samples, start=1):
        pixels, mask = sample.read()
        result = _score_named(label_function(pixels, sample), mask, sample.name)
        images.append(ScoredImage(sample.name, sample.dataset, sample.modality, result))
        if progress is not None:
            progress(done, len(samples))
    return Evaluation(tuple(images))


def align(lines: Sequence[Sequence[str]]) -> str:
    """Set lines of equally many cells in columns for a terminal: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join("  ".join(row).rstrip() for row in rows)


def _score_named(predicted: NDArray[Any], true: NDArray[np.int32], name: str) -> ImageScore:
    try:
        return score(predicted, true)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _label_files(folder: Path, name: str) -> dict[str, Path]:
    """List label images by stem, sorted; `STEM.labels.*` goes before `STEM.*`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is {str(folder)!r}, which is no folder; give a folder of label images")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in MASK_SUFFIXES and p.name[0] != ".")
    paths = [
        path for path in paths if not path.stem.endswith(".overlay")
    ]  # pictures that cytoseed writes beside labels
    marked = _unique_stems(path for path in paths if path.stem.endswith(".labels"))
    plain = _unique_stems(path for path in paths if not path.stem.endswith(".labels"))
    return dict(sorted((plain | marked).items()))


def _unique_stems(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        stem = path.stem.removesuffix(".labels")
        if stem in found:
            raise ValueError(f"{path.parent} holds {found[stem].name} and {path.name}; keep one of them")
        found[stem] = path
    return found


def _kinds(table: Path) -> dict[str, tuple[str, str]]:
    """Read the data set and modality of each stem."""
    if not table.is_file():
        raise FileNotFoundError(f"samples_csv is {str(table)!r}, which is no file")
    kinds: dict[str, tuple[str, str]] = {}
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for column in ("stem", "dataset", "modality"):
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"{table} has no column {column!r}; it needs: stem, dataset, modality")
        for row in reader:
            kind = row["dataset"], row["modality"] or "unknown"
            if kinds.setdefault(row["stem"], kind) != kind:
                raise ValueError(f"{table} lists {row['stem']!r} as {kinds[row['stem']]} and as {kind}")
    return kinds


def _row(image: ScoredImage) -> Row:
    result = image.score
    return Row(
        name=image.name,
        dataset=image.dataset,
        modality=image.modality,
        true_objects=result.true_objects,
        predicted_objects=result.predicted_objects,
        tp=result.tp[0],
        fp=result.fp[0],
        fn=result.fn[0],
        f1=result.f1,
        f1_mean=result.f1_mean,
        ap=result.ap,
        precision=result.precision,
        recall=result.recall,
        pq=result.pq,
        sq=result.sq,
        aji=result.aji,
        dice=result.dice,
    )


def _line(name: str, result: ImageScore) -> tuple[str, ...]:
    figures = (result.f1, result.f1_mean, result.ap, result.pq, result.aji, result.dice)
    return (name, str(result.images), str(result.true_objects), *(f"{figure:.3f}" for figure in figures))
