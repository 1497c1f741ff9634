"""Scores of many images: of two folders of label images, of a function, or of a model on samples."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.label_image import read_labels
from cytoseed.learn.metrics import ImageScore, pool, score
from cytoseed.learn.samples import MASK_SUFFIXES, Sample, files_by_stem
from cytoseed.paths import atomic_file
from cytoseed.settings import SegmentOptions
from cytoseed.text_files import read_table

if TYPE_CHECKING:
    from cytoseed.models.weights import Model

_TABLE = {"F1@0.5": "f1", "mean F1": "f1_mean", "AP": "ap", "PQ": "pq", "AJI": "aji", "Dice": "dice"}


class ScoredImage(NamedTuple):
    """Score of one image."""

    name: str  # name of the image's file, without suffix
    dataset: str  # name of the data set; empty if unknown
    modality: str  # kind of image, such as `fluorescence`; `unknown` if not stated
    score: ImageScore
    predicted_path: Path | None = None  # file of the predicted label image, if there is one
    true_path: Path | None = None  # file of the true label image, if there is one
    target: str = ""  # `nuclei` or `cells` where both are scored


class Accuracy(NamedTuple):
    """Pooled accuracy of a group of images, each value in [0, 1], rounded to four digits."""

    name: str  # data set and modality; `all` for all images together
    f1: float  # F1 at IoU 0.5
    f1_mean: float  # mean F1 over IoU 0.5 to 0.9
    aji: float  # aggregated Jaccard index


@dataclass(frozen=True)
class Evaluation:
    """Scores of at least one image."""

    images: tuple[ScoredImage, ...]
    unpaired: int = 0  # number of predicted files without a true mask, which were not scored

    @property
    def pooled(self) -> ImageScore:
        """Counts of all images together; every object has the same weight."""
        return pool(image.score for image in self.images)

    @property
    def members(self) -> Mapping[tuple[str, str], tuple[ImageScore, ...]]:
        """Scores of the images of each (data set, modality), sorted; empty if no data set is known."""
        members: dict[tuple[str, str], list[ImageScore]] = {}
        for image in self.images:
            kind = f"{image.modality} {image.target}".rstrip()
            members.setdefault((image.dataset, kind), []).append(image.score)
        known = any(dataset for dataset, _ in members)
        return {key: tuple(scores) for key, scores in sorted(members.items())} if known else {}

    @property
    def groups(self) -> Mapping[tuple[str, str], ImageScore]:
        """Pooled score by (data set, modality), sorted; empty if no data set is known."""
        return {key: pool(scores) for key, scores in self.members.items()}

    @property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """Pooled accuracy of each group, then of all images together; of two targets, the mean of both."""
        groups = [Accuracy(name, *_rounded([group])) for name, group in self._named_groups()[:-1]]
        by_target = {
            each.target: pool(one.score for one in self.images if one.target == each.target) for each in self.images
        }
        return (*groups, Accuracy("all", *_rounded(list(by_target.values()))))

    def to_table(self) -> str:
        """Table for a terminal: one line per group and one for all images."""
        lines = [("", "images", "objects", *_TABLE)]
        for name, group in self._named_groups():
            metrics = (f"{group.metrics[metric]:.3f}" for metric in _TABLE.values())
            lines.append((name, str(group.images), str(group.true_objects), *metrics))
        return align(lines)

    def to_json(self) -> dict[str, Any]:
        """The table, and the scores of each image, as JSON values."""
        images = (
            {"name": each.name, "dataset": each.dataset, "modality": each.modality, **_figures(each.score)}
            for each in self.images
        )
        return {
            "groups": [{"name": name, **_figures(group)} for name, group in self._named_groups()],
            "images": list(images),
            "unpaired": self.unpaired,
        }

    def _named_groups(self) -> list[tuple[str, ImageScore]]:
        return [*((" ".join(key), group) for key, group in self.groups.items()), ("all", self.pooled)]

    def write_csv(self, path: str | Path) -> None:
        """Write one row per image: counts, those at IoU 0.5, and metrics."""
        with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(("name", "dataset", "modality", *list(_figures(self.pooled))[1:]))
            for name, dataset, modality, result, *_ in self.images:
                texts = map(_no_formula, (name, dataset, modality))
                writer.writerow((*texts, *list(_figures(result).values())[1:]))


def _rounded(scores: Sequence[ImageScore]) -> tuple[float, float, float]:
    """Means of F1 at IoU 0.5, mean F1 and AJI."""
    figures = [(each.f1, each.f1_mean, each.metrics["aji"]) for each in scores]
    f1, f1_mean, aji = (round(sum(values) / len(values), 4) for values in zip(*figures, strict=True))
    return f1, f1_mean, aji


def _figures(score: ImageScore) -> dict[str, float]:
    """Counts, those of objects at IoU 0.5, and metrics by name."""
    objects = {"true_objects": score.true_objects, "predicted_objects": score.predicted_objects}
    counts = {"tp": score.tp[0], "fp": score.fp[0], "fn": score.fn[0]}
    return {"images": score.images, **objects, **counts, **score.metrics}


def _no_formula(text: str) -> str:
    """Text of a cell that a spreadsheet takes as text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def evaluate_folders(predicted: str | Path, true: str | Path, samples_csv: str | Path | None = None) -> Evaluation:
    """Score each label image (PNG, TIFF) of the folder `true` against the one with the same stem in `predicted`.

    `STEM.labels.*` is taken before other files of that stem. -1 in a true mask marks pixels that nobody annotated.
    `samples_csv`, with the columns `stem`, `dataset` and `modality`, defines groups. Files that cannot be read are all
    named in one `ValueError`.
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
    kinds = {} if samples_csv is None else _read_kinds(Path(samples_csv))
    images, bad = [], []
    for stem, mask_path in masks.items():
        dataset, modality = kinds.get(stem, ("", "unknown"))
        result, errors = _score_files(predictions[stem], mask_path)
        if result is not None:
            images.append(ScoredImage(stem, dataset, modality, result, predictions[stem], mask_path))
        bad.append(errors)
    if any(bad):
        count, of_all = sum(map(bool, bad)), _by_remedy(error for errors in bad for error in errors)
        raise ValueError(f"{count} of {len(masks)} images cannot be scored: {of_all}")
    return Evaluation(tuple(images), unpaired=len(predictions.keys() - masks.keys()))


def _score_files(predicted: Path, true: Path) -> tuple[ImageScore | None, list[str]]:
    """Score of a predicted label image; or an error for each file that cannot be read, or one for both."""
    labels, errors = [], []
    for path in (predicted, true):
        try:
            labels.append(read_labels(path, warns=path == true))
        except (ValueError, OSError) as error:
            errors.append(str(error))
    if errors:
        return None, errors
    try:
        return score(*labels), []
    except ValueError as error:
        return None, [f"{predicted} and {true}: {error}"]


def _by_remedy(errors: Iterable[str]) -> str:
    """Errors in one text, each remedy, which follows a semicolon, once."""
    causes: dict[str, list[str]] = {}
    for error in dict.fromkeys(errors):
        cause, _, remedy = error.partition("; ")
        causes.setdefault(remedy, []).append(cause)
    return ". ".join("; ".join(filter(None, (", ".join(each), remedy))) for remedy, each in causes.items())


def evaluate_samples(
    label_function: Callable[[NDArray[Any], Sample], NDArray[Any]],
    samples: Sequence[Sample],
    progress: Callable[[int, int], None] | None = None,
    targets: tuple[str, ...] = ("nuclei",),
) -> Evaluation:
    """Score the labels (T, H, W) that a function makes of pixels (C, H, W) and sample; `progress` gets done and total.

    Of two targets, one whose mask is missing is not scored. With one target, labels may be (H, W).
    """
    images: list[ScoredImage] = []
    for done, sample in enumerate(samples, start=1):
        pixels, masks = sample.read_targets(targets)
        labels = np.asarray(label_function(pixels, sample)).reshape(masks.shape)
        images += score_targets(sample, labels, masks, targets)
        if progress is not None:
            progress(done, len(samples))
    return Evaluation(tuple(images))


def score_targets(
    sample: Sample, labels: NDArray[Any], masks: NDArray[Any], targets: tuple[str, ...]
) -> tuple[ScoredImage, ...]:
    """Scores of the labels (T, H, W) of an image; of two targets, one whose mask is missing is left out."""
    names = targets if len(targets) > 1 else ("",)
    return tuple(
        ScoredImage(sample.name, sample.dataset, sample.modality, score(own, true), target=name)
        for name, own, true in zip(names, labels, masks, strict=True)
        if not name or (true >= 0).any()
    )


def evaluate_model(
    model: Model,
    samples: Sequence[Sample],
    options: SegmentOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Segment whole images as users do, each at its own pixel size if it has one, and score every target."""
    from cytoseed.run.api import segment  # needs PyTorch, which scoring folders does not

    def label(pixels: NDArray[Any], sample: Sample) -> NDArray[Any]:
        own = dataclasses.replace(options or SegmentOptions(), pixel_size_um=sample.find_pixel_size_um())
        return segment(pixels, model, own).labels

    return evaluate_samples(label, samples, progress, model.config.targets)


def accuracies_to_json(accuracies: Sequence[Accuracy]) -> dict[str, Any]:
    """Plain values for config.json and logs: those of all images at the top level, groups by name."""
    plain = {each.name: {"f1": each.f1, "f1_mean": each.f1_mean, "aji": each.aji} for each in accuracies}
    return {**plain.pop("all", {}), **plain}


def accuracies_from_json(values: Mapping[str, Any]) -> tuple[Accuracy, ...]:
    """Inverse of `accuracies_to_json`."""
    groups = {name: group for name, group in values.items() if isinstance(group, Mapping)}
    top = {name: value for name, value in values.items() if name not in groups}
    return tuple(Accuracy(name, **group) for name, group in [*groups.items(), ("all", top)] if group)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Table for a terminal: the first column aligned to the left, the others to the right."""
    lines = [[" ".join(cell.split()) for cell in line] for line in lines]  # each in one line
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join("  ".join(row).rstrip() for row in rows)


def _label_files(folder: Path, name: str) -> dict[str, Path]:
    """Label images by stem, sorted; `STEM.labels.*` before `STEM.*`, without the overlays beside them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is {str(folder)!r}, which is not a folder; give a folder of label images")
    files = files_by_stem(folder, MASK_SUFFIXES)
    plain = {stem: path for stem, path in files.items() if not stem.endswith((".labels", ".overlay"))}
    marked = {stem.removesuffix(".labels"): path for stem, path in files.items() if stem.endswith(".labels")}
    return dict(sorted((plain | marked).items()))


def _read_kinds(table: Path) -> dict[str, tuple[str, str]]:
    """Data set and modality of each stem."""
    if not table.is_file():
        raise FileNotFoundError(f"samples_csv is {str(table)!r}, which is not a file")
    kinds: dict[str, tuple[str, str]] = {}
    for row in read_table(table, ("stem", "dataset", "modality"))[1]:
        kind = row["dataset"], row["modality"] or "unknown"
        if kinds.setdefault(row["stem"], kind) != kind:
            raise ValueError(f"{table} lists {row['stem']!r} as {kinds[row['stem']]} and as {kind}")
    return kinds
