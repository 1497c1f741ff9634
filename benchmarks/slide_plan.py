"""Layout of a made slide: the places of tissue and of annotated fields, and the truth of any region.

`make_slide.py` paints the slide; `truth` needs only the JSON file beside it and the folder of the fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.label_image import read_labels
from places import DATA

FACTOR = 4
"""Each of the three levels of the pyramid is this many times smaller than the one before."""
GRAIN_PX = FACTOR**2
"""A slide's side is a multiple of this."""
_CELL_PX = 8  # pitch of the grid that the tissue's edge follows
_ISLANDS = 12
_BAND_PX = 256
_SUMMIT = 1e9  # above and, negated, below every landscape


class Field(NamedTuple):
    """An annotated image (H,W,C)."""

    dataset: str
    stem: str
    pixels: NDArray[Any]
    highest_id: int
    """Highest id of its mask."""


class Place(NamedTuple):
    """Position of a field on the slide, in px."""

    dataset: str
    stem: str
    turn: int
    """See `turned`."""
    y: int
    x: int
    height: int
    """Height and width after the turn."""
    width: int
    first_id: int
    """Added to the mask's ids, so that they differ between places."""
    objects: int
    """Annotated objects that are wholly on tissue."""


class Plan(NamedTuple):
    """Layout of a slide."""

    kind: str
    side: int
    seed: int
    islands: tuple[tuple[float, ...], ...]
    """Row, column and radius in px of each; then height and phase of the waves of its outline."""
    level: float
    """Tissue is where `_height_of` is above this."""
    places: tuple[Place, ...]
    """Fields that show tissue, row by row."""
    tissue_px: int


def turned(pixels: NDArray[Any], turn: int) -> NDArray[Any]:
    """View of (H,W,...), mirrored left to right if `turn` is 4 or more, then rotated by `turn` % 4 quarters."""
    return np.rot90(pixels[:, ::-1] if turn >= 4 else pixels, turn % 4)


def read_plan(json_path: Path) -> Plan:
    values = json.loads(Path(json_path).read_text(encoding="utf-8"))
    places = tuple(Place(**place) for place in values.pop("places"))
    islands = tuple(tuple(island) for island in values.pop("islands"))
    return Plan(places=places, islands=islands, **values)


def truth(json_path: Path, box_yxhw: Sequence[int], data: Path = DATA) -> NDArray[np.int32]:
    """Annotated objects of a region of a slide, (height, width) int32; 0 is background.

    An id is the same in every region that shows the object. Where the tissue's edge cuts an object, the rest of it is
    -1, unknown. `box_yxhw` must lie inside the slide, else a ValueError.
    """
    plan = read_plan(json_path)
    top, left, height, width = box_yxhw
    if min(top, left) < 0 or min(height, width) < 1 or max(top + height, left + width) > plan.side:
        raise ValueError(f"box_yxhw is {tuple(box_yxhw)}; it must lie inside {plan.side} x {plan.side} px")
    canvas = np.zeros((height, width), np.int32)
    for place in plan.places:
        y0, x0 = max(top, place.y), max(left, place.x)
        y1, x1 = min(top + height, place.y + place.height), min(left + width, place.x + place.width)
        if y0 < y1 and x0 < x1:
            labels = labels_of(plan, place, data)
            canvas[y0 - top : y1 - top, x0 - left : x1 - left] = labels[
                y0 - place.y : y1 - place.y, x0 - place.x : x1 - place.x
            ]
    return canvas


def labels_of(plan: Plan, place: Place, data: Path) -> NDArray[np.int32]:
    """Labels (height, width) of one place, as `truth` has them."""
    mask = turned(_mask(data / place.dataset / "masks" / f"{place.stem}.png"), place.turn)
    inside = tissue(plan, (place.y, place.x, place.height, place.width))
    is_cut = np.zeros(int(mask.max(initial=0)) + 1, np.bool_)
    is_cut[mask[~inside]] = True
    labels = np.where(is_cut[mask], -1, mask + place.first_id)
    labels[(mask == 0) | ~inside] = 0
    return labels.astype(np.int32)


def tissue(plan: Plan, box_yxhw: Sequence[int]) -> NDArray[np.bool_]:
    """Tissue of a region, (height, width)."""
    top, left, height, width = box_yxhw
    rows, columns = (
        np.arange(first // _CELL_PX, (first + size - 1) // _CELL_PX + 1) * _CELL_PX
        for first, size in ((top, height), (left, width))
    )
    cells = _height_of(plan.islands, rows, columns) > plan.level
    pixels = cells.repeat(_CELL_PX, axis=0).repeat(_CELL_PX, axis=1)
    return pixels[top % _CELL_PX :, left % _CELL_PX :][:height, :width]


def make_plan(kind: str, side: int, seed: int, share: float, fields: Sequence[Field], data: Path) -> Plan:
    """Layout of a slide of which a share of the area, 0 to 1, is tissue."""
    if side < GRAIN_PX or side % GRAIN_PX:
        raise ValueError(f"side is {side}; it must be a multiple of {GRAIN_PX}")
    if not 0 <= share <= 1:
        raise ValueError(f"tissue is {share}; it must lie in 0 to 1")
    rng = np.random.default_rng(seed)
    islands = tuple(_random_island(rng, side) for _ in range(_ISLANDS))
    coarse = np.arange(0, side, max(_CELL_PX, side // 512))
    landscape = np.sort(_height_of(islands, coarse, coarse), axis=None)
    landscape = np.concatenate([[-_SUMMIT], landscape, [_SUMMIT]])  # so that shares of 0 and 1 are exact
    level = float(landscape[round((1 - share) * (landscape.size - 1))])
    plan = Plan(kind, side, seed, islands, level, (), 0)
    kept = []
    for place in _random_places(rng, side, fields):
        if tissue(plan, (place.y, place.x, place.height, place.width)).any():
            ids = np.unique(labels_of(plan, place, data))
            kept.append(place._replace(objects=int(np.count_nonzero(ids > 0))))
    bands = ((top, 0, min(_BAND_PX, side - top), side) for top in range(0, side, _BAND_PX))
    return plan._replace(places=tuple(kept), tissue_px=sum(int(tissue(plan, band).sum()) for band in bands))


@lru_cache(maxsize=128)
def _mask(path: Path) -> NDArray[np.int32]:
    return read_labels(path)


def _height_of(
    islands: Iterable[Sequence[float]], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """A landscape with a hill per island: 1 on its top, 0 on its wavy outline."""
    landscape = np.full((len(rows), len(columns)), -np.inf)
    for row, column, radius, *waves in islands:
        away_y, away_x = rows[:, None] - row, columns[None] - column
        angle = np.arctan2(away_y, away_x)
        outline = np.ones(angle.shape)
        for order, (size, phase) in enumerate(zip(waves[::2], waves[1::2], strict=True), start=2):
            outline += size * np.cos(order * angle + phase)
        np.maximum(landscape, 1 - np.hypot(away_y, away_x) / (radius * outline), out=landscape)
    return landscape


def _random_island(rng: np.random.Generator, side: int) -> tuple[float, ...]:
    waves = np.stack([rng.uniform(0, (0.22, 0.14, 0.08, 0.06)), rng.uniform(0, 2 * np.pi, 4)], axis=1)
    place = (*rng.uniform(0.1 * side, 0.9 * side, 2), rng.uniform(0.1, 0.25) * side)
    return tuple(round(float(value), 4) for value in (*place, *waves.ravel()))


def _random_places(rng: np.random.Generator, side: int, fields: Sequence[Field]) -> Iterator[Place]:
    """Whole fields in rows, and in a row in columns as wide as the first of each."""
    step = max(max(field.pixels.shape[:2]) for field in fields)
    first_id = 0
    for top in range(0, side, step):
        left = 0
        while True:
            bottom, right, y, column = min(top + step, side), side, top, 0
            while (choice := _random_fit(rng, fields, bottom - y, right - left)) is not None:
                field, turn = choice
                height, width = turned(field.pixels, turn).shape[:2]
                yield Place(field.dataset, field.stem, turn, y, left, height, width, first_id, 0)
                first_id += field.highest_id
                column = column or width
                right, y = left + column, y + height
            if not column:
                break
            left += column


def _random_fit(rng: np.random.Generator, fields: Sequence[Field], height: int, width: int) -> tuple[Field, int] | None:
    """A field and a turn, at random, that fit into a space."""
    fitting = []
    for field in fields:
        for quarter in (0, 1):
            shape = turned(field.pixels, quarter).shape
            if shape[0] <= height and shape[1] <= width:
                fitting.append((field, quarter))
    if not fitting:
        return None
    field, quarter = fitting[int(rng.integers(len(fitting)))]
    return field, quarter + 2 * int(rng.integers(4))
