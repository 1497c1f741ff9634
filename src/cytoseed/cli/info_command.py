"""`cytoseed info` and `cytoseed models`: image files, and models known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.cli.console import FAILED, exit_on_mistake, print_entry, run_each

if TYPE_CHECKING:
    from cytoseed.images import Image


def models() -> None:
    """List the models that are known by name."""
    with exit_on_mistake(FAILED):
        from cytoseed.models.weights import list_models

        for config in list_models():
            facts = f"network {config.network}, {config.pixel_size_um:g} µm per pixel, {config.licence}"
            print_entry(f"{config.name} {config.version}: {' and '.join(config.targets)}; {facts}", config.description)


def info(images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, or their URLs.")]) -> None:
    """Show size, channels, type and pixel size of images."""
    with exit_on_mistake(FAILED):
        run_each(images, str, _show)


def _show(path: str) -> bool:
    from cytoseed.images import open_image

    image = open_image(path)
    channels, height, width = image.shape
    names = (f"{index} ({name})" for index, name in enumerate(image.channel_names))
    typer.echo(f"{image.path}")
    typer.echo(f"  size        {width} x {height} px (width x height)")
    typer.echo(f"  channels    {channels}: {', '.join(names)}")
    typer.echo(f"  type        {image.dtype}")
    typer.echo(f"  pixel size  {_pixel_size(image)}")
    return True


def _pixel_size(image: Image) -> str:
    if image.pixel_size_yx_um is None:
        return image.pixel_size_source
    height, width = image.pixel_size_yx_um
    sides = f"{width:g} µm" if height == width else f"{width:g} x {height:g} µm, width x height"
    return f"{sides} ({image.pixel_size_source})"
