"""Checkpoints of training runs: written whole and with a checksum, read without running code from them."""

from __future__ import annotations

import hashlib
import io
import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cytoseed.paths import write_bytes

_END_OF_ARCHIVE = b"PK\5\6"  # begins the last 22 bytes of a zip archive without comment
_NO_COMMENT, _COMMENT = b"\0\0", b"\x20\0"  # the last two of them: length of the comment, 0 or 32 bytes


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values as `torch.save` does; the archive's comment is the SHA-256 of what precedes it."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(path, _with_checksum(buffer.getvalue()))


def read_checkpoint(path: Path, device: torch.device) -> Any:
    """Content of a checkpoint, with its tensors on the device."""
    content = path.read_bytes()
    with checkpoint_errors(path):
        is_old = content[-22:].startswith(_END_OF_ARCHIVE)  # of an earlier version, which wrote no checksum
        if not is_old and content != _with_checksum(content[:-34] + _NO_COMMENT):
            raise ValueError("checksum")
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _with_checksum(archive: bytes) -> bytes:
    return archive.removesuffix(_NO_COMMENT) + _COMMENT + hashlib.sha256(archive).digest()


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or foreign checkpoint raises into one sentence."""
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # not its cause: PyTorch's message recommends to run code from the file
        raise ValueError(
            f"checkpoint {str(path)!r} is damaged, cut short or not one of cytoseed, so the training cannot be "
            f"continued from it; copy it again, or start in another folder"
        ) from None


def find_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe the differences between a checkpoint's training and this one; empty if there are none."""
    if old["device"] != new["device"]:
        return f"on {old['device']}, and device is {new['device']}; resume with --device {old['device']}"
    for key, use in (("judges", "validate with"), ("lessons", "learn from")):
        if old[key] != new[key]:
            counts = f"({len(old[key])}, now {len(new[key])})"
            return f"with other images to {use} {counts}, or under other licences; give the same data"
    if old["taught_by"] != new["taught_by"]:
        return "with another teacher, or with none; resume with the same --teacher"
    differing = []
    for was, now in zip(json.loads(old["settings"]), json.loads(new["settings"]), strict=True):
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) != now.get(name):
                texts = [textwrap.shorten(str(each.get(name, "unknown")), 60) for each in (was, now)]
                differing.append(f"{name} was {texts[0]}, now {texts[1]}")
    names = "; ".join(differing)
    return f"with other settings: {names}. Use its settings, or start in another folder" if names else ""
