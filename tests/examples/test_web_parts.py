"""Parts of the page of examples/web, without the model, in Node, against Python: pictures, scale, outlines, tables."""

import base64
import io
import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
import torch
from skimage.data import immunohistochemistry

from cytoseed.core.prepare import normalise
from cytoseed.core.scale import rescale, rescale_labels
from cytoseed.images import as_image, open_image
from cytoseed.images.channels import unmix
from cytoseed.results.measure.table import measure_objects
from cytoseed.run.auto import choose_model
from cytoseed.settings import SegmentOptions
from results.qupath_rules import assert_qupath_rules, filled, geometries_of

PARTS = Path(__file__).with_name("parts.mjs")
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def answers(asked: Sequence[dict[str, Any]]) -> list[Any]:
    """Call parts of the page."""
    ran = subprocess.run([NODE, PARTS], input=json.dumps(asked), stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(ran.stdout)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def size(shape: tuple[int, ...]) -> dict[str, int]:
    return {"height": shape[0], "width": shape[1]}


def pngs(folder: Path) -> dict[str, Path]:
    """PNGs of every kind, by name."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (23, 37, 4), np.uint8)
    found = {}
    for kind in ("1", "L", "LA", "P", "RGB", "RGBA"):
        stream = io.BytesIO()
        PIL.Image.fromarray(colours).convert(kind).save(stream, "PNG")
        found[kind] = stream.getvalue()
    for bits in (1, 2, 4):  # colours of a palette
        stream = io.BytesIO()
        image = PIL.Image.fromarray(colours[..., 0] % 2**bits).convert("P")
        image.putpalette(list(range(3 * 2**bits)))
        image.save(stream, "PNG", bits=bits)
        found[f"P{bits}"] = stream.getvalue()
    for samples in (1, 2, 3, 4):
        deep = rng.integers(0, 65536, (9, 5, samples), np.uint16)
        found[f"16 bit, {samples}"] = imagecodecs.png_encode(deep[..., 0] if samples == 1 else deep)
    smooth = np.add.outer(np.arange(40), 3 * np.arange(50)).astype(np.uint8)
    for strategy in range(4):  # each makes the encoder choose other filters
        found[f"smooth, {strategy}"] = imagecodecs.png_encode(smooth, strategy=strategy)
    for name, pixels in (("grey", colours[..., 0]), ("colour", colours[..., :3]), ("a pixel", colours[:1, :1, 0])):
        found[f"interlaced, {name}"] = interlaced(pixels)
    paths = {name: folder / f"{number}.png" for number, name in enumerate(found)}
    for name, path in paths.items():
        path.write_bytes(found[name])
    return paths


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG of 8 bits whose pixels come in seven passes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = b"".join(b"\0" + line.tobytes() for x, y, dx, dy in ADAM7 for line in pixels[y::dy, x::dx] if line.size)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0 if pixels.ndim == 2 else 2, 0, 0, 1)
    body = zlib.compress(lines)
    middle = len(body) // 2  # in two parts
    parts = chunk(b"IDAT", body[:middle]) + chunk(b"IDAT", body[middle:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + parts + chunk(b"IEND", b"")


def tiffs(folder: Path) -> dict[str, Path]:
    """TIFFs of one plane, by name."""
    rng = np.random.default_rng(1)
    smooth = np.add.outer(7 * np.arange(150), np.arange(211)).astype(np.uint16)
    grey = smooth + rng.integers(0, 9, smooth.shape, np.uint16)
    colour = np.stack([grey >> 3, grey >> 2, grey], 2).astype(np.uint8)
    planes, rgb = colour.transpose(2, 0, 1), {"photometric": "rgb"}
    lzw = {"compression": "lzw", "predictor": True}
    noise = rng.integers(0, 65536, (150, 211), np.uint16)
    cases: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "plain": (grey, {}),
        "BigTIFF, big-endian": (grey, {"bigtiff": True, "byteorder": ">"}),
        "strips": (grey, {"rowsperstrip": 7}),
        "tiles of deflate": (grey, {"tile": (64, 48), "compression": "deflate"}),
        "tiles of LZW": (grey, {"tile": (64, 48), **lzw}),
        "LZW of noise": (noise, {"compression": "lzw"}),
        "packbits": (grey // 50, {"compression": "packbits"}),
        "predicted, big-endian": (grey, {"byteorder": ">", **lzw}),
        "float": (grey / np.float32(7), {}),
        "float, predicted": (grey / np.float32(7), lzw),
        "float of 64 bits, predicted": (grey / 7, {"compression": "deflate", "predictor": True}),
        "signed": (grey.astype(np.int16) - 300, {"compression": "deflate", "predictor": True}),
        "32 bits": (grey.astype(np.uint32), {"byteorder": ">"}),
        "light is 0": (grey, {"photometric": "miniswhite"}),
        "colour": (colour, {**rgb, **lzw}),
        "colour in planes": (planes, {**rgb, "planarconfig": "separate"}),
        "colour in planes of tiles": (planes, {**rgb, "planarconfig": "separate", "tile": (32, 32)}),
        "alpha": (np.dstack([colour, colour[..., 0]]), {**rgb, "extrasamples": ["unassalpha"]}),
        "ImageJ": (grey, {"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}),
        "OME": (grey, {"ome": True, "metadata": {"PhysicalSizeX": 325, "PhysicalSizeXUnit": "nm"}}),
        "resolution": (grey, {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}),
        "a printer's resolution": (grey, {"resolution": (300, 300), "resolutionunit": "INCH"}),
    }
    found = {}
    for number, (name, (pixels, options)) in enumerate(cases.items()):
        found[name] = folder / f"{number}.tif"
        tifffile.imwrite(found[name], pixels, **options)
    found["pyramid"] = folder / "pyramid.tif"
    with tifffile.TiffWriter(found["pyramid"]) as writer:
        writer.write(grey, tile=(64, 64))
        writer.write(grey[::2, ::2], tile=(64, 64), subfiletype=1)
    return found


@pytest.mark.parametrize("made", [pngs, tiffs], ids=["PNG", "TIFF"])
def test_pictures_are_read_as_in_python(made, tmp_path):
    paths = made(tmp_path)
    found = answers([{"call": "read", "file": encoded(path.read_bytes())} for path in paths.values()])
    for (name, path), picture in zip(paths.items(), found, strict=True):
        image = open_image(path)
        values = np.array(picture["planes"], np.float32).reshape(-1, picture["height"], picture["width"])
        if path.suffix == ".png" and picture["bits"] < 8:
            values *= np.float32(255 / (2 ** picture["bits"] - 1))  # libpng spreads grey over 8 bits
        np.testing.assert_array_equal(values, image.read().astype(np.float32), err_msg=name)
        assert picture.get("pixelSizeUm") == pytest.approx(image.pixel_size_um), name
        assert picture.get("pixelSizeSource", "not stated") == image.pixel_size_source


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def test_unreadable_files_are_refused_with_the_reason():
    grey, stack = np.zeros((20, 30), np.uint8), np.zeros((3, 20, 30), np.uint8)
    png = imagecodecs.png_encode(np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8))
    middle = len(png) // 2
    cases = [
        (tiff(stack, photometric="minisblack"), "several channels or planes"),
        (tiff(stack, imagej=True, metadata={"axes": "CYX"}), "several channels or planes"),
        (tiff(grey, photometric="palette", colormap=np.zeros((3, 256), np.uint16)), "palette"),
        (tiff(grey, compression="zstd"), "compression"),
        (tiff(grey.astype(np.float16)), "bits"),
        (tiff(grey, resolution=(20000, 10000), resolutionunit="CENTIMETER"), "not square"),
        (png[:200], "cut short or damaged"),
        (png[:20], "cut short"),
        (png[:middle] + bytes(255 - byte for byte in png[middle : middle + 9]) + png[middle + 9 :], "or damaged"),
        (tiff(grey, compression="deflate")[:-60], "cut short or damaged"),
        (tiff(stack, photometric="minisblack")[:600], "cut short or damaged"),
    ]
    found = answers([{"call": "read", "file": encoded(data)} for data, _ in cases])
    for (_, told), picture in zip(cases, found, strict=True):
        assert told in picture.get("error", "no error")
    (large,) = answers([{"call": "read", "file": encoded(png), "mostPx": 599}])
    assert large["planes"] == []
    assert large["width"] * large["height"] == 600


def test_labels_are_written_as_png():
    labels = np.random.default_rng(0).integers(0, 65536, (7, 11))
    (written,) = answers([{"call": "write", "values": labels.ravel().tolist(), **size(labels.shape)}])
    np.testing.assert_array_equal(imagecodecs.png_decode(base64.b64decode(written)), labels)


SIZES = [((20, 31), (20, 31)), ((40, 50), (20, 25)), ((33, 47), (41, 90)), ((64, 10), (7, 11)), ((5, 1), (1, 3))]


def test_scaling_equals_pythons():
    rng = np.random.default_rng(0)
    asked, expected = [], []
    for source, target in SIZES:
        image, labels = rng.random(source, np.float32), rng.integers(0, 9, source)
        sides = {"from": size(source), "to": size(target)}
        asked += [{"call": "rescale", "values": image.ravel().tolist(), **sides}]
        asked += [{"call": "labels", "values": labels.ravel().tolist(), **sides}]
        expected += [rescale(torch.from_numpy(image)[None], *target)]
        expected += [rescale_labels(torch.from_numpy(labels)[None], *target)]
    for own, python in zip(answers(asked), expected, strict=True):
        np.testing.assert_allclose(own, python.ravel().numpy(), atol=2e-6)


def test_normalisation_equals_pythons():
    rng = np.random.default_rng(0)
    planes = [rng.normal(1000, 50, (40, 60)), rng.integers(0, 4, (1, 3)), np.full((5, 6), 7)]
    planes += [rng.random((30, 50)) < 0.0005]
    planes += [rng.integers(0, 65536, (1, count)) for count in (1, 501, 1501, 2501)]  # where ranks are halves
    asked = [{"call": "normalise", "values": np.float32(plane).ravel().tolist()} for plane in planes]
    for plane, found in zip(planes, answers(asked), strict=True):
        expected = normalise(torch.from_numpy(np.float32(plane))[None])
        np.testing.assert_array_equal(np.float32(found), expected.ravel().numpy())


def test_the_size_given_to_the_model():
    image = {"width": 101, "height": 33}
    stated_by_file = {**image, "pixelSizeUm": 0.25}
    cases: list[tuple[dict[str, float], dict[str, float], tuple[int, int] | None]] = [
        (image, {}, (101, 33)),
        (stated_by_file, {}, (50, 16)),  # halves go to the even side, as in Python
        (stated_by_file, {"pixelSizeUm": 1}, (202, 66)),
        (stated_by_file, {"diameterPx": 17}, (101, 33)),
        (image, {"pixelSizeUm": 0.504}, (101, 33)),  # less than 1 % would only blur
        (image, {"diameterPx": 34}, (50, 16)),
        (image, {"pixelSizeUm": 0.001}, None),
        (image, {"pixelSizeUm": 9}, None),
    ]
    found = answers([{"call": "seen", "picture": picture, "stated": stated} for picture, stated, _ in cases])
    for (_, _, expected), seen in zip(cases, found, strict=True):
        assert (None if "error" in seen else (seen["width"], seen["height"])) == expected


def labellings() -> list[np.ndarray]:
    """Labels in which objects have holes, touch at corners, lie at borders and fall apart."""
    rng = np.random.default_rng(0)
    blobs = [rng.integers(0, 4, (6, 8)).repeat(repeats, 0).repeat(repeats, 1) for repeats in (1, 2, 3)]
    ring = np.zeros((9, 9), int)
    ring[1:8, 1:8], ring[2:5, 2:4], ring[5:7, 4:7] = 5, 0, 0  # two holes that touch at a corner
    return [*blobs, ring, np.zeros((4, 5), int), np.full((3, 2), 7), np.array([[2]]), rng.integers(0, 3, (30, 40))]


def test_objects_are_whole_measured_and_outlined():
    fields = labellings()
    asked = [{"call": "objects", "values": x.ravel().tolist(), **size(x.shape), "pixelSizeUm": 0.25} for x in fields]
    for field, found in zip(fields, answers(asked), strict=True):
        labels = np.reshape(found["labels"], field.shape).astype(np.int32)
        assert set(np.unique(labels[labels > 0])) == set(range(1, len(np.unique(field[field > 0])) + 1))
        assert not np.any((labels > 0) & (field == 0))
        for id_ in range(1, labels.max() + 1):
            sizes = piece_sizes(field == np.unique(field[field > 0])[id_ - 1])
            assert piece_sizes(labels == id_) == [sizes[-1]]
        collection = json.loads(found["geojson"])
        assert_qupath_rules(collection)
        np.testing.assert_array_equal(filled(geometries_of(collection["features"])["nuclei"], field.shape), labels)
        table = pd.read_csv(io.StringIO(found["csv"]))
        expected = measure_objects(labels, (), (), 0.25)[list(table.columns)]
        pd.testing.assert_frame_equal(table, expected, check_dtype=False)


def piece_sizes(mask: np.ndarray) -> list[int]:
    from scipy.ndimage import label

    return sorted(np.bincount(label(mask)[0].ravel())[1:].tolist())


def test_metadata_of_a_model():
    onnx = pytest.importorskip("onnx")
    text = '<ir_version: 10, opset_import: ["": 18]> graph (float[1] image) => (float[1] x) { x = Identity(image) }'
    model, metadata = onnx.parser.parse_model(text), {"pixel_size_um": "0.5", "name": "µ" * 200, "empty": ""}
    onnx.helper.set_model_props(model, metadata)
    assert answers([{"call": "metadata", "file": encoded(model.SerializeToString())}]) == [metadata]


def test_the_model_is_chosen_as_in_python():
    section = immunohistochemistry()
    he = np.clip(section[..., [0, 2, 2]] * [1.1, 0.8, 1.3], 0, 255).astype(np.uint8)  # green and blue alike: no brown
    half = np.vstack([he[:300], section[:200]])
    images = {
        "brown": section,
        "purple": he,
        "large, brown": np.tile(section, (2, 1, 1))[:700],
        "large, purple": np.tile(he, (2, 1, 1))[:700],
        "both": half,
        "dark": section // 4,
        "grey": section[..., 0],
        "grey in colours": section[..., [0, 0, 0]],
        "16 bits": section.astype(np.uint16) * 257,
        "small": section[:9, :14],
    }
    files = {name: imagecodecs.png_encode(np.ascontiguousarray(pixels)) for name, pixels in images.items()}
    found = answers([{"call": "choice", "file": encoded(file)} for file in files.values()])
    expected = []
    for pixels in images.values():
        chosen = choose_model("auto", as_image(pixels), SegmentOptions())
        expected.append({"name": chosen.model.config.name, "stain": chosen.options.stain})
    assert dict(zip(images, found, strict=True)) == dict(zip(images, expected, strict=True))
    assert {each["name"] for each in found} == {"nuclei", "nuclei-he"}
    assert {each["stain"] for each in found} == {"haematoxylin", None}


def test_haematoxylin_is_that_of_python():
    section = np.ascontiguousarray(immunohistochemistry()[:80, :90])
    section[0, 0], section[0, 1] = 0, 255
    [found] = answers([{"call": "haematoxylin", "file": encoded(imagecodecs.png_encode(section))}])
    expected = unmix(np.moveaxis(section, 2, 0), "haematoxylin")
    np.testing.assert_allclose(np.array(found, np.float32).reshape(expected.shape), expected, rtol=1e-6, atol=1e-8)
