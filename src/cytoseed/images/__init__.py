"""Images: a path, URL or array is opened by `open_image` or `as_image`; pixels are read region by region."""

from cytoseed.images.arrays import check_pixels
from cytoseed.images.channels import choose_channels
from cytoseed.images.frames import choose_frames
from cytoseed.images.image import Image, address
from cytoseed.images.readers import ImageLike, as_image, list_images, list_series, open_frames, open_image
from cytoseed.images.regions import Box, ImageFileError, Regions
from cytoseed.images.series import Series, choose_series
from cytoseed.images.zarr_reader import is_image_folder

__all__ = [
    "Box",
    "Image",
    "ImageFileError",
    "ImageLike",
    "Regions",
    "Series",
    "address",
    "as_image",
    "check_pixels",
    "choose_channels",
    "choose_frames",
    "choose_series",
    "is_image_folder",
    "list_images",
    "list_series",
    "open_frames",
    "open_image",
]
