"""A result: the objects found in one image, with everything that can be read or written about them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.arrays import planes_image
from cytoseed.images.overview import reduce
from cytoseed.images.pixel_size import PixelSize, side_text
from cytoseed.paths import as_path
from cytoseed.results.measure.stains import stains_of
from cytoseed.results.measure.table import measure_planes
from cytoseed.results.objects import Block, Objects, join_parts, pack_block
from cytoseed.results.save import save
from cytoseed.results.store import StitchedObjects, Store
from cytoseed.results.view import SINGULAR, LabelImage, Parts, ResultView, input_of
from cytoseed.settings import DEFAULT_FORMATS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LARGEST_LABELS_PX = 1 << 31


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result(ResultView):
    """Objects found in one image: what `cytoseed.segment` and `cytoseed.open_result` return.

    `labels`, `table` and `objects` are made on first use; `blocks`, `labels_in` and `overview` read parts of
    a result that is too large for memory.
    """

    keep_alive: Any = None  # any object to keep as long as the result, such as the temporary folder of its store
    close: Callable[[], None] = lambda: None  # closes the file of a stored result, which cannot be read any more

    @classmethod
    def from_labels(  # noqa: PLR0913
        cls,
        labels: NDArray[Any],
        image: NDArray[Any],
        *,
        targets: Sequence[str] = ("nuclei",),
        channel_names: Sequence[str] = (),
        pixel_size_um: PixelSize = None,
        source: str = "array",
        settings: Mapping[str, Any] | None = None,
        find_input: Callable[[], Mapping[str, Any]] | None = None,
        scores: NDArray[np.float64] | None = None,
    ) -> Self:
        """Result of a label image in memory.

        `labels` are integers (H,W) of one target, or (T,H,W) of several `targets`, in their order; 0 is background, and
        a nucleus and its cell have the same id. `image` (C,H,W) are all channels, values as stored; without
        `channel_names` they are called `channel 0`, `channel 1`, ... `pixel_size_um` is the side of a pixel in µm, or
        height and width of one that is not square, None if it is unknown; `source` the path of the image's file, or
        `array`; `settings` are what made the labels, in values that JSON can hold. `find_input` returns the identity of
        the image as `Image.identity` gives it, by default that of its pixels. `scores` (T,K + 1) are the scores of ids
        up to K, for the column `score`; without them there is none.

        Raises TypeError if the labels are not integers, ValueError if labels, image, targets and channel names do not
        belong together.
        """
        if image.ndim != 3:
            raise ValueError(f"image has shape {image.shape}; its axes must be (C,H,W)")
        check_labels(labels, image.shape, targets)
        if channel_names and len(channel_names) != len(image):
            raise ValueError(f"channel_names are {tuple(channel_names)}; the image has {len(image)} channels")
        names = tuple(channel_names) or tuple(f"channel {index}" for index in range(len(image)))
        planes = labels.astype(np.int32, copy=False).reshape(-1, *labels.shape[-2:])
        channels, height, width = image.shape
        result = cls(
            contents=LabelImage(
                planes, lambda: measure_planes(planes, image, targets, names, pixel_size_um, result.stains, scores)
            ),
            shape=(channels, height, width),
            targets=tuple(targets),
            channel_names=names,
            pixel_size_um=pixel_size_um,
            source=source,
            settings=settings or {},
            find_input=find_input or partial(input_of, image, source),
            find_stains=partial(stains_of, image, names),
            thumbnail=partial(reduce, image),
            find_image=partial(planes_image, image, names),
            was_in_memory=True,
            has_scores=scores is not None,
        )
        return result

    @classmethod
    def from_store(cls, store: Store, kept: StitchedObjects, *, targets: Sequence[str], **facts: Any) -> Self:
        """Result whose objects are read from a store, tile by tile; `facts` are further fields of `Result`."""
        contents = Parts(kept.tile_box_yxhw, store.stitched(kept), targets, int(kept.id.max(initial=0)))
        return cls(contents=contents, targets=tuple(targets), has_scores=True, **facts)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Label image (H,W), or (T,H,W) for several targets, int32; 0 is background. At most 2^31 px."""
        _, height, width = self.shape
        if len(self.targets) * height * width > _LARGEST_LABELS_PX:
            raise ValueError(
                f"labels of {height} x {width} px are too large to be held in memory; read regions of them by "
                f"labels_in, parts by blocks, or write them by save(folder, ['ngff'])"
            )
        planes = self.labels_in((0, 0, height, width))
        return planes[0] if len(self.targets) == 1 else planes

    @cached_property
    def table(self) -> pd.DataFrame:
        """Measurements, one row per object: see `cytoseed.results.measure.table.measure_objects`."""
        import pandas as pd

        tables = list(self.tables())
        table = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
        return table if table["id"].dtype == np.int64 else table.assign(id=table["id"].astype(np.int64))

    @cached_property
    def objects(self) -> Objects:
        """All objects with their masks packed to bits, in the order of the rows of `table`."""
        blocks = list(self.blocks()) or [Block(0, 0, np.zeros((len(self.targets), 0, 0), np.int32), self.table)]
        return join_parts([part for block in blocks for part in pack_block(block, self.targets)])[0]

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        _, height, width = self.shape
        size = self.pixel_size_um
        scale = "unknown pixel size" if size is None else f"{side_text(size)} µm/px"
        named = self.targets[-1] if self.count != 1 else SINGULAR.get(self.targets[-1], self.targets[-1])
        return f"<Result: {self.count} {named} in {Path(self.source).name}, {height} x {width} px, {scale}>"

    def _repr_html_(self) -> str:
        """HTML for notebooks: overlay, numbers, sizes."""
        from cytoseed.results.formats.report import summary_html

        return summary_html(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plot(self, measurement: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw the result with Matplotlib; returns the Axes, whose coordinates are pixels of the image.

        Outlines on the image, at most 2048 px per side; with `measurement`, a column of `table`, objects in its
        colours. `ax` are the Axes to draw in; by default those of a new figure.

        Raises ModuleNotFoundError without Matplotlib, ValueError if the table has no such column, FileNotFoundError if
        the image of a stored result is not found.
        """
        from cytoseed.results.plot import plot

        return plot(self, measurement, ax)

    def to_napari(self, viewer: Any = None) -> Any:
        """Show the result in napari; returns the viewer.

        A labels layer for each target is added, with the rows of `table` as its features and the pixel size in µm as
        its scale. `viewer` is a `napari.Viewer` that shows the image already; without one, a new viewer opens with the
        image too, where it is found. Of large images, what is visible is read. In a script, `napari.run()` keeps it
        open.

        Raises ModuleNotFoundError without napari.
        """
        from cytoseed.results.layers import show

        return show(self, viewer)

    def save(
        self, folder: str | os.PathLike[str], formats: Sequence[str] = DEFAULT_FORMATS, overwrite: bool = False
    ) -> tuple[Path, ...]:
        """Write the result into a folder, each file whole or not at all, and a record of how they were made.

        Files are named after the source: `cells.tif` gives `cells.labels.tif`, `cells.geojson`, `cells.csv`,
        `cells.overlay.png`, `cells.objects.zip` and the record `cells.cytoseed.json`. Where the folder holds the
        result of the same pixels, settings and version, only the formats that are missing are written. From
        `cells.objects.zip` the other formats can be made later: see `cytoseed.open_result`. The file that this result
        was opened from is never replaced.

        `folder` is made if it is not there, and may be a URL such as `s3://bucket/results`; `formats` are names from
        `cytoseed.results.WRITERS`; with `overwrite` everything is written again, even over files from another
        input, other settings or another program. Returns the files of the formats, in their order, then the record.

        Raises ValueError or ModuleNotFoundError if a format is not known, needs a package that is not installed, or
        cannot hold the result (the others are written then); FileExistsError if files of this name were made
        differently and `overwrite` is false; BlockingIOError if another run is writing results of this image into the
        folder, another OSError if it cannot be written to; FileNotFoundError if the overlay of a stored result needs
        the image and it is not found.
        """
        return save(self, as_path(folder), formats, overwrite)


def check_labels(labels: NDArray[Any], shape: tuple[int, ...], targets: Sequence[str]) -> None:
    """Raise TypeError or ValueError for labels that do not belong to an image of a shape (C,H,W)."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels have values of type {labels.dtype}; they must be integers, such as int32")
    expected = (*((len(targets),) if len(targets) > 1 else ()), *shape[1:])
    if labels.shape != expected:
        raise ValueError(
            f"labels have shape {labels.shape}; for an image of {shape[1:]} and targets {tuple(targets)} "
            f"it must be {expected}"
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels go down to {labels.min()}; they must be 0 for background, else 1 or more")
