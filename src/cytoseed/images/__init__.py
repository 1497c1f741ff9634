"""From a path to pixels: `open_image` for files, `as_image` for arrays."""

from cytoseed.images.arrays import array_channel_names, as_image, check_pixels
from cytoseed.images.channels import choose_channels
from cytoseed.images.image import Image, ImageFileError
from cytoseed.images.readers import open_image

__all__ = [
    "Image",
    "ImageFileError",
    "array_channel_names",
    "as_image",
    "check_pixels",
    "choose_channels",
    "open_image",
]
