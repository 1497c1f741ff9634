"""Training pixels: in memory if they fit, else in a memory-mapped temporary file."""

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


class PixelStore:
    """One array (positions, columns) of float16 or int32: append to it, seal it, then take values by position.

    Appended values go to an unnamed file in `folder`, so that filling takes no memory; the system deletes it when the
    store is closed or the process ends.
    """

    def __init__(self, folder: Path | None, columns: int, dtype: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the store
        self._shape = (-1, columns)
        self._dtype = dtype
        self._map: mmap.mmap | None = None
        self._values = torch.empty(0, columns, dtype=_TORCH[dtype])

    @property
    def size_bytes(self) -> int:
        """Bytes appended so far."""
        return self._file.tell()

    def append(self, values: NDArray[Any]) -> None:
        """Append values, (P, columns)."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def seal(self, device: torch.device | None) -> None:
        """End appending: move everything to a device, or leave it in the file if device is None."""
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
            # Pages that were read count as memory of the process until they are released.
            self._map.madvise(mmap.MADV_DONTNEED)
        return taken

    def close(self, keep_values: bool = False) -> None:
        """Delete the file; `keep_values` keeps what is in memory readable."""
        if not keep_values:
            self._values = self._values.new_empty(0, self._shape[1])
        if self._map is not None:
            self._map.close()
            self._map = None
        self._file.close()
