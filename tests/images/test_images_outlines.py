"""Outlines: pixels beside a loop over their centres, points beside the pixels, boxes beside points, GeoJSON."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoseed.images.outlines import Outlines, is_geojson, polygons_of, rasterise, read_features
from cytoseed.results.outline import outline

SHAPE = (9, 11)

shapes = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
points = st.tuples(st.floats(-3, 13), st.floats(-3, 13))
rings = st.lists(points, min_size=3, max_size=7).map(np.array)
quarters = rings.map(lambda ring: np.round(ring * 4) / 4)  # many corners and sides are on pixel centres
simple = quarters.filter(lambda ring: shapely.Polygon(ring).is_valid)
polygons = st.lists(st.lists(simple, min_size=1, max_size=3), max_size=3)
boxes = st.tuples(*[st.integers(-2, 11)] * 2, *[st.integers(0, 7)] * 2)


def whole(patch, shape):
    """The patch's pixels in an image of the shape."""
    pixels = np.zeros(shape, bool)
    height, width = patch.inside.shape
    pixels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.inside
    return pixels


def odd_by_loops(polygon, x, y):
    """Count the rings' crossings to the left of a point or at it."""
    crossings = 0
    for ring in polygon:
        for one, other in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            (x0, y0), (x1, y1) = (one, other) if one[1] <= other[1] else (other, one)
            if y0 <= y < y1:
                crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return crossings % 2 == 1


def centres(shape):
    """The centres of an image's pixels, (H * W, 2): y, x."""
    return np.argwhere(np.ones(shape, bool)) + 0.5


# Pixels


@given(st.lists(quarters, min_size=1, max_size=3))
def test_the_pixels_are_those_whose_centre_is_inside(polygon):
    # of quarters of pixels the sums are exact, so that both agree on centres on a side
    expected = [odd_by_loops(polygon, x, y) for y, x in centres(SHAPE)]
    np.testing.assert_array_equal(whole(rasterise([polygon], SHAPE), SHAPE).ravel(), expected)


@given(shapes, st.integers(0, 5), st.integers(0, 5))
def test_an_outline_gives_its_pixels_back(pixels, left, top):
    shape = (pixels.shape[0] + top, pixels.shape[1] + left)
    traced = [[np.array(ring, float) for ring in polygon] for polygon in outline(pixels, left, top)]
    np.testing.assert_array_equal(whole(rasterise(traced, shape), shape)[top:, left:], pixels)


def triangles_around(middle):
    """The triangles from a point to the four sides of 8 x 10 pixels."""
    corners = np.array([[0, 0], [10, 0], [10, 8], [0, 8]], float)
    return [[[np.array([a, b, middle])]] for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]


def test_polygons_that_share_a_side_share_no_pixel_and_leave_none_out():
    parts = triangles_around([4.5, 3.5])  # on a pixel's centre
    assert (sum(whole(rasterise(part, (8, 10)), (8, 10)).astype(int) for part in parts) == 1).all()
    parts, steps = triangles_around([4.5, 3.25]), np.linspace(0, 1, 9)[1:-1, None]
    for corner in [(0, 0), (0, 10), (8, 10), (8, 0)]:  # y, x
        on_side = steps * corner + (1 - steps) * (3.25, 4.5)
        assert (sum(Outlines(part).holds(on_side).astype(int) for part in parts) == 1).all()


def test_what_lies_outside_the_image_is_cut_off():
    far = np.array([[-50, -50], [50, -50], [50, 2], [-50, 2]], float)
    np.testing.assert_array_equal(whole(rasterise([[far]], (4, 3)), (4, 3)), [[1] * 3, [1] * 3, [0] * 3, [0] * 3])
    assert not rasterise([[far + 500]], (4, 3)).inside.any()
    assert not rasterise([], (4, 3)).inside.any()


# Points


@given(polygons, st.lists(points, max_size=20))
def test_points_are_inside_as_by_a_loop_over_sides_and_as_their_pixels(some, places):
    np.testing.assert_array_equal(Outlines(some).holds(centres(SHAPE)), whole(rasterise(some, SHAPE), SHAPE).ravel())
    places = np.round(np.array(places).reshape(-1, 2) * 4) / 4  # many are on sides
    expected = [any(odd_by_loops(polygon, x, y) for polygon in some) for y, x in places]
    assert Outlines(some).holds(places).tolist() == expected


def star(corners, radius, middle=1000.0):
    """A ring whose corners lie by turns near to its middle and far from it."""
    angles = np.arange(corners) * 2 * np.pi / corners
    away = np.where(np.arange(corners) % 2, radius, radius / 5)
    return middle + away[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_many_points_in_polygons_of_many_corners():
    places = np.random.default_rng(0).integers(0, 2000, (20_000, 2)) + 0.5
    some = [[star(1000, 900), star(500, 400)[::-1]], [star(200, 300)], [star(200, 80, 1900)]]
    pixels = whole(rasterise(some, (2000, 2000)), (2000, 2000))
    row, column = places.astype(int).T
    np.testing.assert_array_equal(Outlines(some).holds(places), pixels[row, column])


def test_no_polygons_and_no_points():
    assert not Outlines([]).holds(centres((2, 2))).any()
    assert not Outlines([[np.zeros((0, 2))], []]).holds(centres((2, 2))).any()
    assert Outlines([[star(5, 3)]]).holds(np.zeros((0, 2))).shape == (0,)
    assert not Outlines([]).meets((0, 0, 9, 9))


# Boxes


@example([[np.array([[0, 0], [0, 2], [1, 0]], float)]], (0, -1, 1, 1), [])  # a point at the very end
@given(polygons, boxes, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=10))
def test_a_box_that_holds_a_point_inside_is_never_missed(some, box, within):
    top, left, height, width = box
    assume(height and width)
    start = np.array([top, left])
    places = np.array([*within, (0, 0), (0.5, 0.5)]) * (height, width) + start
    centred = centres((height, width)) + start
    edge = np.nextafter(centred + 0.5, -np.inf)  # the last points of the box, too
    places = np.concatenate([places, centred, edge])
    places = places[(places < (top + height, left + width)).all(axis=1)]
    outlines = Outlines(some)
    assert outlines.meets(box) or not outlines.holds(places).any()


def test_boxes_clearly_outside_inside_and_beside():
    ring = np.array([[10, 10], [110, 10], [110, 110]], float)  # right of and above the diagonal
    hole = np.array([[70, 30], [90, 30], [90, 50], [70, 50]], float)
    outlines = Outlines([[ring, hole]])
    met = [(20, 80, 5, 5), (0, 0, 200, 200), (9, 9, 2, 2), (45, 85, 10, 10), (50, 70, 4, 4), (60, 56, 5, 5)]
    missed = [(60, 20, 30, 30), (35, 75, 10, 10), (30, 70, 20, 20), (10, 110, 50, 5), (0, 10, 10, 99), (20, 80, 0, 5)]
    assert [outlines.meets(box) for box in met] == [True] * 6
    assert [outlines.meets(box) for box in missed] == [False] * 6


# GeoJSON


def feature():
    triangle = [[0, 0], [1, 0], [1, 1]]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [triangle]}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_geojson_is_known_by_its_beginning_and_read_also_if_compressed(tmp_path, encoding, packed):
    path = tmp_path / "outlines.txt"
    for content in (feature(), [feature()], {"type": "FeatureCollection", "features": [feature()]}):
        path.write_bytes(packed((" \n" + json.dumps(content)).encode(encoding)))
        assert is_geojson(path)
        assert read_features(path) == [feature()]


def test_other_files_are_not_taken(tmp_path):
    path = tmp_path / "a.geojson"
    for content in (b"", b"\x89PNG\r\n", b"II*\0", b"<Annotations>", b'"text"'):
        path.write_bytes(content)
        assert not is_geojson(path)
    for kept in (5, 20, -1):
        path.write_bytes(gzip.compress(json.dumps(feature()).encode())[:kept])
        with pytest.raises(ValueError, match=r"a\.geojson is cut short or damaged .*; export it from QuPath again"):
            read_features(path)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b'{"a": "\xb5"}', b"[" + b"1" * 5000 + b"]"])
def test_text_that_is_not_geojson_is_named(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.geojson is not (valid JSON|text in UTF-8)"):
        read_features(path)


def test_polygons_and_their_holes_in_order():
    outer, hole = [[0, 0, 7], [4, 0, 7], [4, 4, 7]], [[2, 1], [3, 1], [3, 2]]  # a third coordinate is left out
    polygon, several = ([outer, hole], [[outer], [hole]])
    (found,) = polygons_of({"type": "Polygon", "coordinates": polygon}, "it")
    assert [ring.tolist() for ring in found] == [[[0, 0], [4, 0], [4, 4]], hole]
    assert [len(each) for each in polygons_of({"type": "MultiPolygon", "coordinates": several}, "it")] == [1, 1]


def test_coordinates_that_are_no_pixels_are_refused():
    for value in (float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match=r"^it has coordinates that are not rings of pairs of numbers"):
            polygons_of({"type": "Polygon", "coordinates": [[[0, 0], [value, 0], [1, 1]]]}, "it")
