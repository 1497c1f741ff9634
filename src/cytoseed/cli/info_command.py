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
    """Show the size, channels, data type and pixel size of images."""
    with exit_on_mistake(FAILED):
        run_each(images, str, _show)


def _show(path: str) -> bool:
    from cytoseed.images import open_image

    image = open_image(path)
    channels, height, width = image.shape
    size = image.pixel_size_source
    if image.pixel_size_yx_um is not None:
        y, x = image.pixel_size_yx_um
        size = f"{x:g} µm ({size})" if x == y else f"{x:g} x {y:g} µm, width x height ({size})"
    names = (f"{index} ({name})" for index, name in enumerate(image.channel_names))
    typer.echo(f"{image.path}\n  size        {width} x {height} px (width x height)")
    typer.echo(f"  channels    {channels}: {', '.join(names)}\n  type        {image.dtype}")
    typer.echo(f"  pixel size  {size}")
    return True
