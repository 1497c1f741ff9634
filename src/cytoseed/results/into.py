"""Labels written into the OME-Zarr of their image: laid out as it is, and all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cytoseed.paths import write_bytes
from cytoseed.results.formats.ngff import Layout, namespaced, write_label_images
from cytoseed.results.pyramid import level_of
from cytoseed.results.view import ResultView

_LABELS = "labels"
_HIDDEN = ".cytoseed"  # in the labels group, for what is not in its place
_NEW, _OLD, _DONE = "new", "old", "done"


def write_into(result: ResultView, image_zarr: str | os.PathLike[str], overwrite: bool = False) -> tuple[Path, ...]:
    """Write the labels into the `labels` group of an OME-Zarr image, one label image per target.

    They have the image's own version, 0.4 or 0.5, its axes, with one channel, its levels and transformations, so that
    every viewer lays them over it; a pixel of a lower level shows the label at its centre. They are written beside, in
    a hidden folder of the group, moved into place, and listed last: a kill leaves the old or the new. After a kill
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
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is no OME-Zarr image of these versions, one of another size, or a stack in z or in time.
    FileExistsError
        If the image has labels of such a name and `overwrite` is false.
    BlockingIOError
        If another process writes labels into this image.
    OSError
        If the folder cannot be written to.
    """
    image = _read_image(Path(image_zarr))
    layout = _layout(image, result.shape[1:])
    labels = image.folder / _LABELS
    with _hidden_in(labels) as hidden:
        _put_back(hidden, labels)
        _refuse_others(labels, result.targets, overwrite)
        (hidden / _NEW).mkdir()
        write_label_images(result, hidden / _NEW, layout)
        try:
            _move(hidden, labels, result.targets)
            _list(labels, image.version, result.targets)
            _give_up_old(hidden)
        except BaseException:
            _put_back(hidden, labels)
            raise
        for folder in {image.root, image.folder, labels}:
            _renew_consolidated(folder, labels, image.version, result.targets)
    return tuple(labels / target for target in result.targets)


# The image


class _Image(NamedTuple):
    """Metadata of an OME-Zarr image."""

    root: Path
    """The folder given."""
    folder: Path
    """The folder of the image: the same, or one in it."""
    version: str
    multiscale: Mapping[str, Any]
    axes: tuple[str, ...]
    """Their names, in order."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the levels' arrays."""


def _read_image(path: Path) -> _Image:
    """Read the metadata of an image."""
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
            raise ValueError(f"{path}: does not describe an OME-Zarr image; give the folder of one image, no plate")
        if version not in ("0.4", "0.5"):
            raise ValueError(
                f"{path}: is OME-Zarr of version {version}; labels are written into 0.4 and 0.5: "
                f"convert the image, or write them beside it (--format ngff)"
            )
        axes = tuple(str(axis["name"]) for axis in multiscale["axes"])
        shapes = tuple(_shape(folder / str(dataset["path"])) for dataset in multiscale["datasets"])
        _require_plane(path, multiscale["axes"], shapes)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its description is damaged ({error!r}); export the image again") from error
    return _Image(path, folder, version, multiscale, axes, shapes)


def _described(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Version and attributes of a group; empty where it has none."""
    if (folder / "zarr.json").is_file():
        own = _read_json(folder / "zarr.json").get("attributes", {}).get("ome", {})
        return str(own.get("version")), own
    if (folder / ".zattrs").is_file():
        attributes = _read_json(folder / ".zattrs")
        described: list[Mapping[str, Any]] = attributes.get("multiscales") or [{}]
        return str(described[0].get("version", "0.4")), attributes
    return "", {}


def _shape(folder: Path) -> tuple[int, ...]:
    """Shape of an array."""
    for file in (folder / "zarr.json", folder / ".zarray"):
        if file.is_file():
            return tuple(int(length) for length in _read_json(file)["shape"])
    raise ValueError(f"{folder}: is named as a level of the image, and is not there; copy or export the image again")


def _require_plane(path: Path, axes: Sequence[Mapping[str, Any]], shapes: Sequence[Sequence[int]]) -> None:
    """Refuse images that labels (H,W) do not fit."""
    names = [axis["name"] for axis in axes]
    sizes = ", ".join(f"{name} {length}" for name, length in zip(names, shapes[0], strict=False))
    if not {"y", "x"} <= set(names) or any(len(shape) != len(names) for shape in shapes):
        raise ValueError(f"{path}: names the axes {', '.join(names)} and has arrays of {len(shapes[0])} axes")
    for axis, length in zip(axes, shapes[0], strict=True):
        if axis["name"] not in ("y", "x") and axis.get("type") != "channel" and length != 1:
            raise ValueError(
                f"{path}: is a stack ({sizes}), and the labels are of one plane; "
                f"give the image that they were found in, or write them beside it (--format ngff)"
            )


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
    """Hidden folder of the group, locked against other processes; removed in the end."""
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


def _refuse_others(labels: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse to replace labels unless asked to overwrite."""
    listed = _listed(labels)
    there = [name for name in names if name in listed or (labels / name).exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{labels}: has labels called {', '.join(there)} already; overwrite them (--overwrite, overwrite=True), "
            f"or write these beside the image (--format ngff)"
        )


def _move(hidden: Path, labels: Path, names: Sequence[str]) -> None:
    """Move new label images into place, and those that are there out of it; an empty folder stands for none."""
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
    new = dict.fromkeys([*_listed(labels), *names])
    if version == "0.5":
        file = labels / "zarr.json"
        described = _read_json(file) if file.is_file() else dict[str, Any](zarr_format=3, node_type="group")
        attributes = described.setdefault("attributes", {})
        own = namespaced(version, {"labels": list(new)})
        attributes["ome"] = {**attributes.get("ome", {}), **own["ome"]}
        _write_json(file, described)
        return
    if not (labels / ".zgroup").is_file():
        _write_json(labels / ".zgroup", {"zarr_format": 2})
    file = labels / ".zattrs"
    _write_json(file, {**(_read_json(file) if file.is_file() else {}), "labels": list(new)})


def _renew_consolidated(folder: Path, labels: Path, version: str, names: Sequence[str]) -> None:
    """Put the metadata of the labels into a group's consolidated copy, where it has one."""
    is_new = version == "0.5"
    file = folder / ("zarr.json" if is_new else ".zmetadata")
    described = _read_json(file) if file.is_file() else {}
    copies = ((described.get("consolidated_metadata") or {}) if is_new else described).get("metadata")
    if copies is None:
        return
    for name in names:
        own = (labels / name).relative_to(folder).as_posix()
        for key in [key for key in copies if key == own or key.startswith(f"{own}/")]:
            del copies[key]
    nodes = [labels, *(node for name in names for node in (labels / name, *sorted((labels / name).iterdir())))]
    for node in nodes:
        for mark in ("zarr.json",) if is_new else (".zgroup", ".zarray", ".zattrs"):
            if (node / mark).is_file() and not (is_new and node == folder):
                key = (node if is_new else node / mark).relative_to(folder).as_posix()
                copies[key] = _read_json(node / mark)
    _write_json(file, described)


def _read_json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file}: does not describe anything; export the image again")
    return found


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    write_bytes(file, json.dumps(values, indent=2).encode())
