"""Drawn images of nuclei and cells, with their true labels: for tutorials and trials where no image is at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float32]

_ANGLES = 64
_TRIES = 40  # places tried for each nucleus
_BACKGROUND, _FULL = 180.0, 4200.0  # values of an empty and of a bright pixel, 16 bits
_CROSSTALK = 0.04


class Scene(NamedTuple):
    """Drawn channels and the labels they were drawn from."""

    image: NDArray[np.uint16]
    """(C,H,W)."""
    nuclei: NDArray[np.int32]
    """(H,W), 0 is background."""
    cells: NDArray[np.int32]
    """(H,W), with the ids of the nuclei."""


def draw_nuclei(side_yx: tuple[int, int], count: int, diameter_px: float, seed: int = 0) -> Scene:
    """One channel in which nuclei are bright, as with DAPI; fewer than `count` where there is no more room."""
    rng = np.random.default_rng(seed)
    nuclei = _draw_labels(rng, side_yx, count, diameter_px)
    return Scene(_photograph(rng, _dapi(rng, nuclei))[None], nuclei, _cells(nuclei, diameter_px))


def draw_tissue(side_yx: tuple[int, int], count: int, diameter_px: float, seed: int = 0) -> Scene:
    """Three channels: nuclei, the membranes of half of the cells, and the cytoplasm of the others."""
    rng = np.random.default_rng(seed)
    nuclei = _draw_labels(rng, side_yx, count, diameter_px)
    cells = _cells(nuclei, diameter_px)
    island = _noise(rng, side_yx, min(side_yx) / 6) > -0.2
    top = ndimage.maximum(island, nuclei, np.arange(nuclei.max() + 1))  # of an object that is not there: 0
    is_epithelium = (top > 0)[cells] & (cells > 0)
    edge = ndimage.grey_dilation(cells, 3) != ndimage.grey_erosion(cells, 3)
    membrane = (edge & (cells > 0) & ~is_epithelium) * (0.7 + 0.3 * _noise(rng, side_yx, 3))
    cytoplasm = (is_epithelium & (nuclei == 0)) * (0.5 + 0.2 * _noise(rng, side_yx, 2))
    dapi = _dapi(rng, nuclei)
    planes = [dapi, ndimage.gaussian_filter(membrane.astype(np.float32), 0.7) * 2, cytoplasm.astype(np.float32)]
    return Scene(np.stack([_photograph(rng, plane + _CROSSTALK * dapi) for plane in planes]), nuclei, cells)


def draw_rims(side_yx: tuple[int, int], count: int, diameter_px: float, seed: int = 0) -> Scene:
    """One channel in which only the rims of nuclei are bright, as with a stain of the nuclear lamina."""
    rng = np.random.default_rng(seed)
    nuclei = _draw_labels(rng, side_yx, count, diameter_px)
    inside = ndimage.distance_transform_edt(ndimage.grey_erosion(nuclei, 3) == ndimage.grey_dilation(nuclei, 3))
    rim = np.exp(-((inside / 1.6) ** 2)) * (nuclei > 0) * (0.75 + 0.25 * _noise(rng, side_yx, 3))
    haze = 0.25 * ndimage.gaussian_filter((nuclei > 0).astype(np.float32), diameter_px / 2)
    return Scene(_photograph(rng, rim + haze)[None], nuclei, _cells(nuclei, diameter_px))


class Sample(NamedTuple):
    """A scene with the facts that a file states."""

    draw: Callable[[], Scene]
    pixel_size_um: float
    channels: tuple[str, ...]


SAMPLES = {
    "fluorescence": Sample(partial(draw_nuclei, (480, 640), 100, 26), 0.325, ("DAPI",)),
    "multiplex": Sample(partial(draw_tissue, (400, 500), 260, 17), 0.5, ("DAPI", "CD45", "PanCK")),
}
"""Single images of `cytoseed samples` and of the napari plugin."""


def _draw_labels(
    rng: np.random.Generator, side_yx: tuple[int, int], count: int, diameter_px: float
) -> NDArray[np.int32]:
    """Labels of smooth, roundish outlines that touch but do not overlap."""
    labels = np.zeros(side_yx, np.int32)
    reach = int(diameter_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    for _ in range(count):
        outline = _outline(rng, diameter_px / 2)
        shape = radius <= np.interp(angle, np.linspace(-np.pi, np.pi, _ANGLES + 1), np.append(outline, outline[0]))
        for _ in range(_TRIES):
            top, left = (int(rng.integers(-reach, side - reach)) for side in side_yx)
            rows, columns = (slice(max(at, 0), max(at + 2 * reach + 1, 0)) for at in (top, left))
            part = labels[rows, columns]
            inside = shape[rows.start - top :, columns.start - left :][: part.shape[0], : part.shape[1]]
            if inside.any() and not part[inside].any():
                part[inside] = labels.max() + 1
                break
    return labels


def _outline(rng: np.random.Generator, radius: float) -> NDArray[np.float64]:
    """Radius of a nucleus at each angle: an ellipse with a few soft bumps."""
    angle = np.linspace(-np.pi, np.pi, _ANGLES, endpoint=False)
    turn = angle - rng.uniform(0, np.pi)
    long = rng.uniform(1.0, 1.3)
    ellipse = 1 / np.hypot(np.cos(turn) / long, np.sin(turn) * long)
    bumps = sum(rng.normal(0, 0.03) * np.cos(wave * angle + rng.uniform(0, 6)) for wave in (2, 3, 4, 5))
    return np.asarray(radius * rng.uniform(0.75, 1.2) * ellipse * (1 + bumps))


def _cells(nuclei: NDArray[np.int32], diameter_px: float) -> NDArray[np.int32]:
    """Nuclei grown by a third of their diameter."""
    far, at = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
    return np.where(far <= diameter_px / 3, nuclei[tuple(at)], 0).astype(np.int32)


def _dapi(rng: np.random.Generator, nuclei: NDArray[np.int32]) -> Plane:
    """Chromatin: uneven within a nucleus, and brighter in some."""
    brightness = rng.uniform(0.35, 1.0, nuclei.max() + 1)
    brightness[0] = 0
    texture = 0.8 + 0.12 * _noise(rng, nuclei.shape, 1.2) + 0.12 * _noise(rng, nuclei.shape, 4)
    haze = 0.1 * ndimage.gaussian_filter((nuclei > 0).astype(np.float32), 15)
    return np.asarray(brightness[nuclei] * texture + haze, np.float32)


def _noise(rng: np.random.Generator, side_yx: tuple[int, ...], size_px: float) -> Plane:
    """Smooth noise of mean 0 and deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal(side_yx), size_px)
    return np.asarray(field / (field.std() or 1), np.float32)


def _photograph(rng: np.random.Generator, plane: Plane) -> NDArray[np.uint16]:
    """Blur of the optics, background, noise of photons and of the camera."""
    light = _BACKGROUND + _FULL * ndimage.gaussian_filter(plane, 1.0).clip(0)
    return np.asarray((rng.poisson(light / 8) * 8 + rng.normal(0, 12, plane.shape)).clip(0, 65535), np.uint16)
