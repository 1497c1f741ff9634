"""Who makes the tiles of an image: this process, or others that `cytoseed.run.cluster` asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from cytoseed.images import Regions
from cytoseed.run.engine import Engine
from cytoseed.run.part import Clock, Maker, Subject
from cytoseed.run.pipeline import Made, make_tiles
from cytoseed.run.tiles import Tile

_BATCH = {"cuda": 4}  # tiles that go through the network together; on a CPU they would only take memory


class Crew(Protocol):
    """Makes tiles."""

    @property
    def batch(self) -> int:
        """How many tiles go through the network together."""

    def make(
        self, subject: Subject, regions: Regions, batches: Sequence[Sequence[Tile]], clock: Clock
    ) -> Iterator[Made]:
        """Make tiles.

        Parameters
        ----------
        subject : Subject
            Whose tiles.
        regions : Regions
            The image, open in this process.
        batches : sequence of sequences of Tile
            Tiles of a batch are of one size, and go through the network together.
        clock : Clock
            Told how long each part of the work took.

        Yields
        ------
        Made
            One for each tile, in any order.
        """


class Here:
    """Makes tiles in this process.

    Parameters
    ----------
    engine : Engine
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batch = batch_on(engine.device.type)

    def make(
        self, subject: Subject, regions: Regions, batches: Sequence[Sequence[Tile]], clock: Clock
    ) -> Iterator[Made]:
        """See `Crew.make`; in the order of the tiles."""
        return make_tiles(Maker(subject, regions, self._engine, clock), batches)


def batch_on(device: str) -> int:
    """Tell how many tiles go through the network together on a kind of device, such as `cuda`."""
    return _BATCH.get(device, 1)
