"""OME-Zarr: 0.4 and 0.5, written with zarr."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from written import assert_regions, halves, noise
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from cytoseed.images import ImageFileError, is_image_folder, open_image
from remote import put

UM = "micrometer"
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])


def scale(*lengths: float) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(lengths)}]


def axes_of(names: str, unit: str | None = UM) -> list[dict[str, Any]]:
    kinds = {"c": "channel", "t": "time"}
    return [
        {"name": name, "type": kinds.get(name, "space")} | ({"unit": unit} if unit and name in "zyx" else {})
        for name in names
    ]


def write(
    folder: Path,
    levels: list[NDArray[Any]],
    version: str,
    names: str = "cyx",
    multiscale: dict[str, Any] | None = None,
    datasets: list[dict[str, Any]] | None = None,
    omero: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write levels (C,H,W) with their axes in another order, and others of length 1."""
    own = {"chunks": 32, **options}
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    paths = []
    for number, level in enumerate(levels):
        inner = [name for name in names if name in "cyx"]
        array = level[0] if "c" not in names else level
        array = array.transpose([("cyx" if "c" in names else "yx").index(name) for name in inner])
        for index, name in enumerate(names):
            array = array if name in "cyx" else np.expand_dims(array, index)
        chunks = tuple(min(own["chunks"], n) for n in array.shape)
        rest = {key: value for key, value in own.items() if key != "chunks"}
        group.create_array(f"s{number}", shape=array.shape, dtype=array.dtype, chunks=chunks, **rest)[:] = array
        extra = (datasets or [{}] * len(levels))[number]
        paths.append({"path": f"s{number}"} | extra)
    described: dict[str, Any] = {"axes": axes_of(names), "datasets": paths} | (multiscale or {})
    attributes: dict[str, Any] = {"multiscales": [described | ({"version": "0.4"} if version == "0.4" else {})]}
    attributes |= {"omero": omero} if omero else {}
    group.attrs.update(attributes if version == "0.4" else {"ome": attributes | {"version": "0.5"}})
    return folder


@VERSIONS
@pytest.mark.parametrize("names", ["cyx", "yx", "tczyx", "yxc", "cxy"])
@pytest.mark.parametrize("dtype", [np.uint8, ">u2"])
def test_levels_and_regions(tmp_path: Path, version: str, names: str, dtype: Any) -> None:
    levels = [level.astype(dtype) for level in halves(noise(3 if "c" in names else 1, 90, 110), 3)]
    image = open_image(write(tmp_path / "image", levels, version, names))
    assert image.path == tmp_path / "image"
    assert image.dtype.isnative
    assert_regions(image, [level.astype(level.dtype.newbyteorder("=")) for level in levels], examples=12)


def test_levels_in_shards(tmp_path: Path) -> None:
    levels = [noise(2, 90, 110)]
    folder = write(tmp_path / "image", levels, "0.5", shards=(2, 64, 64), compressors=BloscCodec())
    assert_regions(open_image(folder), levels, examples=12)


@VERSIONS
def test_names_of_channels(tmp_path: Path, version: str) -> None:
    omero = {"channels": [{"label": "DAPI"}, {"label": " "}, {}]}
    image = open_image(write(tmp_path / "image", [noise(3, 20, 30)], version, omero=omero))
    assert image.channel_names == ("DAPI", "channel 1", "channel 2")


@VERSIONS
@pytest.mark.parametrize(
    ("unit", "inner", "outer", "expected"),
    [
        (UM, scale(1, 0.5, 0.25), None, (0.5, 0.25)),
        (UM, scale(1, 2, 2), scale(1, 0.25, 0.25), (0.5, 0.5)),
        (UM, None, scale(1, 0.25, 0.25), (0.25, 0.25)),
        (UM, [{"type": "translation", "translation": [0, 9, 9]}, *scale(1, 0.3, 0.3)], None, (0.3, 0.3)),
        ("nanometer", scale(1, 250, 250), None, (0.25, 0.25)),
        (None, scale(1, 0.25, 0.25), None, None),
        (UM, scale(1, 12, 12), None, None),
    ],
)
def test_pixel_sizes(tmp_path: Path, version: str, unit: Any, inner: Any, outer: Any, expected: Any) -> None:
    multiscale = {"axes": axes_of("cyx", unit)} | ({"coordinateTransformations": outer} if outer else {})
    datasets = [{"coordinateTransformations": inner} if inner else {}]
    image = open_image(write(tmp_path / "image", [noise(1, 20, 30)], version, multiscale=multiscale, datasets=datasets))
    assert image.pixel_size_yx_um == (None if expected is None else pytest.approx(expected))
    assert image.pixel_size_source == ("not stated" if expected is None else "OME-Zarr metadata")


@pytest.mark.parametrize("axes", [None, ["t", "c", "z", "y", "x"]])
def test_axes_as_named_before_0_4(tmp_path: Path, axes: Any) -> None:
    image = open_image(write(tmp_path / "image", [noise(2, 20, 30)], "0.4", "tczyx", {"axes": axes}))
    assert (image.shape, image.pixel_size_um) == ((2, 20, 30), None)


@VERSIONS
def test_the_layout_of_bioformats2raw(tmp_path: Path, version: str) -> None:
    levels = halves(noise(2, 90, 110), 2)
    root = zarr.open_group(tmp_path / "image", mode="w", zarr_format=2 if version == "0.4" else 3)
    mark = {"bioformats2raw.layout": 3}
    root.attrs.update(mark if version == "0.4" else {"ome": {"version": "0.5", **mark}})
    write(tmp_path / "image" / "0", levels, version)
    assert is_image_folder(tmp_path / "image")
    image = open_image(tmp_path / "image")
    assert image.path == tmp_path / "image"
    assert_regions(image, levels, examples=12)


# What is not there


@VERSIONS
def test_a_chunk_that_is_not_there_is_background(tmp_path: Path, version: str) -> None:
    pixels = noise(1, 64, 96)
    folder = write(tmp_path / "image", [pixels], version, fill_value=7)
    chunk_at(folder, "0", "1", "2").unlink()
    pixels[:, 32:, 64:] = 7
    assert_regions(open_image(folder), [pixels], examples=12)


def chunk_at(folder: Path, *numbers: str) -> Path:
    """File of a chunk of the full resolution."""
    files = (file for file in (folder / "s0").rglob("*") if file.is_file())
    (found,) = (file for file in files if file.name == ".".join(numbers) or file.parts[-len(numbers) :] == numbers)
    return found


@VERSIONS
@pytest.mark.parametrize("codec", [None, "zstd", "blosc", "gzip", "shard"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_damaged_chunk_is_an_error_where_it_is_read(
    tmp_path: Path, version: str, codec: str | None, left: float
) -> None:
    pixels = noise(1, 64, 96)
    old: dict[str | None, Any] = {"zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc(), "gzip": numcodecs.GZip()}
    new: dict[str | None, Any] = {"zstd": ZstdCodec(), "blosc": BloscCodec(), "gzip": GzipCodec()}
    options = {"compressors": (old if version == "0.4" else new).get(codec)}
    if codec == "shard":  # of 2 x 2 chunks
        options = {"compressors": BloscCodec(), "shards": (1, 64, 64)} if version == "0.5" else {}
    folder = write(tmp_path / "image", [pixels], version, **options)
    chunk = chunk_at(folder, *(("0", "0", "1") if "shards" in options else ("0", "1", "2")))
    chunk.write_bytes(chunk.read_bytes()[: int(left * chunk.stat().st_size)])
    for place in (folder, put(folder, f"memory://{tmp_path.name}/image.zarr")):
        image = open_image(place)
        np.testing.assert_array_equal(image.read((0, 0, 64, 64)), pixels[:, :, :64])
        if "shards" not in options:
            np.testing.assert_array_equal(image.read((0, 0, 32, 96)), pixels[:, :32])
        with pytest.raises(ImageFileError, match=r"image.*(cannot be read|is cut short).*copy or export it again"):
            image.read((0, 0, 64, 96))


@VERSIONS
def test_a_lost_level(tmp_path: Path, version: str) -> None:
    levels = halves(noise(2, 90, 110), 3)
    folder = write(tmp_path / "image", levels, version)
    for level in (1, 0):
        shutil.rmtree(folder / f"s{level}")
        with pytest.raises(ImageFileError, match=rf"image: is cut short or damaged .level {level} .* is missing"):
            open_image(folder)


@VERSIONS
def test_a_folder_that_is_gone_since_it_was_opened_is_refused(tmp_path: Path, version: str) -> None:
    image = open_image(write(tmp_path / "image", [noise(1, 20, 30)], version))
    shutil.rmtree(tmp_path / "image")
    with pytest.raises(ImageFileError, match="no longer describes an image"):
        image.read()


# What is not an image


@pytest.mark.parametrize(
    ("names", "shape", "says"),
    [
        ("czyx", (2, 3, 20, 30), "holds 3 z planes; choose with --z"),
        ("tyx", (4, 20, 30), "holds 4 time points"),
        ("qyx", (4, 20, 30), "unknown meaning .q"),
        ("cyx", (20, 30), "names the axes c, y, x and has arrays of 2 axes"),
        ("czx", (1, 20, 30), "names the axes"),
    ],
)
def test_stacks_and_unclear_axes_are_refused(tmp_path: Path, names: str, shape: tuple[int, ...], says: str) -> None:
    group = zarr.open_group(tmp_path / "image", mode="w", zarr_format=2)
    group.create_array("0", shape=shape, dtype="u1")
    group.attrs["multiscales"] = [{"axes": axes_of(names), "datasets": [{"path": "0"}]}]
    with pytest.raises(ImageFileError, match=says):
        open_image(tmp_path / "image")


def test_complex_values_and_levels_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="complex64"):
        open_image(write(tmp_path / "image", [noise(1, 20, 30).astype(np.complex64)], "0.4"))
    for other in (noise(1, 10, 15), noise(2, 10, 15, dtype=np.uint16)):
        with pytest.raises(ImageFileError, match="levels differ in channels, planes or type"):
            open_image(write(tmp_path / "image", [noise(2, 20, 30), other], "0.4"))


@VERSIONS
def test_which_folders_are_images(tmp_path: Path, version: str) -> None:
    assert is_image_folder(write(tmp_path / "image.of.any.name", [noise(1, 20, 30)], version))
    zarr.open_group(tmp_path / "array", mode="w", zarr_format=2 if version == "0.4" else 3)
    assert not is_image_folder(tmp_path / "array")
    with pytest.raises(ImageFileError, match="is a Zarr folder that does not describe an image"):
        open_image(tmp_path / "array")
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text(json.dumps({"multiscales": [{}]}))
    assert not any(is_image_folder(tmp_path / name) for name in ("plain", "file", "nowhere"))
    for text in ("", "{", "[]", "7", '{"multiscales": 3}', '{"multiscales": []}', '{"multiscales": [1]}'):
        (tmp_path / "plain" / ".zattrs").write_text(text)
        assert not is_image_folder(tmp_path / "plain")
        with pytest.raises(ImageFileError, match="plain"):
            open_image(tmp_path / "plain")


class _Code:
    """An object that touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(
    ("version", "changed"),
    [
        ("0.4", {"compressor": {"id": "pickle"}}),
        ("0.4", {"compressor": None, "filters": [{"id": "delta", "dtype": "|u1"}, {"id": "pickle", "protocol": 5}]}),
        ("0.5", {"codecs": [{"name": "pickle"}]}),
        ("0.5", {"codecs": ["bytes", "numcodecs.pickle"]}),
        ("0.5", {"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "pickle"}]}}]}),
        ("0.5", {"codecs": [{"name": "sharding_indexed", "configuration": {"index_codecs": ["pickle"]}}]}),
    ],
)
def test_a_codec_that_may_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, changed: dict[str, Any], far: bool
) -> None:
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True)  # what older numcodecs did
    folder = write(tmp_path / "image.zarr", [noise(1, 20, 30)], version, chunks=32)
    chunk_at(folder, "0", "0", "0").write_bytes(pickle.dumps(_Code(tmp_path / "ran")))
    file = folder / "s0" / ("zarr.json" if version == "0.5" else ".zarray")
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    place = put(folder, f"memory://{tmp_path.name}/image.zarr") if far else folder
    with pytest.raises(ImageFileError, match=rf"image\.zarr/s0/{file.name}: .*codec '.*pickle'.*write the image again"):
        open_image(place).read()
    assert not (tmp_path / "ran").exists()
