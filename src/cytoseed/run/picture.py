"""What is taken for an image."""

from __future__ import annotations

import os

from numpy.typing import ArrayLike

from cytoseed.images import Image, Remote, image_of, open_image

Picture = str | os.PathLike[str] | Image | ArrayLike
"""A file's path or URL (a str, or a `UPath`), an opened file, or an array."""


def opened(picture: Picture) -> Image:
    """Give a file or an array as an `Image`; its pixels are not read."""
    if isinstance(picture, Image):
        return picture
    is_path = isinstance(picture, (str, os.PathLike)) or hasattr(picture, "storage_options")  # a UPath is no PathLike
    return open_image(picture) if is_path else image_of(picture)  # type: ignore[arg-type]


def address_of_image(image: Image) -> str:
    """Say where another process finds an image: its absolute path, or its URL; `array` for one held in memory."""
    if image.path is None:
        return "array"
    return image.path.url if isinstance(image.path, Remote) else os.path.abspath(image.path)
