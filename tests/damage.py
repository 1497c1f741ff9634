"""Shared by the tests of damaged files: random changes of bytes, tags and JSON, and the rule for what they cause."""

from __future__ import annotations

import copy
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SEEDS = int(os.environ.get("CYTOSEED_DAMAGE", "1"))
"""Times as many changes as usual: set the variable to look for more."""
NUMBERS = (*(0, 1, 2, 3, 7, 8, 16, 32, 63, 64, 255, 256, 4096, 38872, 65535), *(1 << 20, (1 << 31) - 1, (1 << 32) - 1))
VALUES = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 1e308, float("nan"), float("inf"), "", "x", "0", "../..", "/etc/passwd", "y"),
    *("\x00", "pickle", "http://127.0.0.1:9/x", [], {}, [[]], [None], {"a": 1}, [0, 0], {"name": [1]}, [[[1]]]),
    *("Polygon", {"names": 5}, 1e300),
)


def chances(kind: str, count: int) -> Iterator[random.Random]:
    """Seeded sources of chance, one per change."""
    return (random.Random(f"{kind}{number}") for number in range(count * SEEDS))


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """A file in which some bytes are other ones, missing or too many."""
    changed = bytearray(data or b"\0")
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place, kind = chance.randrange(len(changed)), chance.randrange(5)
        if kind == 0:
            changed[place] = chance.randrange(256)
        elif kind == 1:
            del changed[place : place + chance.choice((1, 8, 64))]
        elif kind == 2:
            changed[place:place] = bytes(chance.choices(range(256), k=chance.choice((1, 8))))
        elif kind == 3:
            size = chance.choice((2, 4, 8))
            changed[place : place + size] = chance.choice(NUMBERS).to_bytes(8, chance.choice(("little", "big")))[:size]
        elif chance.random() < 0.3:
            del changed[place:]
        changed = changed or bytearray(1)
    return bytes(changed)


def changed_tags(data: bytes, chance: random.Random) -> bytes:
    """A classic TIFF of little-endian numbers with other tags, types, counts and values."""
    changed, entries = bytearray(data), []
    page = struct.unpack_from("<I", data, 4)[0]
    while page:
        count = struct.unpack_from("<H", data, page)[0]
        entries += [page + 2 + 12 * index for index in range(count)]
        page = struct.unpack_from("<I", data, page + 2 + 12 * count)[0]
    codes = [struct.unpack_from("<H", data, entry)[0] for entry in entries]
    for _ in range(chance.choice((1, 1, 2, 4))):
        entry, kind = chance.choice(entries), chance.randrange(6)
        if kind == 0:
            struct.pack_into(
                "<H", changed, entry, chance.choice((*codes, 330, 347, 34118, 50838, chance.randrange(65536)))
            )
        elif kind == 1:
            struct.pack_into("<H", changed, entry + 2, chance.randrange(20))
        elif kind == 2:
            struct.pack_into("<I", changed, entry + 4, chance.choice(NUMBERS))
        elif kind == 3:
            other = chance.choice(entries)
            changed[entry : entry + 12] = changed[other : other + 12]
        else:
            struct.pack_into("<I", changed, entry + 8, chance.choice((*NUMBERS, chance.randrange(len(data)))))
    return bytes(changed)


def changed_json(content: Any, chance: random.Random) -> Any:
    """A copy in which some values are other ones, missing or too many."""
    changed = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 2))):
        places = _places_in(changed)
        if not places:
            return chance.choice(VALUES)
        container, key = chance.choice(places)
        kind, value = chance.randrange(5), container[key]
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.insert(key, chance.choice(VALUES))
        elif kind == 2 and isinstance(value, (int, float, str, list)) and not isinstance(value, bool):
            longer = value * chance.choice((0, 2, 1000)) if not isinstance(value, str) or len(value) < 1000 else "x"
            container[key] = chance.choice((longer, [value])) if not isinstance(value, (int, float)) else -longer
        else:
            container[key] = chance.choice(VALUES)
    return changed


def _places_in(content: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [place for key in keys for place in ((content, key), *_places_in(content[key]))]


def is_read(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a file is read; an error must be one for users, and name it."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        if path.name not in str(error):
            raise
        return False
    return True
