"""Outlines to masks: which of two objects is on top, there and back again, and QuPath's ways of writing GeoJSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoseed.images.label_image import stack_objects
from cytoseed.images.outlines import Patch
from cytoseed.learn.annotations import read_annotations
from cytoseed.paths import InputWarning
from cytoseed.results.outline import outline


def block(top, left, height, width):
    return Patch(top, left, np.ones((height, width), bool))


def test_the_smaller_object_lies_on_top_whatever_the_order():
    large, small = block(0, 0, 3, 4), block(1, 1, 1, 2)
    np.testing.assert_array_equal(stack_objects([large, small], (3, 4)), [[1, 1, 1, 1], [1, 2, 2, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(stack_objects([small, large], (3, 4)), [[2, 2, 2, 2], [2, 1, 1, 2], [2, 2, 2, 2]])


def test_an_object_marked_twice_is_one():
    assert set(np.unique(stack_objects([block(0, 0, 2, 2), block(0, 0, 2, 2)], (3, 4)))) == {0, 1}


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 4)] * 2), max_size=8))
@example([(3, 4, 2, 2), (4, 2, 1, 4), (2, 4, 2, 2)])  # the third would take what the second left of the first
def test_no_object_is_erased_by_another(boxes):
    patches = [block(*box) for box in boxes]
    labels = stack_objects(patches, (8, 8))
    covered = np.zeros((8, 8), bool)
    for number, (top, left, height, width) in enumerate(boxes, start=1):
        covered[top : top + height, left : left + width] = True
        own = np.argwhere(labels == number)
        assert ((own >= (top, left)) & (own < (top + height, left + width))).all()
    assert not labels[~covered].any()
    visible = np.unique(labels[labels > 0])
    left_out = [box for number, box in enumerate(boxes, start=1) if number not in visible]
    for top, left, height, width in left_out:  # another's last pixels lie under it
        sizes = {
            n: boxes[n - 1][2] * boxes[n - 1][3]
            for n in np.unique(labels[top : top + height, left : left + width])
            if n
        }
        assert max(sizes.values()) >= height * width
        covered[top : top + height, left : left + width] = False
    assert labels[covered].all()


def square(left, top, side=2):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]


def feature(*polygons, name=None, **more):
    kind = {"type": "MultiPolygon", "coordinates": [[ring] for ring in polygons]}
    if len(polygons) == 1:
        kind = {"type": "Polygon", "coordinates": [polygons[0]]}
    properties = {} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "id": "PathAnnotationObject", "geometry": kind, "properties": properties, **more}


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "a.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_a_collection_a_list_and_a_single_feature_are_taken(written):
    one, two = feature(square(0, 0)), feature(square(3, 0))
    expected = [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0] * 5]
    for content in ({"type": "FeatureCollection", "features": [one, two]}, [one, two]):
        np.testing.assert_array_equal(read_annotations(written(content), (3, 5)), expected)
    assert read_annotations(written(one), (3, 5)).max() == 1
    with pytest.warns(InputWarning, match=r"a\.geojson: holds no objects"):
        assert not read_annotations(written({"type": "FeatureCollection", "features": []}), (3, 5)).any()


def test_features_without_geometry_are_left_out_and_counted(written):
    nothing = {"type": "Feature", "geometry": None, "properties": {"classification": {"name": "Region*"}}}
    with pytest.warns(InputWarning, match=r"a\.geojson: 2 of 3 features have no geometry and are left out"):
        mask = read_annotations(written([nothing, feature(square(0, 0)), nothing]), (3, 3))
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_holes_and_objects_of_several_pieces_are_kept(written):
    ring = feature(square(0, 0, 4))
    ring["geometry"]["coordinates"].append(square(1, 1, 2))
    mask = read_annotations(written([ring, feature(square(5, 0, 1), square(5, 3, 1))]), (4, 6))
    np.testing.assert_array_equal(
        mask, [[1, 1, 1, 1, 0, 2], [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 2]]
    )


def test_of_a_cell_the_nucleus_is_taken(written):
    cell = feature(square(0, 0, 4), nucleusGeometry={"type": "Polygon", "coordinates": [square(1, 1)]})
    assert np.count_nonzero(read_annotations(written([cell]), (4, 4))) == 4


@pytest.mark.parametrize("form", [lambda name: name, lambda name: {"name": name}, lambda name: {"names": [name, "x"]}])
def test_ignored_ground_is_not_annotated_but_objects_in_it_are(written, form):
    ignored, nucleus = feature(square(0, 0, 3)), feature(square(0, 0, 1))
    ignored["properties"]["classification"] = form("Ignore*")
    nucleus["properties"]["classification"] = form("Tumor")
    mask = read_annotations(written([ignored, nucleus]), (3, 4))
    np.testing.assert_array_equal(mask, [[2, -1, -1, 0], [-1, -1, -1, 0], [-1, -1, -1, 0]])


def test_outside_of_regions_nothing_is_annotated(written):
    content = [feature(square(0, 0, 2), name="Region*"), feature(square(1, 1, 1)), feature(square(3, 0, 1))]
    np.testing.assert_array_equal(read_annotations(written(content), (2, 4)), [[0, 0, -1, 3], [0, 2, -1, -1]])


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 5)))
@pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")
def test_a_mask_comes_back_from_its_outlines(tmp_path_factory, mask):
    ids = np.unique(mask[mask > 0])
    geometry = [{"type": "MultiPolygon", "coordinates": outline(mask == number, 0, 0)} for number in ids]
    path = tmp_path_factory.mktemp("outlines") / "a.geojson"
    path.write_text(json.dumps([{"geometry": each, "properties": None} for each in geometry]))
    found = read_annotations(path, mask.shape)
    np.testing.assert_array_equal(np.concatenate([[0], ids])[found], mask)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "Feature"}], "holds no GeoJSON features"),
        ([{"geometry": {"type": "Point", "coordinates": [1, 2]}}], "feature 0 is a Point; it must be a Polygon"),
        ([feature(square(0, 0)), {"geometry": {"type": "Polygon", "coordinates": [[[1, 2], [3]]]}}], "feature 1 has"),
        ([feature(square(100, 100))], "no feature contains a pixel of the image .4 x 5 px."),
    ],
)
def test_files_that_are_not_annotations_of_the_image_are_refused(written, content, message):
    with pytest.raises(ValueError, match=rf"a\.geojson.*{message}"):
        read_annotations(written(content), (4, 5))
