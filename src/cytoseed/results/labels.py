"""The label image as TIFF."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cytoseed.results.segmentation import Segmentation

_LARGEST_UINT16 = 65_535


def write_labels(result: Segmentation, path: Path) -> None:
    """Write the labels as a deflated OME-TIFF: uint16 where the ids fit, else uint32; 0 is background.

    One target gives the axes YX, two give CYX with the targets as channel names. The pixel size, where it is
    known, stands in the OME metadata and in the resolution tags, so that Fiji, QuPath and napari all find it.
    """
    import tifffile

    labels = result.labels
    fits = labels.size == 0 or int(labels.max()) <= _LARGEST_UINT16
    metadata: dict[str, Any] = {
        "axes": "YX" if labels.ndim == 2 else "CYX",
        "Channel": {"Name": list(result.targets)},
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, result.fingerprint)}",
    }
    options: dict[str, Any] = {}
    if (side := result.pixel_size_um) is not None:
        options = {"resolution": (1e4 / side, 1e4 / side), "resolutionunit": "CENTIMETER"}
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": side, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(
        path,
        labels.astype(np.uint16 if fits else np.uint32),
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
        **options,
    )
