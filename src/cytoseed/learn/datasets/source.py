"""What a public data set is: where it is published and how; and one image of it, found but not yet read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.settings import DatasetNote


@dataclass(frozen=True)
class Item:
    """One image of a download, with the way to its mask."""

    stem: str
    """Name that its files get; there is one of it in the data set."""
    image: Callable[[], NDArray[Any]]
    """Reads the image: (C, H, W), in the type it is stored in."""
    mask: Callable[[tuple[int, int]], NDArray[np.int32]]
    """Reads the mask, given height and width: ids of objects, 0 background, -1 where nobody annotated."""
    field: str = ""
    """What shares a split: a slide, a field of view. Empty: the image alone."""
    split: str = ""
    """The split it was published in: `train`, `val` or `test`. Empty: none was published."""
    modality: str = "brightfield"
    """Kind of image."""


@dataclass(frozen=True)
class Source:
    """One public data set."""

    name: str
    """Short name: of the command, the folder, the table's rows."""
    title: str
    """What it shows, in a few words."""
    licence: str
    """Licence of images and masks, an SPDX identifier."""
    url: str
    """Page that publishes it."""
    download: str
    """What to download there and how to unpack it."""
    layout: str
    """What the unpacked folder holds."""
    find: Callable[[Path], list[Item]]
    """Finds the images of a folder; raises FileNotFoundError or ValueError where it is not of the layout."""
    images: int
    """How many images there should be."""
    objects: int | None
    """How many objects there should be; None where no exact number is published."""
    counted_by: str
    """Who counted them."""
    pixel_size_um: float | None = None
    """Side of a pixel in µm; None where it is not published."""
    val_share: float = 0.1
    """Share of the fields of `train` that becomes `val`, where no `val` is published."""
    test_share: float = 0.1
    """Share of all fields that becomes `test`, where no split is published."""

    @property
    def note(self) -> DatasetNote:
        """What a model's configuration says of it."""
        return DatasetNote(self.name, self.licence, self.url)

    def items(self, downloaded: str | Path) -> list[Item]:
        """Find the images of an unpacked download.

        Parameters
        ----------
        downloaded : str or Path
            The folder, or one above it.

        Returns
        -------
        list of Item
            In the order of names; at least one, no two of one stem.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or it is not laid out as the official download: the message says what
            is missing and what was expected.
        ValueError
            If it holds files that contradict each other.
        """
        folder = Path(downloaded)
        if not folder.is_dir():
            raise FileNotFoundError(f"downloaded is {str(folder)!r}: there is no such folder; {self._expected()}")
        try:
            items = self.find(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is not {self.name} as downloaded: {error}; {self._expected()}") from None
        except ValueError as error:
            raise ValueError(f"{folder} is not {self.name} as downloaded: {error}; {self._expected()}") from error
        stems = [item.stem for item in items]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice:
            raise ValueError(f"{folder} holds two images named {twice[0]!r}; {self._expected()}")
        return items

    def _expected(self) -> str:
        return f"expected: {self.layout}. Download: {self.download}, from {self.url}"
