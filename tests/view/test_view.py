"""The viewer's server: what it shows equals image and result, and it shows nothing else to nobody else."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import imagecodecs
import numpy as np
import pytest
import tifffile

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient
from skimage.data import immunohistochemistry

from cytoseed.cli.view_command import _find, _free_socket
from cytoseed.images import as_image, open_image
from cytoseed.results import Result, open_result
from cytoseed.view.server import Viewed, make_app

TOKEN = "secret"
HOST = "127.0.0.1:8765"
SECTION = immunohistochemistry()


def labels_of(height, width):
    rows, columns = np.mgrid[:height, :width]
    inside = (rows % 20 - 10) ** 2 + (columns % 20 - 10) ** 2 < 50
    ids = (rows // 20) * -(-width // 20) + columns // 20 + 1
    return np.unique(np.where(inside, ids, 0), return_inverse=True)[1].reshape(height, width).astype(np.int32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A result of an image of 1300 x 1100 px beside it."""
    folder = tmp_path_factory.mktemp("view")
    image = np.tile(SECTION, (3, 3, 1))[:1300, :1100]
    tifffile.imwrite(folder / "a<b>.tif", image, tile=(256, 256), photometric="rgb")
    opened = open_image(folder / "a<b>.tif")
    labels = labels_of(1300, 1100)
    result = Result.from_labels(labels, opened.read(), channel_names=opened.channel_names, source=str(opened.path))
    result.save(folder, ["objects"])
    return folder


@pytest.fixture(scope="module")
def client(stored):
    plain = Viewed("plain", as_image(np.arange(3 * 70 * 90, dtype=np.uint16).reshape(3, 70, 90)), None)
    with ExitStack() as stack:
        viewed = [*_find([str(stored)], None), plain]
        for each in viewed:
            each.open(stack)
        yield TestClient(make_app(viewed, TOKEN, [HOST]), base_url=f"http://{HOST}/{TOKEN}")


def array(answer, dtype):
    assert answer.status_code == 200
    return np.frombuffer(answer.content, dtype).reshape(-1, int(answer.headers["X-Width"]))


def test_tiles_are_the_image_and_its_labels(client, stored):
    image, labels = open_image(stored / "a<b>.tif").read().transpose(1, 2, 0), labels_of(1300, 1100)
    told = client.get("0/view.json").json()
    assert (told["height"], told["width"], told["count"], told["brightfield"]) == (1300, 1100, labels.max(), True)
    for zoom, column, row in ((0, 0, 0), (0, 2, 2), (1, 1, 0), (2, 0, 0), (5, 0, 0)):
        side = 512 << zoom
        part = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        decoded = imagecodecs.jpeg_decode(client.get(f"0/image/{zoom}/{column}/{row}").content)
        expected = image[part]
        assert decoded.shape[:2] == tuple(-(-size // 2**zoom) for size in expected.shape[:2])
        assert abs(decoded.mean((0, 1)) - expected.mean((0, 1))).max() < 4
        found = array(client.get(f"0/labels/0/{zoom}/{column}/{row}"), "<u4")
        half = 2**zoom // 2
        assert np.array_equal(found, labels[part][half :: 2**zoom, half :: 2**zoom])


def test_measurements_are_those_of_the_table(client, stored):
    table = open_result(stored / "a<b>.objects.zip").table
    area = array(client.get("0/column/area_px"), "<f4")[0]
    assert np.array_equal(area, table.sort_values("id")["area_px"].to_numpy(np.float32))
    state = client.get("0/columns.json").json()
    assert state["ready"]
    assert "mean_red" in state["names"]
    row = client.get("0/row/7").json()
    assert row["centroid_x_px"] == pytest.approx(table.set_index("id").loc[7, "centroid_x_px"])
    assert client.get("0/row/0").status_code == client.get("0/column/nothing").status_code == 404


def test_channels_are_mixed_as_asked(client):
    told = client.get("1/view.json").json()
    assert "count" not in told
    assert [each["name"] for each in told["channels"]] == ["channel 0", "channel 1", "channel 2"]
    shown = imagecodecs.jpeg_decode(client.get("1/image/0/0/0?show=0:ff0000:0:6300").content)
    assert shown.shape == (70, 90, 3)
    assert shown[-5:, :, 0].mean() > 200
    assert shown[:5, :, 0].mean() < 60
    assert shown[:, :, 2].max() < 90
    for wrong in ("9:ff0000:0:1", "0:ff0000:5:1", "0:zz0000:0:1", "0", "0:ff0000:nan:1"):
        assert client.get(f"1/image/0/0/0?show={wrong}").status_code == 404


@pytest.mark.parametrize(
    "address",
    ["0/image/0/9/0", "0/image/-1/0/0", "0/image/99/0/0", "0/labels/3/0/0/0", "7/view.json", "1/columns.json"],
)
def test_what_does_not_exist_is_not_found(client, address):
    assert client.get(address).status_code == 404


def test_only_the_address_with_the_secret_is_answered(client):
    assert client.get("views.json").json() == ["a<b>", "plain"]
    page = client.get("")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for name in ("main.js", "objects.js", "plots.js", "style.css", "openseadragon.min.js"):
        assert client.get(f"static/{name}").status_code == 200
    for address in ("/", "/views.json", "/wrong/views.json", f"/{TOKEN}x/views.json", "/docs", "/openapi.json"):
        assert client.get(f"http://{HOST}{address}").status_code == 404
    for name in ("../server.py", "%2e%2e/server.py", "..%2fserver.py", "%2fetc%2fpasswd"):
        assert client.get(f"static/{name}").status_code == 404
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"host": "evil.example:8765"}):
        assert client.get("views.json", headers=headers).status_code == 404


def test_a_moved_image_is_asked_for_and_a_busy_port_is_left(stored, tmp_path):
    moved = tmp_path / "alone.objects.zip"
    moved.write_bytes((stored / "a<b>.objects.zip").read_bytes())
    (stored / "a<b>.tif").rename(tmp_path / "elsewhere.tif")
    try:
        with pytest.raises(FileNotFoundError, match="give its location with --image"):
            _find([str(moved)], None)
        assert _find([str(moved)], str(tmp_path / "elsewhere.tif"))[0].image.shape == (3, 1300, 1100)
    finally:
        (tmp_path / "elsewhere.tif").rename(stored / "a<b>.tif")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        port = busy.getsockname()[1]
        with _free_socket("127.0.0.1", port) as free:
            assert free.getsockname()[1] > port
