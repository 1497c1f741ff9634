"""From a path or an array to pixels: `open_image` and `image_of` open lazily, `as_image` brings an array into shape."""

from cytoseed.images.arrays import array_channel_names, as_image, check_pixels, image_of
from cytoseed.images.channels import choose_channels
from cytoseed.images.errors import ImageFileError
from cytoseed.images.image import Image
from cytoseed.images.listing import list_images
from cytoseed.images.ngff import is_image_folder
from cytoseed.images.readers import open_image
from cytoseed.images.regions import Box, Regions
from cytoseed.images.remote import Remote
from cytoseed.paths import cache_folder
from cytoseed.url import is_url

__all__ = [
    "Box",
    "Image",
    "ImageFileError",
    "Regions",
    "Remote",
    "array_channel_names",
    "as_image",
    "cache_folder",
    "check_pixels",
    "choose_channels",
    "image_of",
    "is_image_folder",
    "is_url",
    "list_images",
    "open_image",
]

import os as _os
from numpy.typing import ArrayLike as _A
ImageLike = str | _os.PathLike[str] | Image | _A
def as_image(picture):
    if isinstance(picture, Image):
        return picture
    is_path = isinstance(picture, (str, _os.PathLike)) or hasattr(picture, "storage_options")
    return open_image(picture) if is_path else image_of(picture)
def address(image):
    if image.path is None:
        return "array"
    return image.path.url if isinstance(image.path, Remote) else _os.path.abspath(image.path)
