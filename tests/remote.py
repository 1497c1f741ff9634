"""Remote stores that run on this machine: S3 by moto, and web servers with and without range requests."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server, which the environment names, with credentials."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it logs every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        variables = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "nowhere",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        forget_sessions()
        yield address
        forget_sessions()
    server.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of local copies, of this test alone."""
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(s3_server: str) -> str:  # noqa: ARG001 - it must run
    """URL of an empty bucket of its own, `s3://...`."""
    import fsspec

    url = f"s3://test-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").mkdir(url)
    return url


def forget_sessions() -> None:
    """Close the sessions of s3fs and fsspec's HTTP, so that the next one reads the environment again."""
    from fsspec.asyn import sync
    from fsspec.implementations.http import HTTPFileSystem
    from s3fs import S3FileSystem

    for kind in (S3FileSystem, HTTPFileSystem):
        for fs in list(kind._cache.values()):
            session = fs._s3 if kind is S3FileSystem else fs._session
            if session is not None and not fs.asynchronous:
                sync(fs.loop, session.close)
        kind.clear_instance_cache()


def put(path: Path, url: str) -> str:
    """Copy a file or a folder to a URL, and return the URL."""
    import fsspec

    fs, place = fsspec.url_to_fs(url)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                fs.pipe_file(f"{place}/{file.relative_to(path).as_posix()}", file.read_bytes())
    else:
        fs.pipe_file(place, path.read_bytes())
    return url


class Web:
    """A web server of a folder."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.parts = True
        """Whether it serves parts of files."""
        self.status = 0
        """Status with which it answers every request, if not 0."""
        self.asked: list[tuple[str, str, int]] = []
        """Method, path and number of bytes sent, of every request."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A web server of the folder `web` in the test's own folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    with serving(folder) as server:
        yield server
    forget_sessions()


@contextmanager
def serving(folder: Path) -> Iterator[Web]:  # noqa: C901
    """Serve a folder, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer("HEAD")

        def do_GET(self) -> None:
            self._answer("GET")

        def _answer(self, method: str) -> None:
            path = self.path.partition("?")[0]
            file = folder / path.lstrip("/")
            if served.status or not file.is_file():
                self._send(method, served.status or 404, b"", {})
                return
            data = file.read_bytes()
            headers = {"ETag": f'"{hash(data)}"', "Content-Type": "application/octet-stream"}
            wanted = _RANGE.fullmatch(self.headers.get("Range", "")) if served.parts else None
            if wanted is None:
                self._send(method, 200, data, headers)
                return
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(method, 206, data[first : last + 1], headers)

        def _send(self, method: str, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            sent = 0
            if method == "GET":
                try:
                    self.wfile.write(data)
                    sent = len(data)
                except OSError:  # the client has closed the connection
                    self.close_connection = True
            served.asked.append((method, self.path, sent))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Web(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
