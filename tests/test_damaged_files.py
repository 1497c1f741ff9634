"""Images, results and models changed at random: each is read, or refused by an error that names the file."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr

from cytoseed.core.model import Segmenter
from cytoseed.images import list_series
from cytoseed.models.weights import load_model, save_model
from cytoseed.results import Result, open_result
from cytoseed.settings import ModelConfig
from damage import chances, changed_bytes, changed_json, changed_tags, is_read

pytestmark = pytest.mark.filterwarnings("ignore")


def picture(*shape: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


RGB, CYX = {"photometric": "rgb"}, {"axes": "CYX"}
OME = {**CYX, "PhysicalSizeX": 0.5, "Channel": {"Name": ["a", "b"]}}
TIFFS: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any]]] = {
    "strips": (picture(40, 50, 3), {**RGB, "compression": "lzw", "rowsperstrip": 8}),
    "tiles": (picture(40, 50, dtype=np.uint16), {"tile": (16, 16), "compression": "zlib"}),
    "jpeg": (picture(40, 48, 3), {**RGB, "tile": (16, 16), "compression": "jpeg"}),
    "planes": (picture(3, 40, 50), {**RGB, "planarconfig": "separate"}),
    "imagej": (picture(3, 20, 20), {"imagej": True, "metadata": {**CYX, "unit": "um", "Labels": list("abc")}}),
    "ome": (picture(2, 20, 20), {"ome": True, "metadata": OME}),
    "shaped": (picture(2, 20, 20), {"photometric": "minisblack", "metadata": CYX}),
    "palette": (picture(20, 20), {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
    "pyramid": (picture(64, 64, 3), {**RGB, "tile": (16, 16), "subifds": 1}),
}
PICTURES: dict[str, Callable[[], bytes]] = {
    "png": lambda: imagecodecs.png_encode(picture(20, 30, 3)),
    "jpg": lambda: imagecodecs.jpeg_encode(picture(20, 30, 3)),
    "webp": lambda: imagecodecs.webp_encode(picture(20, 30, 3)),
    "jp2": lambda: imagecodecs.jpeg2k_encode(picture(20, 30, 3)),
    "jxl": lambda: imagecodecs.jpegxl_encode(picture(20, 30, 3)),
    "bmp": lambda: imagecodecs.bmp_encode(picture(20, 30, 3)),
    "npy": lambda: _saved(np.save),
    "npz": lambda: _saved(np.savez_compressed),
}


def _saved(save: Any) -> bytes:
    file = io.BytesIO()
    save(file, picture(20, 30))
    return file.getvalue()


def write_tiff(path: Path, kind: str) -> None:
    pixels, options = TIFFS[kind]
    if "subifds" not in options:
        return tifffile.imwrite(path, pixels, **options)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, **options)
        writer.write(np.ascontiguousarray(pixels[::2, ::2]), **RGB, tile=(16, 16), subfiletype=1)
    return None


def read_image(path: Path) -> None:
    """Open and read every image of a file, as `info` and `segment` do."""
    for series in list_series(path)[:3]:
        image = series.open()
        for level, (height, width) in enumerate(image.level_shapes):
            image.read((0, 0, min(height, 64), min(width, 64)), level, range(min(image.shape[0], 4)))
        image.identity()


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.tif"
    write_tiff(path, kind)
    whole, found = path.read_bytes(), set()
    for number, chance in enumerate(chances(kind, 60)):
        path.write_bytes(changed_tags(whole, chance) if number % 4 else changed_bytes(whole, chance))
        found.add(is_read(read_image, path))
    assert found == {True, False}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(tmp_path: Path, kind: str) -> None:
    path, whole = tmp_path / f"image.{kind}", bytes(PICTURES[kind]())
    for chance in chances(kind, 40):
        path.write_bytes(changed_bytes(whole, chance))
        is_read(read_image, path)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, version: int) -> None:
    whole, folder = tmp_path / "whole.zarr", tmp_path / "image.zarr"
    group = zarr.open_group(str(whole), mode="w", zarr_format=version)
    for level in range(2):
        array = picture(2, 32 >> level, 32 >> level, dtype=np.uint16)
        group.create_array(str(level), shape=array.shape, dtype=array.dtype, chunks=(1, 16, 16))[...] = array
    axes = [{"name": name, "type": "channel" if name == "c" else "space", "unit": "micrometer"} for name in "cyx"]
    scales = [[{"type": "scale", "scale": [1, 0.5 * 2**level, 0.5 * 2**level]}] for level in range(2)]
    levels = [{"path": str(level), "coordinateTransformations": scales[level]} for level in range(2)]
    multiscales = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": levels}]}
    multiscales["omero"] = {"channels": [{"label": "a"}, {"label": "b"}]}
    group.attrs.update(multiscales if version == 2 else {"ome": multiscales})
    for chance in chances(f"zarr{version}", 30):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        described = [file for file in files if file.name in ("zarr.json", ".zattrs", ".zarray", ".zgroup")]
        file = chance.choice(described if chance.random() < 0.8 else files)
        if file in described and chance.random() < 0.8:
            file.write_text(json.dumps(changed_json(json.loads(file.read_text()), chance)))
        else:
            file.write_bytes(changed_bytes(file.read_bytes(), chance))
        is_read(read_image, folder)


@cache
def a_result() -> Result:
    labels = np.zeros((60, 70), np.int32)
    for number, (top, left) in enumerate(np.ndindex(3, 3), start=1):
        labels[5 + 18 * top : 15 + 18 * top, 5 + 20 * left : 17 + 20 * left] = number
    return Result.from_labels(labels, picture(3, 60, 70), settings={"model": "x", "scale": 1.0})


def changed_array(data: bytes, chance: Any) -> bytes:
    """A .npy file whose array has another length, type or value."""
    array = np.load(io.BytesIO(data))
    kind = chance.randrange(6)
    if kind == 0:
        array = array[: len(array) // 2]
    elif kind == 1 and array.dtype.kind in "biuf":
        array = array.astype(chance.choice(("f8", "i1", "u8", "f4", "c8", "S3")))
    elif kind == 2 and array.size and array.dtype.kind in "iuf":
        array.flat[chance.randrange(array.size)] = np.array(chance.choice((-1, 0, 99, 1 << 30, 1 << 62))).astype(
            array.dtype
        )
    elif kind == 3:
        array = array[None]
    elif kind == 4:
        array = np.concatenate([array, array])
    else:
        return changed_bytes(data, chance)
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def changed_zip(data: bytes, chance: Any) -> bytes:
    """A zip in which one member is changed, by its kind."""
    if chance.random() < 0.2:
        return changed_bytes(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(sorted(members))
    if name.endswith(".json"):
        members[name] = json.dumps(changed_json(json.loads(members[name]), chance)).encode()
    elif name.endswith(".npz"):
        members[name] = changed_zip(members[name], chance)
    else:
        members[name] = changed_array(members[name], chance)
    if chance.random() < 0.1:
        del members[name]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return file.getvalue()


def test_stored_results(tmp_path: Path) -> None:
    path = tmp_path / "image.objects.zip"
    a_result().save(tmp_path, ["objects"])
    path = next(tmp_path.glob("*.objects.zip"))
    whole, number, found = path.read_bytes(), 0, set()

    def read(path: Path) -> None:
        with open_result(path) as result:
            result.save(tmp_path / f"out{number}", ["geojson", "table", "parquet"])

    for number, chance in enumerate(chances("result", 100)):
        path.write_bytes(changed_zip(whole, chance))
        found.add(is_read(read, path))
        shutil.rmtree(tmp_path / f"out{number}", ignore_errors=True)
    assert found == {True, False}


@pytest.mark.parametrize(
    ("key", "value"), [("table", [["id", "int64"], ["area_px", "object"]]), ("source", "a\0b.png")]
)
def test_a_stored_result_of_foreign_facts(tmp_path: Path, key: str, value: Any) -> None:
    a_result().save(tmp_path, ["objects"])
    path = next(tmp_path.glob("*.objects.zip"))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["result.json"] = json.dumps({**json.loads(members["result.json"]), key: value}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"objects\.zip: is damaged"):
        open_result(path)


def test_records(tmp_path: Path) -> None:
    a_result().save(tmp_path, ["table"])
    path = next(tmp_path.glob("*.cytoseed.json"))
    whole = json.loads(path.read_text())
    for chance in chances("record", 100):
        path.write_text(json.dumps(changed_json(whole, chance)))
        is_read(lambda folder: a_result().save(folder, ["table"]), tmp_path)


def test_models(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    torch.manual_seed(0)
    config = ModelConfig("small", network="slim")
    save_model(Segmenter(config), config, folder)
    described = {**json.loads((folder / "config.json").read_text()), "sha256": ""}
    weights = (folder / "model.safetensors").read_bytes()
    for number, chance in enumerate(chances("model", 40)):
        content = changed_json(described, chance) if number % 4 else described
        (folder / "config.json").write_text(json.dumps(content))
        size = 8 + struct.unpack_from("<Q", weights)[0]
        changed = weights if number % 4 else changed_bytes(weights[:size], chance) + weights[size:]
        (folder / "model.safetensors").write_bytes(changed)
        is_read(load_model, folder)
