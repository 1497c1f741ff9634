"""What went wrong between a predicted and a true label image: each object gets exactly one verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.metrics import THRESHOLDS, Overlaps, find_overlaps


@dataclass(frozen=True, eq=False)
class Errors:
    """Ids of objects by what became of them, each array sorted, int64.

    A true object is in exactly one of `found` (first column), `merged`, `split` and `missed`; a predicted one in
    exactly one of `found` (second column), `left_out`, `merging`, `parts` and `false`.
    """

    found: NDArray[np.int64]
    """(M, 2), true and predicted id of the pairs that `score` matches at IoU 0.5."""
    merged: NDArray[np.int64]
    """True objects without a match, more than half of each in a predicted object that covers more than half of
    another true object as well; that one may have its match in the other."""
    split: NDArray[np.int64]
    """True objects without a match, and not merged, that two or more `parts` lie in."""
    missed: NDArray[np.int64]
    """All other true objects."""
    left_out: NDArray[np.int64]
    """Predicted objects without a match, more than half of each where nobody annotated: `score` counts no error."""
    merging: NDArray[np.int64]
    """Predicted objects without a match that cover more than half of two or more true objects, each `merged`."""
    parts: NDArray[np.int64]
    """Predicted objects without a match, not merging, more than half of each in one of the `split` true objects."""
    false: NDArray[np.int64]
    """All other predicted objects."""


def find_errors(predicted: NDArray[Any], true: NDArray[Any]) -> Errors:
    """Tell found, missed, false, split and merged objects apart.

    The matching is that of `score`, so `missed`, `split` and `merged` add up to its false negatives at IoU 0.5, and
    `false`, `parts` and `merging` to its false positives. Where several verdicts fit, the first counts: found,
    left out, merged, split, then missed or false. "More than half" is of the annotated pixels, and exactly
    half is not more.

    Parameters
    ----------
    predicted : ndarray of int, shape (H, W)
        Labels; 0 is background, ids may have gaps.
    true : ndarray of int, shape (H, W)
        Labels; 0 is background, ids may have gaps, -1 marks pixels that nobody annotated.

    Returns
    -------
    Errors

    Raises
    ------
    TypeError, ValueError
        As `score`.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.array([[1, 1, 0, 2, 2, 2, 2, 0, 3]])
    >>> predicted = np.array([[5, 5, 0, 6, 7, 7, 0, 8, 0]])
    >>> errors = find_errors(predicted, true)
    >>> errors.found.tolist(), errors.missed.tolist(), errors.false.tolist()
    ([[1, 5], [2, 7]], [3], [6, 8])
    """
    overlaps = find_overlaps(predicted, true)
    rows = overlaps.matched(THRESHOLDS[0])
    true_free = np.ones(len(overlaps.true_areas), np.bool_)
    true_free[overlaps.true[rows]] = False
    predicted_free = np.ones(len(overlaps.predicted_areas), np.bool_)
    predicted_free[overlaps.predicted[rows]] = False
    left_out = predicted_free & overlaps.excused
    predicted_free &= ~left_out

    merged, merging = _merges(overlaps, true_free, predicted_free)
    split, parts = _splits(overlaps, true_free & ~merged, predicted_free & ~merging)
    true_ids, predicted_ids = _ids(true), _ids(predicted)
    found = np.stack([true_ids[overlaps.true[rows]], predicted_ids[overlaps.predicted[rows]]], axis=1)
    return Errors(
        found=found[np.argsort(found[:, 0])],
        merged=true_ids[merged],
        split=true_ids[split],
        missed=true_ids[true_free & ~merged & ~split],
        left_out=predicted_ids[left_out],
        merging=predicted_ids[merging],
        parts=predicted_ids[parts],
        false=predicted_ids[predicted_free & ~merging & ~parts],
    )


def _merges(
    overlaps: Overlaps, true_free: NDArray[np.bool_], predicted_free: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark true objects that are merged, and predicted ones that merge them.

    A true object lies by more than half in one predicted object at most, and then matches no other one.
    """
    covered = 2 * overlaps.intersection > overlaps.true_areas[overlaps.true]
    counts = np.bincount(overlaps.predicted[covered], minlength=len(overlaps.predicted_areas))
    rows = np.flatnonzero(covered)
    merged = np.zeros_like(true_free)
    merged[overlaps.true[rows[counts[overlaps.predicted[rows]] > 1]]] = True
    return merged & true_free, (counts > 1) & predicted_free


def _splits(
    overlaps: Overlaps, true_free: NDArray[np.bool_], predicted_free: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark true objects that are split, and the predicted ones that are their parts, among those that are free."""
    within = 2 * overlaps.intersection > overlaps.predicted_areas[overlaps.predicted]
    rows = np.flatnonzero(within & true_free[overlaps.true] & predicted_free[overlaps.predicted])
    counts = np.bincount(overlaps.true[rows], minlength=len(true_free))
    parts = np.zeros_like(predicted_free)
    parts[overlaps.predicted[rows[counts[overlaps.true[rows]] > 1]]] = True
    return counts > 1, parts


def _ids(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Ids of the objects, in the order of `Overlaps`' rows."""
    return np.unique(labels[labels > 0]).astype(np.int64)
