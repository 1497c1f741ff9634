"""Regions and masks, compared with pixels painted by hand, and errors of users."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import re

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cytoseed.images.outlines import rasterise
from cytoseed.paths import InputWarning
from cytoseed.run import area as area_module
from cytoseed.run.area import read_area

SHAPE = (12, 16)


def centres(shape):
    """The centres of an image's pixels, (H * W, 2): y, x."""
    return np.argwhere(np.ones(shape, bool)) + 0.5


def held(area, shape=SHAPE):
    """The pixels whose centre lies in an area."""
    return area.holds(centres(shape)).reshape(shape)


def painted(*boxes_xywh, shape=SHAPE):
    pixels = np.zeros(shape, bool)
    for x, y, width, height in boxes_xywh:
        pixels[y : y + height, x : x + width] = True
    return pixels


def ring(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def polygon(*rings):
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": list(rings)}}


def write_geojson(path, content):
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_picture(path, pixels):
    if path.suffix == ".png":
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        tifffile.imwrite(path, pixels, rowsperstrip=3)
    return path


# Everything, and regions


def test_without_region_and_mask_everything_is_inside():
    area = read_area(SHAPE)
    assert held(area).all()
    assert area.holds(np.zeros((0, 2))).shape == (0,)
    assert area.meets((0, 0, *SHAPE))
    assert area.meets((11, 15, 1, 1))
    assert not area.meets((11, 15, 0, 1))
    assert area.description == {}


def test_a_region_is_x_y_width_height():
    area = read_area(SHAPE, (3, 1, 5, 2))
    np.testing.assert_array_equal(held(area), painted((3, 1, 5, 2)))
    assert area.holds(np.array([[1, 3], [1, 7.999], [2.999, 3]])).all()
    assert not area.holds(np.array([[1, 8], [3, 3], [0.999, 3], [1, 2.999]])).any()
    for region in ((3, 1, 5, 2), np.array([3, 1, 5, 2]), [3, 1, 5, np.uint8(2)]):
        assert json.dumps(read_area(SHAPE, region).description) == '{"region_xywh": [3, 1, 5, 2]}'
    assert [area.meets(box) for box in [(0, 0, 2, 4), (2, 7, 9, 9), (0, 0, 1, 16), (0, 8, 9, 8)]] == [1, 1, 0, 0]


def test_regions_side_by_side_share_no_point():
    places = np.array([[y, x] for y in np.arange(0, 12, 0.5) for x in np.arange(0, 16, 0.5)])
    regions = [(0, 0, 7, 12), (7, 0, 9, 5), (7, 5, 9, 7)]
    assert (sum(read_area(SHAPE, region).holds(places).astype(int) for region in regions) == 1).all()


@pytest.mark.parametrize(
    ("region", "inside"),
    [
        ((3, 1, 0, 2), None),
        ((3, 1, 2, -2), None),
        ((0, -9, 2, 9), None),
        ((10, 0, 7, 2), "10,0,6,2"),
        ((10, -2, 7, 20), "10,0,6,12"),
    ],
)
def test_regions_outside_the_image_are_refused(region, inside):
    says = (
        f"region {','.join(map(str, region))} (x, y, width, height) must have an area and lie in the image, which is "
    )
    says += "16 x 12 px (width x height) at full resolution" + (f"; the part inside is {inside}" if inside else "")
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        read_area(SHAPE, region)


@pytest.mark.parametrize("region", [(1, 2, 3), (1.5, 2, 3, 4), "1,2,3,4", (1, 2, 3, 4, 5)])
def test_a_region_of_other_than_four_whole_numbers_is_refused(region):
    with pytest.raises(TypeError, match="it must be four whole numbers in px: x, y, width, height"):
        read_area(SHAPE, region)


# Outlines


@pytest.mark.parametrize("name", ["tissue.geojson", "tissue.geojson.gz", "tissue.json"])
@pytest.mark.parametrize("form", [list, lambda features: {"type": "FeatureCollection", "features": features}])
def test_the_union_of_outlines_without_their_holes(tmp_path, name, form):
    several = polygon()
    several["geometry"] = {"type": "MultiPolygon", "coordinates": [[ring(9, 0, 2, 2)], [ring(12, 8, 5, 5)]]}
    features = [polygon(ring(1, 1, 6, 6), ring(2, 2, 3, 3)), several, polygon(ring(3, 3, 1, 1))]
    path = write_geojson(tmp_path / name, form(features))
    area = read_area(SHAPE, mask=path)
    expected = painted((1, 1, 6, 6), (9, 0, 2, 2), (12, 8, 4, 4)) & ~painted((2, 2, 3, 3)) | painted((3, 3, 1, 1))
    np.testing.assert_array_equal(held(area), expected)
    assert area.description == {"mask": name, "mask_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_single_feature_counts_and_of_a_cell_its_outer_outline(tmp_path):
    cell = polygon(ring(1, 1, 4, 4)) | {"nucleusGeometry": polygon(ring(2, 2, 1, 1))["geometry"]}
    area = read_area(SHAPE, mask=str(write_geojson(tmp_path / "cell.geojson", cell)))
    np.testing.assert_array_equal(held(area), painted((1, 1, 4, 4)))


def test_region_and_mask_are_intersected(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", [polygon(ring(2, 2, 8, 8)), polygon(ring(14, 0, 2, 12))])
    area = read_area(SHAPE, (0, 5, 9, 7), path)
    np.testing.assert_array_equal(held(area), painted((2, 5, 7, 5)))
    assert list(area.description) == ["region_xywh", "mask", "mask_sha256"]
    assert area.meets((0, 0, 6, 3))
    assert not area.meets((0, 0, 5, 16))  # in the mask alone
    assert not area.meets((5, 0, 7, 2))  # in the region alone
    assert not area.meets((0, 9, 12, 7))
    assert not area.meets((10, 8, 2, 8))  # in each, but not in both at one place
    with pytest.raises(ValueError, match=r"region 10,0,4,12 .* holds nothing of the mask .*a\.geojson"):
        read_area(SHAPE, (10, 0, 4, 12), path)


corners = st.tuples(st.floats(0, 16), st.floats(0, 12))
quarters = corners.map(lambda corner: tuple(round(4 * value) / 4 for value in corner))
simple = st.lists(quarters, min_size=3, max_size=6).filter(lambda ring: shapely.Polygon(ring).is_valid)
outlines = st.lists(simple, min_size=1, max_size=3)
boxes = st.tuples(st.integers(0, 11), st.integers(0, 15), st.integers(1, 12), st.integers(1, 16))


@given(outlines, boxes)
def test_outlines_hold_the_centres_that_are_painted_and_meet_their_boxes(tmp_path_factory, found, box):
    rings = [np.array(each) for each in found]
    assume(any((each.max(axis=0) > each.min(axis=0)).all() for each in rings))
    path = write_geojson(tmp_path_factory.mktemp("area") / "a.geojson", [polygon(each.tolist()) for each in rings])
    area = read_area(SHAPE, mask=path)
    patch, pixels = rasterise([[each] for each in rings], SHAPE), np.zeros(SHAPE, bool)
    height, width = patch.inside.shape
    pixels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.inside
    np.testing.assert_array_equal(held(area), pixels)
    top, left, height, width = box
    assert area.meets(box) or not pixels[top : top + height, left : left + width].any()


# Pictures


@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "mask.geojson"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.int32, np.float32])
def test_nonzero_pixels_of_a_mask_image_are_inside(tmp_path, name, dtype, monkeypatch):
    """Of any type, read by strips, and whatever the name says."""
    monkeypatch.setattr(area_module, "_STRIP_BYTES", 5 * 16 * np.dtype(dtype).itemsize)
    labels = painted((0, 0, 3, 4)).astype(dtype) + painted((9, 5, 7, 7)) * dtype(200)
    as_png = name == "mask.png" and dtype in (np.uint8, np.uint16)
    written = write_picture(tmp_path / ("a.png" if as_png else "a.tif"), labels).rename(tmp_path / name)
    area = read_area(SHAPE, mask=written)
    np.testing.assert_array_equal(held(area), labels > 0)
    assert area.holds(np.array([[3.99, 2.99], [4, 0], [0, 3], [11.999, 15.999]])).tolist() == [True, False, False, True]
    assert area.description["mask"] == name


def test_a_pixel_of_any_colour_is_inside(tmp_path):
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[1, 2, 0] = colours[3, 4, 2] = 1
    area = read_area(SHAPE, mask=write_picture(tmp_path / "a.png", colours))
    np.testing.assert_array_equal(held(area), colours.any(2))


@pytest.mark.parametrize("size", [(12, 16), (6, 8), (4, 6), (4, 5), (3, 4), (2, 2), (1, 1)])
def test_a_smaller_mask_covers_the_image(tmp_path, size):
    pixels = np.zeros(size, np.uint8)
    pixels[-1, 0] = 1
    area = read_area(SHAPE, mask=write_picture(tmp_path / "a.png", pixels))
    y, x = centres(SHAPE).T
    expected = (y >= 12 - 12 / size[0]) & (x < 16 / size[1])
    np.testing.assert_array_equal(held(area).ravel(), expected)


@given(
    st.data(),
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)),
    st.integers(1, 5),
)
def test_a_mask_meets_the_boxes_that_it_holds_a_point_of(tmp_path_factory, data, pixels, factor):
    assume(pixels.any())
    path = write_picture(tmp_path_factory.mktemp("area") / "a.tif", pixels)
    height, width = (data.draw(st.integers(side * factor, side * factor + factor - 1)) for side in pixels.shape)
    area = read_area((height, width), mask=path)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    grid = centres(box[2:]) + np.array([top, left])
    places = np.concatenate([grid - 0.5, grid, np.nextafter(grid + 0.5, -np.inf)])
    assert area.meets(box) or not area.holds(places).any()
    if (height, width) == pixels.shape:
        assert area.meets(box) == pixels[top : top + box[2], left : left + box[3]].any()


# Both


def test_an_area_can_be_sent_to_another_process(tmp_path):
    for mask in (
        write_geojson(tmp_path / "a.geojson", polygon(ring(1, 1, 6, 6))),
        write_picture(tmp_path / "a.png", painted((1, 1, 6, 6)).astype(np.uint8)),
    ):
        area = pickle.loads(pickle.dumps(read_area(SHAPE, (0, 0, 5, 5), mask)))
        np.testing.assert_array_equal(held(area), painted((1, 1, 4, 4)))


def test_a_missing_mask_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mask .*none\.geojson: there is no such file"):
        read_area(SHAPE, mask=tmp_path / "none.geojson")
    with pytest.raises(ValueError, match="is a folder; give a GeoJSON file, or a picture"):
        read_area(SHAPE, mask=tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"type": "Topology"}, "holds no GeoJSON features"),
        (
            [polygon(ring(0, 0, 5, 5)), {"geometry": {"type": "Point", "coordinates": [1, 2]}}],
            "feature 1 is a Point; it must",
        ),
        ({"type": "FeatureCollection", "features": []}, "is empty: it has no outline of any area"),
        (
            polygon(ring(1000, 2000, 50.5, 60)),
            "in other coordinates than the image: most of it lies outside. Its outlines reach in x from 1000 to 1050.5 "
            "and in y from 2000 to 2060; the image is 16 x 12 px (width x height). GeoJSON must be in px of the image "
            "at full resolution, from its upper left corner, not in µm and not of a lower level",
        ),
        ([polygon(ring(0, 0, 4, 4)), polygon(ring(12, 8, 10, 8))], "than the image: most of it lies outside"),
        ("hello", "is neither GeoJSON nor a picture that can be read as a mask"),
    ],
)
def test_outlines_that_do_not_suit_the_image_are_refused(tmp_path, content, says):
    path = tmp_path / "a.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_area(SHAPE, mask=path)
    assert str(path) in str(error.value)


def test_a_mask_of_which_less_than_half_lies_outside_is_taken(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", polygon(ring(-3, 2, 7, 4)))
    np.testing.assert_array_equal(held(read_area(SHAPE, mask=path)), painted((0, 2, 4, 4)))


def test_the_index_of_a_palette_and_any_plane_of_a_stack_are_inside(tmp_path):
    wanted = painted((1, 2, 3, 4))
    picture = Image.fromarray(wanted.astype(np.uint8)).convert("P")
    picture.putdata(wanted.ravel().tolist())
    picture.putpalette([9, 9, 9, 0, 0, 0])  # what is outside is brighter than what is inside
    picture.save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.stack([wanted * 0, wanted, wanted]).astype(np.uint8), imagej=True)
    for name in ("a.png", "b.tif"):
        np.testing.assert_array_equal(held(read_area(SHAPE, mask=tmp_path / name)), wanted)


def test_features_without_geometry_are_left_out_and_counted(tmp_path):
    nothing = {"type": "Feature", "geometry": None, "properties": {}}
    path = write_geojson(tmp_path / "a.geojson", [nothing, polygon(ring(3, 3, 2, 2))])
    with pytest.warns(InputWarning, match=r"a\.geojson: 1 of 2 features have no geometry and are left out"):
        np.testing.assert_array_equal(held(read_area(SHAPE, mask=path)), painted((3, 3, 2, 2)))


@pytest.mark.parametrize("size", [(16, 12), (12, 8), (24, 32), (6, 11), (1, 16)])
def test_a_mask_image_of_another_shape_is_refused(tmp_path, size):
    path = write_picture(tmp_path / "a.png", np.ones(size, np.uint8))
    says = f"is {size[1]} x {size[0]} px (width x height) and the image 16 x 12 px (width x height): a mask must have"
    with pytest.raises(ValueError, match=re.escape(says)):
        read_area(SHAPE, mask=path)


def test_unusable_mask_images_are_refused(tmp_path):
    import imagecodecs

    with pytest.raises(ValueError, match=r"a\.png is empty: all of its pixels are 0"):
        read_area(SHAPE, mask=write_picture(tmp_path / "a.png", np.zeros(SHAPE, np.uint8)))
    with pytest.raises(ValueError, match=r"a\.tif has NaN pixels"):
        read_area(SHAPE, mask=write_picture(tmp_path / "a.tif", np.full(SHAPE, np.nan, np.float32)))
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg_encode(np.zeros(SHAPE, np.uint8)))
    with pytest.raises(ValueError, match=r"a\.jpg is a JPEG, which changes pixels beside edges; save .* PNG or TIFF"):
        read_area(SHAPE, mask=tmp_path / "a.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"cut\.png is neither GeoJSON nor a picture .* cut short or damaged"):
        read_area(SHAPE, mask=tmp_path / "cut.png")
