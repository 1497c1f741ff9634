"""`cytoseed info` and `cytoseed models`: image files, and models known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoseed.cli.console import FAILED, exit_on_mistake, print_entry, print_json, print_line, run_each, wants_json

if TYPE_CHECKING:
    from cytoseed.images import Image


def models() -> None:
    """List the models that can be given by name."""
    with exit_on_mistake(FAILED):
        from cytoseed.models.weights import list_models

        if wants_json():
            print_json([config.to_dict() for config in list_models()])
            return
        for config in list_models():
            facts = f"network {config.network}, {config.pixel_size_um:g} µm per pixel, {config.licence}"
            print_entry(f"{config.name} {config.version}: {' and '.join(config.targets)}; {facts}", config.description)


def info(images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, or their URLs.")]) -> None:
    """Show the size, channels, data type and pixel size of images, and the images in a file of several."""
    facts: list[dict[str, Any]] = []

    def work(path: str) -> bool:
        from cytoseed.images import choose_frames, choose_series, list_series

        found = list_series(path)
        shown = choose_series(path, found)[0]
        opened = shown.open()
        times, depths = (1, 1) if opened.stack is None else opened.stack.planes.shape[:2]
        image = choose_frames(opened, z=0, time=0)[0]
        facts.append(
            _facts(path, image) | {"images": [one.name for one in found], "z_planes": depths, "time_points": times}
        )
        print_line(path)
        for number, one in enumerate(found if len(found) > 1 else ()):
            left_out = ", a smaller picture, left out unless --series names it" if one.is_picture else ""
            print_line(f"  image {number:<5} {one}{', described here' if one is shown else left_out}")
        _show(image)
        if depths * times > 1:
            print_line(f"  planes      {depths} along z, {times} time points: choose with --z and --time")
        return True

    with exit_on_mistake(FAILED):
        try:
            run_each(images, str, work, on_error=lambda path, message: facts.append({"image": path, "error": message}))
        finally:
            if wants_json():
                print_json(facts)


def _facts(path: str, image: Image) -> dict[str, Any]:
    channels, height, width = image.shape
    y_um, x_um = image.pixel_size_yx_um or (None, None)
    return {
        "image": path,
        "offset_xy": list(image.offset_yx[::-1]),
        "width": width,
        "height": height,
        "channels": channels,
        "channel_names": list(image.channel_names),
        "dtype": str(image.dtype),
        "pixel_size_x_um": x_um,
        "pixel_size_y_um": y_um,
        "pixel_size_source": image.pixel_size_source,
    }


def _show(image: Image) -> None:
    channels, height, width = image.shape
    size = image.pixel_size_source
    if image.pixel_size_yx_um is not None:
        y, x = image.pixel_size_yx_um
        size = f"{x:g} µm ({size})" if x == y else f"{x:g} x {y:g} µm, width x height ({size})"
    names = (f"{index} ({name})" for index, name in enumerate(image.channel_names))
    print_line(f"  size        {width} x {height} px (width x height)")
    if image.offset_yx != (0, 0):
        y, x = image.offset_yx
        print_line(f"  bounds      cropped to those of the scans, at x {x}, y {y} of the slide's canvas")
    print_line(f"  channels    {channels}: {', '.join(names)}", f"  type        {image.dtype}", f"  pixel size  {size}")
