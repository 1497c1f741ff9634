"""Tiles come out in order, failures stay alone, and nothing waits for ever."""

import threading

import pytest
import torch

from cytoseed.run.executor import run_tiles
from cytoseed.run.tile import TileInput
from cytoseed.run.tiles import Grid

GRID = Grid(height=64, width=640, core_px=64, margin_px=64, reach_px=0)


class FakeProcessor:
    """A processor whose stages fail as often as `failing` says: {(step, tile): times}."""

    def __init__(self, failing=(), error=RuntimeError):
        self.failing = dict(failing)
        self.error = error
        self.calls = []
        self.held = self.most = 0
        self._lock = threading.Lock()

    def _step(self, name, tile):
        with self._lock:
            self.calls.append((name, tile))
            left = self.failing.get((name, tile), 0)
            if left:
                self.failing[name, tile] = left - 1
                raise self.error(f"{name} of {tile}")

    def read(self, tile):
        with self._lock:
            self.held += 1
            self.most = max(self.most, self.held)
        self._step("read", tile.number)
        return TileInput(None, (0, 0), torch.tensor([float(tile.number)]))

    def fields(self, tensors):
        numbers = [int(tensor) for tensor in tensors]
        for number in numbers:
            self._step("fields", number)
        return torch.tensor([numbers])  # (V, N)

    def objects(self, tile, tile_input, views):
        assert int(tile_input.tensor) == tile.number
        assert views.tolist() == [[tile.number]]
        self._step("objects", tile.number)
        with self._lock:
            self.held -= 1
        return f"objects of {tile.number}"


def batches(*sizes):
    tiles = iter(map(GRID.tile, range(sum(sizes))))
    return [[next(tiles) for _ in range(size)] for size in sizes]


@pytest.mark.parametrize("sizes", [(), (1,), (1, 1, 1, 1, 1, 1), (3, 3, 2), (2, 1, 4)])
def test_tiles_come_in_order(sizes):
    made = list(run_tiles(FakeProcessor(), batches(*sizes)))
    assert [one.tile.number for one in made] == list(range(sum(sizes)))
    assert [one.objects for one in made] == [f"objects of {index}" for index in range(sum(sizes))]
    assert not any(one.cause for one in made)


def test_no_more_tiles_are_held_than_there_are_stages():
    processor = FakeProcessor()
    list(run_tiles(processor, batches(*[1] * 10)))
    assert processor.most <= 3


@pytest.mark.parametrize("step", ["read", "fields", "objects"])
@pytest.mark.parametrize("times", [1, 9])
def test_a_failed_tile_is_tried_again_and_the_others_continue(step, times):
    processor = FakeProcessor({(step, 3): times})
    made = list(run_tiles(processor, batches(2, 2, 2)))
    assert [one.tile.number for one in made] == list(range(6))
    failed = [one.tile.number for one in made if one.objects is None]
    assert failed == ([] if times == 1 else [3])
    if failed:
        assert made[3].cause == f"{step} of 3"
    assert processor.calls.count(("objects", 2)) == 1


def threads_of_a_new_thread() -> int:
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


def test_later_threads_have_all_cores_again():
    """A stage's number of threads becomes PyTorch's default for new threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(run_tiles(FakeProcessor(), batches(1, 1)))
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    finally:
        torch.set_num_threads(before)


def test_closing_early_stops_the_threads():
    before = threading.active_count()
    tiles = run_tiles(FakeProcessor(), batches(*[1] * 10))
    next(tiles)
    tiles.close()
    assert threading.active_count() == before


def test_an_interrupt_in_a_stage_is_raised():
    class Broken(FakeProcessor):
        def read(self, _):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_tiles(Broken(), batches(1)))
