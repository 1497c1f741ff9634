"""One tile, from its pixels to its objects at full resolution."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.pieces import keep_largest_fill_holes
from cytoseed.core.scale import part_needed, rescale_labels_part
from cytoseed.core.seeds import highest_points
from cytoseed.images import Image, Regions
from cytoseed.results.measure.table import Frame, measure_objects
from cytoseed.results.objects import Objects, around, join_objects, numbers_of, pack_masks
from cytoseed.run.area import Area
from cytoseed.run.engine import Engine
from cytoseed.run.plan import Plan, check_values, choose_stain, see
from cytoseed.run.stitch import Trimmed
from cytoseed.run.survey import Limits
from cytoseed.run.tiles import Box, Grid, Tile

WIDE_MARGIN_PX = 256
"""How far an object is followed that reaches out of the usual margin: half the pixel classifier's largest window."""


class Seen(NamedTuple):
    """A tile's pixels, read."""

    pixels: NDArray[Any]
    """(C,h,w) The chosen channels at the plan's level."""
    origin_yx: tuple[int, int]
    """Where they begin in the level."""
    picture: torch.Tensor
    """(C,h,w) float32: what the network sees of them."""


class Subject(NamedTuple):
    """Whose tiles are made: an image, how it is seen, and where its objects are wanted."""

    image: Image
    plan: Plan
    grid: Grid
    limits: Limits
    area: Area
    channels: int
    """Channels that the model takes."""
    tta: bool
    stains: tuple[str, ...] = ()
    """Stains whose optical density is measured."""


class Clock:
    """Seconds spent in each part of the work, whichever thread did it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time inside as that of a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({part: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count seconds that others have measured."""
        for part, taken in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + taken


class Maker:
    """Makes tiles: `read`, `look`, `finish`, each of which may run in a thread of its own.

    Parameters
    ----------
    subject : Subject
    regions : Regions
        The image, open.
    engine : Engine
    clock : Clock
    """

    def __init__(self, subject: Subject, regions: Regions, engine: Engine, clock: Clock) -> None:
        self._subject = subject
        self._regions = regions
        self._engine = engine
        self._clock = clock
        self._network_is_free = threading.Lock()

    def read(self, tile: Tile) -> Seen:
        """Read a tile's pixels and make of them what the network sees."""
        plan = self._subject.plan
        top, left, height, width = part_needed(tile.read_yxhw, plan.level_yx, plan.step_yx)
        with self._clock("read"):
            pixels = self._regions.read((top, left, height, width), plan.level, plan.channels)
        with self._clock("prepare"):
            check_values(pixels)
            chosen = choose_stain(pixels, plan)
            picture = see(chosen, (top, left), self._subject.limits, plan, self._subject.channels, tile.read_yxhw)
        return Seen(pixels, (top, left), picture)

    def look(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the network on tiles of one size: (V, N, T, F, h, w)."""
        with self._network_is_free, self._clock("network"):  # two at once would take twice the memory
            views = self._engine.views(torch.stack(list(pictures)), self._subject.tta)
            if views.device.type == "cuda":
                torch.cuda.synchronize(views.device)
            return views

    def finish(self, tile: Tile, seen: Seen, views: torch.Tensor) -> Objects:
        """Find the objects of a tile in its fields (V, 1, T, F, h, w), as many as it owns or may have to stand in for.

        An object that reaches out of the margin is looked at again with a wide one, and so is one whose nucleus or
        cell does; what reaches out of that too is left out, and listed, and its partner taken alone.
        """
        found = self._find(tile, views)
        if any(plane.reaches_out for plane in found) and self._subject.grid.margin_px < WIDE_MARGIN_PX:
            tile = self._subject.grid._replace(margin_px=WIDE_MARGIN_PX).tile(tile.number)
            seen = self.read(tile)
            found = self._find(tile, self.look([seen.picture]))
        with self._clock("measure"):
            objects, pairs = zip(
                *[self._measured(tile, plane, target, seen) for target, plane in enumerate(found)], strict=True
            )
            return replace(join_objects(objects), partner=_partners(np.concatenate(pairs)))

    def _find(self, tile: Tile, views: torch.Tensor) -> list[_Found]:
        """Find the objects of each target, at full resolution."""
        with self._clock("objects"):
            top, left = tile.seen_yxhw[0] - tile.read_yxhw[0], tile.seen_yxhw[1] - tile.read_yxhw[1]
            near = views[..., top : top + tile.seen_yxhw[2], left : left + tile.seen_yxhw[3]]
            labels = self._engine.labels_of_views(near, self._subject.plan.thresholds)  # (T, h, w)
            seed_maps = near[:, 0, :, -1].mean(0).cpu()
            planes = [self._marked(tile, *plane) for plane in zip(labels, seed_maps, strict=True)]
            if len(planes) == 2:
                _join_pairs(*planes)
            return [self._chosen(tile, plane) for plane in planes]

    def _marked(self, tile: Tile, labels: torch.Tensor, seed_map: torch.Tensor) -> _Marked:
        """Mark each object (h,w) of a tile and a target by what decides whose it is."""
        grid = self._subject.grid
        ids, labels = _renumbered(labels)
        points, heights = highest_points(labels, seed_map)
        return _Marked(
            labels,
            ids,
            np.zeros(len(ids), np.int64),
            points.numpy() + tile.seen_yxhw[:2],
            heights.numpy(),
            ~_among(_border(labels, tile.seen_yxhw, (grid.height, grid.width)), len(ids)),
            _among(_inside(labels, tile), len(ids)),
            np.zeros(len(ids), bool),
        )

    def _chosen(self, tile: Tile, marked: _Marked) -> _Found:
        """Choose the objects that are a tile's, and bring them to full resolution."""
        plan, place = self._subject.plan, marked.point_yx
        core_begin, core_size = np.array(tile.core_yxhw[:2]), np.array(tile.core_yxhw[2:])
        is_owned = ((place >= core_begin) & (place < core_begin + core_size)).all(axis=1)
        scale = np.array(plan.full_yx) / plan.size_yx
        is_wanted = self._subject.area.holds((place + 0.5) * scale)
        cut = is_owned & ~marked.is_whole & is_wanted
        chosen = is_wanted & marked.is_whole & (is_owned | marked.enters)
        full, box = self._full_labels(tile, marked.labels, chosen)
        return _Found(
            labels=full,
            box_yxhw=box,
            score=marked.height[chosen],
            is_owned=is_owned[chosen],
            pair=marked.pair[chosen],
            cut_yxhw=self._boxes(tile, marked.labels, cut),
            reaches_out=bool((cut | (is_owned & is_wanted & marked.is_parted)).any()),
        )

    def _full_labels(
        self, tile: Tile, labels: torch.Tensor, chosen: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], Box]:
        """Bring the chosen objects, numbered anew from 1, to full resolution; and say where the result lies."""
        number = np.concatenate([np.zeros(1, np.int32), np.cumsum(chosen, dtype=np.int32) * chosen])
        kept = torch.from_numpy(number)[labels.long()]
        small_yx, full_yx = self._subject.plan.size_yx, self._subject.plan.full_yx
        box = self._subject.plan.full_box(tile.seen_yxhw)
        full = rescale_labels_part(kept[None], tile.seen_yxhw[:2], small_yx, full_yx, box)
        if full_yx[0] < small_yx[0] or full_yx[1] < small_yx[1]:  # shrunk objects may fall apart
            full = keep_largest_fill_holes(full.long(), int(chosen.sum()), 0).to(torch.int32)
        return full[0].numpy(), box

    def _boxes(self, tile: Tile, labels: torch.Tensor, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Boxes, in the image, of some of the objects of a tile."""
        full, box = self._full_labels(tile, labels, chosen) if chosen.any() else (np.zeros((0, 0), np.int32), (0,) * 4)
        return _object_boxes(full, box)[1]

    def _measured(self, tile: Tile, found: _Found, target: int, seen: Seen) -> tuple[Objects, NDArray[np.int64]]:
        """Measure objects, at full resolution, and pack them; and give the number of the pair that each is of."""
        subject = self._subject
        ids, boxes = _object_boxes(found.labels, found.box_yxhw)
        top, left, height, width = around(boxes)
        y, x = top - found.box_yxhw[0], left - found.box_yxhw[1]
        labels = found.labels[y : y + height, x : x + width]
        channels = self._channels((top, left, height, width), seen)
        frame = _frame(subject, tile, top, left)
        table = measure_objects(
            labels, channels, subject.image.channel_names, subject.plan.pixel_size_um, subject.stains, frame
        )
        corners = (boxes[:, :2] - found.box_yxhw[:2]).tolist()
        masks = [
            found.labels[r : r + tall, c : c + wide] == number
            for number, (r, c), (tall, wide) in zip(ids.tolist(), corners, boxes[:, 2:].tolist(), strict=True)
        ]
        objects = Objects(
            target=np.full(len(ids), target, np.uint8),
            box_yxhw=boxes,
            bits=pack_masks(masks),
            score=found.score[ids - 1].astype(np.float32),
            is_owned=found.is_owned[ids - 1],
            left_out_yxhw=found.cut_yxhw,
            **numbers_of(table),
        )
        return objects, found.pair[ids - 1]

    def _channels(self, box_yxhw: Box, seen: Seen) -> Iterator[NDArray[Any]]:
        """Give every channel of a region at full resolution, one at a time, from what was read where it can be."""
        plan = self._subject.plan
        top, left, height, width = box_yxhw
        y, x = top - seen.origin_yx[0], left - seen.origin_yx[1]
        for channel in range(self._subject.image.shape[0]):
            if not height or not width:
                yield np.zeros((height, width), self._subject.image.dtype)
            elif plan.level == 0 and channel in plan.channels:
                yield seen.pixels[plan.channels.index(channel), y : y + height, x : x + width]
            else:
                yield self._regions.read(box_yxhw, 0, [channel])[0]


def measured_again(subject: Subject, regions: Regions, was: Objects, trimmed: Trimmed) -> Objects:
    """Measure an object that lost pixels.

    Parameters
    ----------
    subject : Subject
    regions : Regions
        The image, open.
    was : Objects
        The object, alone, as it was.
    trimmed : Trimmed
        Whose it is, and what is left of it.
    """
    image, box = subject.image, trimmed.box_yxhw
    channels = (regions.read(box, 0, [channel])[0] for channel in range(image.shape[0]))
    labels = trimmed.mask.astype(np.int32)
    frame = _frame(subject, subject.grid.tile(trimmed.tile), *box[:2])
    table = measure_objects(labels, channels, image.channel_names, subject.plan.pixel_size_um, subject.stains, frame)
    return replace(was, box_yxhw=np.array([box], np.int64), bits=pack_masks([trimmed.mask]), **numbers_of(table))


def _frame(subject: Subject, tile: Tile, top: int, left: int) -> Frame:
    """Tell where a part at full resolution lies in the image, and which box is a tile's own."""
    return Frame(top, left, subject.plan.full_yx, subject.plan.full_box(tile.core_yxhw))


class _Marked(NamedTuple):
    """All objects 1..K that were seen for a tile, of one target."""

    labels: torch.Tensor  # (h,w) at the network's resolution
    id: NDArray[np.int64]  # (K,) which a nucleus and its cell share
    pair: NDArray[np.int64]  # (K,) the same number for a nucleus and a cell that are whole; 0 for none
    point_yx: NDArray[np.int64]  # (K,2) place in the image, as the network sees it, by which each is owned
    height: NDArray[np.float32]  # (K,) of the seed map in each
    is_whole: NDArray[np.bool_]  # (K,) does not reach out of what was seen
    enters: NDArray[np.bool_]  # (K,) meets the tile's core
    is_parted: NDArray[np.bool_]  # (K,) it or its partner is not whole


class _Found(NamedTuple):
    """Objects of a tile and a target."""

    labels: NDArray[np.int32]  # (h,w) at full resolution
    box_yxhw: Box  # where they lie in the image
    score: NDArray[np.float32]  # of object 1, 2, ...
    is_owned: NDArray[np.bool_]
    pair: NDArray[np.int64]  # the same number for a nucleus and its cell; 0 for none
    cut_yxhw: NDArray[np.int64]  # boxes of those that reach out of what was seen
    reaches_out: bool  # a wider look would show more of an object that is the tile's, or of its partner


def _join_pairs(nuclei: _Marked, cells: _Marked) -> None:
    """Let a nucleus and its cell belong to one tile, that of the cell, in place; those not seen whole are parted.

    Of such a pair each is by itself. A tile that sees the pair whole counts more, when tiles are stitched.
    """
    _, nucleus, cell = np.intersect1d(nuclei.id, cells.id, assume_unique=True, return_indices=True)
    are_whole = nuclei.is_whole[nucleus] & cells.is_whole[cell]
    nuclei.is_parted[nucleus] = cells.is_parted[cell] = ~are_whole
    nucleus, cell = nucleus[are_whole], cell[are_whole]
    nuclei.point_yx[nucleus] = cells.point_yx[cell]
    nuclei.enters[nucleus] = cells.enters[cell] = nuclei.enters[nucleus] | cells.enters[cell]
    nuclei.pair[nucleus] = cells.pair[cell] = cells.id[cell]


def _partners(pair: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find where, of objects, the other one with the same number is: -1 for number 0, and where it has vanished."""
    order = np.argsort(pair, kind="stable")
    number = pair[order]
    same = (number[1:] == number[:-1]) & (number[1:] > 0)
    partner = np.full(len(pair), -1, np.int64)
    partner[order[:-1][same]], partner[order[1:][same]] = order[1:][same], order[:-1][same]
    return partner


def _renumbered(labels: torch.Tensor) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Give the ids that there are, and labels with their places, from 1, instead."""
    present = _among(labels.flatten(), int(labels.max()))
    ids = np.flatnonzero(present) + 1
    number = np.zeros(len(present) + 1, np.int32)
    number[ids] = np.arange(1, len(ids) + 1)
    return ids, torch.from_numpy(number)[labels.long()]


def _border(labels: torch.Tensor, box_yxhw: Box, image_yx: tuple[int, int]) -> torch.Tensor:
    """Labels on those sides of a box that are not sides of the image."""
    top, left, height, width = box_yxhw
    sides = [(top > 0, labels[0]), (top + height < image_yx[0], labels[-1])]
    sides += [(left > 0, labels[:, 0]), (left + width < image_yx[1], labels[:, -1])]
    return torch.cat([side for is_inner, side in sides if is_inner] or [labels[:0].flatten()])


def _inside(labels: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Labels in the tile's core."""
    top, left = tile.core_yxhw[0] - tile.seen_yxhw[0], tile.core_yxhw[1] - tile.seen_yxhw[1]
    return labels[top : top + tile.core_yxhw[2], left : left + tile.core_yxhw[3]].flatten()


def _among(labels: torch.Tensor, count: int) -> NDArray[np.bool_]:
    """Which of the ids 1..count occur."""
    present = np.zeros(count + 1, bool)
    present[labels.numpy()] = True
    return present[1:]


def _object_boxes(labels: NDArray[np.int32], box_yxhw: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the objects that are there, and their boxes (K,4) in the image."""
    from scipy.ndimage import find_objects

    slices = find_objects(labels) if labels.size else []
    present = [(number, *own) for number, own in enumerate(slices, start=1) if own is not None]
    ids = np.array([number for number, _, _ in present], np.int64)
    boxes = [(y.start, x.start, y.stop - y.start, x.stop - x.start) for _, y, x in present]
    offset = np.array((*box_yxhw[:2], 0, 0), np.int64)
    return ids, np.array(boxes, np.int64).reshape(-1, 4) + offset
