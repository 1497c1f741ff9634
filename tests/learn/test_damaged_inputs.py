"""Outlines, tables and masks changed at random: each is read, or refused by an error that names the file."""

from __future__ import annotations

import copy
import json
import random

import imagecodecs
import numpy as np
import pytest

from cytoseed.images.label_image import read_labels
from cytoseed.learn.annotations import read_annotations
from cytoseed.learn.samples import find_samples
from cytoseed.run.area import read_area

pytestmark = pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")

RING = [[0, 0], [6, 0], [6, 6], [0, 6], [0, 0]]
VALUES = (
    None,
    True,
    -1,
    1e300,
    float("nan"),
    "",
    "Polygon",
    [],
    {},
    [[]],
    [None],
    {"names": 5},
    {"name": [1]},
    [[[1]]],
)
LABELS = np.kron(np.arange(12).reshape(3, 4), np.ones((4, 4))).astype(np.uint8)


def outlines():
    polygon = {"type": "Polygon", "coordinates": [RING]}
    properties = {"objectType": "cell", "classification": {"name": "Ignore*", "names": ["Ignore*"], "color": [1, 2, 3]}}
    named = {"type": "Feature", "geometry": polygon, "nucleusGeometry": polygon, "properties": properties}
    several = {"type": "MultiPolygon", "coordinates": [[RING], [RING]]}
    return {"type": "FeatureCollection", "features": [named, {"type": "Feature", "geometry": several}]}


def places_in(content):
    """Every container with each of its keys."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [place for key in keys for place in ((content, key), *places_in(content[key]))]


def changed_bytes(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 4))):
        place = chance.randrange(len(data))
        kind = chance.randrange(3)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            del data[place : place + chance.choice((1, 8, 10_000))]
        else:
            data[place:place] = bytes(chance.choices(range(256), k=chance.choice((1, 8))))
        data = data or bytearray(1)
    return bytes(data)


def is_read(read, path):
    """Whether a file is read; an error must name it."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        named = str(path) in str(error)
        if not named:
            raise
        return False
    return True


@pytest.mark.parametrize(
    "read",
    [lambda path: read_annotations(path, (8, 8)), lambda path: read_area((8, 8), mask=path)],
    ids=["train", "area"],
)
def test_outlines(tmp_path, read):
    path, chance, taken = tmp_path / "a.geojson", random.Random(1), 0
    for number in range(400):
        content = copy.deepcopy(outlines())
        container, key = chance.choice(places_in(content))
        container[key] = chance.choice(VALUES)
        text = json.dumps(content).encode()
        path.write_bytes(text if number % 4 else b"{" + changed_bytes(text, chance))
        taken += is_read(read, path)
    assert 20 < taken < 380


def test_tables(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for stem in "ab":
            (tmp_path / "set" / kind / f"{stem}.png").touch()
    text = "dataset,stem,split,pixel_size_um\nset,a,train,0.5\nset,b,val,\n"
    chance, table, taken = random.Random(2), tmp_path / "samples.csv", 0
    for number in range(400):
        table.write_bytes(changed_bytes(text.encode(("utf-8", "utf-16")[number % 2]), chance))
        taken += is_read(lambda _: find_samples(tmp_path), tmp_path)
    assert 20 < taken < 380


def test_masks(tmp_path):
    path, chance, taken = tmp_path / "a.png", random.Random(3), 0
    whole = bytes(imagecodecs.png_encode(LABELS))
    for _ in range(400):
        path.write_bytes(changed_bytes(whole, chance))
        taken += is_read(read_labels, path)
    assert taken < 380
