"""Images for the command line, and what it makes of one."""

import numpy as np
import tifffile

RESULTS = (".labels.tif", ".geojson", ".csv", ".overlay.png", ".objects.zip", ".cytoseed.json")


def write_image(path, objects=2, shape=(60, 80)):
    """Write a TIFF of bright boxes on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(shape, np.uint8)
    for index in range(objects):
        pixels[10:25, 5 + 25 * index : 20 + 25 * index] = 200
    tifffile.imwrite(path, pixels)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())
