"""What is taken for an image."""

from __future__ import annotations

import os

from numpy.typing import ArrayLike

from cytoseed.images import Image, image_of, open_image

Picture = str | os.PathLike[str] | Image | ArrayLike
"""A file's path, an opened file, or an array."""


def opened(picture: Picture) -> Image:
    """Give a file or an array as an `Image`; its pixels are not read."""
    if isinstance(picture, Image):
        return picture
    return open_image(picture) if isinstance(picture, (str, os.PathLike)) else image_of(picture)
