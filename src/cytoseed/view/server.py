"""Server of the viewer: the page, tiles and measurements of the given images, behind a secret in the address."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from cytoseed.images import Image
from cytoseed.results import Result
from cytoseed.view.columns import Columns
from cytoseed.view.tiles import TILE_PX, Display, ImageTiles, label_tile

_STATIC = Path(__file__).with_name("static")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


@dataclass
class Viewed:
    """An image on view, and its result if there is one."""

    name: str
    image: Image
    result: Result | None

    def open(self, stack: ExitStack) -> None:
        """Keep the image open for the life of the server."""
        self.tiles = ImageTiles(self.image, stack.enter_context(self.image.regions()))
        self._lock = Lock()
        self._columns: Columns | None = None

    @property
    def columns(self) -> Columns | None:
        """Measurements, gathered from the first use on."""
        with self._lock:
            if self._columns is None and self.result is not None:
                self._columns = Columns(self.result)
            return self._columns

    def describe(self) -> dict[str, Any]:
        """Everything that the page needs to begin."""
        channels, height, width = self.image.shape
        described: dict[str, Any] = {
            "name": self.name,
            "height": height,
            "width": width,
            "tile": TILE_PX,
            "pixel_size_um": self.image.pixel_size_yx_um[0] if self.image.pixel_size_yx_um else None,
            "brightfield": self.tiles.is_brightfield,
            "channels": [
                {
                    "name": self.image.channel_names[each.channel],
                    "colour": "#{:02x}{:02x}{:02x}".format(*each.colour),
                    "low": each.low,
                    "high": each.high,
                    "on": each.channel < 7,
                }
                for each in self.tiles.displays[:channels]
            ],
        }
        if self.result is not None:
            result = self.result
            described |= {"count": result.count, "targets": list(result.targets), "model": result.settings.get("model")}
        return described


def make_app(views: Sequence[Viewed], token: str, hosts: Sequence[str]) -> FastAPI:
    """The application; every address begins with the token, and requests must name one of the hosts."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        host = request.headers.get("host", "")
        is_foreign = host not in hosts or (origin is not None and origin.partition("://")[2] not in hosts)
        given = request.url.path.split("/")[1].encode()
        if is_foreign or not secrets.compare_digest(given, token.encode()):
            return Response("not found", 404, _HEADERS)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    app.include_router(_Answers(views).router(), prefix=f"/{token}")
    return app


class _Answers:
    """Answers to the requests of the page."""

    def __init__(self, views: Sequence[Viewed]) -> None:
        self._views = views

    def router(self) -> APIRouter:
        """Addresses and their answers; nothing but these is served."""
        router = APIRouter()
        for address, answer in {
            "/": self.page,
            "/static/{name}": self.static,
            "/views.json": self.names,
            "/{index}/view.json": self.describe,
            "/{index}/image/{zoom}/{column}/{row}": self.image_tile,
            "/{index}/labels/{target}/{zoom}/{column}/{row}": self.label_tile,
            "/{index}/columns.json": self.columns,
            "/{index}/column/{name:path}": self.column,
            "/{index}/row/{number}": self.row,
        }.items():
            router.add_api_route(address, cast(Callable[..., Any], answer), response_class=Response)
        return router

    def _find(self, index: int) -> Viewed:
        if not 0 <= index < len(self._views):
            raise HTTPException(404)
        return self._views[index]

    def _result(self, index: int) -> tuple[Result, Columns]:
        view = self._find(index)
        if view.result is None or view.columns is None:
            raise HTTPException(404)
        return view.result, view.columns

    def page(self) -> Response:
        """The page."""
        return FileResponse(_STATIC / "index.html")

    def static(self, name: str) -> Response:
        """A file of the page."""
        if name not in {path.name for path in _STATIC.iterdir()}:
            raise HTTPException(404)
        return FileResponse(_STATIC / name)

    def names(self) -> Response:
        """Names of the images."""
        return JSONResponse([view.name for view in self._views])

    def describe(self, index: int) -> Response:
        """Size, channels and objects of an image."""
        return JSONResponse(self._find(index).describe())

    def image_tile(self, index: int, zoom: int, column: int, row: int, show: str = "") -> Response:
        """A tile as JPEG; `show` has the displays of channels, separated by commas."""
        view = self._find(index)
        with _missing(ValueError):
            displays = [_parse_display(part, view.image.shape[0]) for part in show.split(",")] if show else None
            return Response(view.tiles.jpeg(_zoom(zoom), column, row, displays), media_type="image/jpeg")

    def label_tile(self, index: int, target: int, zoom: int, column: int, row: int) -> Response:
        """Labels of a tile, as uint32."""
        result, _ = self._result(index)
        with _missing(ValueError):
            tile = label_tile(result, _zoom(zoom), column, row, range(len(result.targets)).index(target))
        return _binary(tile.astype("<u4"), tile.shape[1])

    def columns(self, index: int) -> Response:
        """Names of the measurements, once they have been gathered."""
        _, columns = self._result(index)
        is_ready = columns.is_ready.is_set()
        names = columns.names() if is_ready else []
        return JSONResponse({"ready": is_ready, "done": columns.done, "error": columns.error, "names": names})

    def column(self, index: int, name: str) -> Response:
        """One measurement of all objects, as float32."""
        with _missing(KeyError):
            values = self._result(index)[1].column(name)
        return _binary(values.astype("<f4"), len(values))

    def row(self, index: int, number: int) -> Response:
        """All measurements of one object."""
        with _missing(IndexError):
            return JSONResponse(self._result(index)[1].row(number))


@contextmanager
def _missing(error: type[Exception]) -> Iterator[None]:
    """Answer with 404 in place of an error."""
    try:
        yield
    except error as cause:
        raise HTTPException(404) from cause


def _zoom(zoom: int) -> int:
    if not 0 <= zoom <= 40:
        raise ValueError(zoom)
    return zoom


def _binary(values: np.ndarray[Any, Any], width: int) -> Response:
    return Response(values.tobytes(), media_type="application/octet-stream", headers={"X-Width": str(width)})


def _parse_display(text: str, channels: int) -> Display:
    """Display written as `channel:rrggbb:low:high`; a ValueError for anything else."""
    number, colour, low, high = text.split(":")
    parts = int(number), float(low), float(high)
    if not 0 <= parts[0] < channels or len(colour) != 6 or not np.isfinite(parts[1:]).all() or parts[1] >= parts[2]:
        raise ValueError(text)
    red, green, blue = (int(colour[place : place + 2], 16) for place in (0, 2, 4))
    return Display(parts[0], (red, green, blue), *parts[1:])
