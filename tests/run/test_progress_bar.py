"""The progress bar of `segment`: full at the end, for one tile and for many, beside the user's own callbacks."""

import pytest

import cytoseed
from bright import GREY
from scenes import discs


@pytest.mark.parametrize(("settings", "tiles"), [({}, 1), ({"tile_size_px": 256}, 4)])
def test_the_bar_counts_tiles(capsys, settings, tiles):
    told = []
    calls = cytoseed.Callbacks(progress=told.append)
    result = cytoseed.segment(discs()[0], GREY, callbacks=calls, progress=True, **settings)
    printed = capsys.readouterr().err.split("\r")
    assert f"array: 100%|██████████| {tiles}/{tiles}" in printed[-1]
    assert [each.done for each in told] == (list(range(1, tiles + 1)) if settings else [])
    assert not told or f"objects={told[-1].objects}" in printed[-1]
    assert result.count > 50


def test_without_it_nothing_is_printed(capsys):
    cytoseed.segment(discs()[0], GREY)
    assert capsys.readouterr() == ("", "")
