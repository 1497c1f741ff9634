"""What `cytoseed evaluate` looks at before it scores anything."""

from __future__ import annotations

from pathlib import Path


def check_plots(folder: Path | None, images: Path | None) -> None:
    """Refuse plots that could not be drawn, before the work of scoring.

    Raises
    ------
    FileNotFoundError
        The folder of images is not there.
    ValueError
        Images are given and no folder for plots; or matplotlib, which draws them, is not installed.
    """
    if folder is None:
        if images is not None:
            raise ValueError(f"images is {str(images)!r}, which only the pictures of --plot need; give --plot too")
        return
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"images is {str(images)!r}, which is no folder; give the folder of the images")
    from cytoseed.learn.plots import require_matplotlib

    try:
        require_matplotlib()
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
