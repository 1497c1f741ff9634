"""A slide of any size, made of annotated fields at known places: a pyramid in tiles, and its layout.

python benchmarks/make_slide.py runs/slides/he.tif --side 30000
python benchmarks/make_slide.py runs/slides/glow.ome.tif --side 12000 --kind fluorescence

From OUT.truth.json, beside OUT.tif, `truth` in slide_plan.py makes the annotated objects of any region. The same seed
and libraries give the same bytes. Memory grows with the slide's width only, and is below 500 MB at 30,000 px. H&E is
made of Kumar's images, whose licence (CC BY-NC-SA 4.0, non-commercial) the slide inherits.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.annotations import median_diameter
from cytoseed.learn.samples import find_samples
from cytoseed.results import stem_of
from places import DATA
from slide_plan import FACTOR, GRAIN_PX, Field, Plan, make_plan, tissue, turned

TILE_PX = 256
JPEG_QUALITY = 90
THUMBNAIL_PX = 512

_LARGEST_FIELD_PX = 704
_DIAMETERS_PX = (10.0, 40.0)  # other fields of fluorescence show nuclei at another magnification
_FEWEST_NUCLEI = 5
_DARK, _BRIGHT = 400.0, 12_000.0  # of fluorescence: the background, and the brighter parts of nuclei
_CLASSIC_TIFF_BYTES = 2**32 - 2**27


class Kind(NamedTuple):
    """Ingredients of a kind of slide."""

    datasets: tuple[str, ...]
    splits: tuple[str, ...] | None
    pixel_size_um: float
    channels: int
    dtype: type[np.generic]
    background: tuple[float, float]
    """Mean and standard deviation outside the tissue."""


KINDS = {
    "he": Kind(("kumar_train16",), None, 0.25, 3, np.uint8, (243.0, 1.2)),
    # The pixel sizes of these sets are not published. 0.5 µm leaves the fields as the models were trained on them.
    "fluorescence": Kind(("bbbc039", "bitdepth_nucseg", "dsb2018"), ("val",), 0.5, 1, np.uint16, (_DARK, 12.0)),
}


def read_fields(kind: Kind, data: Path) -> tuple[Field, ...]:
    fields = []
    for sample in find_samples(data, kind.splits, kind.datasets):
        if sample.modality not in ("fluorescence", "brightfield"):
            continue
        pixels, mask = sample.read()
        if kind.channels == 1:
            if sample.modality != "fluorescence" or not _is_usable(mask):
                continue
            pixels = _to_common_range(pixels[:1], mask)
        placed = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        fields.append(Field(sample.dataset, sample.name, placed, int(mask.max(initial=0))))
    return tuple(fields)


def _is_usable(mask: NDArray[np.int32]) -> bool:
    low, high = _DIAMETERS_PX
    enough = len(np.unique(mask)) > _FEWEST_NUCLEI
    return enough and max(mask.shape) <= _LARGEST_FIELD_PX and low <= median_diameter(mask) <= high


def _to_common_range(pixels: NDArray[Any], mask: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Fields of different cameras scaled to one background and one brightness."""
    dark, bright = np.median(pixels[0][mask == 0]), np.percentile(pixels[0][mask > 0], 99)
    scaled = _DARK + (pixels - dark) * ((_BRIGHT - _DARK) / max(float(bright - dark), 1.0))
    return np.asarray(np.clip(np.rint(scaled), 0, 65_535).astype(np.uint16))


class Painter(NamedTuple):
    """Paints a slide band by band, and keeps the smaller levels of the pyramid in files."""

    plan: Plan
    fields: dict[tuple[str, str], NDArray[Any]]
    background: NDArray[Any]
    """A square (N,N,C) that is repeated outside the tissue."""
    folder: Path
    """Folder of the smaller levels, `level1` and `level2`: pixels row by row."""

    def side(self, level: int) -> int:
        """Height and width of a level in px."""
        return int(self.plan.side // FACTOR**level)

    def bands(self, level: int) -> Iterator[NDArray[Any]]:
        """Bands (h,W,C) of a level, of `TILE_PX` rows or, the last, fewer; level 0 makes the others."""
        if level == 0:
            yield from self._painted_bands()
            return
        side, channels = self.side(level), self.background.shape[2]
        file = self.folder / f"level{level}"
        pixels = np.memmap(file, self.background.dtype, mode="r", shape=(side, side, channels))
        yield from (np.array(pixels[top : top + TILE_PX]) for top in range(0, side, TILE_PX))

    def tiles(self, level: int) -> Iterator[NDArray[Any]]:
        """Square tiles of a level, row by row, extended by repeating the edge."""
        for band in self.bands(level):
            for left in range(0, band.shape[1], TILE_PX):
                tile = band[:, left : left + TILE_PX]
                beyond = [(0, TILE_PX - size) for size in tile.shape[:2]]
                whole = np.pad(tile, [*beyond, (0, 0)], mode="edge") if any(b for _, b in beyond) else tile
                yield np.ascontiguousarray(whole if whole.shape[2] > 1 else whole[..., 0])

    def _painted_bands(self) -> Iterator[NDArray[Any]]:
        with (self.folder / "level1").open("wb") as first, (self.folder / "level2").open("wb") as second:
            for top in range(0, self.plan.side, TILE_PX):
                band = self._paint(top, min(TILE_PX, self.plan.side - top))
                smaller = _reduced(band)
                first.write(smaller.tobytes())
                second.write(_reduced(smaller).tobytes())
                yield band

    def _paint(self, top: int, height: int) -> NDArray[Any]:
        side, period = self.plan.side, len(self.background)
        rows = self.background[np.arange(top, top + height) % period]
        band = np.tile(rows, (1, -(-side // period), 1))[:, :side]
        inside = tissue(self.plan, (top, 0, height, side))[..., None]
        for place in self.plan.places:
            first, last = max(top, place.y), min(top + height, place.y + place.height)
            if first < last:
                field = turned(self.fields[place.dataset, place.stem], place.turn)[first - place.y : last - place.y]
                part = np.s_[first - top : last - top, place.x : place.x + place.width]
                np.copyto(band[part], field, where=inside[part])
        return band


def _reduced(pixels: NDArray[Any]) -> NDArray[Any]:
    """Rounded means of squares of `FACTOR` px."""
    height, width, channels = pixels.shape
    squares = pixels.reshape(height // FACTOR, FACTOR, width // FACTOR, FACTOR, channels)
    sums = squares.sum(axis=1, dtype=np.uint32).sum(axis=2)
    return np.asarray(((sums + FACTOR**2 // 2) // FACTOR**2).astype(pixels.dtype))


def write_rgb(tif: Any, painter: Painter, pixel_size_um: float, is_svs: bool) -> None:
    """Write a pyramid in JPEG tiles, as an Aperio SVS with a thumbnail or as a generic TIFF."""
    side = painter.plan.side
    common: dict[str, Any] = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": JPEG_QUALITY},
        "metadata": None,
        "software": False,
    }
    for level in range(3):
        options, own = dict(common), painter.side(level)
        if is_svs:
            head = f"Aperio Image Library v12.0.15 \r\n{side}x{side} [0,0 {side}x{side}] ({TILE_PX}x{TILE_PX})"
            scaled = f" -> {own}x{own}" if level else ""
            tail = f"JPEG/RGB Q={JPEG_QUALITY}|AppMag = {10 / pixel_size_um:.0f}|MPP = {pixel_size_um:.4f}"
            options["description"] = f"{head}{scaled} {tail}"
        else:
            per_cm = 1e4 / (pixel_size_um * FACTOR**level)
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER", "subfiletype": int(level > 0)}
        tif.write(painter.tiles(level), **_tiling(painter, level), **options)
        if is_svs and level == 0:
            step = max(1, painter.side(2) // THUMBNAIL_PX)
            small = np.concatenate(list(painter.bands(2)))[::step, ::step]
            size = f"{side}x{side} -> {small.shape[1]}x{small.shape[0]} - "
            description = f"Aperio Image Library v12.0.15 \r\n{size}|AppMag = {10 / pixel_size_um:.0f}"
            tif.write(small, rowsperstrip=16, description=description, **common)


def write_ome(tif: Any, painter: Painter, pixel_size_um: float) -> None:
    """Write a grey pyramid in deflated tiles as OME-TIFF, with the smaller levels as SubIFDs."""
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Channel": {"Name": ["DAPI"]},
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(painter.plan))}",
    }
    for axis in "XY":
        metadata |= {f"PhysicalSize{axis}": pixel_size_um, f"PhysicalSize{axis}Unit": "µm"}
    for level in range(3):
        per_cm = 1e4 / (pixel_size_um * FACTOR**level)
        tif.write(
            painter.tiles(level),
            **_tiling(painter, level),
            photometric="minisblack",
            compression="zlib",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=None if level else metadata,
            subfiletype=int(level > 0),
            subifds=None if level else 2,
        )


def _tiling(painter: Painter, level: int) -> dict[str, Any]:
    side, channels = painter.side(level), painter.background.shape[2]
    return {
        "shape": (side, side, channels) if channels > 1 else (side, side),
        "dtype": painter.background.dtype,
        "tile": (TILE_PX, TILE_PX),
        "maxworkers": 2,
        "buffersize": 2**25,
    }


def make_slide(path: Path, plan: Plan, fields: Sequence[Field], is_svs: bool = True) -> Path:
    """Write the slide and, beside it, its plan for `truth`, whose path is returned; both appear when complete."""
    import tifffile

    kind = KINDS[plan.kind]
    json_path = path.with_name(f"{stem_of(path)}.truth.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(plan.seed).normal(*kind.background, (512, 512, kind.channels))
    by_name = {(field.dataset, field.stem): field.pixels for field in fields}
    raw_bytes = plan.side**2 * kind.channels * np.dtype(kind.dtype).itemsize
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as name:
        painter = Painter(plan, by_name, np.rint(noise).astype(kind.dtype), Path(name))
        big, is_ome = raw_bytes * 16 / 15 > _CLASSIC_TIFF_BYTES, kind.channels == 1
        with tifffile.TiffWriter(Path(name) / path.name, bigtiff=big, ome=is_ome) as tif:
            if is_ome:
                write_ome(tif, painter, kind.pixel_size_um)
            else:
                write_rgb(tif, painter, kind.pixel_size_um, is_svs)
        values = plan._asdict() | {"places": [place._asdict() for place in plan.places]}
        (Path(name) / json_path.name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(Path(name) / path.name, path)
        os.replace(Path(name) / json_path.name, json_path)
    return json_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the slide's file")
    parser.add_argument("--side", type=int, default=30_000, help=f"in px, a multiple of {GRAIN_PX}")
    parser.add_argument("--kind", choices=sorted(KINDS), default="he")
    parser.add_argument("--like", choices=("svs", "generic"), default="svs", help="kind of TIFF for H&E")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tissue", type=float, default=0.5, help="share of the area, 0 to 1")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    fields = read_fields(KINDS[arguments.kind], arguments.data)
    try:
        plan = make_plan(arguments.kind, arguments.side, arguments.seed, arguments.tissue, fields, arguments.data)
    except ValueError as error:
        parser.error(str(error))
    json_path = make_slide(arguments.output, plan, fields, arguments.like == "svs")
    objects = sum(place.objects for place in plan.places)
    share = plan.tissue_px / plan.side**2
    print(f"{arguments.output}: {len(plan.places)} fields, {objects} objects, {share:.1%} tissue; {json_path.name}")


if __name__ == "__main__":
    main()
