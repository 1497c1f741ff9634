"""`cytoseed info` and `cytoseed models`: image files, and models known by name."""

from __future__ import annotations

from typing import Annotated

import typer

from cytoseed.cli.console import FAILED, exit_on_mistake, print_entry, run_each


def models() -> None:
    """List the models that can be given by name."""
    with exit_on_mistake(FAILED):
        from cytoseed.models.weights import list_models

        for config in list_models():
            facts = f"network {config.network}, {config.pixel_size_um:g} µm per pixel, {config.licence}"
            print_entry(f"{config.name} {config.version}: {' and '.join(config.targets)}; {facts}", config.description)


def info(images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, or their URLs.")]) -> None:
    """Show the size, channels, data type and pixel size of images, and the images in a file of several."""
    with exit_on_mistake(FAILED):
        run_each(images, str, _show)


def _show(path: str) -> bool:
    from cytoseed.images import choose_series, list_series

    found = list_series(path)
    shown = choose_series(path, found)[0]
    typer.echo(path)
    for number, one in enumerate(found if len(found) > 1 else ()):
        left_out = ", a smaller picture, left out unless --series names it" if one.is_picture else ""
        typer.echo(f"  image {number:<5} {one}{', described here' if one is shown else left_out}")
    image = shown.open()
    channels, height, width = image.shape
    size = image.pixel_size_source
    if image.pixel_size_yx_um is not None:
        y, x = image.pixel_size_yx_um
        size = f"{x:g} µm ({size})" if x == y else f"{x:g} x {y:g} µm, width x height ({size})"
    names = (f"{index} ({name})" for index, name in enumerate(image.channel_names))
    typer.echo(f"  size        {width} x {height} px (width x height)")
    if image.offset_yx != (0, 0):
        y, x = image.offset_yx
        typer.echo(f"  bounds      cropped to those of the scans, at x {x}, y {y} of the slide's canvas")
    typer.echo(f"  channels    {channels}: {', '.join(names)}\n  type        {image.dtype}")
    typer.echo(f"  pixel size  {size}")
    return True
