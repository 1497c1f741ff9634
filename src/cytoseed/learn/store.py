"""Training pixels of any amount: in memory while they fit, else mapped from a file that is read where a crop lies."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TORCH = {"float16": torch.float16, "int32": torch.int32}


class Store:
    """One flat array, filled piece by piece, then read by position.

    Pieces go to a file without a name, which the system deletes when the store is closed or the process ends, so that
    filling takes no memory.

    Parameters
    ----------
    folder : Path, optional
        Where the file lies; without it, the system's folder for temporary files.
    columns : int
        Values of one position.
    dtype : {'float16', 'int32'}
    """

    def __init__(self, folder: Path | None, columns: int, dtype: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the store
        self._shape = (-1, columns)
        self._dtype = dtype
        self._map: mmap.mmap | None = None
        self._values = torch.empty(0, columns, dtype=_TORCH[dtype])

    @property
    def size_bytes(self) -> int:
        """Bytes of what was appended."""
        return self._file.tell()

    def append(self, values: NDArray[Any]) -> None:
        """Add positions, (P, columns), after those that are there."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def seal(self, device: torch.device | None) -> None:
        """End the filling: hold everything on a device, or, without one, leave it in the file."""
        self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), 0)
        values = torch.frombuffer(self._map, dtype=_TORCH[self._dtype]).view(self._shape)
        if device is None:
            self._values = values
            return
        self._values = values.clone() if device.type == "cpu" else values.to(device)
        del values  # the map cannot be closed under it
        self.close(keep_values=True)

    def take(self, index: Tensor) -> Tensor:
        """Values at positions, (*index.shape, columns), on the index's device."""
        taken = self._values[index.to(self._values.device)].to(index.device)
        if self._map is not None and hasattr(self._map, "madvise"):
            # Pages that were read count as the process's memory until it says that it can do without them.
            self._map.madvise(mmap.MADV_DONTNEED)
        return taken

    def close(self, keep_values: bool = False) -> None:
        """Delete the file; with `keep_values` only what is in memory stays readable."""
        if not keep_values:
            self._values = self._values.new_empty(0, self._shape[1])
        if self._map is not None:
            self._map.close()
            self._map = None
        self._file.close()
