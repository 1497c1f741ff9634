"""Labels written into the OME-Zarr of their image: laid out as it is, and all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cytoseed.paths import write_bytes
from cytoseed.results.formats.ngff import Layout, namespaced, write_label_images
from cytoseed.results.pyramid import level_of
from cytoseed.results.view import ResultView

_HIDDEN = ".cytoseed"  # in the labels group, for label images that are not in their place
_NEW, _OLD, _DONE = "new", "old", "done"


def write_into(result: ResultView, image_zarr: str | os.PathLike[str], overwrite: bool = False) -> tuple[Path, ...]:
    """Write the labels into the `labels` group of an OME-Zarr image, one label image per target.

    They have the image's own version, 0.4 or 0.5, its axes, with one channel, its levels and transformations, so that
    every viewer lays them over it; a pixel of a lower level shows the label at its centre. They are written to a hidden
    folder of the group, moved into place, and listed last: a kill leaves either the old ones or the new. After a kill
    between two moves, replaced label images may still be in the hidden folder; the next call puts them back first.

    Parameters
    ----------
    result : Result
        Of this image, at its full resolution.
    image_zarr : str or path
        The folder of the image, or one made by bioformats2raw, of which the first image is taken.
    overwrite : bool
        Replace label images of the same names. Others always stay.

    Returns
    -------
    tuple of path
        The folders of the label images, called after the targets.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder; if it is not an OME-Zarr image of these versions, one of another size, or a stack.
    FileExistsError
        If the image has labels of such a name and `overwrite` is false.
    BlockingIOError, OSError
        If another process writes labels into this image, or the folder cannot be written to.
    """
    image = _read_image(Path(image_zarr))
    layout = _layout(image, result.shape[1:])
    labels = image.folder / "labels"
    with _hidden_in(labels) as hidden:
        _put_back(hidden, labels)
        there = [name for name in result.targets if name in _listed(labels) or (labels / name).exists()]
        if there and not overwrite:
            raise FileExistsError(
                f"{labels}: has labels called {', '.join(there)} already; overwrite them (--overwrite, "
                f"overwrite=True), or write these beside the image (--format ngff)"
            )
        (hidden / _NEW).mkdir()
        write_label_images(result, hidden / _NEW, layout)
        try:
            _move(hidden, labels, result.targets)
            _list(labels, image.version, result.targets)
            _give_up_old(hidden)
        except BaseException:
            _put_back(hidden, labels)
            raise
        for folder in dict.fromkeys((labels, image.folder, image.root)):
            _renew_consolidated(folder)
    return tuple(labels / target for target in result.targets)


# The image


class _Image(NamedTuple):
    """Metadata of an OME-Zarr image."""

    root: Path  # the folder given
    folder: Path  # that of the image: the same, or one in it
    version: str
    multiscale: Mapping[str, Any]
    axes: tuple[str, ...]  # their names, in order
    shapes: tuple[tuple[int, ...], ...]  # of the levels' arrays


def _read_image(path: Path) -> _Image:
    """Read the metadata of an image that labels (H,W) fit."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder; give the folder of the OME-Zarr image")
    folder = path
    try:
        version, attributes = _described(folder)
        if "bioformats2raw.layout" in attributes:
            folder = path / "0"
            version, attributes = _described(folder)
        multiscale = (attributes.get("multiscales") or [None])[0]
        if multiscale is None:
            raise ValueError(f"{path}: does not describe an OME-Zarr image; give the folder of one image, not a plate")
        if version not in ("0.4", "0.5"):
            raise ValueError(
                f"{path}: is OME-Zarr of version {version}; labels are written into 0.4 and 0.5: "
                f"convert the image, or write them beside it (--format ngff)"
            )
        names = tuple(str(axis["name"]) for axis in multiscale["axes"])
        shapes = tuple(_shape(folder / str(dataset["path"])) for dataset in multiscale["datasets"])
        if not {"y", "x"} <= set(names) or any(len(shape) != len(names) for shape in shapes):
            raise ValueError(f"{path}: names the axes {', '.join(names)} and has arrays of {len(shapes[0])} axes")
        for axis, length in zip(multiscale["axes"], shapes[0], strict=True):
            if axis["name"] not in ("y", "x") and axis.get("type") != "channel" and length != 1:
                sizes = ", ".join(f"{name} {size}" for name, size in zip(names, shapes[0], strict=True))
                raise ValueError(
                    f"{path}: is a stack ({sizes}), and the labels are of one plane; "
                    f"give the image that they were found in, or write them beside it (--format ngff)"
                )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its description is damaged ({error!r}); export the image again") from error
    return _Image(path, folder, version, multiscale, names, shapes)


def _described(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Version and attributes of a group; empty if it has none."""
    if (folder / "zarr.json").is_file():
        own = _read_json(folder / "zarr.json").get("attributes", {}).get("ome", {})
        return str(own.get("version")), own
    attributes = _read_json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    described: list[Mapping[str, Any]] = attributes.get("multiscales") or [{}]
    return str(described[0].get("version", "0.4")), attributes


def _shape(folder: Path) -> tuple[int, ...]:
    """Shape of an array."""
    for file in (folder / "zarr.json", folder / ".zarray"):
        if file.is_file():
            return tuple(int(length) for length in _read_json(file)["shape"])
    raise ValueError(f"{folder}: is named as a level of the image, and is not there; copy or export the image again")


def _layout(image: _Image, sides: tuple[int, int]) -> Layout:
    """Layout of labels for an image, which must have height and width `sides`."""
    places = (image.axes.index("y"), image.axes.index("x"))
    shapes = [(shape[places[0]], shape[places[1]]) for shape in image.shapes]
    if shapes[0] != sides:
        raise ValueError(
            f"{image.root}: is {shapes[0][0]} x {shapes[0][1]} px (height x width), and the labels are of an image of "
            f"{sides[0]} x {sides[1]} px; give the image that they were found in, at full resolution"
        )
    datasets = image.multiscale["datasets"]
    full = _scale(datasets[0])
    levels, transformations = [], []
    for shape, dataset in zip(shapes, datasets, strict=True):
        scale = _scale(dataset)
        factors = [scale[place] / full[place] for place in places] if scale and full else None
        levels.append(level_of(sides, shape, factors))
        ratios = dict(zip(places, (sides[0] / shape[0], sides[1] / shape[1]), strict=True))
        relative = {"type": "scale", "scale": [ratios.get(place, 1.0) for place in range(len(image.axes))]}
        transformations.append(dataset.get("coordinateTransformations") or [relative])
    whole = {key: image.multiscale[key] for key in ("coordinateTransformations",) if key in image.multiscale}
    label = {"source": {"image": "../../"}}
    return Layout(image.version, image.multiscale["axes"], levels, transformations, whole, label)


def _scale(dataset: Mapping[str, Any]) -> Sequence[float] | None:
    """Scale of a level, if it states a valid one."""
    for transformation in dataset.get("coordinateTransformations") or ():
        found = transformation.get("scale")
        if isinstance(found, list) and all(isinstance(value, (int, float)) and value > 0 for value in found):
            return found
    return None


# Its labels group


@contextmanager
def _hidden_in(labels: Path) -> Iterator[Path]:
    """Hidden folder of the group, locked against other processes; removed at the end."""
    from filelock import FileLock, Timeout

    hidden = labels / _HIDDEN
    hidden.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(hidden / "lock", timeout=0):
            try:
                yield hidden
            finally:
                if not (hidden / _OLD).exists():  # else they could not be put back; the next call may
                    shutil.rmtree(hidden, ignore_errors=True)
                with suppress(OSError):  # it holds something, as it should
                    labels.rmdir()
    except Timeout:
        raise BlockingIOError(f"{labels} is being written to by another process; wait for it") from None
    except NotImplementedError as error:
        raise OSError(f"{labels}: files on this disk cannot be locked ({error}); copy the image to another") from error


def _move(hidden: Path, labels: Path, names: Sequence[str]) -> None:
    """Move new label images into place, and existing ones out of it; an empty folder stands for a missing one."""
    (hidden / _OLD).mkdir()
    for name in names:
        if (labels / name).exists():
            os.replace(labels / name, hidden / _OLD / name)
        else:
            (hidden / _OLD / name).mkdir()
        os.replace(hidden / _NEW / name, labels / name)


def _put_back(hidden: Path, labels: Path) -> None:
    """Undo moves that were stopped before all were listed, here or in a killed call; empty the hidden folder."""
    old = sorted((hidden / _OLD).iterdir()) if (hidden / _OLD).is_dir() else []
    was_there = {image.name: any(image.iterdir()) for image in old}
    is_listed = any(image.name in _listed(labels) for image in old if not was_there[image.name])
    for image in () if is_listed else old:
        if (labels / image.name).exists() and not (hidden / _NEW / image.name).exists():
            os.replace(labels / image.name, hidden / _NEW / image.name)
        if was_there[image.name]:
            os.replace(image, labels / image.name)
    _give_up_old(hidden)
    for name in (_NEW, _DONE):
        shutil.rmtree(hidden / name, ignore_errors=True)


def _give_up_old(hidden: Path) -> None:
    """Rename the replaced images, so that no later call puts them back; they are deleted next."""
    if (hidden / _OLD).is_dir():
        shutil.rmtree(hidden / _DONE, ignore_errors=True)
        os.replace(hidden / _OLD, hidden / _DONE)


def _listed(labels: Path) -> list[str]:
    """Names of label images that the group lists."""
    return [str(name) for name in _described(labels)[1].get("labels") or ()]


def _list(labels: Path, version: str, names: Sequence[str]) -> None:
    """Add names to those that the group lists; all other metadata stays."""
    new = namespaced(version, {"labels": list(dict.fromkeys([*_listed(labels), *names]))})
    file = labels / ("zarr.json" if version == "0.5" else ".zattrs")
    described = _read_json(file) if file.is_file() else {}
    if version == "0.5":
        described = {"zarr_format": 3, "node_type": "group", **described}
        attributes = described.setdefault("attributes", {})
        attributes["ome"] = {**attributes.get("ome", {}), **new["ome"]}
    elif not (labels / ".zgroup").is_file():
        write_bytes(labels / ".zgroup", json.dumps({"zarr_format": 2}, indent=2).encode())
    write_bytes(file, json.dumps(described if version == "0.5" else {**described, **new}, indent=2).encode())


def _renew_consolidated(folder: Path) -> None:
    """Renew a group's consolidated copy of the metadata, where it has one."""
    import zarr

    described = _read_json(folder / "zarr.json") if (folder / "zarr.json").is_file() else {}
    if described.get("consolidated_metadata") or (folder / ".zmetadata").is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Zarr 3 has no standard for it
            zarr.consolidate_metadata(str(folder))


def _read_json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file}: does not describe anything; export the image again")
    return found
