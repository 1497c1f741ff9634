"""Hashes of everything that cytoseed writes for eight images: shows that a change of the code changes no result.

python benchmarks/frozen.py record before          # with the code before the change
python benchmarks/frozen.py record after           # with the code after it
python benchmarks/frozen.py compare before after   # prints what differs; exits with 1 if anything does

Files are read as a user reads them, and their content is hashed in parts: each column of a table, each level of a
pyramid, outlines and ids separately. Versions, paths, times, the identity of the image file and the bytes of containers
are ignored. `PYTHONPATH=other/src` runs another copy of cytoseed. One thread on the CPU, so that sums have one order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import roifile
import tifffile
import zarr
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

import cytoseed
from places import DATA

PACKAGE = Path(cytoseed.__file__).parent
MORE_FORMATS = "rois,parquet,ngff,anndata"
CONVERTED = "labels,geojson,table,rois,parquet,ngff"
UNSTABLE = {"version", "sha256", "files", "fingerprint"}
"""Keys of a record that do not depend on the objects: who made it, and the image file's checksum."""
IGNORED = {"input.bytes"}
"""Parts that are not compared: size of the image file, which earlier versions recorded only for large images."""

Parts = dict[str, str]
"""Hash of each part of a file, by name, or its value if short."""


class Case(NamedTuple):
    """An image and its options."""

    image: Path
    options: tuple[str, ...] = ()


# The eight images


def make_cases(folder: Path) -> dict[str, Case]:
    """Write the images, and a model of nuclei and cells."""
    folder.mkdir(parents=True)
    plex = np.moveaxis(_pixels("vectra_cells", 1)[200:520, 300:600], -1, 0)  # composite colours, DAPI in blue
    four = np.concatenate([plex, plex.mean(0, keepdims=True).astype(np.uint8)])
    names = {"axes": "CYX", "Channel": {"Name": ["CD3", "CD8", "DAPI", "mean"]}, **_size(0.5)}
    slide = DATA / "slides" / "CMU-1-Small-Region.svs"
    pairs = ("--model", str(_model_of_pairs(folder / "pairs")), "--pixel-size", "0.5")
    return {
        "one pixel": Case(_picture(folder / "one.png", np.array([[7]], np.uint8))),
        "grey 8 bit": Case(_picture(folder / "grey.png", _pixels("dsb2018", 0)[:256, :256])),
        "grey 16 bit": Case(_picture(folder / "deep.png", _pixels("bbbc039", 3)[:300, :320]), ("--diameter", "30")),
        "rgb": Case(_picture(folder / "rgb.png", _pixels("nuinsseg", 200)[:384, :400]), ("--pixel-size", "0.25")),
        "nuclei and cells": Case(_picture(folder / "plex.ome.tif", plex, metadata={"axes": "CYX"}), pairs),
        "four channels": Case(_picture(folder / "four.ome.tif", four, metadata=names), ("--channels", "DAPI")),
        "pyramid in tiles": Case(_pyramid(folder / "pyramid.ome.tif", slide), ("--tile-size", "256")),
        "svs": Case(slide),
    }


def _pixels(dataset: str, index: int) -> np.ndarray[Any, Any]:
    return _read(sorted((DATA / dataset / "images").iterdir())[index])


def _read(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path)) if path.suffix in (".png", ".jpg") else tifffile.imread(path)


def _picture(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> Path:
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack", **options)
    return path


def _size(pixel_size_um: float) -> dict[str, Any]:
    units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    return {"PhysicalSizeX": pixel_size_um, "PhysicalSizeY": pixel_size_um, **units}


def _pyramid(path: Path, slide: Path) -> Path:
    """Part of a slide as a tiled OME-TIFF of three levels."""
    level = tifffile.imread(slide)[600:1500, 400:1400]
    with tifffile.TiffWriter(path, ome=True) as file:
        options = {"tile": (256, 256), "photometric": "rgb"}
        file.write(level, subifds=2, metadata={"axes": "YXS", **_size(0.499)}, **options)
        for _ in range(2):
            height, width = level.shape[0] // 2, level.shape[1] // 2
            level = level[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3)).astype(np.uint8)
            file.write(level, subfiletype=1, **options)
    return path


def _model_of_pairs(folder: Path) -> Path:
    """Model of nuclei and cells, made of the bundled `nuclei`: cells are wider, and a third are missed."""
    bundled = next(PACKAGE.rglob("nuclei/model.safetensors"))
    weights = load_file(bundled)
    for name in ("network.head.weight", "network.head.bias"):
        weights[name] = np.concatenate([weights[name]] * 2)
    weights["network.head.bias"][-1] -= 2  # seed map of cells
    for name in [name for name in weights if name.startswith("classifiers.0.")]:
        weights[name.replace("classifiers.0.", "classifiers.1.")] = weights[name].copy()
    weights["classifiers.1.layers.1.bias"] += 1.0
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = json.loads((bundled.parent / "config.json").read_text(encoding="utf-8"))
    checksum = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    config |= {"name": "pairs", "targets": ["nuclei", "cells"], "sha256": checksum}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


# What is in a file


def _hash(values: Any) -> str:
    """Hash of an array after its dtype and shape, or of anything that JSON can hold."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        kind = "x".join(map(str, values.shape))
        return f"{values.dtype.name} {kind} {hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()[:24]}"
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=lambda other: np.asarray(other).tolist())
    return text if len(text) < 40 else hashlib.sha256(text.encode()).hexdigest()[:24]


def _leaves(values: Any, key: str = "") -> Parts:
    """Flat form of nested mappings, without UNSTABLE keys."""
    if not isinstance(values, Mapping):
        return {key: _hash(values)}
    kept = {name: value for name, value in values.items() if name not in UNSTABLE}
    parts = [_leaves(value, f"{key}.{name}" if key else name) for name, value in kept.items()]
    return {name: value for part in parts for name, value in part.items()}


def _columns(table: pd.DataFrame, prefix: str = "") -> Parts:
    parts = {f"{prefix}names of columns": _hash([str(name) for name in table.columns])}
    for name, column in table.items():
        values = column.to_numpy() if column.dtype.kind in "biuf" else [str(value) for value in column]
        parts[f"{prefix}{name}"] = _hash(values)
    return parts


def _label_image(path: Path) -> Parts:
    with tifffile.TiffFile(path) as file:
        parts = {f"level {number}": _hash(level.asarray()) for number, level in enumerate(file.series[0].levels)}
        parts["axes"] = file.series[0].axes
        found = re.findall(r'(PhysicalSize\w+|Channel [^>]*Name)="([^"]*)"', file.ome_metadata or "")
    return parts | {"size and channels": _hash([[name.split()[0], value] for name, value in found])}


def _geojson(path: Path) -> Parts:
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    parts = {"objects": str(len(features))}
    for key in sorted({key for feature in features for key in feature} - {"properties"}):
        parts[key] = _hash([feature.get(key) for feature in features])
    properties = [dict(feature["properties"]) for feature in features]
    measured = pd.DataFrame([entry.pop("measurements", {}) for entry in properties])
    return parts | {"properties": _hash(properties)} | _columns(measured, "measurements.")


def _rois(path: Path) -> Parts:
    found = roifile.roiread(path)
    rois = found if isinstance(found, list) else [found]
    outlines = [[part.tolist() for part in roi.coordinates(multi=True)] for roi in rois]
    names = [[roi.name, roi.roitype.name] for roi in rois]
    return {"objects": str(len(rois)), "outlines": _hash(outlines), "names and types": _hash(names)}


def _parquet(path: Path) -> Parts:
    notes = (parquet.read_schema(path).metadata or {}).get(b"cytoseed", b"{}")
    return _columns(pd.read_parquet(path)) | _leaves(json.loads(notes), "notes")


def _label_zarr(path: Path) -> Parts:
    group = zarr.open_group(path, mode="r")
    ome: Any = group.attrs["ome"]
    parts = {"labels": _hash(ome["labels"])}
    for name in ome["labels"]:
        scales: Any = group[name].attrs["ome"]
        parts[f"{name} multiscales"] = _hash(scales["multiscales"])
        for level in scales["multiscales"][0]["datasets"]:
            parts[f"{name}/{level['path']}"] = _hash(np.asarray(group[f"{name}/{level['path']}"]))
    return parts


def _anndata(path: Path) -> Parts:
    found = anndata.read_h5ad(path)
    arrays = {"X": found.X, **found.layers, **found.obsm}
    parts = {f"array {name}": _hash(np.asarray(values)) for name, values in arrays.items() if values is not None}
    return parts | _columns(found.obs.reset_index(), "obs.") | _columns(found.var.reset_index(), "var.")


READERS: dict[str, Callable[[Path], Parts]] = {
    ".labels.tif": _label_image,
    ".geojson": _geojson,
    ".csv": lambda path: _columns(pd.read_csv(path, float_precision="round_trip")),
    ".overlay.png": lambda path: {"pixels": _hash(_read(path))},
    ".cytoseed.json": lambda path: _leaves(json.loads(path.read_text(encoding="utf-8"))),
    ".objects.zip": lambda _: {"present": "yes"},  # read through `cytoseed convert`
    ".rois.zip": _rois,
    ".parquet": _parquet,
    ".labels.zarr": _label_zarr,
    ".h5ad": _anndata,
}


def parts_of(path: Path) -> Parts:
    """Hashes of one file of a result; the bytes of a file of unknown kind."""
    for ending, read in READERS.items():
        if path.name.endswith(ending):
            return read(path)
    return {"bytes": hashlib.sha256(path.read_bytes()).hexdigest()[:24] if path.is_file() else "folder"}


# Recording and comparing


def record(folder: Path) -> bool:
    """Segment the images and write `hashes.json`; true if every command succeeded."""
    print(f"cytoseed of {PACKAGE}", flush=True)
    for old in ("inputs", "results"):
        shutil.rmtree(folder / old, ignore_errors=True)
    hashes = {}
    for name, case in make_cases(folder / "inputs").items():
        place = folder / "results" / name.replace(" ", "-")
        segment = ("segment", str(case.image), "--device", "cpu", *case.options)
        hashes[name] = {"image": {"pixels": _hash(_read(case.image))}}
        hashes[name] |= _run(name, place / "default", *segment)
        hashes[name] |= _run(name, place / "more", *segment, "--format", MORE_FORMATS)
        for stored in sorted((place / "default").glob("*.objects.zip")):
            hashes[name] |= _run(name, place / "converted", "convert", str(stored), "--format", CONVERTED)
    (folder / "hashes.json").write_text(json.dumps(hashes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return all(parts.get("exit status", "0") == "0" for files in hashes.values() for parts in files.values())


def _run(name: str, output: Path, *arguments: str) -> dict[str, Parts]:
    """Run the command line and hash every file that it writes."""
    command = [sys.executable, "-m", "cytoseed", *arguments, "--output", str(output)]
    began = time.perf_counter()
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, peak = time.perf_counter() - began, used.ru_maxrss / 1e6
    print(f"  {name}, {output.name}: {seconds:.1f} s, {peak:.2f} GB, exit status {process.returncode}", flush=True)
    files = sorted(output.iterdir()) if output.exists() else []
    summary = {"exit status": str(process.returncode), "files": " ".join(path.name for path in files)}
    return {output.name: summary} | {f"{output.name}/{path.name}": parts_of(path) for path in files}


def compare(one: Path, other: Path) -> bool:
    """Print the files that differ between two records; true if none does."""
    first, second = (json.loads((folder / "hashes.json").read_text(encoding="utf-8")) for folder in (one, other))
    is_equal = True
    for name in first | second:
        before, after = first.get(name, {}), second.get(name, {})
        for file in before | after:
            old, new = (
                {part: value for part, value in files.get(file, {}).items() if part not in IGNORED}
                for files in (before, after)
            )
            changed = [part for part in old | new if old.get(part) != new.get(part)]
            is_equal &= not changed
            if changed:
                print(f"{name}, {file}: {len(changed)} of {len(old | new)} parts differ")
            for part in changed:
                print(f"    {part}: {old.get(part, 'absent')} -> {new.get(part, 'absent')}")
    print("all equal" if is_equal else "NOT all equal")
    return is_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="one to record into, two to compare")
    given = parser.parse_args()
    if len(given.folders) != (1 if given.what == "record" else 2):
        parser.error(f"{given.what} takes {'one folder' if given.what == 'record' else 'two folders'}")
    is_good = record(*given.folders) if given.what == "record" else compare(*given.folders)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
