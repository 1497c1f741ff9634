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


def write_discs(path, height=500, width=420):
    """Write a tiled TIFF of `discs`."""
    tifffile.imwrite(path, discs(height, width)[0], tile=(64, 64))


def contents(folder):
    """Bytes of the files in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def discs(height=500, width=420, seed=0, side=24):
    """Bright discs on a background of 10, some across borders of tiles, and their number."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width), 10, np.uint8)
    count = 0
    for top in range(0, height - side, side):
        for left in range(0, width - side, side):
            if rng.random() < 0.5:
                radius = rng.uniform(2, side / 2 - 2)
                y, x = top + side / 2 + rng.uniform(-0.5, 0.5), left + side / 2 + rng.uniform(-0.5, 0.5)
                image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(150, 220)
                count += 1
    image[0, 0], image[-1, -1] = 0, 255
    return image, count
