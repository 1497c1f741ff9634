"""The page of examples/web, used in Chromium as a person uses it, beside Python: `make test-web` runs this."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
from skimage.data import immunohistochemistry

from cytoseed import segment
from cytoseed.export.onnx import to_onnx
from cytoseed.learn.metrics import score
from cytoseed.results.measure.stains import RGB_NAMES, stains_of
from same import assert_same_objects
from twenty import as_png, twenty_images

WEB = Path(__file__).parents[2] / "examples" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    "CYTOSEED_WEB" not in os.environ or CHROMIUM is None,
    reason="`make test-web` runs this; it needs Chromium, whose path the environment variable CHROMIUM may say",
)


@contextmanager
def started(*command: str | Path, **settings: Any) -> Iterator[str]:
    """Run a server that prints its address, until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **settings) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline()
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page, from its own server: the runtime has several threads."""
    with started("node", WEB / "serve.js", env={**os.environ, "PORT": "0"}) as words:
        yield words.strip()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder, from a server that sends no headers of its own: one thread."""
    with started(sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", cwd=folder) as words:
        yield words.split("(")[1].split(")")[0]


def drive(address: str, folder: Path, steps: Sequence[dict[str, Any]], elsewhere: str | None = None) -> dict[str, Any]:
    """Use the page; files saved go to the folder."""
    task = {"url": address, "chromium": CHROMIUM, "folder": str(folder), "steps": steps, "elsewhere": elsewhere}
    (folder / "task.json").write_text(json.dumps(task, default=str))
    command = ["node", WEB / "drive.js", folder / "task.json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    return json.loads(ran.stdout)


def labels_in(path: Path) -> np.ndarray:
    labels = imagecodecs.png_decode(path.read_bytes())
    assert labels.dtype == np.uint16
    return labels


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [pixels for _, pixels in twenty_images()]


class Visits(BaseHTTPRequestHandler):
    """Another server, to which nothing must be sent."""

    heard: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.heard.append(self.path)
        self.send_response(204)
        self.end_headers()


@pytest.fixture(scope="module")
def used(address, images, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    """Results of the page on twenty images, and the folder of the saved files."""
    folder = tmp_path_factory.mktemp("web")
    steps = []
    for number, pixels in enumerate(images):
        path = folder / f"{number}.png"
        path.write_bytes(as_png(pixels))
        steps.append({"image": path, "saves": ["labels", "geojson", "csv"] if number % 7 == 0 else ["labels"]})
    steps[1]["drops"] = True
    with ThreadingHTTPServer(("127.0.0.1", 0), Visits) as elsewhere:
        thread = Thread(target=elsewhere.serve_forever)
        thread.start()
        said = drive(address, folder, steps, f"http://127.0.0.1:{elsewhere.server_port}/")
        elsewhere.shutdown()
        thread.join()
    return said, folder


def test_real_images_have_pythons_objects(used, images):
    said, folder = used
    differing = 0
    for number, (pixels, step) in enumerate(zip(images, said["steps"], strict=True)):
        expected = segment(pixels).labels
        found = labels_in(folder / f"{number}.labels.png")
        assert step["count"] == f"{expected.max():,}"
        assert_same_objects(found, expected, iou=0.9)
        differing += np.count_nonzero((found > 0) != (expected > 0))
    assert differing <= 20  # border pixels, of 20 images; where this was written: none


def test_the_image_of_the_demo_has_its_nuclei(address, tmp_path):
    (tmp_path / "section.png").write_bytes(imagecodecs.png_encode(immunohistochemistry()))
    said = drive(address, tmp_path, [{"image": tmp_path / "section.png", "saves": ["labels"]}])
    [step] = said["steps"]
    assert step["count"] == "273"
    assert "by nuclei on haematoxylin" in step["status"]
    expected = segment(immunohistochemistry()).labels
    found = labels_in(tmp_path / "section.labels.png")
    assert_same_objects(found, expected, iou=0.9)
    assert np.count_nonzero((found > 0) != (expected > 0)) <= 5


def test_nothing_leaves_the_browser(used, address):
    said, _ = used
    assert said["reached"] == {"page": False, "worker": False}
    assert Visits.heard == []
    assert len(said["requests"]) > 10
    for request in said["requests"]:
        assert request["url"].startswith((address, f"blob:{address}")), request
        assert request["method"] == "GET"
        assert not request["posts"]
        assert len(request["url"]) < 200, "no pixels in it"


def test_outlines_and_table_belong_to_the_labels(used):
    """What each says of an object is tested in `test_web_parts.py`."""
    _, folder = used
    saved = sorted(folder.glob("*.csv"))
    assert len(saved) == 3
    for path in saved:
        areas = np.bincount(labels_in(path.with_suffix(".labels.png")).ravel())[1:]
        assert len(json.loads(path.with_suffix(".geojson").read_text())["features"]) == len(areas)
        np.testing.assert_array_equal(pd.read_csv(path)["area_px"], areas)


def test_other_files_and_scales(address, images, tmp_path):
    grey, coloured = images[0], next(pixels for pixels in images if (pixels != pixels[:1]).any())
    tifffile.imwrite(tmp_path / "plain.tif", grey[0], compression="lzw", predictor=True)
    tifffile.imwrite(tmp_path / "imagej.tif", grey[0], imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    colours = np.ascontiguousarray(coloured.transpose(1, 2, 0))
    (tmp_path / "photo.jpg").write_bytes(imagecodecs.jpeg_encode(colours, level=95))
    PIL.Image.fromarray(colours).save(tmp_path / "exact.webp", lossless=True)
    alike = {"plain.tif": 1.0, "imagej.tif": 0.9, "photo.jpg": 0.9, "exact.webp": 1.0}
    steps = [{"image": tmp_path / name, "saves": ["labels"]} for name in alike]
    again = [{"scale": "size", "value": 0.8, "saves": ["csv"]}, {"scale": "diameter", "value": 25}]
    said = drive(address, tmp_path, [*steps, *again])
    assert "0.25 µm/px (ImageJ metadata)" in said["steps"][1]["facts"]
    for name, least in alike.items():
        expected = segment(colours if name == "exact.webp" else tmp_path / name).labels
        found = labels_in((tmp_path / name).with_suffix(".labels.png")).astype(np.int32)
        assert found.max() > 5
        assert score(found, expected).f1_mean >= least, name
    assert "rescaled by 3.2" in said["steps"][4]["status"]
    assert "rescaled by 1.36" in said["steps"][5]["status"]
    table = pd.read_csv(tmp_path / "exact.csv")
    np.testing.assert_allclose(table["area_um2"], 0.64 * table["area_px"])


def test_mistakes_are_explained(address, images, tmp_path):
    good = as_png(images[0])
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good[:400])
    (tmp_path / "vast.png").write_bytes(good[:16] + struct.pack(">IIBBBBB", 60_000, 50_000, 8, 0, 0, 0, 0) + good[29:])
    tifffile.imwrite(tmp_path / "nan.tif", np.full((30, 40), np.nan, np.float32))
    PIL.Image.new("L", (2000, 1500)).save(tmp_path / "wide.png")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"image": tmp_path / "text.png"}, "not an image"),
        ({"image": tmp_path / "empty.tif"}, "empty"),
        ({"image": tmp_path / "cut.png"}, "cut short or damaged"),
        ({"image": tmp_path / "vast.png"}, "60000 × 50000"),
        ({"image": tmp_path / "nan.tif"}, "NaN"),
        ({"image": tmp_path / "good.png"}, ""),
        ({"scale": "size"}, "Enter the scale"),
        ({"scale": "size", "value": 90}, "absurdly"),
        ({"image": tmp_path / "wide.png", "value": 2.5, "scale": "size"}, "10000 × 7500"),
    ]
    said = drive(address, tmp_path, [step for step, _ in cases])["steps"]
    for step, (_, told) in zip(said, cases, strict=True):
        assert step["state"] == ("failed" if told else "done")
        assert told in step["error"]
        assert bool(step["error"]) == bool(told)


def test_a_model_of_normalised_images_scales_as_python(images, nuclei, tmp_path):
    """It is normalised at full resolution and then rescaled, unlike raw images. The server is any plain one.

    The image is coarser than the model: outlines of finer ones are smoothed in Python.
    """
    shutil.copytree(WEB / "site", tmp_path / "site")
    to_onnx(nuclei, tmp_path / "site" / "model" / "nuclei.onnx", normalised=True)
    chosen = [pixels for pixels in images[::4] if not stains_of(pixels, RGB_NAMES[0])]  # those of this model
    steps = []
    for number, pixels in enumerate(chosen):
        (tmp_path / f"{number}.png").write_bytes(as_png(pixels))
        scale = {} if number else {"scale": "size", "value": 0.7}
        steps.append({"image": tmp_path / f"{number}.png", "saves": ["labels"], **scale})
    with served(tmp_path / "site") as plain:
        drive(plain, tmp_path, steps)
    for number, pixels in enumerate(chosen):
        found = labels_in(tmp_path / f"{number}.labels.png")
        expected = segment(pixels, nuclei, pixel_size_um=0.7).labels
        assert_same_objects(found, expected, iou=0.9)
        assert np.count_nonzero((found > 0) != (expected > 0)) <= 0.001 * found.size


def test_a_missing_model_is_explained(images, tmp_path):
    shutil.copytree(WEB / "site", tmp_path / "site", ignore=shutil.ignore_patterns("*.onnx"))
    (tmp_path / "image.png").write_bytes(as_png(images[0]))
    with served(tmp_path / "site") as plain:
        said = drive(plain, tmp_path, [{"image": tmp_path / "image.png"}])
    assert "cytoseed export nuclei --to onnx" in said["steps"][0]["error"]
