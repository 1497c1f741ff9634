"""Samples found, read and divided on tiny folders; the seed target beside a plain double loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoseed.learn.annotations import median_diameter, seed_target
from cytoseed.learn.samples import Sample, find_samples, split_by_name

masks = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-1, 4))


def write_png(path: Path, pixels):
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


IMAGE = np.arange(30, dtype=np.uint8).reshape(6, 5)


def mask(height=6, width=5):
    labels = np.zeros((height, width), np.uint16)
    labels[1:3, 1:4] = 300
    return labels


@pytest.fixture
def listed(tmp_path):
    """A folder with a table of two data sets, one of them with columns left empty."""
    (tmp_path / "samples.csv").write_text(
        "dataset,stem,field,split,modality,pixel_size_um,licence\n"
        "cells,a,f1,train,fluorescence,0.25,CC0-1.0\n"
        "cells,b,f1,val,fluorescence,,\n"
        "tissue,a,,,,,\n"
    )
    for dataset, stem in (("cells", "a"), ("cells", "b"), ("tissue", "a")):
        write_png(tmp_path / dataset / "images" / f"{stem}.png", IMAGE)
        write_png(tmp_path / dataset / "masks" / f"{stem}.png", mask())
    return tmp_path


def test_a_table_gives_samples_in_its_order(listed):
    first, second, third = find_samples(listed)
    paths = (listed / "cells" / kind / "a.png" for kind in ("images", "masks"))
    assert first == Sample("a", "cells", "fluorescence", "train", *paths, 0.25, "f1", "CC0-1.0")
    assert (second.split, second.pixel_size_um) == ("val", None)
    assert (third.dataset, third.modality, third.split, third.field) == ("tissue", "unknown", "train", "")
    assert third.licence == ""


def touch(folder: Path, *names: str):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_splits_and_data_sets_are_picked(listed):
    assert [s.name for s in find_samples(listed, splits=["val"])] == ["b"]
    assert [s.dataset for s in find_samples(listed, splits="train")] == ["cells", "tissue"]
    assert [s.dataset for s in find_samples(listed, ("train", "val"), ["tissue"])] == ["tissue"]


def test_a_split_or_data_set_that_does_not_occur_is_refused(listed):
    with pytest.raises(ValueError, match="splits asks for 'test'; there are: train, val"):
        find_samples(listed, splits=["train", "test"])
    with pytest.raises(ValueError, match="datasets asks for 'blood'; there are: cells, tissue"):
        find_samples(listed, datasets=["blood"])
    with pytest.raises(ValueError, match=r"'val'.*'tissue'.*not together"):
        find_samples(listed, splits=["val"], datasets=["tissue"])


def test_files_that_a_table_lists_must_be_there_where_asked_for(listed):
    (listed / "tissue" / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*tissue.images.a\.png, nor"):
        find_samples(listed)
    assert len(find_samples(listed, datasets=["cells"])) == 2


@pytest.mark.parametrize(
    ("images", "masks", "others"),
    [
        (
            ["images/a.png", "images/b.tif", "images/c.v2.JPG"],
            ["masks/a.tiff", "masks/b.png", "masks/c.v2.tif"],
            ["masks/extra.png", "images/notes.txt", "images/._a.png"],
        ),
        (["a.tif", "b.jpg", "c.tif"], ["a_masks.tif", "b_masks.png", "c_cp_masks.tif"], ["a_flows.tif", "a_seg.npy"]),
    ],
    ids=["two folders", "Cellpose"],
)
def test_images_and_masks_are_paired(tmp_path, images, masks, others):
    touch(tmp_path, *images, *masks, *others)
    samples = find_samples(tmp_path)
    assert [sample.image_path for sample in samples] == [tmp_path / name for name in images]
    assert [sample.mask_path for sample in samples] == [tmp_path / name for name in masks]
    assert {(s.dataset, s.modality, s.split) for s in samples} == {(tmp_path.name, "unknown", "train")}


def test_images_beside_annotations_are_paired_and_read(tmp_path):
    square = {"type": "Polygon", "coordinates": [[[1, 1], [4, 1], [4, 3], [1, 3], [1, 1]]]}
    annotation = json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": square}]})
    for folder, where in ((tmp_path / "beside", "."), (tmp_path / "apart", "masks")):
        write_png(folder / ("images" if where == "masks" else ".") / "a.png", IMAGE)
        (folder / where).mkdir(exist_ok=True)
        (folder / where / "a.geojson").write_text(annotation)
        (sample,) = find_samples(folder)
        assert sample.mask_path.name == "a.geojson"
        pixels, labels = sample.read()
        assert pixels.shape == (1, 6, 5)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, mask() // 300)


@pytest.mark.parametrize("other", ["a.geojson", "a_cp_masks.png"])
def test_an_image_with_two_masks_is_refused(tmp_path, other):
    touch(tmp_path, "a.png", "a_masks.png", other)
    with pytest.raises(ValueError, match=r"a\.png has the masks a_masks\.png and .*keep one"):
        find_samples(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_as_spreadsheets_write_it(listed, encoding, separator):
    size = '"0,5"' if separator == "," else "0,5"
    rows = [["dataset", " stem ", "pixel_size_um", "split"], ["tissue", "a", size, "val"], ["cells", " b"], [""] * 4]
    text = "\r\n".join(separator.join(row) for row in rows)
    (listed / "samples.csv").write_bytes(text.encode(encoding))
    first, second = find_samples(listed)
    assert (first.dataset, first.pixel_size_um, first.split) == ("tissue", 0.5, "val")
    assert (second.name, second.pixel_size_um, second.split) == ("b", None, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dataset,stem,licence\ncells,a,\xb5\n", "is not text in UTF-8 or UTF-16 .*; save it as UTF-8"),
        (b"dataset,stem,pixel_size_um\ncells,a,0,5\n", "has 4 values in line 2 and 3 columns; put values that contain"),
        (b"dataset,stem\ncells,\n", "has a row without dataset or stem: cells"),
        (b"dataset,stem\ncells," + b"a" * 200_000, "is damaged in line 2 .field larger than"),
        (b"", "has no column 'dataset'"),
    ],
)
def test_a_damaged_table_is_named(listed, content, message):
    (listed / "samples.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"samples\.csv {message}"):
        find_samples(listed)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        *(("pixel_size_um", size, f"pixel_size_um '{size}'") for size in ("0", "-1", "nan", "inf", "tiny")),
        ("split", "validation", "a the split 'validation'; it must be train, val, test, or left empty"),
    ],
)
def test_a_table_with_an_impossible_value_is_refused(listed, column, value, message):
    (listed / "samples.csv").write_text(f"stem,dataset,{column}\na,tissue,{value}\n")
    with pytest.raises(ValueError, match=message):
        find_samples(listed)


@pytest.mark.parametrize(
    "layout", [("a.png", "a_seg.npy"), ("images/a.png", "masks/a_seg.npy"), ("images/a.png", "images/a_seg.npy")]
)
def test_a_pickle_of_masks_is_refused_unread(tmp_path, layout):
    touch(tmp_path, *layout, *(["masks/other.png"] if "/" in layout[0] else []))
    with pytest.raises(ValueError, match=r"a_seg\.npy, which is a pickle.*Save masks as PNG/TIFF.*--save_tif"):
        find_samples(tmp_path)


def test_images_without_masks_are_named(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png", "b_masks.png")
    with pytest.raises(FileNotFoundError, match=r"no \S*a_masks\.png, \S*c_masks\.png, \S*d_masks\.png and 1 more"):
        find_samples(tmp_path)


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    for folder, message in ((tmp_path / "nowhere", r"nowhere.*does not exist"), (tmp_path, "holds no samples")):
        with pytest.raises(FileNotFoundError, match=message):
            find_samples(folder)


def test_a_mask_of_another_size_is_refused(listed):
    write_png(listed / "cells" / "masks" / "a.png", mask(height=7))
    with pytest.raises(ValueError, match=r"a\.png is 6 x 5 px and its mask .*a\.png is 7 x 5 px"):
        find_samples(listed)[0].read()


def named(*names, field=""):
    return [Sample(name, "set", "unknown", "test", Path(name), Path(name), field=field) for name in names]


names = st.lists(st.text(min_size=1, max_size=4), unique=True, min_size=2, max_size=12)


@given(names, st.floats(0.01, 0.99))
def test_a_division_keeps_every_sample_once_and_fills_both_sides(stems, share):
    train, val = split_by_name(named(*stems), share)
    assert [s.name for s in train] == [n for n in stems if n not in {s.name for s in val}]
    assert sorted(s.name for s in train + val) == sorted(stems)
    assert {s.split for s in train} == {"train"}
    assert {s.split for s in val} == {"val"}


@pytest.mark.parametrize(("images", "validating"), [(2, 1), (3, 1), (5, 1), (6, 2), (10, 2), (11, 3), (200, 40)])
def test_a_fifth_of_the_images_validates_rounded_up(images, validating):
    stems = [str(number) for number in range(images)]
    chosen = [s.name for s in split_by_name(named(*stems)).val]
    assert len(chosen) == validating
    assert {s.name for s in split_by_name(named(*reversed(stems))).val} == set(chosen)


def test_fields_are_never_parted():
    samples = [s for n in range(30) for s in named(f"{n}-left", f"{n}-right", field=f"field {n}")]
    train, val = split_by_name(samples, 0.5)
    assert not {s.field for s in train} & {s.field for s in val}
    assert (len(train), len(val)) == (30, 30)
    with pytest.raises(ValueError, match="all 2 images are of one field of view, 'one': training needs at least two"):
        split_by_name(named("a", "b", field="one"))


def target_by_loops(labels):
    """Distance to the nearest pixel of another value, pixel by pixel."""
    places = np.stack(np.indices(labels.shape), axis=-1)
    distance = np.zeros(labels.shape)
    for at in np.ndindex(labels.shape):
        others = places[labels != labels[at]]
        if labels[at] > 0:
            distance[at] = np.sqrt(((others - at) ** 2).sum(axis=1).min()) if len(others) else 1
    for i in np.unique(labels[labels > 0]):
        distance[labels == i] /= distance[labels == i].max()
    return distance


@given(masks)
def test_the_seed_target_equals_plain_loops(labels):
    target = seed_target(labels)
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, target_by_loops(labels), rtol=1e-6)
    far = np.where(labels > 0, 1_000_003 * labels.astype(np.int64), labels)
    np.testing.assert_array_equal(seed_target(far), target)


@given(masks)
def test_the_median_diameter_is_that_of_a_disc_of_equal_area(labels):
    areas = [np.count_nonzero(labels == i) for i in np.unique(labels[labels > 0])]
    expected = np.median([2 * np.sqrt(area / np.pi) for area in areas]) if areas else np.nan
    np.testing.assert_allclose(median_diameter(labels), expected)


def test_the_pixel_size_is_the_tables_else_the_files(tmp_path):
    """A folder without a table: what `segment` reads from the file holds for training too."""
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((9, 9), np.uint8), ome=True, metadata=metadata)
    tifffile.imwrite(tmp_path / "a.ome_masks.tif", np.zeros((9, 9), np.uint8))
    (sample,) = find_samples(tmp_path)
    assert (sample.pixel_size_um, sample.find_pixel_size_um()) == (None, 0.25)
    assert replace(sample, pixel_size_um=0.5).find_pixel_size_um() == 0.5
