"""Objects packed in bits come back; damage is noticed; a store gives back what was written, or nothing."""

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoseed.results.objects import Objects, join_objects, pack_masks
from cytoseed.results.store import StitchedObjects, Store

COLUMNS = ["area_px", "mean_ß α"]


def some_partners(rng, target):
    """Some nuclei have a cell."""
    nuclei, cells = (rng.permutation(np.flatnonzero(target == which)) for which in (0, 1))
    count = rng.integers(0, min(len(nuclei), len(cells)) + 1)
    partner = np.full(len(target), -1)
    partner[nuclei[:count]], partner[cells[:count]] = cells[:count], nuclei[:count]
    return partner


def some_objects(seed=0, count=5):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, count).astype(np.uint8)
    sizes = rng.integers(1, 20, (count, 2))
    masks = [rng.random(size) < 0.7 for size in sizes]
    numbers = np.array([(mask.sum(), rng.random()) for mask in masks], np.float64).reshape(-1, 2)
    objects = Objects(
        target=target,
        box_yxhw=np.concatenate([rng.integers(0, 90, (count, 2)), sizes], axis=1),
        bits=pack_masks(masks),
        score=rng.random(count).astype(np.float32),
        is_owned=rng.random(count) < 0.5,
        numbers=numbers,
        columns=np.array(COLUMNS),
        is_count=np.array([True, False]),
        left_out_yxhw=np.arange(8).reshape(2, 4),
        partner=some_partners(rng, target),
    )
    return objects, masks


def equal(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_masks_come_back(seed, count):
    objects, masks = some_objects(seed, count)
    assert len(objects) == count
    back = Objects.from_bytes(objects.to_bytes())
    assert equal(objects, back)
    assert objects.to_bytes() == back.to_bytes()
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(back.mask(index), mask)
    table = back.table()
    assert list(table.columns) == COLUMNS
    assert [kind.kind for kind in table.dtypes] == ["i", "f"]
    assert table["area_px"].tolist() == [mask.sum() for mask in masks]


@given(st.integers(0, 2**32 - 1), st.data())
def test_some_of_them_in_another_order(seed, data):
    objects, masks = some_objects(seed, 6)
    order = data.draw(st.permutations(range(6)))[: data.draw(st.integers(0, 6))]
    taken = objects.take(order)
    for place, index in enumerate(order):
        np.testing.assert_array_equal(taken.mask(place), masks[index])
        assert taken.score[place] == objects.score[index]
        partner = objects.partner[index]
        assert taken.partner[place] == (order.index(partner) if partner in order else -1)
    chosen = np.isin(np.arange(6), order)
    assert equal(objects.take(chosen), objects.take(sorted(order)))


def test_replaced_objects_take_the_place_of_others():
    objects, masks = some_objects(1, 4)
    objects = dataclasses.replace(objects, partner=np.array([-1, 2, 1, -1]))
    others, new = some_objects(2, 2)
    result = objects.replaced(np.array([2, 0]), others)
    assert result.partner.tolist() == [-1, 2, 1, -1]
    for place, mask in enumerate([new[1], masks[1], new[0], masks[3]]):
        np.testing.assert_array_equal(result.mask(place), mask)


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(-5, 80)] * 2, *[st.integers(1, 40)] * 2))
def test_a_region_is_a_crop_of_all(seed, box):
    objects, _ = some_objects(seed, 6)
    ids = np.arange(11, 17)
    whole = np.zeros((2, 150, 150), np.int32)
    objects.paint(whole, (-20, -20, 150, 150), ids)
    part = np.zeros((2, *box[2:]), np.int32)
    objects.paint(part, box, ids)
    top, left = box[0] + 20, box[1] + 20
    np.testing.assert_array_equal(part, whole[:, top : top + box[2], left : left + box[3]])


def test_a_store_gives_back_what_was_written(tmp_path):
    store = Store(tmp_path / "slide.cytoseed")
    assert store.run() is None
    store.announce({"a": "e"})
    assert store.run() == {"a": "e"}
    with pytest.raises(ValueError, match=r"todo\.npy"):
        store.todo()
    store.begin({"a": "é"}, np.array([1, 3, 12]))
    assert store.run() == {"a": "é"}
    assert store.todo().tolist() == [1, 3, 12]
    assert store.done() == set()
    objects, _ = some_objects()
    store.write(12, objects)
    assert store.done() == {12}
    assert equal(store.read(12), objects)
    with pytest.raises(FileNotFoundError):
        store.read(1)
    assert store.kept() is None
    place, ids, boxes = np.array([3, 0]), np.array([1, 1]), np.zeros((1, 4), int)
    kept = StitchedObjects(np.array([0, 2]), place, ids, boxes, boxes[:0], np.array([1]), objects)
    store.write_kept(kept)
    back = store.kept()
    for name in StitchedObjects._fields:
        if name != "changed":
            np.testing.assert_array_equal(getattr(back, name), getattr(kept, name))
    assert equal(back.changed, objects)
    store.drop(12)
    assert store.done() == set()
    assert store.kept() is None
    store.change(b=2)
    assert store.run() == {"a": "é", "b": 2}
    store.write(3, objects)
    store.announce({})
    assert store.run() == {}
    assert store.done() == set()


def test_a_damaged_tile_is_named(tmp_path):
    store = Store(tmp_path)
    store.announce({})
    store.begin({}, np.array([0]))
    store.write(0, some_objects()[0])
    (path,) = (tmp_path / "tiles").glob("*.npz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"00000000.*--resume"):
        store.read(0)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json"):
        store.run()
    (tmp_path / "kept.npz").write_bytes(b"nothing")
    assert store.kept() is None


def test_parts_are_put_one_after_the_other():
    one, masks = some_objects(1, 3)
    other, more = some_objects(2, 2)
    one = dataclasses.replace(one, partner=np.array([-1, 2, 1]))
    other = dataclasses.replace(other, partner=np.array([1, 0]))
    joined = join_objects([one, other])
    for place, mask in enumerate([*masks, *more]):
        np.testing.assert_array_equal(joined.mask(place), mask)
    assert joined.partner.tolist() == [-1, 2, 1, 4, 3]


def test_where_none_has_a_partner_none_is_stored():
    """So that what was stored before there were partners is read, and what has one target is stored alike."""
    objects, _ = some_objects(4, 6)
    alone = dataclasses.replace(objects, partner=np.full(6, -1))
    with np.load(io.BytesIO(alone.to_bytes())) as archive:
        assert "partner" not in archive
    assert Objects.from_bytes(alone.to_bytes()).partner.tolist() == [-1] * 6
    paired = dataclasses.replace(objects, partner=np.array([5, -1, -1, -1, -1, 0]))
    assert Objects.from_bytes(paired.to_bytes()).partner.tolist() == [5, -1, -1, -1, -1, 0]
