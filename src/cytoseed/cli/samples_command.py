"""`cytoseed samples`: drawn images for the tutorials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoseed.cli.console import FAILED, exit_on_mistake, print_line

if TYPE_CHECKING:
    from cytoseed.images.scenes import Scene

_FILES = {"fluorescence": "fluorescence.tif", "multiplex": "multiplex.ome.tif"}
_COUNTS = {"1": 70, "2": 45, "3": 20}  # nuclei in each column of the plate
_TRAINING = 8


def samples(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("samples"),
) -> None:
    """Write small drawn images for the tutorials: fluorescence, multiplexed, a plate, and images to train on.

    Nuclei and cells are computed, not photographed: they show how to use the program, not how well a model does.
    """
    with exit_on_mistake(FAILED):
        from cytoseed.images import scenes

        output.mkdir(parents=True, exist_ok=True)
        for name, sample in scenes.SAMPLES.items():
            _write_tiff(output / _FILES[name], sample.draw(), sample.pixel_size_um, sample.channels)
        _write_plate(output / "plate.zarr")
        for number in range(_TRAINING):
            rims = scenes.draw_rims((192, 192), 26, 26, seed=number)
            _write_tiff(output / "rims" / "images" / f"rims-{number}.tif", rims, 0.325)
            _write_png(output / "rims" / "masks" / f"rims-{number}.png", rims.nuclei)
        _write_tiff(output / "rims-new.tif", scenes.draw_rims((256, 320), 55, 26, seed=100), 0.325)
        for path in sorted(output.iterdir()):
            print_line(str(path))


def _write_tiff(path: Path, scene: Scene, pixel_size_um: float, names: tuple[str, ...] = ("lamin",)) -> None:
    import tifffile

    size = {f"PhysicalSize{axis}": pixel_size_um for axis in "XY"}
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}, **size}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, scene.image, ome=True, photometric="minisblack", compression="zlib", metadata=metadata)


def _write_png(path: Path, labels: Any) -> None:
    import imagecodecs

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(imagecodecs.png_encode(labels.astype("uint16"))))


def _write_plate(folder: Path) -> None:
    """OME-Zarr 0.5 of two rows and three columns, with fewer nuclei in each column."""
    import zarr

    from cytoseed.images.scenes import draw_nuclei

    wells = [(row, column) for row in "AB" for column in _COUNTS]
    plate = zarr.open_group(folder, mode="w", zarr_format=3)
    plate.attrs["ome"] = {
        "version": "0.5",
        "plate": {
            "name": "plate",
            "rows": [{"name": row} for row in "AB"],
            "columns": [{"name": column} for column in _COUNTS],
            "wells": [
                {"path": f"{row}/{column}", "rowIndex": "AB".index(row), "columnIndex": int(column) - 1}
                for row, column in wells
            ],
        },
    }
    for seed, (row, column) in enumerate(wells):
        scene = draw_nuclei((256, 256), _COUNTS[column], 17, seed)
        plate.require_group(row).create_group(column).attrs["ome"] = {
            "version": "0.5",
            "well": {"images": [{"path": "0"}]},
        }
        field = plate.create_group(f"{row}/{column}/0")
        field.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [_MULTISCALE],
            "omero": {"channels": [{"label": "DAPI"}]},
        }
        field.create_array("0", data=scene.image, dimension_names=["c", "y", "x"])


_MULTISCALE: Mapping[str, Any] = {
    "axes": [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ],
    "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}],
}
