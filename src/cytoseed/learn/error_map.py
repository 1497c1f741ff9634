"""Errors of one predicted label image: missed, false, split and merged objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.metrics import THRESHOLDS, find_overlaps


@dataclass(frozen=True, eq=False)
class Errors:
    """Ids of objects by kind of error, sorted.

    A true object is in exactly one of `found` (first column), `merged`, `split` and `missed`; a predicted one in
    exactly one of `found` (second column), `left_out`, `merging`, `parts` and `false`.
    """

    found: NDArray[np.int64]  # (M, 2): true and predicted id of each pair that `score` matches at IoU 0.5
    # true objects without a match, more than half of each in a predicted object that covers more than half of another
    merged: NDArray[np.int64]
    split: NDArray[np.int64]  # true objects without a match, not merged, that contain two or more `parts`
    missed: NDArray[np.int64]  # all other true objects
    left_out: NDArray[np.int64]  # predicted objects without a match, more than half not annotated: no error
    merging: NDArray[np.int64]  # predicted objects without a match, over more than half of two or more true objects
    parts: NDArray[np.int64]  # predicted objects without a match, not merging, more than half in a `split` true object
    false: NDArray[np.int64]  # all other predicted objects


def find_errors(predicted: NDArray[Any], true: NDArray[Any]) -> Errors:
    """Classify the objects of two label images (H, W) as found, missed, false, split or merged.

    `missed`, `split` and `merged` add up to the false negatives of `score` at IoU 0.5, `false`, `parts` and `merging`
    to its false positives. If several kinds apply, the first counts: found, left out, merged, split, then missed or
    false. "More than half" is of the annotated pixels.
    """
    overlaps = find_overlaps(predicted, true)
    rows = overlaps.matched(THRESHOLDS[0])
    true_free = np.ones(len(overlaps.true_areas), np.bool_)
    true_free[overlaps.true[rows]] = False
    predicted_free = np.ones(len(overlaps.predicted_areas), np.bool_)
    predicted_free[overlaps.predicted[rows]] = False
    left_out = predicted_free & overlaps.excused
    predicted_free &= ~left_out

    # A true object lies by more than half in at most one predicted object, and then matches no other.
    covered = 2 * overlaps.intersection > overlaps.true_areas[overlaps.true]
    hosts = np.bincount(overlaps.predicted[covered], minlength=len(predicted_free)) > 1
    merged = np.zeros_like(true_free)
    merged[overlaps.true[covered & hosts[overlaps.predicted]]] = True
    merged &= true_free
    merging = hosts & predicted_free
    true_free &= ~merged
    predicted_free &= ~merging

    within = 2 * overlaps.intersection > overlaps.predicted_areas[overlaps.predicted]
    within &= true_free[overlaps.true] & predicted_free[overlaps.predicted]
    split = np.bincount(overlaps.true[within], minlength=len(true_free)) > 1
    parts = np.zeros_like(predicted_free)
    parts[overlaps.predicted[within & split[overlaps.true]]] = True

    true_ids, predicted_ids = (np.unique(labels[labels > 0]).astype(np.int64) for labels in (true, predicted))
    found = np.stack([true_ids[overlaps.true[rows]], predicted_ids[overlaps.predicted[rows]]], axis=1)
    return Errors(
        found=found[np.argsort(found[:, 0])],
        merged=true_ids[merged],
        split=true_ids[split],
        missed=true_ids[true_free & ~split],
        left_out=predicted_ids[left_out],
        merging=predicted_ids[merging],
        parts=predicted_ids[parts],
        false=predicted_ids[predicted_free & ~parts],
    )
