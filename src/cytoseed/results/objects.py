"""Objects of a part of an image as arrays: each a box and a mask in bits, of which a million fit in memory."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Box: TypeAlias = tuple[int, int, int, int]
"""Row and column of a region's first pixel in the image, then its height and width (y, x, height, width), in px."""


@dataclass(frozen=True, eq=False)
class Objects:
    """K objects at full resolution, disjoint within each target."""

    target: NDArray[np.uint8]
    """(K,) Number of the model's target, from 0."""
    box_yxhw: NDArray[np.int64]
    """(K,4) Row and column of the first pixel in the image, height, width."""
    bits: NDArray[np.uint8]
    """Masks (h,w), row by row, packed to bits; each begins at a whole byte, in the order of the objects."""
    score: NDArray[np.float32]
    """(K,) Highest value of the seed map in the object, about 0 to 1."""
    is_owned: NDArray[np.bool_]
    """(K,) True where the object's highest seed lies in the core of the tile that found it."""
    numbers: NDArray[np.float64]
    """(K,M) The measurements."""
    columns: NDArray[np.str_]
    """(M,) Name of each measurement."""
    is_count: NDArray[np.bool_]
    """(M,) True for whole numbers."""
    left_out_yxhw: NDArray[np.int64]
    """(N,4) Boxes, in the image, of parts of objects that are too large to be followed to their end."""
    partner: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(K,) Of a nucleus, the place of its cell among these objects, and of a cell that of its nucleus; -1 for none, as
    for all where it is left out."""

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

    def paint_at(
        self, labels: NDArray[np.int32], rows: NDArray[np.int64], columns: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> None:
        """Write the ids into labels (T,h,w) of chosen rows (h,) and columns (w,); pixels that have an id keep it."""
        box = self.box_yxhw
        tops, bottoms = np.searchsorted(rows, box[:, 0]), np.searchsorted(rows, box[:, 0] + box[:, 2])
        lefts, rights = np.searchsorted(columns, box[:, 1]), np.searchsorted(columns, box[:, 1] + box[:, 3])
        for index in np.flatnonzero((tops < bottoms) & (lefts < rights)).tolist():
            here = slice(tops[index], bottoms[index]), slice(lefts[index], rights[index])
            y, x = rows[here[0]] - box[index, 0], columns[here[1]] - box[index, 1]
            own = labels[(self.target[index], *here)]
            own[self.mask(index)[y[:, None], x] & (own == 0)] = ids[index]

    def table(self) -> pd.DataFrame:
        """The measurements, one row per object."""
        import pandas as pd

        return pd.DataFrame(
            {
                str(name): self.numbers[:, place].astype(np.int64 if is_count else np.float64)
                for place, (name, is_count) in enumerate(zip(self.columns, self.is_count, strict=True))
            }
        )

    def to_bytes(self) -> bytes:
        """Compressed npz with a checksum of each array: the same objects give the same bytes."""
        buffer = io.BytesIO()
        names = (*_FIELDS, _PARTNER) if (self.partner >= 0).any() else _FIELDS
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in names})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Objects from what `to_bytes` returned.

        Raises
        ------
        ValueError
            If the bytes are cut short, changed or something else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                if unknown := set(archive.files) - {*_FIELDS, _PARTNER}:  # a name changed by damage, perhaps
                    raise ValueError(f"holds {min(unknown)!r}, which is not known")
                return cls(**{name: archive[name] for name in {*_FIELDS, *archive.files}})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise ValueError(f"not the stored objects of a tile, or damaged ({error})") from error


_EACH = ("target", "box_yxhw", "bits", "score", "is_owned", "numbers", "left_out_yxhw")  # joined one after the other
_FIELDS = (*_EACH, "columns", "is_count")
_PARTNER = "partner"  # stored where there are any


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
