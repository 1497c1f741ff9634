"""Shards to results: what `cytoseed merge` does."""

from __future__ import annotations

from cytoseed.cli.console import MISTAKES, Remarks, complain


def merge_all(output: str, image: str | None = None) -> int:
    """Join the shards of every image in a folder, and say what became of each.

    Returns
    -------
    int
        How many images could not be joined, or lack a part.

    Raises
    ------
    FileNotFoundError
        There are no shards.
    ValueError
        There are those of several images, and the place of one was given.
    """
    from rich.console import Console

    from cytoseed.run.shards import find_shards, merge
    from cytoseed.run.slide import Watcher

    stems = sorted(find_shards(output))
    if not stems:
        raise FileNotFoundError(f"no shards in {output!r}; cytoseed segment --shard 1/8 makes one")
    if image is not None and len(stems) > 1:
        raise ValueError(f"{output} holds shards of {len(stems)} images; --image is for those of one")
    console, remarks, failed = Console(soft_wrap=True, highlight=False, markup=False), Remarks(), 0
    for stem in stems:
        watch = Watcher(lambda text, stem=stem: remarks.add(stem, text), lambda _: None)  # type: ignore[misc]
        try:
            run = merge(output, stem, image, watch)
        except (*MISTAKES, MemoryError) as error:
            complain(str(error) or "not enough memory")
            failed += 1
            continue
        counted = "already there" if run.result is None else f"{run.result.count} {run.result.targets[-1]}"
        console.print(f"{stem}: {counted} -> {output}")
        failed += bool(run.failures)
    remarks.close()
    return failed
