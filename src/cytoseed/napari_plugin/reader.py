"""Reader of results: stored ones, label images with their table, and outlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cytoseed.images.outlines import polygons_of, read_features
from cytoseed.results.layers import LayerData, features_of, image_layers, in_um, label_layers

LABELS, TABLE, STORED, OUTLINES = ".labels.tif", ".csv", ".objects.zip", (".geojson", ".geojson.gz")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Reader of one or several of our files; None for others."""
    names = [path] if isinstance(path, str) else list(path)
    return read if names and all(_reader_of(name) for name in names) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Layers of files of results."""
    layers = []
    for name in [path] if isinstance(path, str) else path:
        reader = _reader_of(name)
        assert reader is not None
        layers += reader(Path(name))
    return layers


def _reader_of(name: str) -> Callable[[Path], list[LayerData]] | None:
    readers = {STORED: _read_stored, LABELS: _read_labels, **dict.fromkeys(OUTLINES, _read_outlines)}
    return next((reader for ending, reader in readers.items() if str(name).endswith(ending)), None)


def _read_stored(path: Path) -> list[LayerData]:
    """Image, where it is found, and labels."""
    from cytoseed.results import open_result

    result = open_result(path)
    return [*image_layers(result), *label_layers(result)]


def _read_labels(path: Path) -> list[LayerData]:
    """Label image, with the table beside it, where there is one."""
    import pandas as pd

    from cytoseed.images import open_image

    image = open_image(path)
    table = path.with_name(f"{path.name.removesuffix(LABELS)}{TABLE}")
    rows = pd.read_csv(table) if table.is_file() else None
    layers: list[LayerData] = []
    for plane, name in zip(image.read(), image.channel_names, strict=True):
        attributes = {"name": f"{path.name.removesuffix(LABELS)} {name}", **in_um(image.pixel_size_yx_um)}
        if rows is not None:
            own = rows[rows["target"] == name] if "target" in rows else rows
            attributes["features"] = features_of(own)
        layers.append((plane.astype(np.int32), attributes, "labels"))
    return layers


def _read_outlines(path: Path) -> list[LayerData]:
    """Outer outlines as polygons, with their measurements."""
    import pandas as pd

    rings, rows = [], []
    for number, feature in enumerate(read_features(path)):
        for outer, *_ in polygons_of(feature["geometry"], f"{path}: feature {number}"):
            rings.append(outer[:-1, ::-1] - 0.5)  # rows and columns, of which 0 is the centre of the first pixel
            rows.append((feature.get("properties") or {}).get("measurements") or {})
    attributes = {
        "name": path.name,
        "shape_type": "polygon",
        "features": pd.DataFrame(rows),
        "face_color": "transparent",
        "edge_color": "yellow",
    }
    return [(rings, attributes, "shapes")]
