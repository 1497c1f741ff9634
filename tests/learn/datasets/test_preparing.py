"""Masks of every kind written and read back, splits, and preparations that are made again, broken off, or added to."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from downloads import DOWNLOADS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoseed.images.label_image import open_labels
from cytoseed.learn.datasets import Source, SourceImage, prepare
from cytoseed.learn.datasets.preparation import assign_splits
from cytoseed.learn.samples import find_samples

pytestmark = pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")  # masks without objects


def source(items, **more):
    given = {"images": len(items), "objects": None, "licence": "CC0-1.0", **more}
    return Source(
        name="set", title="", url="", download="", layout="", find=lambda _: items, counted_by="its paper", **given
    )


def item(stem="a", mask=None, pixels=None, **more):
    mask = np.zeros((5, 7), np.int32) if mask is None else mask
    pixels = np.zeros((1, *mask.shape), np.uint8) if pixels is None else pixels
    return SourceImage(stem, lambda: pixels, lambda _: mask, **more)


def back(tmp_path, *items, **more):
    prepare(source(items, **more), tmp_path, tmp_path / "out")
    return find_samples(tmp_path / "out")


@given(hnp.arrays(np.int32, (5, 7), elements=st.integers(-1, 6)), st.sampled_from([1, 1_000, 300_000_000]))
def test_masks_come_back_with_ids_from_1_to_k(tmp_path_factory, mask, spread):
    far = np.where(mask > 0, mask * spread, mask)
    (sample,) = back(tmp_path_factory.mktemp("mask"), item(mask=far))
    found = open_labels(sample.mask_path).read()[0].astype(np.int32)  # also of masks that no program would write
    ids = np.unique(mask[mask > 0])
    np.testing.assert_array_equal(found == -1, mask == -1)
    np.testing.assert_array_equal(np.unique(found[found > 0]), np.arange(1, len(ids) + 1))
    np.testing.assert_array_equal(np.concatenate([[0], ids])[found.clip(0)], mask.clip(0))  # pieces of one stay one
    assert sample.mask_path.suffix == (".tif" if (mask < 0).any() else ".png")


def test_more_than_65535_objects_are_kept_apart(tmp_path):
    mask = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    (sample,) = back(tmp_path, item(mask=mask))
    assert sample.mask_path.suffix == ".tif"
    np.testing.assert_array_equal(sample.read()[1], mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_as_they_were(tmp_path, dtype, channels):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (channels, 5, 7)).astype(dtype)
    (sample,) = back(tmp_path, item(pixels=pixels))
    np.testing.assert_array_equal(sample.read()[0], pixels)


def test_images_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="image a is float64 with 1 channels"):
        back(tmp_path, item(pixels=np.zeros((1, 5, 7))))
    with pytest.raises(ValueError, match=r"image a has the shape \(5, 8\) and its mask \(5, 7\)"):
        back(tmp_path, item(pixels=np.zeros((1, 5, 8), np.uint8)))
    with pytest.raises(ValueError, match="two images named 'a'"):
        back(tmp_path, item(), item())


def test_the_table_says_what_is_known(tmp_path):
    one = item("a", split="test", field="slide", modality="fluorescence")
    first, second = back(tmp_path, one, item("b", split="train"), pixel_size_um=0.275)
    assert (first.split, first.field, first.modality, first.pixel_size_um) == ("test", "slide", "fluorescence", 0.275)
    assert (second.split, second.field, second.licence) == ("train", "b", "CC0-1.0")
    (sample,) = back(tmp_path / "out", item(split="val"))
    assert sample.pixel_size_um is None


def test_without_published_splits_fields_are_divided_by_share_and_never_parted():
    items = [item(f"{field}-{n}", field=f"field {field}") for field in range(600) for n in range(2)]
    samples = assign_splits(source(items, val_share=0.2), items)
    assert [sample.name for sample in samples] == [each.stem for each in items]
    splits = {sample.field: sample.split for sample in samples}
    assert all(splits[sample.field] == sample.split for sample in samples)
    counts = Counter(splits.values())
    assert 90 <= counts["val"] <= 150
    assert 40 <= counts["test"] <= 80
    assert samples == assign_splits(source(items, val_share=0.2), items)


def test_published_splits_stay_and_lend_only_a_missing_val():
    items = [item(str(n), split="test" if n < 5 else "train") for n in range(50)]
    splits = {sample.name: sample.split for sample in assign_splits(source(items, val_share=0.3), items)}
    assert all((split == "test") == (int(name) < 5) for name, split in splits.items())
    assert 5 <= list(splits.values()).count("val") <= 25
    items.append(item("last", split="val"))
    kept = [sample.split for sample in assign_splits(source(items), items)]
    assert kept == [each.split for each in items]


def test_after_an_interruption_the_rest_is_written(tmp_path):
    DOWNLOADS["tnbc2018"](tmp_path / "download")

    def stop(done, total):
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("tnbc2018", tmp_path / "download", tmp_path / "out", stop)
    assert not (tmp_path / "out" / "samples.csv").exists()
    assert prepare("tnbc2018", tmp_path / "download", tmp_path / "out").written == 1
    assert len(find_samples(tmp_path / "out")) == 3


def test_a_damaged_image_is_written_again_and_no_half_file_stays(tmp_path):
    DOWNLOADS["consep"](tmp_path / "download")
    prepare("consep", tmp_path / "download", tmp_path / "out")
    path = tmp_path / "out" / "consep" / "images" / "test_1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    assert prepare("consep", tmp_path / "download", tmp_path / "out").written == 1
    assert path.read_bytes() == whole
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_mask_that_changes_its_kind_leaves_no_second_file(tmp_path):
    for lowest in (-1, 0, -1):
        (sample,) = back(tmp_path, item(mask=np.full((5, 7), lowest, np.int32)))
        assert sample.read()[1].min() == lowest
        assert len(list((tmp_path / "out" / "set" / "masks").iterdir())) == 1


def test_sets_share_a_folder_and_replace_their_own_rows_only(tmp_path):
    for name in ("consep", "bbbc039"):
        DOWNLOADS[name](tmp_path / name)
        prepare(name, tmp_path / name, tmp_path / "out")
    assert Counter(sample.dataset for sample in find_samples(tmp_path / "out")) == {"consep": 3, "bbbc039": 3}
    table = tmp_path / "out" / "samples.csv"
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        row["remark"] = f"seen, {row['stem']}"
    with table.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, ["remark", *rows[0]][:-1])
        writer.writeheader()
        writer.writerows(rows)
    prepare("consep", tmp_path / "consep", tmp_path / "out")
    with table.open(newline="") as lines:
        after = {(row["dataset"], row["stem"]): row["remark"] for row in csv.DictReader(lines)}
    assert len(after) == 6
    assert after["bbbc039", "IXMtest_A00_s1"] == "seen, IXMtest_A00_s1"
    assert after["consep", "test_1"] == ""


def test_an_output_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "samples.csv").write_text("name,value\n")
    with pytest.raises(ValueError, match="no column 'dataset'"):
        prepare(source([item()]), tmp_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.csv"]
