"""The C++ program of examples/cpp, built against the libtorch that pip installed, beside Python."""

import io
import shutil
import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import torch

from bright import bright_config, bright_segmenter
from cytoseed import segment
from cytoseed.export.torchscript import to_torchscript
from cytoseed.models.weights import Model
from same import assert_same_objects
from twenty import as_png, twenty_images

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
DONE, FAILED, MISUSED = 0, 1, 2


def run(program, *words) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def program(request) -> Path:
    """The program, built again only where its source has changed."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("CMake is not installed")
    folder = request.config.cache.mkdir("cytoseed_cpp")
    configured = run(cmake, "-S", SOURCE, "-B", folder, f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    for sign, lacking in (("Could NOT find PNG", "libpng's headers are"), ("No CMAKE_CXX_COMPILER", "a compiler is")):
        if configured.returncode != 0 and sign in configured.stdout + configured.stderr:
            pytest.skip(f"{lacking} not installed")
    for ran in (configured, run(cmake, "--build", folder)):
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "cytoseed_cpp"


@pytest.fixture(scope="module")
def module(nuclei, tmp_path_factory) -> Path:
    return to_torchscript(nuclei, tmp_path_factory.mktemp("module") / "nuclei.pt")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> tuple[Model, Path]:
    model = Model(bright_config(3), bright_segmenter(3))
    return model, to_torchscript(model, tmp_path_factory.mktemp("module") / "bright.pt")


def labels_of(program, module, written: bytes, folder: Path, *further) -> np.ndarray:
    """Run the program on a PNG."""
    (folder / "image.png").write_bytes(written)
    ran = run(program, module, folder / "image.png", folder / "labels.png", *further)
    assert ran.returncode == DONE, ran.stderr
    labels = imagecodecs.png_decode((folder / "labels.png").read_bytes())
    assert labels.dtype == np.uint16
    assert ran.stdout == f"{labels.max()} objects\n"
    return labels


def test_real_images_have_pythons_objects(program, module, nuclei, tmp_path):
    differing = 0
    for _, image in twenty_images():
        expected = segment(image, nuclei).labels
        found = labels_of(program, module, as_png(image), tmp_path)
        assert_same_objects(found, expected, iou=0.9)
        differing += np.count_nonzero((found > 0) != (expected > 0))
    assert differing <= 20  # border pixels, of 20 images; where this was written: none


@pytest.mark.parametrize("pixel_size_um", [0.25, 0.65, 0.501])
def test_a_stated_pixel_size_scales_as_in_python(program, module, nuclei, tmp_path, monkeypatch, pixel_size_um):
    monkeypatch.setattr("cytoseed.run.tile.has_stairs", lambda *_: False)  # the program does not smooth outlines
    _, image = twenty_images()[0]
    expected = segment(image, nuclei, pixel_size_um=pixel_size_um).labels
    found = labels_of(program, module, as_png(image), tmp_path, pixel_size_um)
    assert expected.max() > 5
    assert_same_objects(found, expected, iou=0.9)
    assert np.array_equal(np.unique(found), np.arange(found.max() + 1))
    assert np.count_nonzero((found > 0) != (expected > 0)) <= 0.001 * found.size


@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "RGB;16"])
def test_every_kind_of_png_is_read_without_its_alpha(program, coloured, tmp_path, kind):
    model, module = coloured
    blocks = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    ramp = np.arange(blocks[..., 0].size, dtype=np.uint32).reshape(blocks.shape[:2])
    if kind.endswith("16"):
        deep = (blocks * np.uint16(255) + (ramp % 251)[..., None]).astype(np.uint16)
        written = imagecodecs.png_encode(deep if kind == "RGB;16" else np.ascontiguousarray(deep[..., 0]))
    else:
        image = PIL.Image.fromarray(blocks).convert(kind, dither=PIL.Image.Dither.NONE)
        if kind.endswith("A"):
            image.putalpha(PIL.Image.fromarray((ramp % 256).astype(np.uint8)))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        written = stream.getvalue()
    found = labels_of(program, module, written, tmp_path)
    expected = segment(tmp_path / "image.png", model).labels
    assert expected.max() > 5
    assert_same_objects(found, expected)


def test_nuclei_and_cells_share_their_ids(program, tmp_path):
    both = Model(bright_config(1, ("nuclei", "cells")), bright_segmenter(1, ("nuclei", "cells")))
    with torch.no_grad():
        both.segmenter.classifiers[1].layers[0].bias.fill_(-0.2)  # cells are what is above 0.2
    image = np.zeros((60, 90), np.uint8)
    for left, value in ((10, 200), (40, 255), (70, 220)):
        image[10:40, left - 5 : left + 15] = 90
        image[20:30, left : left + 10] = value
    written = imagecodecs.png_encode(image)
    nuclei = labels_of(program, to_torchscript(both, tmp_path / "both.pt"), written, tmp_path)
    cells = imagecodecs.png_decode((tmp_path / "labels.png.cells.png").read_bytes())
    assert nuclei.max() == 3
    assert np.array_equal(nuclei[nuclei > 0], cells[nuclei > 0])
    assert_same_objects(np.stack([nuclei, cells]), segment(image, both).labels)


def test_mistakes_are_explained(program, coloured, tmp_path):
    _, module = coloured
    image, labels = tmp_path / "image.png", tmp_path / "labels.png"
    image.write_bytes(imagecodecs.png_encode(np.zeros((30, 40, 3), np.uint8)))
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:50])
    (tmp_path / "text.pt").write_text("no module")
    grey = to_torchscript(Model(bright_config(), bright_segmenter()), tmp_path / "grey.pt")
    for words, code, told in (
        ((), MISUSED, "usage"),
        ((tmp_path / "none.pt", image, labels), FAILED, "none.pt: No such file"),
        ((tmp_path / "text.pt", image, labels), FAILED, "cytoseed export"),
        ((module, tmp_path / "none.png", labels), FAILED, "none.png: No such file"),
        ((module, tmp_path / "cut.png", labels), FAILED, "cannot be read as PNG"),
        ((module, image, labels, "wide"), FAILED, "'wide'; it must be a number"),
        ((grey, image, labels), FAILED, "the image has 3 channels, the model takes 1"),
        ((module, image, tmp_path / "none" / "labels.png"), FAILED, "No such file"),
    ):
        ran = run(program, *words)
        assert ran.returncode == code, words
        assert told in ran.stderr, words
        assert ran.stderr.count("\n") == 1, "one line, without a traceback"
        assert not labels.exists()
    assert run(program, module, image, labels).returncode == DONE
    assert "0.5 um" in run(program, module, image, labels).stderr


@pytest.mark.parametrize("below", ["", "share/cmake"])
def test_a_libtorch_of_the_system_is_not_mixed_in(tmp_path, program, below):
    assert program.exists()
    prefix, system = Path(torch.__file__).parent, tmp_path / "system"
    system.mkdir()
    for name in ("torch", "c10"):
        (system / f"lib{name}.so").touch()
    words = (f"-DCMAKE_PREFIX_PATH={prefix / below}", f"-DCMAKE_SYSTEM_LIBRARY_PATH={system}")
    configured = run("cmake", "-S", SOURCE, "-B", tmp_path / "build", *words)
    assert configured.returncode == 0, configured.stderr
    found = (tmp_path / "build" / "CMakeCache.txt").read_text(encoding="utf-8")
    assert f"TORCH_LIBRARY:FILEPATH={prefix / 'lib' / 'libtorch.so'}\n" in found
    assert str(system / "lib") not in found
    [link] = (tmp_path / "build").rglob("link.txt")
    assert f"-Wl,-rpath,{prefix / 'lib'}" in link.read_text(encoding="utf-8")
