"""Agreement of predicted and true objects, as counts to add up: F1 (section 3.2), AP, PQ, AJI and Dice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoU thresholds of matching; their F1 values average to the paper's mean F1."""


@dataclass(frozen=True)
class ImageScore:
    """Counts of one image, or their sums over several, and the metrics that follow from them.

    All metrics lie in [0, 1]. Without true and predicted objects they are 1; if only one of the two is empty, 0.
    """

    tp: tuple[int, ...]  # matched pairs of objects at each of `THRESHOLDS`
    fp: tuple[int, ...]  # predicted objects without a match, at each of `THRESHOLDS`
    fn: tuple[int, ...]  # true objects without a match, at each of `THRESHOLDS`
    matched_iou: float  # sum of the IoU of the pairs matched at 0.5
    aji_intersection: int  # numerator of the aggregated Jaccard index, in px
    aji_union: int  # denominator of the aggregated Jaccard index, in px
    dice_intersection: int  # twice the number of pixels that lie on an object in both images
    dice_total: int  # pixels on predicted objects plus pixels on true ones
    images: int = 1  # number of images behind the counts

    @property
    def true_objects(self) -> int:
        """Number of true objects."""
        return self.tp[0] + self.fn[0]

    @property
    def predicted_objects(self) -> int:
        """Number of predicted objects that are scored at IoU 0.5."""
        return self.tp[0] + self.fp[0]

    @property
    def f1(self) -> float:
        """F1 at IoU 0.5: 2 TP / (2 TP + FP + FN)."""
        return self.f1_at(0.5)

    @property
    def f1_mean(self) -> float:
        """Mean of F1 over IoU 0.5, 0.6, 0.7, 0.8 and 0.9 (the paper's F1^mu)."""
        return sum(self.f1_at(threshold) for threshold in THRESHOLDS) / len(THRESHOLDS)

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric by name; those from `ap` to `sq` are at IoU 0.5."""
        tp, fp, fn = self.tp[0], self.fp[0], self.fn[0]
        return {
            "f1": self.f1,
            "f1_mean": self.f1_mean,
            "ap": self._ratio(tp, tp + fp + fn),  # `accuracy` in StarDist, average precision in the 2018 DSB
            "precision": self._ratio(tp, tp + fp),
            "recall": self._ratio(tp, tp + fn),
            "pq": self._ratio(self.matched_iou, tp + fp / 2 + fn / 2),  # Kirillov et al. 2019, equation 1: F1 times sq
            "sq": self._ratio(self.matched_iou, tp),  # mean IoU of the matched pairs
            "aji": self._ratio(self.aji_intersection, self.aji_union),  # Kumar et al. 2017, algorithm 1
            "dice": self._ratio(self.dice_intersection, self.dice_total),  # Dice of foreground pixels
        }

    def f1_at(self, threshold: float) -> float:
        """F1 at one of `THRESHOLDS`; another threshold raises `ValueError`."""
        if threshold not in THRESHOLDS:
            raise ValueError(f"threshold is {threshold!r}; counts are kept at IoU {', '.join(map(str, THRESHOLDS))}")
        i = THRESHOLDS.index(threshold)
        return self._ratio(2 * self.tp[i], 2 * self.tp[i] + self.fp[i] + self.fn[i])

    def _ratio(self, part: float, whole: float) -> float:
        if whole > 0:
            return part / whole
        return 0.0 if self.true_objects or self.predicted_objects else 1.0


def score(predicted: NDArray[Any], true: NDArray[Any]) -> ImageScore:
    """Compare one predicted label image with the true one.

    `predicted` and `true` are integers (H, W): ids with or without gaps, 0 for background; -1 in `true` marks pixels
    that nobody annotated, which count in no area. Objects are matched one to one, as many pairs as possible with an
    IoU of at least the threshold, as in StarDist's `matching`. A predicted object with more than half of its pixels on
    -1 may match, but is never a false positive nor unused in the aggregated Jaccard index. Of equally good
    predictions that index takes the one with the lowest id.
    """
    overlaps = find_overlaps(predicted, true)
    iou = overlaps.intersection / overlaps.union
    matches = [overlaps.matched(threshold) for threshold in THRESHOLDS]
    aji_intersection, aji_union = _aggregated_jaccard(overlaps, iou)
    return ImageScore(
        tp=tuple(len(rows) for rows in matches),
        fp=tuple(int(np.count_nonzero(_unused(overlaps, rows))) for rows in matches),
        fn=tuple(len(overlaps.true_areas) - len(rows) for rows in matches),
        matched_iou=float(iou[matches[0]].sum()),
        aji_intersection=aji_intersection,
        aji_union=aji_union,
        dice_intersection=2 * int(overlaps.intersection.sum()),
        dice_total=int(overlaps.true_areas.sum() + overlaps.predicted_areas.sum()),
    )


def pool(scores: Iterable[ImageScore]) -> ImageScore:
    """Sum of the counts of at least one image, as `matching_dataset` of StarDist with `by_image=False`."""
    parts = tuple(scores)
    if not parts:
        raise ValueError("scores is empty; give the score of at least one image")
    columns = zip(*map(astuple, parts), strict=True)
    sums: Iterable[Any] = (
        tuple(map(sum, zip(*each, strict=True))) if isinstance(each[0], tuple) else sum(each) for each in columns
    )
    return ImageScore(*sums)


class Overlaps(NamedTuple):
    """Pairs of objects that share pixels, as parallel arrays sorted by true, then predicted object."""

    true: NDArray[np.intp]  # index of the true object in `true_areas`
    predicted: NDArray[np.intp]  # index of the predicted object in `predicted_areas`
    intersection: NDArray[np.int64]  # number of shared pixels
    true_areas: NDArray[np.int64]  # area of every true object in px, by id
    predicted_areas: NDArray[np.int64]  # area of every predicted object in annotated px, by id; may be 0
    excused: NDArray[np.bool_]  # whether more than half of the predicted object's pixels are not annotated

    @property
    def union(self) -> NDArray[np.int64]:
        """Number of pixels in the union of each pair."""
        areas = self.true_areas[self.true] + self.predicted_areas[self.predicted]
        return np.asarray(areas - self.intersection)

    def matched(self, threshold: float) -> NDArray[np.intp]:
        """Indices of a largest one-to-one matching of pairs with at least this IoU, which is 0.5 or more.

        Above 0.5 an object has at most one such partner. At exactly 0.5 it can have two, which then halve it and
        overlap nothing else, so either one will do and the first is taken.
        """
        rows = np.flatnonzero(self.intersection / self.union >= threshold)
        _, first = np.unique(self.true[rows], return_index=True)
        rows = rows[first]
        _, first = np.unique(self.predicted[rows], return_index=True)
        return np.asarray(rows[first])


def find_overlaps(predicted: NDArray[Any], true: NDArray[Any]) -> Overlaps:
    """Overlap of each predicted object with each true one; memory grows with pixels, not with objects squared."""
    _check_labels(predicted, "predicted", 0)
    _check_labels(true, "true", -1)
    if predicted.shape != true.shape:
        raise ValueError(f"predicted has shape {predicted.shape} and true has {true.shape}; they must be equal, (H, W)")
    true_pixels, predicted_pixels = (labels.ravel().astype(np.int64) for labels in (true, predicted))
    base = int(predicted_pixels.max(initial=0)) + 1
    # ids of true objects are raised by 1, so that -1 divides as the others do
    keys, counts = np.unique((true_pixels + 1) * base + predicted_pixels, return_counts=True)
    pair_true, pair_predicted = keys // base - 1, keys % base

    ids, rows = np.unique(pair_predicted, return_inverse=True)
    annotated = pair_true >= 0
    all_pixels = _sum_by(rows, counts, len(ids))
    visible = _sum_by(rows[annotated], counts[annotated], len(ids))
    objects = ids > 0

    on_true = pair_true > 0
    true_ids, true_rows = np.unique(pair_true[on_true], return_inverse=True)
    both = on_true & (pair_predicted > 0)
    return Overlaps(
        true=true_rows[pair_predicted[on_true] > 0],
        predicted=(np.cumsum(objects) - 1)[rows[both]],
        intersection=counts[both].astype(np.int64),
        true_areas=_sum_by(true_rows, counts[on_true], len(true_ids)),
        predicted_areas=visible[objects],
        excused=2 * visible[objects] < all_pixels[objects],
    )


def _check_labels(labels: NDArray[Any], name: str, lowest: int) -> None:
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"{name} is {kind}; it must be an array of integers, one id per object")
    if labels.ndim != 2:
        raise ValueError(f"{name} has shape {labels.shape}; it must be (H, W)")
    for value in (labels.min(initial=0), labels.max(initial=0)):
        if not lowest <= value < 2**31:  # the product of two ids must fit in int64
            raise ValueError(f"{name} holds {value}; its values must be from {lowest} to 2^31 - 1")


def _sum_by(rows: NDArray[np.intp], values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    # bincount adds in float64, exact up to 2^53 pixels
    return np.bincount(rows, weights=values, minlength=size).astype(np.int64)


def _unused(overlaps: Overlaps, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Predicted objects in none of these pairs and not excused."""
    unused = ~overlaps.excused
    unused[overlaps.predicted[rows]] = False
    return unused


def _aggregated_jaccard(overlaps: Overlaps, iou: NDArray[np.float64]) -> tuple[int, int]:
    """Intersections and unions of true objects with their best predictions, plus unused objects in the union."""
    best_first = np.lexsort((overlaps.predicted, -iou, overlaps.true))
    found, first = np.unique(overlaps.true[best_first], return_index=True)
    best = best_first[first]
    missed = np.ones(len(overlaps.true_areas), dtype=np.bool_)
    missed[found] = False
    union = overlaps.union[best].sum() + overlaps.true_areas[missed].sum()
    union += overlaps.predicted_areas[_unused(overlaps, best)].sum()
    return int(overlaps.intersection[best].sum()), int(union)
