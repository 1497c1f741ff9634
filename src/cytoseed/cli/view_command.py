"""`cytoseed view`: images and results in the browser."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, print_line, print_note

if TYPE_CHECKING:
    from cytoseed.view.server import Viewed

_PORTS_TRIED = 20
_HERE = ("127.0.0.1", "localhost", "::1")


def view(
    inputs: Annotated[
        list[str], typer.Argument(metavar="RESULT|IMAGE", help="Results (STEM.objects.zip, or their folder) or images.")
    ],
    image: Annotated[
        str | None, typer.Option(help="New location of the image, if it has moved; for one result.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port; if it is in use, the next free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Network interface; others than this machine's own let anybody in.")
    ] = _HERE[0],
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
) -> None:
    """Show images and results in the browser: pan, zoom, colour, filter, click.

    Nothing leaves this machine, and only someone with the printed address can look. Ctrl-C ends it.
    """
    with exit_on_mistake(MISUSED):
        try:
            import uvicorn

            from cytoseed.view.server import make_app
        except ImportError as error:
            raise ModuleNotFoundError(
                f"the viewer needs the package {error.name}: pip install 'cytoseed[view]'"
            ) from error
        viewed = _find(inputs, image)
    with exit_on_mistake(FAILED), ExitStack() as stack:
        import secrets
        import webbrowser

        for each in viewed:
            each.open(stack)
        bound = stack.enter_context(_free_socket(host, port))
        taken, token = bound.getsockname()[1], secrets.token_urlsafe(16)
        if taken != port:
            print_note(f"port {port} is in use, so {taken} is taken")
        if host not in _HERE:
            print_note(f"{host} can be reached from other machines; whoever has the address can look")
        hosts = [f"{name}:{taken}" for name in {host, *_HERE[:2]}]
        address = f"http://{host}:{taken}/{token}/"
        print_line(address, "Ctrl-C ends the viewer")
        if browser:
            webbrowser.open(address)
        uvicorn.Server(uvicorn.Config(make_app(viewed, token, hosts), log_level="warning")).run(sockets=[bound])


def _find(inputs: Sequence[str], moved: str | None) -> list[Viewed]:
    """Images and results named by files and folders."""
    from cytoseed.cli.inputs import find_images, find_results
    from cytoseed.images import choose_frames, choose_series, list_series
    from cytoseed.paths import display
    from cytoseed.results import open_result
    from cytoseed.results.formats.objects_zip import SUFFIX
    from cytoseed.view.server import Viewed

    found = []
    for name in inputs:
        path = Path(name)
        if name.endswith(SUFFIX) or (path.is_dir() and any(path.glob(f"*{SUFFIX}"))):
            results = find_results([name])
            if moved is not None and len(inputs) + len(results) > 2:
                raise ValueError("--image is for one result; name that result alone")
            for stored in results:
                result = open_result(stored, moved)
                found.append(Viewed(stored.name.removesuffix(SUFFIX), result.find_image(), result))
        else:
            for image in find_images([name]):
                series = choose_series(display(image), list_series(image))
                names = [image.name if one.is_main else f"{image.name}, {one.name}" for one in series]
                found += [
                    Viewed(*each, None)
                    for each in zip(names, (choose_frames(one.open())[0] for one in series), strict=True)
                ]
    return found


def _free_socket(host: str, port: int) -> socket.socket:
    """Socket bound to the port, or to the next free one."""
    cause = ""
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            bound.bind((host, candidate))
        except OSError as error:
            bound.close()
            cause = error.strerror or str(error)
        else:
            return bound
    raise OSError(
        f"no port from {port} to {port + _PORTS_TRIED - 1} on {host} can be used ({cause}): give another --port"
    )
