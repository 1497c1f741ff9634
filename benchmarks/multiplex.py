"""Makes the folder that `cells` is trained from: scenes of nuclei and whole cells, and open fluorescence sets.

python benchmarks/multiplex.py --output FOLDER

A scene takes real nuclei, cut out of open images, and grows cells around them: every pixel belongs to its nearest
nucleus as far as that cell reaches, with irregular fronts. Markers of membrane, cytoplasm and nucleus are expressed by
some or all of the cells; a cell that no marker shows is outlined 1 µm around its nucleus, as people do. Fibres, nuclei
out of focus, uneven light, bleed-through, blur, noise, hot pixels and empty channels are added. The nuclear stain is
the first of 2 to 10 channels. `vectra_cells` and the sets of the nuclei are linked. The folder is one that
`cytoseed train --data` takes. Reproducible; test images are never used.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from cytoseed.learn.samples import Sample, find_samples
from places import DATA
from tissue import COLUMNS, row_of

NUCLEI = ("dsb2018", "bbbc039", "bitdepth_nucseg")
LINKED = ("vectra_cells", *NUCLEI)
KINDS = ("membrane", "cytoplasm", "membrane", "cell", "nucleus", "fibres", "cytoplasm", "membrane")
OUTLINING = ("membrane", "cytoplasm", "cell")
SIDE = 384
PX_PER_UM = 2
Scene = NDArray[np.float32]


class Nucleus(NamedTuple):
    """A nucleus cut out of an image."""

    light: Scene  # (h, w), 0 outside of the nucleus, about 1 where it is bright
    inside: NDArray[np.bool_]  # (h, w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--val-scenes", type=int, default=30)
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists; remove it, or give another --output")
    found = [one for one in find_samples(arguments.data, ["train", "val"], LINKED) if one.modality != "brightfield"]
    found = [one for one in found if one.modality in ("fluorescence", "multiplexed")]
    kept = [
        one
        for one in found
        if one.split == "train" or one.dataset == "vectra_cells" or zlib.crc32(one.name.encode()) % 6 == 0
    ]
    for dataset in LINKED:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / dataset).symlink_to((arguments.data / dataset).resolve())
    for split, count in (("train", arguments.scenes), ("val", arguments.val_scenes)):
        sources = [one for one in found if one.split == split and one.dataset in NUCLEI]
        bank = [nucleus for one in sources[:: 1 if split == "val" else 3] for nucleus in cut_out(one)]
        kept += [write_scene(bank, split, number, arguments.output / "multiplex") for number in range(count)]
    with (arguments.output / "samples.csv").open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *map(row_of, kept)])
    print(f"{len(kept)} images in {arguments.output}")


def cut_out(sample: Sample, most: int = 12) -> list[Nucleus]:
    """Up to `most` nuclei of an image that do not touch its edge, background taken away, scaled to 1."""
    pixels, mask = sample.read()
    image = pixels.max(0).astype(np.float32)
    floor = np.median(image[mask == 0]) if (mask == 0).any() else image.min()
    nuclei = []
    for box, label in zip(ndimage.find_objects(mask), range(1, int(mask.max()) + 1), strict=True):
        if box is None or any(side.start == 0 or side.stop == size for side, size in zip(box, mask.shape, strict=True)):
            continue
        inside = mask[box] == label
        light = np.where(inside, image[box] - floor, 0).clip(0)
        height = np.percentile(light[inside], 95)
        if inside.sum() < 60 or height <= 0:
            continue
        nuclei.append(Nucleus((light / height).clip(0, 1.5), inside))
    return nuclei[:: max(1, len(nuclei) // most)][:most]


def write_scene(bank: list[Nucleus], split: str, number: int, folder: Path) -> Sample:
    """Make a scene and write image, nuclei and cells."""
    name = f"{split}_{number:04d}"
    random = np.random.default_rng(zlib.crc32(name.encode()))
    stain, nuclei = place_nuclei(bank, random)
    cells = grow_cells(nuclei, random)
    lost = np.isin(nuclei, random.choice(np.arange(1, nuclei.max() + 2), max(1, nuclei.max() // 40)))
    nuclei, stain = np.where(lost, 0, nuclei), np.where(lost, 0.1 * stain, stain)  # beyond the focal plane
    kinds = [KINDS[(number + index) % len(KINDS)] for index in range(random.integers(1, random.choice([4, 10])))]
    markers = [marker(kind, nuclei, cells, index == 0 and number % 3 > 0, random) for index, kind in enumerate(kinds)]
    levels = [level for kind, (_, level) in zip(kinds, markers, strict=True) if kind in OUTLINING]
    cells = shrink_unseen(nuclei, cells, sum(levels))
    stain += random.choice([0, 0.5]) * ndimage.gaussian_filter(np.roll(stain, SIDE // 2, 0), 5)  # out of focus
    image = record_light(np.stack([stain, *(light for light, _ in markers)]), random)
    paths = [
        folder / kind / f"{name}{suffix}" for kind, suffix in (("images", ".tif"), ("masks", ".png"), ("cells", ".png"))
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(paths[0], image, compression="zlib", metadata={"axes": "CYX"})
    for path, mask in zip(paths[1:], (nuclei, cells), strict=True):
        path.write_bytes(imagecodecs.png_encode(mask.astype(np.uint16)))
    return Sample(name, "multiplex", "multiplexed", split, *paths[:2], 0.5, name, "Apache-2.0", paths[2])


def place_nuclei(bank: list[Nucleus], random: np.random.Generator) -> tuple[Scene, NDArray[np.int32]]:
    """Nuclear stain and labels: nuclei of one tissue, turned and scaled, beside each other and hardly overlapping."""
    stain, labels = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.int32)
    diameter = PX_PER_UM * random.uniform(5.5, 11)
    filled, spread = random.choice([0.08, 0.2, 0.35, 0.5, 0.7]), random.uniform(0.08, 0.3)
    density = smooth(random, 60) > random.choice([-9, -0.3, 0.2])  # tissue with empty parts
    count = 0
    for _ in range(int(4 * filled * SIDE**2 / diameter**2) + 10):
        own = bank[random.integers(len(bank))]
        factor = diameter * random.lognormal(0, spread) / np.sqrt(4 / np.pi * own.inside.sum())
        light = ndimage.zoom(own.light, factor, order=1)
        inside = ndimage.zoom(own.inside.astype(np.float32), factor, order=1) > 0.5
        turn = random.integers(4)
        light, inside = np.rot90(light, turn), np.rot90(inside, turn)
        y, x = (int(random.integers(-side // 2, SIDE - side // 2)) for side in inside.shape)
        box = tuple(slice(max(0, at), min(SIDE, at + side)) for at, side in zip((y, x), inside.shape, strict=True))
        cut = tuple(slice(part.start - at, part.stop - at) for part, at in zip(box, (y, x), strict=True))
        light, inside = light[cut], inside[cut]
        if inside.sum() < 20 or not density[box][inside].mean() > 0.5 or (labels[box][inside] > 0).mean() > 0.08:
            continue
        count += 1
        stain[box] += light * inside * random.uniform(0.4, 1)
        labels[box] = np.where(inside & (labels[box] == 0), count, labels[box])
    return stain, labels


def grow_cells(nuclei: NDArray[np.int32], random: np.random.Generator) -> NDArray[np.int32]:
    """Cells around nuclei: each reaches as far as it can, up to its own distance, which varies along its front."""
    reach = PX_PER_UM * random.uniform(0.8, 6) * random.lognormal(0, 0.35, nuclei.max() + 1)
    stretch = random.choice([1.0, 1.0, 0.6, 1.6])
    distance, nearest = ndimage.distance_transform_edt(nuclei == 0, sampling=(stretch, 1), return_indices=True)
    shift = 1.5 * np.stack([smooth(random, 5), smooth(random, 5)]) * (distance > 1.5)  # fronts are not straight
    steps = np.indices(nuclei.shape) + shift
    y, x = np.rint(steps).astype(int).clip(0, SIDE - 1)
    owner = nuclei[nearest[0][y, x], nearest[1][y, x]]
    owner = np.where(nuclei > 0, nuclei, owner)
    cells = np.where(distance * (1 + 0.25 * smooth(random, 4)) <= reach[owner], owner, 0)
    return np.where(nuclei > 0, nuclei, keep_largest(cells))


def keep_largest(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each label's largest piece, smoothed a little."""
    labels = ndimage.median_filter(labels, 3)
    boxes = ndimage.find_objects(labels)
    result = np.zeros_like(labels)
    for label, box in enumerate(boxes, start=1):
        if box is not None:
            pieces, _ = ndimage.label(labels[box] == label)
            result[box][pieces == np.bincount(pieces.ravel())[1:].argmax() + 1] = label
    return result


def shrink_unseen(nuclei: NDArray[np.int32], cells: NDArray[np.int32], level: Any) -> NDArray[np.int32]:
    """Cells that no marker shows, of a summed `level` near 0, end 1 µm around their nuclei."""
    is_unseen = (np.zeros(cells.max() + 1) + level < 0.15)[cells]
    far = ndimage.distance_transform_edt(nuclei == 0) > PX_PER_UM
    return np.where(is_unseen & far, 0, cells)


def marker(
    kind: str, nuclei: NDArray[np.int32], cells: NDArray[np.int32], is_in_all: bool, random: np.random.Generator
) -> tuple[Scene, NDArray[np.float64]]:
    """Light of a marker of membrane, cytoplasm, whole cell, nucleus or fibres, and its level in each cell."""
    share, count = 2.0 if is_in_all else random.choice([0.1, 0.3, 0.6, 1.0, 1.0]), cells.max() + 1
    with np.errstate(invalid="ignore"):  # of cells that are not there
        centre = ndimage.center_of_mass(cells > 0, cells, np.arange(count))
    where = np.nan_to_num(np.array(centre)).astype(int)
    field = smooth(random, 40)[where[:, 0], where[:, 1]]  # cells of a kind lie together
    level = np.where(
        random.uniform(0, 1, count) + 0.25 * field < share, random.uniform(0.3, 1, count), random.uniform(0, 0.06)
    )
    level[0] = 0
    own = level[cells].astype(np.float32)
    texture = (1 + random.uniform(0.1, 0.5) * smooth(random, random.uniform(0.8, 3))).clip(0.2)
    core = nuclei > 0
    if kind == "membrane":
        thick = random.uniform(0.8, 1.8)
        rim = ndimage.distance_transform_edt(ndimage.morphological_gradient(cells, 3) == 0)
        light = own * np.exp(-((rim / thick) ** 2)) + random.uniform(0, 0.25) * own
        light = np.maximum(light, ndimage.maximum_filter(light, 2))  # two cells share a border
    elif kind == "cytoplasm":
        light = own * np.where(core, random.uniform(0.1, 0.6), 1)
    elif kind == "nucleus":
        light = own * np.where(core, 1, random.uniform(0, 0.2))
    elif kind == "cell":
        light = own
    else:
        line = np.abs(
            ndimage.gaussian_filter(random.normal(size=cells.shape), (random.uniform(1, 3), random.uniform(4, 14)))
        )
        light = (1 - (line / line.std()).clip(0, 1)) * np.where(cells > 0, 0.3, 1)
        light = light if random.uniform() < 0.5 else light.T
    return (light * texture).astype(np.float32), level


def record_light(light: Scene, random: np.random.Generator) -> NDArray[Any]:
    """Image (C, H, W) uint8 or uint16 of the light: background, bleed-through, uneven light, blur and noise."""
    channels = len(light)
    mix = np.eye(channels) + random.uniform(0, 0.15, (channels, channels)) * (
        random.uniform(size=(channels, channels)) < 0.2
    )
    light = np.einsum("ij,jhw->ihw", mix, light).astype(np.float32)
    image = []
    for plane in light:
        blurred = ndimage.gaussian_filter(plane, random.uniform(0.4, 1.5))
        haze = random.uniform(0, 0.35) * ndimage.gaussian_filter(plane, random.uniform(6, 15))
        floor = random.uniform(0.02, 0.2) * (1 + 0.4 * smooth(random, 30))
        shade = 1 + random.uniform(0, 0.2) * smooth(random, 120)
        photons = random.uniform(20, 400)
        seen = random.poisson((blurred + haze + floor).clip(0) * shade.clip(0.3) * photons) / photons
        seen[random.uniform(size=seen.shape) < random.choice([0, 0, 2e-4])] = 1.6  # hot pixels
        is_empty = len(image) > 1 and random.uniform() < 0.05
        image.append((0 if is_empty else seen) + random.normal(0, random.uniform(0, 0.03), seen.shape))
    top, dtype = random.choice([(255, 0), (4095, 1), (60000, 1)])
    scaled = np.stack(image) / 1.6 * top * random.uniform(0.3, 1.0, (channels, 1, 1))
    return scaled.clip(0, top).astype(np.uint16 if dtype else np.uint8)


def smooth(random: np.random.Generator, sigma: float) -> Scene:
    """Smooth noise over a scene, standard deviation 1."""
    noise = ndimage.gaussian_filter(random.normal(size=(SIDE, SIDE)), sigma, mode="wrap")
    result: Scene = (noise / noise.std()).astype(np.float32)
    return result


if __name__ == "__main__":
    main()
