"""Objects as arrays, each a box and a mask in bits: a million fit in memory. Blocks are label crops with a table."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.packed import read_arrays
from cytoseed.results.measure.compartments import join_compartments, without_derived
from cytoseed.results.measure.runs import portions

if TYPE_CHECKING:
    import pandas as pd

Box: TypeAlias = tuple[int, int, int, int]
"""Row and column of a region's first pixel in the image, then its height and width (y, x, height, width), in px."""

_PART_PX = 1 << 25  # pixels in the boxes of one part's objects: a byte each while packed
_OBJECT_PX = 1 << 12  # counts on top for each object, so that a part has 8192 of them at most
_EACH = ("target", "box_yxhw", "bits", "score", "is_owned", "numbers", "left_out_yxhw")  # joined one after the other
_FIELDS = (*_EACH, "columns", "is_count")
_PARTNER = "partner"  # stored where there are any
_KINDS = {"target": "u1", "box_yxhw": "i8", "bits": "u1", "score": "f4", "is_owned": "?", "numbers": "f8"}
_KINDS |= {"columns": "U", "is_count": "?", "left_out_yxhw": "i8", _PARTNER: "i8"}
_LARGEST_PX = 1 << 31  # coordinate


@dataclass(frozen=True, eq=False)
class Objects:
    """K objects at full resolution, disjoint within each target."""

    target: NDArray[np.uint8]  # (K,) Number of the model's target, from 0
    box_yxhw: NDArray[np.int64]  # (K,4) Row and column of the first pixel in the image, height, width
    bits: NDArray[np.uint8]  # Masks (h,w), row by row, packed to bits; each begins at a whole byte, in order
    score: NDArray[np.float32]  # (K,) Highest value of the seed map in the object, about 0 to 1
    is_owned: NDArray[np.bool_]  # (K,) True where the object's highest seed lies in the core of the tile that found it
    numbers: NDArray[np.float64]  # (K,M) The measurements
    columns: NDArray[np.str_]  # (M,) Name of each measurement
    is_count: NDArray[np.bool_]  # (M,) True for whole numbers
    left_out_yxhw: NDArray[np.int64]  # (N,4) Boxes, in the image, of parts of objects that are too large to be followed
    partner: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(K,) Index of a nucleus' cell, or of a cell's nucleus, among these objects; -1 for none, and by default."""

    def __post_init__(self) -> None:
        if not len(self.partner):
            object.__setattr__(self, "partner", np.full(len(self.target), -1, np.int64))

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def first_byte(self) -> NDArray[np.int64]:
        """(K + 1,) Start of each mask in `bits`."""
        sizes = -(-self.box_yxhw[:, 2] * self.box_yxhw[:, 3] // 8)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Mask (h,w) of one object."""
        height, width = self.box_yxhw[index, 2:].tolist()
        own = self.bits[self.first_byte[index] : self.first_byte[index + 1]]
        return np.unpackbits(own, count=height * width).view(np.bool_).reshape(height, width)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Objects:
        """Some of the objects, in the order of `indices`, which may be bools; partners follow."""
        chosen = np.arange(len(self))[np.asarray(indices)] if len(indices) else np.zeros(0, np.int64)
        first = self.first_byte
        bits = [self.bits[first[index] : first[index + 1]] for index in chosen]
        place = np.full(len(self) + 1, -1, np.int64)  # the last one: of no partner
        place[chosen] = np.arange(len(chosen))
        return replace(
            self,
            **{name: getattr(self, name)[chosen] for name in ("target", "box_yxhw", "score", "is_owned", "numbers")},
            bits=np.concatenate(bits) if bits else np.zeros(0, np.uint8),
            left_out_yxhw=np.zeros((0, 4), np.int64),
            partner=place[self.partner[chosen]],
        )

    def replaced(self, indices: NDArray[np.int64], others: Objects) -> Objects:
        """The objects with those at `indices` replaced by as many others, which take over their partners."""
        order = np.arange(len(self))
        order[indices] = len(self) + np.arange(len(others))
        return replace(join_objects([self, others]).take(order), partner=self.partner)

    def paint(self, labels: NDArray[np.int32], box_yxhw: Sequence[int], ids: NDArray[np.int64]) -> None:
        """Write the objects' ids (K,) into labels (T,h,w) of a box of the image; pixels that have an id keep it."""
        top, left, height, width = box_yxhw
        begin = self.box_yxhw[:, :2] - (top, left)
        meets = (begin < (height, width)).all(axis=1) & (begin + self.box_yxhw[:, 2:] > 0).all(axis=1)
        for index in np.flatnonzero(meets).tolist():
            y, x = begin[index].tolist()
            own_height, own_width = self.box_yxhw[index, 2:].tolist()
            inside = self.mask(index)[max(0, -y) : height - y, max(0, -x) : width - x]
            part = labels[self.target[index], max(0, y) : y + own_height, max(0, x) : x + own_width]
            part[inside & (part == 0)] = ids[index]

    def table(self) -> pd.DataFrame:
        """The measurements, one row per object."""
        import pandas as pd

        kinds = [np.int64 if is_count else np.float64 for is_count in self.is_count]
        columns = zip(self.columns, self.numbers.T, kinds, strict=True)
        return pd.DataFrame({str(name): values.astype(kind) for name, values, kind in columns})

    def to_bytes(self) -> bytes:
        """Compressed npz with a checksum of each array: the same objects give the same bytes."""
        buffer = io.BytesIO()
        names = (*_FIELDS, _PARTNER) if (self.partner >= 0).any() else _FIELDS
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in names})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Objects from what `to_bytes` returned; a ValueError if the bytes are cut short, changed or something else."""
        try:
            arrays = read_arrays(io.BytesIO(data))
            if unknown := set(arrays) - {*_FIELDS, _PARTNER}:  # a name changed by damage, perhaps
                raise ValueError(f"holds {min(unknown)!r}, which is not known")
            objects = cls(**{name: arrays[name] for name in {*_FIELDS, *arrays}})
            objects._require_sound()
        except Exception as error:  # each library raises its own
            raise ValueError(f"not the stored objects of a tile, or damaged ({error})") from error
        return objects

    def _require_sound(self) -> None:
        """Raise a `ValueError` unless types and lengths agree."""
        count, columns = len(self), len(self.columns)
        shapes = {"box_yxhw": (count, 4), "numbers": (count, columns), "columns": (columns,), "is_count": (columns,)}
        shapes |= {"bits": self.bits.shape[:1], "left_out_yxhw": (*self.left_out_yxhw.shape[:1], 4)}
        for name, kind in _KINDS.items():
            array, shape = getattr(self, name), shapes.get(name, (count,))
            if array.shape != shape or (array.dtype.kind != "U" if kind == "U" else array.dtype != np.dtype(kind)):
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {kind} of {shape}")
        if ((self.box_yxhw < 0) | (self.box_yxhw > _LARGEST_PX)).any() or self.first_byte[-1] != len(self.bits):
            raise ValueError("its masks do not fit their boxes")
        if ((self.partner < -1) | (self.partner >= count)).any():
            raise ValueError("an object's partner is missing")


def pack_masks(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Masks (h,w) packed to bits as in `Objects.bits`."""
    return np.concatenate([np.packbits(mask) for mask in masks]) if masks else np.zeros(0, np.uint8)


def join_objects(parts: Sequence[Objects]) -> Objects:
    """Objects of several parts, one after the other; at least one part, all with the same measurements."""
    starts = np.cumsum([0, *map(len, parts[:-1])]).tolist()
    partners = [np.where(part.partner < 0, -1, part.partner + start) for part, start in zip(parts, starts, strict=True)]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _EACH}
    return replace(parts[0], **joined, partner=np.concatenate(partners))


def numbers_of(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Measurements of a table, without ids, as `Objects` has them: `numbers`, `columns`, `is_count`."""
    measured = table.drop(columns="id")
    return {
        "numbers": measured.to_numpy(np.float64),
        "columns": np.array(list(measured.columns), np.str_),
        "is_count": np.array([kind.kind in "iu" for kind in measured.dtypes], bool),
    }


def around(boxes_yxhw: NDArray[np.int64]) -> Box:
    """Smallest box around boxes (N,4); one of size 0 where there are none."""
    if not len(boxes_yxhw):
        return 0, 0, 0, 0
    begin = boxes_yxhw[:, :2].min(axis=0)
    size = (boxes_yxhw[:, :2] + boxes_yxhw[:, 2:]).max(axis=0) - begin
    (top, left), (height, width) = begin.tolist(), size.tolist()
    return top, left, height, width


# Blocks

Part: TypeAlias = tuple[Objects, NDArray[np.int64]]
"""Objects, and the id (K,) of each."""


class Block(NamedTuple):
    """Some of a result's objects, of consecutive ids: each is whole and in one block, a cell with its nucleus."""

    top: int
    """Row of the crop's first pixel in the image."""
    left: int
    """Column of the crop's first pixel in the image."""
    labels: NDArray[np.int32]
    """(T,h,w) of the crop, one plane per target: ids of this block's objects, 0 elsewhere."""
    table: pd.DataFrame
    """Measurements, one row per object: see `cytoseed.results.measure.table`."""


def block_of(part: Part, targets: Sequence[str]) -> Block:
    """Block of packed objects, in the smallest crop around them; of two targets, the table names each object's."""
    objects, ids = part
    box = around(objects.box_yxhw)
    labels = np.zeros((len(targets), *box[2:]), np.int32)
    objects.paint(labels, box, ids)
    table = objects.table()
    if len(targets) > 1:
        table.insert(0, "target", [targets[target] for target in objects.target])
    table.insert(0, "id", ids.astype(np.int32))
    return Block(box[0], box[1], labels, join_compartments(table))


def join_parts(parts: Sequence[Part]) -> Part:
    """Parts, at least one, joined into one."""
    if len(parts) == 1:
        return parts[0]
    return join_objects([objects for objects, _ in parts]), np.concatenate([ids for _, ids in parts])


def pack_block(block: Block, targets: Sequence[str]) -> Iterator[Part]:
    """Objects of a block, by the rows of its table, in parts of bounded size; at least one part. Scores are NaN."""
    table = without_derived(block.table)
    ids = table["id"].to_numpy(np.int64)
    target = np.zeros(len(ids), np.uint8)
    if len(targets) > 1:
        target[:] = [targets.index(name) for name in table["target"]]
        table = table.drop(columns="target")
    measured = numbers_of(table)
    places = _find_places(block.labels, ids, target)
    box = np.array([(y.start, x.start, y.stop - y.start, x.stop - x.start) for _, y, x in places], np.int64)
    box = box.reshape(-1, 4)
    for rows in list(portions(box[:, 2] * box[:, 3] + _OBJECT_PX, _PART_PX)) or [slice(0, 0)]:
        own = ids[rows]
        objects = Objects(
            target=target[rows],
            box_yxhw=box[rows] + (block.top, block.left, 0, 0),
            bits=pack_masks([block.labels[place] == id_ for place, id_ in zip(places[rows], own, strict=True)]),
            score=np.full(len(own), np.nan, np.float32),
            is_owned=np.ones(len(own), np.bool_),
            left_out_yxhw=np.zeros((0, 4), np.int64),
            **{**measured, "numbers": measured["numbers"][rows]},
        )
        yield objects, own


def find_boxes(
    planes: NDArray[np.int32], first_id: int
) -> Iterator[tuple[int, tuple[tuple[slice, slice] | None, ...]]]:
    """Ids from `first_id` (1 or more) on, with rows and columns of each in each of the planes (T,h,w), None without it.

    Ids without pixels may be among them.
    """
    from scipy.ndimage import find_objects

    shifted: NDArray[Any]
    numbers: Sequence[int] = range(first_id, int(planes.max(initial=0)) + 1)
    if len(numbers) > planes.size + _OBJECT_PX:  # hardly any of them is there
        found = np.unique(planes[planes >= first_id])
        shifted = (np.searchsorted(found, planes) + 1) * (planes >= first_id)
        numbers = found.tolist()
    else:
        shifted = planes if first_id == 1 else np.maximum(planes - (first_id - 1), 0)  # it lists each number from 1
    return zip(numbers, zip_longest(*map(find_objects, shifted)), strict=True)


def _find_places(
    planes: NDArray[np.int32], ids: NDArray[np.int64], target: NDArray[np.uint8]
) -> list[tuple[int, slice, slice]]:
    """Plane, rows and columns of the objects with these ids and targets, in this order."""
    first = max(1, int(ids.min())) if len(ids) else 1
    boxes = dict(find_boxes(planes, first)) if len(ids) else {}
    places = []
    for id_, plane in zip(ids.tolist(), target.tolist(), strict=True):
        box = boxes[id_][plane] if id_ in boxes else None
        if box is None:
            raise ValueError(f"the table has object {id_}, which is not in the labels; they must belong together")
        places.append((plane, *box))
    return places
