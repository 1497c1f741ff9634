"""A result read back from the file that `cytoseed segment` keeps of it, to be written in other formats."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.paths import as_path, same_file
from cytoseed.results.formats.objects import FACTS, FORMAT, SUFFIX, part_names
from cytoseed.results.objects import Objects, join_objects
from cytoseed.results.parts import Part, Parts, block_of
from cytoseed.results.record import Record, stem_of
from cytoseed.results.reduced import centres, fitted, reduce_image
from cytoseed.results.result import Block, Box

if TYPE_CHECKING:
    import pandas as pd

Look: TypeAlias = Callable[["StoredResult", int], tuple[NDArray[Any], float]]
"""Given a result and a largest side, gives the image (C,h,w), and how many px of full resolution one of its px is wide:
of a result that `was_in_memory` the whole image as it is, and 1, of others at most that large."""

_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def open_result(path: str | os.PathLike[str], look: Look | None = None) -> StoredResult:
    """Open a stored result, the file that ends in `.objects.zip`; of its objects only what is asked for is read.

    Parameters
    ----------
    path : str or path
        What `Segmentation.save` or `cytoseed segment` wrote in the format `objects`.
    look : callable, optional
        Shows the image: only the overlay needs it. `cytoseed.run.reopen.open_result` gives one.

    Returns
    -------
    StoredResult
        Its file stays open until the end of a `with` block, `close`, or the result's own end.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, was written by a newer cytoseed, or is something else.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a stored result in it, a file that ends in {SUFFIX}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; stored results end in {SUFFIX}")
    archive = _opened(path)
    try:
        return _read(path, archive, look or _no_look)
    except BaseException:
        archive.close()
        raise


@dataclass(frozen=True, eq=False)
class StoredResult:
    """Objects found in one image, in a file; a `Result`, as `Segmentation` is: it gives the same blocks and labels."""

    path: Path
    """The file."""
    version: str
    """Version of cytoseed that found the objects."""
    shape: tuple[int, int, int]
    """(C,H,W) of the image."""
    targets: tuple[str, ...]
    """What each label plane shows, in order."""
    channel_names: tuple[str, ...]
    """Name of each channel."""
    stains: tuple[str, ...]
    """Stains whose optical density is measured."""
    pixel_size_um: float | None
    """Side of a pixel in µm; None where it is not known."""
    source: str
    """Path of the image's file as it was given, or `array`."""
    image: str | None
    """Path from the root, or URL, where the image was; None for an array."""
    input: Mapping[str, Any] = field(repr=False)
    """What identifies the image."""
    settings: Mapping[str, Any] = field(repr=False)
    """What made the objects."""
    fingerprint: str
    """A text that is the same for the same source's name and the same settings; ids are derived from it."""
    failed: tuple[str, ...]
    """The parts of the image that could not be segmented, a line each."""
    count: int
    """How many objects there are; a cell and its nucleus count once."""
    was_in_memory: bool
    """True where the image was segmented whole, and not tile by tile: its overlay is made of all its pixels."""
    parts: Parts = field(repr=False)
    """The objects."""
    blocks_of_parts: tuple[range, ...] = field(repr=False)
    """The parts of each block."""
    columns: tuple[tuple[str, str], ...] = field(repr=False)
    """The table's columns, in order, and their types."""
    look: Look = field(repr=False)
    """Shows the image."""
    close: Callable[[], None] = field(repr=False)
    """Closes the file; what was not read before cannot be read after."""

    def __len__(self) -> int:
        return self.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    @property
    def record(self) -> Record:
        """What decides the result, with the version of cytoseed that found the objects."""
        return Record.of(self.input, self.settings, self.version)

    def blocks(self) -> Iterator[Block]:
        """Give the objects, in the blocks in which they were stored."""
        for parts in self.blocks_of_parts:
            block = block_of(self._joined(parts), self.targets)
            yield block._replace(table=self._as_it_was(block.table))

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Give the labels (T,h,w) of a region of the image."""
        return self.parts.labels_in(len(self.targets), box_yxhw)

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Give the image (C,h,w) and its labels (T,h,w) at a size of at most `largest_px` a side.

        Raises
        ------
        FileNotFoundError
            If the image is not where it was.
        ValueError
            If it is another image, or `largest_px` is not 1 or more.
        """
        sides = self.shape[1:]
        small = fitted(sides, largest_px)
        picture, step = self.look(self, largest_px)
        if self.was_in_memory:
            rows, columns = map(centres, sides, small)
            picture = picture if small == sides else reduce_image(picture, *small)
        else:
            rows, columns = (((np.arange(side) + 0.5) * step).astype(np.int64) for side in picture.shape[1:])
        return picture, self.parts.labels_at(len(self.targets), rows, columns)

    def save(self, folder: str | os.PathLike[str], formats: Sequence[str], overwrite: bool = False) -> tuple[Path, ...]:
        """Write the result in other formats, as `Segmentation.save` would have.

        Parameters
        ----------
        folder : str or path
            Made if it is not there; also a URL. In the folder where the result lies, its record is added to.
        formats, overwrite
            As for `Segmentation.save`. What is there of the same result is left, unless `overwrite`; the file that
            this result is read from always is.

        Returns
        -------
        tuple of path
            The files of the formats asked for, and the record, last.

        Raises
        ------
        FileNotFoundError
            The image that the overlay is drawn on is not where it was.
        FileExistsError, ModuleNotFoundError, OSError, ValueError
            As `Segmentation.save`; a stored result that turns out to be damaged.
        """
        from cytoseed.results.save import save

        place = as_path(folder)
        own = place / f"{stem_of(self.source)}{SUFFIX}"
        is_there = same_file(own, self.path)
        return save(self, place, formats, overwrite, record=self.record, keep=(own.name,) if is_there else ())

    def _joined(self, parts: range) -> Part:
        if len(parts) == 1:
            return self.parts.of(parts[0])
        read = [self.parts.of(part) for part in parts]
        return join_objects([objects for objects, _ in read]), np.concatenate([ids for _, ids in read])

    def _as_it_was(self, table: pd.DataFrame) -> pd.DataFrame:
        """Give the table's columns the order and the types they had."""
        return table[[name for name, _ in self.columns]].astype(dict(self.columns))


def _opened(path: Path) -> zipfile.ZipFile:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if not is_zip:
        raise ValueError(f"{path}: is no stored result of cytoseed; those are files that end in {SUFFIX}")
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from error


def _read(path: Path, archive: zipfile.ZipFile, look: Look) -> StoredResult:
    """Read everything but the objects."""
    if FACTS not in archive.namelist():  # of a file that is cut, a zip inside it may be taken for the whole
        with path.open("rb") as file:
            is_ours = part_names(0)[0].encode() in file.read(100)
        if is_ours:
            raise _damaged(path, ValueError("its end is missing"))
        raise ValueError(f"{path}: is a zip, but no stored result of cytoseed: {FACTS!r} is not in it")
    try:
        facts = json.loads(archive.read(FACTS))
        newer = facts["format"] > FORMAT
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if newer:
        raise ValueError(
            f"{path}: was written by cytoseed {facts.get('version', 'newer than this one')}, in a form that this "
            f"version ({metadata.version('cytoseed')}) cannot read; upgrade it: pip install --upgrade cytoseed"
        )
    try:
        return _result_of(path, archive, facts, look)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _result_of(path: Path, archive: zipfile.ZipFile, facts: Mapping[str, Any], look: Look) -> StoredResult:
    parts, stops = facts["parts"], list(accumulate(facts["blocks"]))
    boxes = np.array(parts["box_yxhw"], np.int64).reshape(-1, 4)
    counts = [int(count) for count in parts["count"]]
    if not len(boxes) == len(counts) == sum(facts["blocks"]):
        raise ValueError("what it says of its parts does not fit together")
    channels, height, width = facts["shape"]
    side_um = facts["pixel_size_um"]

    def load(part: int) -> Part:
        return _part(path, archive, part, counts[part])

    return StoredResult(
        path=path,
        version=str(facts["version"]),
        shape=(int(channels), int(height), int(width)),
        targets=tuple(facts["targets"]),
        channel_names=tuple(facts["channel_names"]),
        stains=tuple(facts["stains"]),
        pixel_size_um=None if side_um is None else float(side_um),
        source=str(facts["source"]),
        image=facts["image"],
        input=dict(facts["input"]),
        settings=dict(facts["settings"]),
        fingerprint=str(facts["fingerprint"]),
        failed=tuple(facts["failed"]),
        count=int(facts["count"]),
        was_in_memory=bool(facts["was_in_memory"]),
        parts=Parts(boxes, load),
        blocks_of_parts=tuple(range(stop - number, stop) for stop, number in zip(stops, facts["blocks"], strict=True)),
        columns=tuple((name, kind) for name, kind in facts["table"]),
        look=look,
        close=archive.close,
    )


def _part(path: Path, archive: zipfile.ZipFile, part: int, count: int) -> Part:
    """Read the objects of a part, and their ids."""
    if archive.fp is None:
        raise ValueError(f"{path}: was closed; read from a stored result inside its `with` block")
    try:
        packed, numbered = (archive.read(name) for name in part_names(part))
        objects = Objects.from_bytes(packed)
        ids: NDArray[np.int64] = np.load(io.BytesIO(numbered), allow_pickle=False)
        if not len(objects) == len(ids) == count:
            raise ValueError(f"part {part} has {len(objects)} objects and {len(ids)} ids, and should have {count}")
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return objects, ids


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: is damaged or cut short ({error}); copy it again from where it is whole, or make it again with "
        f"cytoseed segment"
    )


def _no_look(result: StoredResult, _: int) -> tuple[NDArray[Any], float]:
    raise FileNotFoundError(
        f"{result.path}: an overlay needs the image, which is not in the stored result; open it by "
        f"cytoseed.run.reopen.open_result, which finds the image or takes it as `image` (--image on the command line)"
    )
