"""A progress bar in notebooks and terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cytoseed.run.slide import Callbacks, Progress


@contextmanager
def progress_bar(title: str, callbacks: Callbacks) -> Iterator[Callbacks]:
    """Show a bar of tiles that are done, full at the end of the `with` block; yields callbacks that move it too."""
    from tqdm.auto import tqdm

    with tqdm(total=1, desc=title, unit="tile") as bar:

        def advance(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_postfix(objects=progress.objects, refresh=False)
            bar.update(progress.done - bar.n)
            callbacks.progress(progress)

        yield callbacks._replace(progress=advance)
        bar.update(bar.total - bar.n)  # an image that is one tile reports no progress
