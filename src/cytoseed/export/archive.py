"""TorchScript archives whose bytes depend on the model and on PyTorch alone."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path


def write_archive(saved: io.BytesIO, path: Path) -> None:
    """Write what `torch.jit.save` gave, without what differs from run to run and from machine to machine.

    That is the order of constants in classes, which is that of a set, with a number made of it, and the places of the
    source files, which say where the user's files lie and serve nothing but tracebacks.

    Parameters
    ----------
    saved : BytesIO
        The archive, from its beginning.
    path : Path
        File to write; not at once.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name.endswith(".py"):
                content = re.sub(r"(?m)(^  \w+ : Final\[.*\n)+", _in_order, content.decode()).encode()
            if not name.endswith((".debug_pkl", "/serialization_id")):
                target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


def _in_order(lines: re.Match[str]) -> str:
    return "".join(sorted(lines[0].splitlines(keepends=True)))
