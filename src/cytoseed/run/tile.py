"""One tile, from its pixels to its objects at full resolution."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.enlarge import ENLARGE_REACH_PX, enlarge_labels_part, has_stairs
from cytoseed.core.expand import expand_labels
from cytoseed.core.pieces import keep_largest_fill_holes, relabel_sequential
from cytoseed.core.prepare import fit_channels, scale_intensity
from cytoseed.core.scale import part_needed, rescale_labels, rescale_labels_part, rescale_part
from cytoseed.core.score import confident_labels, scores_of
from cytoseed.core.seeds import highest_points
from cytoseed.images import Image, Regions
from cytoseed.results.measure.table import Frame, measure_objects
from cytoseed.results.objects import Objects, around, join_objects, numbers_of, pack_masks
from cytoseed.run.engine import Engine
from cytoseed.run.plan import Plan, check_values, select_stain
from cytoseed.run.survey import Limits, pixel_limits
from cytoseed.run.tiles import Box, Tile


class TileInput(NamedTuple):
    """A tile's pixels as read, and as the network receives them."""

    pixels: NDArray[Any]  # (C,h,w) the chosen channels at the plan's level
    origin_yx: tuple[int, int]  # where they begin in the level
    tensor: torch.Tensor  # (C,h,w) float32: the network's input


class TileResult(NamedTuple):
    """Objects of one tile, or the cause of its failure."""

    tile: Tile
    objects: Objects | None
    cause: str = ""

    @classmethod
    def failed(cls, tile: Tile, error: Exception) -> TileResult:
        """Result of a tile that could not be processed."""
        return cls(tile, None, " ".join(str(error).split()) or type(error).__name__)


class Clock:
    """Seconds spent in each stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of the `with` block for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds measured elsewhere."""
        for stage, taken in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + taken


class SlideContext(NamedTuple):
    """Everything that the tiles of one image share."""

    image: Image
    regions: Regions
    clock: Clock
    plan: Plan
    limits: Limits | None  # normalisation; None: computed from the pixels of the only tile
    channels: int  # number of channels that the model takes
    tta: bool
    stains: tuple[str, ...] = ()  # stains whose optical density is measured


def read_tile(context: SlideContext, tile: Tile) -> TileInput:
    """Read a tile's pixels, and normalise and rescale them for the network; a value does not depend on the tile."""
    plan = context.plan
    top, left, height, width = part_needed(tile.input_yxhw, plan.level_yx, plan.step_yx)
    with context.clock("read"):
        pixels = context.regions.read((top, left, height, width), plan.level, plan.channels)
    with context.clock("prepare"):
        check_values(pixels)
        selected = select_stain(pixels, plan)
        limits = pixel_limits(selected) if context.limits is None else context.limits
        scaled = []
        for channel, *ends in zip(selected, *limits, strict=True):  # one at a time: a tile at full resolution is large
            values = scale_channel(channel, *(torch.tensor([end]) for end in ends))
            scaled.append(rescale_part(values, (top, left), plan.level_yx, plan.step_yx, tile.input_yxhw))
        if context.channels == 0:  # empty channels of the image, and so of every tile, count for nothing
            scaled = [each for each, low, high in zip(scaled, *limits, strict=True) if low < high] or scaled[:1]
        tensor = fit_channels(torch.cat(scaled), context.channels)
    return TileInput(pixels, (top, left), tensor)


def scale_channel(channel: NDArray[Any], low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Scale one channel (h,w) as `scale_intensity` does, to (1,h,w); 8 and 16 bit through a lookup table."""
    if channel.dtype.kind != "u" or channel.dtype.itemsize > 2 or channel.size < np.iinfo(channel.dtype).max:
        return scale_intensity(torch.from_numpy(np.ascontiguousarray(channel, np.float32))[None], low, high)
    values = torch.arange(np.iinfo(channel.dtype).max + 1, dtype=torch.float32)
    table = scale_intensity(values[None, None], low, high).flatten().numpy()
    return torch.from_numpy(np.take(table, channel))[None]


class TileProcessor:
    """Processes tiles in three stages, each of which may run in a thread of its own: `read`, `fields`, `objects`."""

    def __init__(self, context: SlideContext, engine: Engine) -> None:
        self._context, self._engine = context, engine
        self._network_lock = threading.Lock()

    def read(self, tile: Tile) -> TileInput:
        """Read a tile's pixels and prepare them for the network."""
        return read_tile(self._context, tile)

    def fields(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the network on inputs (C, h, w) of equal size: (V, N, T, F, h, w)."""
        with self._network_lock, self._context.clock("network"):  # two at once would take twice the memory
            images = tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))  # one is not copied
            views = self._engine.views(images, self._context.tta)
            if views.device.type == "cuda":
                torch.cuda.synchronize(views.device)
            return views

    def labels(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels (T, h, w) of the fields (V, 1, T, F, h, w) of a tile, or of a region of it; cells may be added.

        Also returns the score (T, K + 1) of each id, NaN without pixels.
        """
        plan = self._context.plan
        with self._context.clock("objects"):
            labels, evidence = self._engine.labels_of_views(views, plan.thresholds)
            of_targets = zip(evidence, plan.score_calibration, strict=True)
            scores = torch.stack([scores_of(own, calibration) for own, calibration in of_targets])
            labels, scores = confident_labels(labels, scores, plan.min_score)
            if not plan.expand_px:
                return labels, scores
            return torch.stack([labels[0], expand_labels(labels[0], plan.expand_px)]), scores.expand(2, -1)

    def objects(self, tile: Tile, tile_input: TileInput, views: torch.Tensor) -> Objects:
        """Find the objects that a tile owns, and those that enter its core, from its fields (V, 1, T, F, h, w).

        A tile with an object that reaches beyond the margin is processed again with a wide margin, also if only the
        object's nucleus or cell does. Objects that reach beyond that are left out and listed, their partners kept
        alone.
        """
        (labels, found), plan = self._find(tile, views), self._context.plan
        reaches_out = any((each.is_owned & (~each.is_whole | each.is_parted)).any() for each in found)
        if reaches_out and plan.grid.margin_px < plan.wide_margin_px:
            tile = plan.grid._replace(margin_px=plan.wide_margin_px).tile(tile.number)
            tile_input = self.read(tile)
            labels, found = self._find(tile, self.fields([tile_input.tensor]))
        with self._context.clock("measure"):
            objects, pairs = zip(*self._measure(tile, tile_input, labels, found), strict=True)
            return replace(join_objects(objects), partner=_partners(np.concatenate(pairs)))

    def _find(self, tile: Tile, views: torch.Tensor) -> tuple[torch.Tensor, list[_Candidates]]:
        """Labels (T, h, w) of a tile, and all objects of each target."""
        top, left = tile.objects_yxhw[0] - tile.input_yxhw[0], tile.objects_yxhw[1] - tile.input_yxhw[1]
        near = views[..., top : top + tile.objects_yxhw[2], left : left + tile.objects_yxhw[3]]
        labels, scores = self.labels(near)
        with self._context.clock("objects"):
            seed_maps = near[:, 0, :, -1].mean(0).cpu().expand(labels.shape)
            planes = [self._candidates(tile, *plane) for plane in zip(labels, seed_maps, scores, strict=True)]
            if len(planes) == 2:
                _join_pairs(*planes)
            return labels, [self._with_owner(tile, plane) for plane in planes]

    def _candidates(
        self, tile: Tile, labels: torch.Tensor, seed_map: torch.Tensor, scores: torch.Tensor
    ) -> _Candidates:
        """All objects of one target (h,w), with everything that decides which tile owns them."""
        ids, labels = _renumber(labels)
        points, heights = highest_points(labels, seed_map)
        top, left = tile.core_yxhw[0] - tile.objects_yxhw[0], tile.core_yxhw[1] - tile.objects_yxhw[1]
        core = labels[top : top + tile.core_yxhw[2], left : left + tile.core_yxhw[3]]
        plan = self._context.plan
        reach = (ENLARGE_REACH_PX if has_stairs(plan.size_yx, plan.full_yx) else 1) + math.ceil(plan.expand_px)
        border = _inner_border(labels, tile.objects_yxhw, plan.size_yx, reach)
        none = np.zeros(len(ids), bool)
        return _Candidates(
            id=ids,
            pair=np.zeros(len(ids), np.int64),
            point_yx=points.numpy() + tile.objects_yxhw[:2],
            height=heights.numpy(),
            score=scores.numpy()[ids],
            is_whole=~_occurring(border, len(ids)),
            enters=_occurring(core, len(ids)),
            is_parted=none.copy(),
            is_owned=none,
            is_taken=none,
        )

    def _with_owner(self, tile: Tile, found: _Candidates) -> _Candidates:
        """Decide which candidates the tile owns and takes."""
        plan, point = self._context.plan, found.point_yx
        core_begin, core_size = np.array(tile.core_yxhw[:2]), np.array(tile.core_yxhw[2:])
        is_owned = ((point >= core_begin) & (point < core_begin + core_size)).all(axis=1)
        is_wanted = plan.area.holds((point + 0.5) * (np.array(plan.full_yx) / plan.size_yx))
        is_taken = is_wanted & found.is_whole & (is_owned | found.enters)
        return found._replace(is_owned=is_owned & is_wanted, is_taken=is_taken)

    def _full_labels(
        self, tile: Tile, labels: torch.Tensor, found: Sequence[_Candidates], selected: Sequence[NDArray[np.bool_]]
    ) -> tuple[NDArray[np.int32], Box]:
        """Labels (T,h,w) of the selected objects, renumbered from 1, at full resolution, and their box in the image."""
        numbers = torch.zeros((len(found), int(labels.max()) + 1), dtype=torch.int32)
        for number, each, is_selected in zip(numbers, found, selected, strict=True):
            number[each.id] = torch.from_numpy(np.cumsum(is_selected, dtype=np.int32) * is_selected)
        small_yx, full_yx = self._context.plan.size_yx, self._context.plan.full_yx
        box = self._context.plan.full_box(tile.objects_yxhw)
        part = tile.objects_yxhw[:2], small_yx, full_yx, box
        if has_stairs(small_yx, full_yx):  # outlines also depend on neighbours that are not selected
            return enlarge_labels_part(labels, *part, numbers).numpy(), box
        kept = torch.stack([number[plane.long()] for number, plane in zip(numbers, labels, strict=True)])
        full = rescale_labels_part(kept, *part)
        if full_yx[0] < small_yx[0] or full_yx[1] < small_yx[1]:  # shrunk objects may fall apart
            planes = zip(full.long(), selected, strict=True)
            full = torch.cat([keep_largest_fill_holes(plane[None], int(each.sum()), 0) for plane, each in planes]).int()
        return full.numpy(), box

    def _measure(
        self, tile: Tile, tile_input: TileInput, labels: torch.Tensor, found: Sequence[_Candidates]
    ) -> Iterator[tuple[Objects, NDArray[np.int64]]]:
        """Packed and measured objects of each target, and the number of each one's pair."""
        planes, box = self._full_labels(tile, labels, found, [each.is_taken for each in found])
        cut = [each.is_owned & ~each.is_whole for each in found]
        cut_planes = self._full_labels(tile, labels, found, cut)[0] if np.concatenate(cut).any() else planes[:, :0]
        own_cell = _number_by_cell(planes[0], *found) if len(found) == 2 else None
        for target, (each, plane, cut_plane) in enumerate(zip(found, planes, cut_planes, strict=True)):
            ids, boxes = _object_boxes(plane, box)
            chosen = np.flatnonzero(each.is_taken)[ids - 1]
            top, left, height, width = around(boxes)
            part = slice(top - box[0], top - box[0] + height), slice(left - box[1], left - box[1] + width)
            crop = plane[part]
            nuclei = None if own_cell is None else crop if target == 0 else own_cell[part]
            channels = self._channels((top, left, height, width), tile_input)
            masks = [
                plane[y - box[0] : y - box[0] + tall, x - box[1] : x - box[1] + wide] == number
                for number, (y, x, tall, wide) in zip(ids.tolist(), boxes.tolist(), strict=True)
            ]
            objects = Objects(
                target=np.full(len(ids), target, np.uint8),
                box_yxhw=boxes,
                bits=pack_masks(masks),
                score=each.height[chosen].astype(np.float32),
                is_owned=each.is_owned[chosen],
                left_out_yxhw=_object_boxes(cut_plane, box)[1],
                **measure_crop(self._context, tile, crop, (top, left), channels, nuclei, each.score[chosen]),
            )
            yield objects, each.pair[chosen]

    def _channels(self, box_yxhw: Box, tile_input: TileInput) -> Iterator[NDArray[Any]]:
        """Channels of a region at full resolution, one at a time, from the tile's pixels where they suffice."""
        plan = self._context.plan
        top, left, height, width = box_yxhw
        y, x = top - tile_input.origin_yx[0], left - tile_input.origin_yx[1]
        for channel in range(self._context.image.shape[0]):
            if not height or not width:
                yield np.zeros((height, width), self._context.image.dtype)
            elif plan.level == 0 and channel in plan.channels:
                yield tile_input.pixels[plan.channels.index(channel), y : y + height, x : x + width]
            else:
                yield self._context.regions.read(box_yxhw, 0, [channel])[0]


def full_size_labels(labels: torch.Tensor, height: int, width: int) -> NDArray[np.int32]:
    """Labels (T, h, w) of a whole network input, rescaled to the size of the image, with ids 1..K."""
    return full_size_objects(labels, height, width)[0]


def full_size_objects(labels: torch.Tensor, height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Labels of `full_size_labels`, and the id (K + 1,) that each had before; 0 for the background."""
    ids = np.arange(int(labels.max()) + 1)
    small_yx = (labels.shape[1], labels.shape[2])
    if has_stairs(small_yx, (height, width)):
        box = (0, 0, height, width)
        return enlarge_labels_part(labels, (0, 0), small_yx, (height, width), box).numpy(), ids
    shrinks = height < labels.shape[1] or width < labels.shape[2]
    labels = rescale_labels(labels, height, width)
    if shrinks:  # objects may fall apart or vanish
        count = int(labels.max())
        whole = torch.cat([keep_largest_fill_holes(target[None].long(), count, 0) for target in labels])
        ids = np.append(0, _renumber(whole)[0])
        labels = relabel_sequential(whole, count)
    return np.asarray(labels.numpy(), np.int32), ids


def measure_crop(
    context: SlideContext,
    tile: Tile,
    labels: NDArray[np.int32],
    origin_yx: tuple[int, int],
    channels: Iterator[NDArray[Any]],
    nuclei: NDArray[np.int32] | None,
    scores: NDArray[np.float64],
) -> dict[str, NDArray[Any]]:
    """Measurements of the objects in a crop of a tile, as fields of `Objects`; `nuclei` have the labels of cells."""
    frame = Frame(*origin_yx, context.plan.full_yx, context.plan.full_box(tile.core_yxhw))
    names, pixel_size_um = context.image.channel_names, context.plan.pixel_size_um
    table = measure_objects(labels, channels, names, pixel_size_um, context.stains, frame, nuclei)
    return numbers_of(table.assign(score=scores))


class _Candidates(NamedTuple):
    """All objects 1..K of one target in a tile."""

    id: NDArray[np.int64]  # (K,) label in the tile, shared by a nucleus and its cell
    pair: NDArray[np.int64]  # (K,) equal for a nucleus and a cell that are both whole; 0 for none
    point_yx: NDArray[np.int64]  # (K,2) in the network's input: decides the owner
    height: NDArray[np.float32]  # (K,) of the seed map at that point
    score: NDArray[np.float64]  # (K,) probability that it is right
    is_whole: NDArray[np.bool_]  # (K,) does not touch an inner border of the region
    enters: NDArray[np.bool_]  # (K,) meets the tile's core
    is_parted: NDArray[np.bool_]  # (K,) it or its partner is not whole
    is_owned: NDArray[np.bool_]  # (K,) its point lies in the tile's core, and in the area
    is_taken: NDArray[np.bool_]  # (K,) is among the tile's objects


def _join_pairs(nuclei: _Candidates, cells: _Candidates) -> None:
    """Assign nuclei to the owner of their cells, in place, and separate pairs that are not whole.

    The parts of such a pair stand alone; a tile that has the pair whole wins when tiles are stitched.
    """
    _, nucleus, cell = np.intersect1d(nuclei.id, cells.id, assume_unique=True, return_indices=True)
    are_whole = nuclei.is_whole[nucleus] & cells.is_whole[cell]
    nuclei.is_parted[nucleus] = cells.is_parted[cell] = ~are_whole
    nucleus, cell = nucleus[are_whole], cell[are_whole]
    nuclei.point_yx[nucleus] = cells.point_yx[cell]
    nuclei.enters[nucleus] = cells.enters[cell] = nuclei.enters[nucleus] | cells.enters[cell]
    nuclei.pair[nucleus] = cells.pair[cell] = cells.id[cell]


def _number_by_cell(plane: NDArray[np.int32], nuclei: _Candidates, cells: _Candidates) -> NDArray[np.int32]:
    """Plane of the nuclei that are taken, in which each has the number of its cell among those taken; 0 without one."""
    of_nuclei, of_cells = nuclei.pair[nuclei.is_taken], cells.pair[cells.is_taken]
    _, nucleus, cell = np.intersect1d(of_nuclei, of_cells, return_indices=True)
    has_cell = of_nuclei[nucleus] > 0
    number = np.zeros(len(of_nuclei) + 1, np.int32)
    number[nucleus[has_cell] + 1] = cell[has_cell] + 1
    return number[plane]


def _partners(pair: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the other object with the same pair number; -1 for number 0, and where the other has vanished."""
    order = np.argsort(pair, kind="stable")
    number = pair[order]
    same = (number[1:] == number[:-1]) & (number[1:] > 0)
    partner = np.full(len(pair), -1, np.int64)
    partner[order[:-1][same]], partner[order[1:][same]] = order[1:][same], order[:-1][same]
    return partner


def _renumber(labels: torch.Tensor) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Ids that occur, and labels renumbered by their places from 1."""
    present = _occurring(labels, int(labels.max()))
    ids = np.flatnonzero(present) + 1
    number = np.zeros(len(present) + 1, np.int32)
    number[ids] = np.arange(1, len(ids) + 1)
    return ids, torch.from_numpy(number)[labels.long()]


def _inner_border(labels: torch.Tensor, box_yxhw: Box, image_yx: tuple[int, int], reach: int) -> torch.Tensor:
    """Labels up to `reach` px inside those sides of a box that are not sides of the image."""
    top, left, height, width = box_yxhw
    sides = [(top > 0, labels[:reach]), (top + height < image_yx[0], labels[-reach:])]
    sides += [(left > 0, labels[:, :reach]), (left + width < image_yx[1], labels[:, -reach:])]
    return torch.cat([side.flatten() for is_inner, side in sides if is_inner] or [labels[:0].flatten()])


def _occurring(labels: torch.Tensor, count: int) -> NDArray[np.bool_]:
    """Which of the ids 1..count occur."""
    present = np.zeros(count + 1, bool)
    present[labels.numpy()] = True
    return present[1:]


def _object_boxes(labels: NDArray[np.int32], box_yxhw: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the objects that occur, and their boxes (K,4) in the image."""
    from scipy.ndimage import find_objects

    slices = find_objects(labels) if labels.size else []
    present = [(number, *own) for number, own in enumerate(slices, start=1) if own is not None]
    ids = np.array([number for number, _, _ in present], np.int64)
    boxes = [(y.start, x.start, y.stop - y.start, x.stop - x.start) for _, y, x in present]
    offset = np.array((*box_yxhw[:2], 0, 0), np.int64)
    return ids, np.array(boxes, np.int64).reshape(-1, 4) + offset
