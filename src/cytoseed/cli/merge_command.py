"""`cytoseed merge`: results from shards."""

from __future__ import annotations

from typing import Annotated

import typer

from cytoseed.cli.console import FAILED, Notes, exit_on_mistake, plain_console, run_each


def merge(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output folder of all shards.")],
    image: Annotated[
        str | None, typer.Option(help="Location of the image if it has moved; for shards of one image.")
    ] = None,
) -> None:
    """Join the parts made by `cytoseed segment --shard`, and write the files that one run would have written."""
    with exit_on_mistake(FAILED):
        from cytoseed.run.shards import find_shards
        from cytoseed.run.shards import merge as merge_shards
        from cytoseed.run.slide import Callbacks

        stems = sorted(find_shards(output))
        if not stems:
            raise FileNotFoundError(f"no shards in {output!r}; cytoseed segment --shard 1/8 makes one")
        if image is not None and len(stems) > 1:
            raise ValueError(f"{output} holds shards of {len(stems)} images; --image is for those of one")
        console, notes = plain_console(), Notes()

        def work(stem: str) -> bool:
            run = merge_shards(output, stem, image, Callbacks(lambda text: notes.add(stem, text)))
            counted = "already there" if run.result is None else f"{run.result.count} {run.result.targets[-1]}"
            console.print(f"{stem}: {counted} -> {output}")
            return not run.failures

        run_each(stems, str, work, notes)
