"""Nuclei and their cells: which belong together, their pixels, their ids; the same in every runtime."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cytoseed.core.pair import pair_nuclei
from cytoseed.core.pieces import whole_objects
from cytoseed.export.graph import trace

COUNT = 9


def whole(planes):
    """Objects of one piece each, as the planes of a segmenter are before they are paired."""
    planes = [whole_objects(torch.from_numpy(plane)[None], COUNT, 0) for plane in planes]
    return torch.cat(planes).numpy()


def blocky(shape):
    """Labels of a few px a side, so that objects are more than single pixels."""
    small = arrays(np.int64, tuple(-(-side // 2) for side in shape), elements=st.integers(0, COUNT))
    return small.map(lambda plane: plane.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]])


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
scenes = shapes.flatmap(
    lambda shape: st.tuples(*[st.one_of(blocky(shape), arrays(np.int64, shape, elements=st.integers(0, 3)))] * 2)
).map(whole)


def pair(labels):
    found = pair_nuclei(torch.from_numpy(labels), COUNT)
    assert found.dtype == torch.int32
    return found.numpy()


def pairs_of(labels):
    """Cell of each nucleus, by the definition."""
    nuclei, cells = labels
    wish = {}
    for nucleus in range(1, nuclei.max() + 1):
        inside = np.bincount(cells[nuclei == nucleus], minlength=2)
        cell = 1 + int(inside[1:].argmax())
        if 2 * inside[cell] >= inside.sum():
            wish[nucleus] = (cell, inside[cell])
    chosen = {}
    for nucleus, (cell, common) in wish.items():
        rivals = {other: size for other, (its, size) in wish.items() if its == cell}
        if common == max(rivals.values()) and nucleus == min(n for n, size in rivals.items() if size == common):
            chosen[nucleus] = cell
    return chosen


@given(scenes)
def test_ids_are_those_of_the_pairs_and_have_no_gaps(labels):
    found = pair(labels)
    cells, chosen = labels[1].max(), pairs_of(labels)
    ids = dict(chosen)
    alone = [nucleus for nucleus in range(1, labels[0].max() + 1) if nucleus not in chosen]
    ids |= {nucleus: cells + place for place, nucleus in enumerate(alone, start=1)}
    assert set(np.unique(found)) | {0} == set(range(cells + len(alone) + 1))
    assert set(np.unique(found[1])) | {0} == set(range(cells + 1))
    for nucleus, number in ids.items():
        mine = found[0] == number
        assert mine.any()
        assert (mine & (labels[0] == nucleus)).any()
    assert set(np.unique(found[0])) | {0} == {0, *ids.values()}


@given(scenes)
def test_a_nucleus_lies_in_its_cell_and_unpaired_objects_do_not_change(labels):
    found = pair(labels)
    chosen = pairs_of(labels)
    for nucleus, cell in chosen.items():
        ours, before = found[0] == cell, labels[0] == nucleus
        strange = ours & (found[1] != cell)
        holes = ndimage.binary_fill_holes(ours & ~strange) & ~(ours & ~strange)
        assert not (strange & ~holes).any(), "only a cell enclosed by the nucleus lies in it"
        assert not (ours & ~before).any(), "no nucleus grows"
        grown = (found[1] == cell) & (labels[1] != cell)
        assert (labels[1][grown] == 0).all(), "no cell loses pixels"
        reached = ndimage.binary_fill_holes(before | (labels[1] == cell))
        assert not (grown & ~reached).any(), "a cell grows by its nucleus alone, and by what that encloses"
        assert (found[1] == cell)[labels[1] == cell].all() or 2 * before.sum() >= (labels[1] == cell).sum()
    for cell in set(range(1, labels[1].max() + 1)) - set(chosen.values()):
        np.testing.assert_array_equal(found[1] == cell, labels[1] == cell)
    alone = [nucleus for nucleus in range(1, labels[0].max() + 1) if nucleus not in chosen]
    for number, nucleus in enumerate(alone, start=1 + labels[1].max()):
        np.testing.assert_array_equal(found[0] == number, labels[0] == nucleus)


@given(scenes)
def test_objects_stay_one_piece_without_holes(labels):
    found = pair(labels)
    for plane in found:
        for number in np.unique(plane[plane > 0]):
            assert ndimage.label(plane == number)[1] == 1
        np.testing.assert_array_equal(whole_objects(torch.from_numpy(plane).long()[None], 99, 0)[0] > 0, plane > 0)


def scene():
    """A cell with a nucleus that sticks out of it, one with two, one without, and a nucleus by itself."""
    labels = np.zeros((2, 40, 60), np.int32)
    labels[1, 5:20, 5:20], labels[1, 5:20, 20:40], labels[1, 25:38, 5:20] = 3, 1, 2
    labels[0, 8:12, 14:22] = 1  # 6 columns in cell 3, 2 in cell 1
    labels[0, 16:23, 8:12] = 2  # in cell 3 too, by 16 of its 28 pixels
    labels[0, 7:12, 26:30] = 4  # 20 pixels in cell 1
    labels[0, 12:17, 32:37] = 3  # 25 pixels in cell 1
    labels[0, 30:35, 50:55] = 5
    return labels


def test_a_worked_example():
    labels = scene()
    found = pair(labels)
    expected = np.zeros_like(labels)
    expected[1] = labels[1]
    expected[0, 8:12, 14:20] = 3  # without what lies in cell 1
    expected[0, 16:23, 8:12] = 4
    expected[0, 12:17, 32:37] = 1
    expected[0, 7:12, 26:30] = 5
    expected[0, 30:35, 50:55] = 6
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("inside", "is_pair"), [(3, False), (4, True), (5, True)])
def test_half_of_a_nucleus_is_enough(inside, is_pair):
    labels = np.zeros((2, 20, 20), np.int32)
    labels[1, 5:12, 5:12] = 1
    labels[0, 6, 12 - inside : 20 - inside] = 1
    found = pair(labels)
    assert (found[0].max() == 1) == is_pair
    np.testing.assert_array_equal(found[0] > 0, labels[0] > 0)
    grown = labels.any(0) if is_pair else labels[1] > 0
    np.testing.assert_array_equal(found[1] > 0, grown, "a cell takes over pixels of its nucleus that no cell has")


def test_ties_go_to_the_lower_number():
    labels = np.zeros((2, 9, 20), np.int32)
    labels[1, 2:7, 2:8], labels[1, 2:7, 8:14] = 2, 1
    labels[0, 4, 6:10] = 1  # half in each cell
    labels[1, 0, 15:20], labels[0, 0, 15:17], labels[0, 0, 18:20] = 3, 3, 2
    found = pair(labels)
    assert found[0, 4, 5:11].tolist() == [0, 0, 0, 1, 1, 0]
    assert found[0, 0, 15:20].tolist() == [4, 4, 0, 3, 3]


def test_nothing_and_one_plane_only():
    empty = torch.zeros(2, 5, 6, dtype=torch.int32)
    assert pair_nuclei(empty, 0).sum() == 0
    for plane in (0, 1):
        labels = np.zeros((2, 5, 6), np.int32)
        labels[plane, 1, 1:3], labels[plane, 3, 3:5] = 1, 2
        np.testing.assert_array_equal(pair(labels), labels)


class Module(torch.nn.Module):
    """As the segmenter calls it: `count` is not a constant of the graph."""

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        return pair_nuclei(labels, labels.flatten().nonzero().shape[0])


def examples():
    return [torch.from_numpy(scene()), torch.zeros(2, 7, 9, dtype=torch.int32), torch.from_numpy(scene()[::-1].copy())]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_equals_eager():
    scripted = torch.jit.script(Module())
    for labels in examples():
        assert torch.equal(scripted(labels), Module()(labels))


@pytest.mark.filterwarnings("ignore")
def test_onnx_equals_eager():
    onnxruntime = pytest.importorskip("onnxruntime")
    content = trace(Module(), examples()[0], "paired", {1: "height", 2: "width"})
    session = onnxruntime.InferenceSession(content)
    for labels in examples():
        (found,) = session.run(None, {"image": labels.numpy()})
        np.testing.assert_array_equal(found, Module()(labels))
