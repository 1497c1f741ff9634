"""URLs as text: what of them is a path, what is a name, and what may be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:/ is a disk
_LOCAL = ("file", "local")
_WEB = ("http", "https")
_PASSWORD = re.compile(r"^[^/@:]*:[^/@]*@")


class SplitUrl(NamedTuple):
    """A URL, or a chain of them as fsspec has it: `simplecache::s3://bucket/a.tif`, `zip://a.tif::s3://bucket/b.zip`."""

    before: str
    """Such as `simplecache::`."""
    protocol: str
    """Of what has the path."""
    path: str
    """Behind `://`; of the web without the query."""
    query: str
    """Of the web, with its `?`: a signature, often."""
    after: str
    """Such as `::s3://bucket/b.zip`."""

    def joined(self) -> str:
        """Give the URL again."""
        return f"{self.before}{self.protocol}://{self.path}{self.query}{self.after}"


def is_url(path: object) -> bool:
    """Tell whether a path is a URL such as `s3://bucket/slide.tif`, or a chain of them."""
    return isinstance(path, str) and _URL.match(path) is not None


def is_web(url: str) -> bool:
    """Tell whether a URL is one of HTTP, and no chain."""
    return url.partition("://")[0] in _WEB and "::" not in url


def local_path(url: str) -> Path | None:
    """Give the path that a `file://` URL names; None for others."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.netloc + parts.path)) if parts.scheme in _LOCAL else None


def split_url(url: str) -> SplitUrl:
    """Take a URL apart."""
    links = url.split("::")
    place = next((index for index, link in enumerate(links) if "://" in link), 0)
    protocol, _, path = links[place].partition("://")
    cut = path.find("?") if protocol in _WEB else -1
    path, query = (path, "") if cut < 0 else (path[:cut], path[cut:])
    before, after = links[:place], links[place + 1 :]
    return SplitUrl(
        "".join(f"{link}::" for link in before), protocol, path, query, "".join(f"::{link}" for link in after)
    )


def shown(url: str) -> str:
    """Give a URL as it may be shown: without a password, a query, and the container that its path is in."""
    parts = split_url(url)
    return parts._replace(path=_PASSWORD.sub("", parts.path), query="", after="").joined()


def joined(url: str, name: str) -> str:
    """Give the URL of what lies in a folder."""
    parts = split_url(url)
    between = "/" if parts.path and not parts.path.endswith("/") else ""
    return parts._replace(path=f"{parts.path}{between}{name}").joined()


def without_slash(url: str) -> str:
    """Give the URL of a folder as that of a file."""
    parts = split_url(url)
    return parts._replace(path=parts.path.rstrip("/")).joined() if parts.path.strip("/") else url


def below(folder: str, path: str) -> str:
    """Give the way from a folder to what is in it, of paths of one store; empty for anything else."""
    folder, path = folder.strip("/"), path.strip("/")
    if not folder:
        return path
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else ""
