"""Tiles as large as memory allows, and no larger."""

import pytest

from cytoseed.run import memory
from cytoseed.run.memory import core_for, free_bytes, give_back
from cytoseed.settings import ModelConfig

LITE, PAPER = ModelConfig("lite"), ModelConfig("paper", network="paper")


@pytest.mark.parametrize("config", [LITE, PAPER])
@pytest.mark.parametrize("tta", [False, True])
def test_less_memory_gives_smaller_tiles(monkeypatch, config, tta):
    sides = []
    for free in (100e9, 5e9, 3e9, 2e9, 1e9, 0):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        sides.append(core_for(config, 176, 60, tta))
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1] == 256
    assert all(side % 64 == 0 for side in sides)


def test_costly_networks_and_views_get_smaller_tiles(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100e9)
    assert core_for(LITE, 176, 60, False) > core_for(PAPER, 160, 60, False) > core_for(PAPER, 160, 60, True)


def test_memory_is_asked_for_and_given_back():
    assert free_bytes() > 1e6
    give_back()
