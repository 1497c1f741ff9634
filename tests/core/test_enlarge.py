"""Enlarging labels with smooth outlines: parts equal the whole, numbers do not matter, thin things stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cytoseed.core.enlarge import ENLARGE_REACH_PX, enlarge_labels_part, has_stairs
from cytoseed.core.scale import full_box, rescale_labels

SMALL = (60, 70)
SIZES = [(120, 140), (85, 99), (151, 177), (240, 280)]


def discs(seed: int = 0) -> torch.Tensor:
    """Two planes of discs, many of which touch or overlap."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SMALL[0], : SMALL[1]]
    planes = np.zeros((2, *SMALL), np.int32)
    for plane in planes:
        for label in range(1, 25):
            y, x, radius = random.uniform(0, SMALL[0]), random.uniform(0, SMALL[1]), random.uniform(1.5, 7)
            plane[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = label
    return torch.from_numpy(planes)


def enlarge(labels: torch.Tensor, full_yx: tuple[int, int]) -> torch.Tensor:
    small_yx = (labels.shape[1], labels.shape[2])
    return enlarge_labels_part(labels, (0, 0), small_yx, full_yx, (0, 0, *full_yx))


@pytest.mark.parametrize("full_yx", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_object_away_from_the_border_of_a_part_is_as_in_the_whole(full_yx, seed):
    labels = discs(seed)[:1]
    whole = enlarge(labels, full_yx)
    for top, left, height, width in ((0, 0, 30, 40), (11, 23, 40, 41), (30, 20, 30, 50)):
        part = labels[:, top : top + height, left : left + width]
        inside = torch.zeros_like(labels, dtype=torch.bool)
        rows, columns = (
            slice(first + (ENLARGE_REACH_PX if first > 0 else 0), last - (ENLARGE_REACH_PX if last < end else 0))
            for first, last, end in zip((top, left), (top + height, left + width), SMALL, strict=True)
        )
        inside[:, rows, columns] = True
        objects = np.setdiff1d(labels[inside], labels[~inside])
        assert len(objects) > 1
        box = full_box((top, left, height, width), SMALL, full_yx)
        found = enlarge_labels_part(part, (top, left), SMALL, full_yx, box).numpy()
        expected = whole[:, box[0] : box[0] + box[2], box[1] : box[1] + box[3]].numpy()
        for number in objects:
            assert ((found == number) == (expected == number)).all()


def test_numbers_do_not_matter_and_can_be_replaced():
    labels = discs()
    order = torch.from_numpy(np.random.default_rng(3).permutation(24).astype(np.int32) + 1)
    numbers = torch.cat([torch.zeros(1, dtype=torch.int32), order])
    box = (0, 0, *SIZES[0])
    for some in (labels, labels[:1]):
        changed = numbers[enlarge(some, SIZES[0]).long()]
        assert torch.equal(enlarge(numbers[some.long()], SIZES[0]), changed)
        new_numbers = numbers.expand(len(some), -1)
        assert torch.equal(enlarge_labels_part(some, (0, 0), SMALL, SIZES[0], box, new_numbers), changed)


@pytest.mark.parametrize("full_yx", SIZES)
def test_every_object_stays(full_yx):
    for plane in discs(5)[:, None]:
        assert torch.equal(plane.unique(), enlarge(plane, full_yx).unique())


def test_a_cell_holds_its_nucleus():
    cells = discs(2)[:1]
    rows, columns = np.mgrid[: SMALL[0], : SMALL[1]]
    checks = torch.from_numpy((rows // 5 + columns // 4) % 2 == 0)
    nuclei, cells = enlarge(torch.cat([torch.where(checks, cells, 0), cells]), SIZES[1])
    assert torch.equal(cells[nuclei > 0], nuclei[nuclei > 0])


def test_thin_objects_and_gaps_stay_as_they_are():
    labels = torch.zeros(1, 30, 30, dtype=torch.int32)
    labels[0, 2:28, 5] = 1
    labels[0, 2:28, 12:17], labels[0, 2:28, 18:24] = 2, 3
    found, nearest = enlarge(labels, (60, 60)), rescale_labels(labels, 60, 60)
    assert torch.equal(found[:, 8:52], nearest[:, 8:52])


def test_outlines_come_nearer_to_a_circle():
    rows, columns = np.mgrid[:96, :96] + 0.5
    for y, x in ((48, 48), (47.3, 48.6), (48.9, 47.1)):
        truth = torch.from_numpy((rows - y) ** 2 + (columns - x) ** 2 < 22**2)
        fine = truth.view(48, 2, 48, 2).float().mean((1, 3)) >= 0.5
        labels = fine.int()[None]
        wrong = [((each[0] > 0) != truth).sum() for each in (enlarge(labels, (96, 96)), rescale_labels(labels, 96, 96))]
        assert wrong[0] < 0.75 * wrong[1]


def test_only_coarser_labels_have_stairs():
    assert has_stairs((100, 100), (200, 200))
    assert not has_stairs((100, 100), (100, 100))
    assert not has_stairs((100, 100), (119, 119))
    assert not has_stairs((200, 200), (100, 100))
