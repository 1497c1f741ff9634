"""Draws the pictures of docs/gallery.md: of a few test images of each kind, the one whose F1 is the median.

python benchmarks/gallery.py

Green: found, with an IoU of 0.5 or more; orange: found, but not annotated so; red: annotated, but missed.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

import cytoseed
from cytoseed.learn.error_map import find_errors
from cytoseed.learn.metrics import ImageScore, score
from cytoseed.learn.samples import Sample, find_samples
from cytoseed.results import Result
from cytoseed.results.formats.overlay import draw_overlay
from places import DATA, ROOT

KINDS = (
    ("bbbc039", "fluorescence"),
    ("dsb2018", "fluorescence"),
    ("bitdepth_nucseg", "fluorescence"),
    ("dsb2018", "brightfield"),
    ("nuinsseg", "brightfield"),
    ("tnbc", "brightfield"),
)
EACH, SIDE_PX = 9, 400
FOUND, EXTRA, MISSED = (57, 255, 20), (255, 160, 0), (255, 40, 40)


def main() -> None:
    """Write one picture for each kind, and print the lines of the page's table."""
    folder = ROOT / "docs" / "images" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    for dataset, modality in KINDS:
        found = sorted(results(dataset, modality), key=lambda each: each[2].f1)
        sample, result, scored = found[len(found) // 2]
        picture = draw(sample, result)
        path = folder / f"{dataset}-{modality}.jpg"
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
        figures = f"{scored.f1:.2f} / {scored.f1_mean:.2f}"
        print(f"| {dataset} {modality} | {sample.name} | {result.settings['model']} | {figures} |")


def results(dataset: str, modality: str) -> Iterator[tuple[Sample, Result, ImageScore]]:
    """Results and scores of the first test images that show nuclei."""
    samples = [s for s in find_samples(DATA, "test", dataset) if s.modality == modality]
    for sample in sorted(samples, key=lambda each: each.name)[:EACH]:
        image, true = sample.read()
        if true.max() > 0:
            result = cytoseed.segment(image, pixel_size_um=sample.pixel_size_um)
            yield sample, result, score(result.labels, true)


def draw(sample: Sample, result: Result) -> NDArray[np.uint8]:
    """Middle of the image, RGB, twice as large, with outlines by their agreement with the annotation."""
    image, true = sample.read()
    height, width = true.shape
    picture = draw_overlay(Result.from_labels(np.zeros_like(true), image, channel_names=result.channel_names))
    picture = cv2.resize(picture, (2 * width, 2 * height), interpolation=cv2.INTER_AREA)
    errors = find_errors(result.labels, true)
    for labels, ids, colour in (
        (true, np.concatenate([errors.missed, errors.split, errors.merged]), MISSED),
        (result.labels, np.concatenate([errors.false, errors.parts, errors.merging]), EXTRA),
        (result.labels, errors.found[:, 1], FOUND),
    ):
        shown = np.where(np.isin(labels, ids), labels, 0).repeat(2, 0).repeat(2, 1)
        picture[find_boundaries(shown, mode="inner")] = colour
    top, left = (max(0, side - SIDE_PX // 2) for side in (height, width))
    return picture[top : top + SIDE_PX, left : left + SIDE_PX]


if __name__ == "__main__":
    main()
