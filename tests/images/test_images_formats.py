"""Rarer formats: pixels, channels, names and pixel sizes as they were written, or the package that is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest

from cytoseed.images import ImageFileError, list_series, open_image
from cytoseed.images.microscope import _open_lif, _open_nd2

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 255, (70, 90, 3), np.uint8)
GREY16 = RANDOM.integers(0, 65535, (70, 90), np.uint16)


@pytest.mark.parametrize(
    ("codec", "options", "pixels"),
    [
        ("webp", {"lossless": True}, RGB),
        ("webp", {"lossless": True}, np.dstack([RGB, RGB[..., 0]])),
        ("bmp", {}, RGB),
        ("bmp", {}, RGB[..., 0]),
        ("jpeg2k", {}, RGB),
        ("jpeg2k", {}, GREY16),
        ("jpegxl", {"lossless": True}, RGB),
        ("jpegxl", {"lossless": True}, GREY16),
    ],
    ids=range(8),
)
def test_pictures_are_read_as_stored(tmp_path, codec, options, pixels):
    path = tmp_path / "picture"  # the content decides
    path.write_bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))
    image = open_image(path)
    expected = pixels[None] if pixels.ndim == 2 else pixels[..., :3].transpose(2, 0, 1)
    assert np.array_equal(image.read(), expected)
    assert np.array_equal(image.read((5, 7, 30, 40)), expected[:, 5:35, 7:47])
    assert image.channel_names[0] == ("channel 0" if pixels.ndim == 2 else "red")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ImageFileError, match=r"picture: .*(damaged|cut)"):
        open_image(path).read()


def test_arrays_in_files(tmp_path):
    planes = RANDOM.integers(0, 65535, (5, 70, 90), np.uint16)
    np.save(tmp_path / "a.npy", planes)
    np.savez(tmp_path / "b.npz", image=RGB)
    assert np.array_equal(open_image(tmp_path / "a.npy").read(), planes)
    assert np.array_equal(open_image(tmp_path / "b.npz").read(), RGB.transpose(2, 0, 1))
    np.savez(tmp_path / "two.npz", image=RGB, other=RGB)
    with pytest.raises(ImageFileError, match=r"two\.npz: holds 2 arrays; save the image alone"):
        open_image(tmp_path / "two.npz")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ImageFileError, match=r"objects\.npy"):
        open_image(tmp_path / "objects.npy")


def write_czi(path, scenes, channels=2, planes=1):
    czi = pytest.importorskip("pylibCZIrw.czi")
    written = {}
    with czi.create_czi(str(path)) as document:
        for scene in range(scenes):
            for channel in range(channels):
                for z in range(planes):
                    pixels = RANDOM.integers(0, 4000, (1200, 1400), np.uint16)
                    place = {"C": channel, "Z": z, "T": 0}
                    document.write(pixels[..., None], location=(scene * 3000, 50), plane=place, scene=scene)
                    written[scene, channel] = pixels
        document.write_metadata("test", {0: "DAPI", 1: "CD3"}, 0.325e-6, 0.325e-6)
    return written


def test_czi_has_its_scenes_channels_and_scale(tmp_path):
    written = write_czi(tmp_path / "a.czi", 2)
    found = list_series(tmp_path / "a.czi")
    assert [each.name for each in found] == ["scene_0", "scene_1"]
    for scene in range(2):
        image = open_image(tmp_path / "a.czi", series=scene)
        assert image.shape == (2, 1200, 1400)
        assert image.channel_names == ("DAPI", "CD3")
        assert image.pixel_size_um == pytest.approx(0.325)
        assert image.level_shapes == ((1200, 1400), (600, 700))
        for channel in range(2):
            assert np.array_equal(image.read(channels=[channel])[0], written[scene, channel])
        assert np.array_equal(image.read((100, 200, 50, 60), channels=[1])[0], written[scene, 1][100:150, 200:260])
        assert image.read((1, 3, 599, 697), level=1).shape == (2, 599, 697)


def test_czi_in_colour_and_stacks(tmp_path):
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(tmp_path / "rgb.czi")) as document:
        document.write(np.ascontiguousarray(RGB[..., ::-1]))
    image = open_image(tmp_path / "rgb.czi")
    assert image.series is None
    assert image.channel_names == ("red", "green", "blue")
    assert np.array_equal(image.read(), RGB.transpose(2, 0, 1))
    assert image.pixel_size_um is None
    written = write_czi(tmp_path / "stack.czi", 1, planes=3)
    with pytest.raises(ImageFileError, match=r"stack\.czi: holds 3 z planes"):
        open_image(tmp_path / "stack.czi")
    last = open_image(tmp_path / "stack.czi", z=2)
    assert last.channel_names == ("DAPI", "CD3")
    assert np.array_equal(last.read(channels=[1])[0], written[0, 1])
    assert not np.array_equal(open_image(tmp_path / "stack.czi", z=0).read(channels=[1])[0], written[0, 1])


class Context(SimpleNamespace):
    def __enter__(self):
        return self

    def __exit__(self, *details):
        pass


def test_nd2_and_lif_through_their_libraries(tmp_path, monkeypatch):
    """The libraries cannot write, so that objects like theirs stand in."""
    planes = RANDOM.integers(0, 4000, (2, 3, 40, 50), np.uint16)
    channels = [SimpleNamespace(channel=SimpleNamespace(name=name)) for name in ("DAPI", "GFP", "RFP")]
    nd2 = Context(
        sizes={"P": 2, "C": 3, "Y": 40, "X": 50},
        read_frame=lambda position: planes[position],
        asarray=lambda position: planes[position],
        voxel_size=lambda: SimpleNamespace(x=0.65, y=0.65, z=1.0),
        metadata=SimpleNamespace(channels=channels),
    )
    coords = {"C": np.array(["DAPI", "GFP", "RFP"]), "Y": np.arange(40) * 0.2e-6, "X": np.arange(50) * 0.2e-6}
    lif_image = SimpleNamespace(name="one", sizes={"C": 3, "Y": 40, "X": 50}, asarray=lambda: planes[0], coords=coords)
    monkeypatch.setitem(sys.modules, "nd2", SimpleNamespace(ND2File=lambda _: nd2))
    monkeypatch.setitem(sys.modules, "liffile", SimpleNamespace(LifFile=lambda _: Context(images=[lif_image])))
    for image, expected, um in (
        (_open_nd2(tmp_path / "a.nd2", 1), planes[1], 0.65),
        (_open_lif(tmp_path / "a.lif", 0), planes[0], 0.2),
    ):
        assert np.array_equal(image.read(), expected)
        assert image.channel_names == ("DAPI", "GFP", "RFP")
        assert image.pixel_size_um == pytest.approx(um)


@pytest.mark.parametrize("start", [b"ZISRAWFILE", b"\xda\xce\xbe\x0a0000", b"\x70\0\0\0000000"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, start):
    for name in ("pylibCZIrw", "pylibCZIrw.czi", "nd2", "liffile"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.bin").write_bytes(start)
    with pytest.raises(ImageFileError, match=r"a\.bin: needs the package \w+: pip install 'cytoseed\[formats\]'"):
        open_image(tmp_path / "a.bin")
