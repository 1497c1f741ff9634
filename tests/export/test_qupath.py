"""The folder for QuPath: read by Java's rules, by bioimageio.spec, and run."""

import hashlib
import zipfile
from itertools import product

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
import yaml
from java_rules import ANY_CHANNELS, read_as_qupath
from packed import small_model

from cytoseed import paths
from cytoseed.export.card import model_card
from cytoseed.export.qupath import to_qupath, write_package
from cytoseed.export.rdf import CLIP, package_name
from cytoseed.export.sample import draw_cover, make_sample, preprocess
from cytoseed.export.torchscript import open_torchscript
from cytoseed.learn.widen import widen_model
from cytoseed.settings import DatasetNote, ModelConfig
from same import assert_same_objects

TENSORS = {"sample_input.tif", "sample_output.tif", "test_input.npy", "test_output.npy"}
FILES = {"cover.png", "instanseg.pt", "rdf.yaml", *TENSORS}


@pytest.fixture(scope="module")
def folder(nuclei, tmp_path_factory):
    return to_qupath(nuclei, tmp_path_factory.mktemp("qupath"))


def test_qupath_reads_it(folder):
    assert folder.name == "nuclei-0.1.0"
    assert {path.name for path in folder.iterdir()} == {*FILES, "nuclei_README.md"}
    read = read_as_qupath(folder)
    assert (read.name, read.version, read.channels, read.outputs) == ("nuclei", "0.1.0", ANY_CHANNELS, 1)
    assert read.pixel_size_um == 0.5
    assert read.readme.startswith("# nuclei 0.1.0\n")


def test_qupath_offers_any_number_of_channels_of_a_model_of_any(nuclei, tmp_path):
    wide = widen_model(nuclei, "any", ("nuclei", "cells"))
    read = read_as_qupath(to_qupath(wide, tmp_path))
    assert (read.channels, read.outputs) == (ANY_CHANNELS, 2)


def test_qupath_reads_two_targets_and_one_channel(pair_folder):
    read = read_as_qupath(pair_folder)
    assert (read.channels, read.outputs) == (1, 2)
    names = yaml.safe_load((pair_folder / "rdf.yaml").read_text())["outputs"][0]["axes"][1]["channel_names"]
    assert names == ["nuclei", "cells"]
    assert open_torchscript(pair_folder / "instanseg.pt").cells_and_nuclei


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its own
@pytest.mark.parametrize("which", ["folder", "pair_folder"])
def test_bioimageio_accepts_it(which, request):
    spec = pytest.importorskip("bioimageio.spec")
    described = spec.load_description(request.getfixturevalue(which) / "rdf.yaml", format_version="latest")
    assert described.validation_summary.status in ("valid-format", "passed"), described.validation_summary.format()


def test_the_zip_holds_the_folder(folder):
    with zipfile.ZipFile(folder.with_name("nuclei-0.1.0.zip")) as archive:
        assert set(archive.namelist()) == {path.name for path in folder.iterdir()}  # at the top, as QuPath unpacks
        for name in archive.namelist():
            assert archive.read(name) == (folder / name).read_bytes()


def test_hashes(folder):
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    entries = [tensor[key] for tensor in rdf["inputs"] + rdf["outputs"] for key in ("test_tensor", "sample_tensor")]
    for entry in [*entries, *rdf["weights"].values()]:
        assert hashlib.sha256((folder / entry["source"]).read_bytes()).hexdigest() == entry["sha256"]


def test_samples_show_the_test_tensors(folder, pair_folder):
    for place, which in product((folder, pair_folder), ("input", "output")):
        picture = tifffile.imread(place / f"sample_{which}.tif")
        assert np.array_equal(picture.squeeze(), np.load(place / f"test_{which}.npy").squeeze())


def test_the_file_in_it_gives_the_test_output(folder, nuclei):
    module = open_torchscript(folder / "instanseg.pt")
    raw, labels = np.load(folder / "test_input.npy"), np.load(folder / "test_output.npy")
    assert raw.shape == (1, 3, 256, 256)
    assert raw.dtype == labels.dtype == np.float32
    assert labels.max() > 30
    assert np.array_equal(module(torch.from_numpy(preprocess(raw))).numpy(), labels)
    one = module(torch.from_numpy(preprocess(raw[:, :1])))  # a single channel, as any number of them may be ticked
    assert np.array_equal(one.numpy(), labels)
    with torch.inference_mode():
        own = nuclei.segmenter(torch.from_numpy(preprocess(raw))).numpy()
    assert_same_objects(labels, own, iou=0.95)


def test_the_normalisation_is_described(folder):
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    steps = {step["id"]: step["kwargs"] for step in rdf["inputs"][0]["preprocessing"]}
    assert (steps["scale_range"]["min_percentile"], steps["scale_range"]["max_percentile"]) == (0.1, 99.9)
    assert (steps["clip"]["min"], steps["clip"]["max"]) == CLIP
    image = np.random.default_rng(0).gamma(2, 9, (1, 2, 80, 90)).astype(np.float32)
    low, high = np.quantile(image[0, 1], [0.001, 0.999])
    wanted = np.clip((image[0, 1] - low) / (high - low + 1e-6), -0.5, 1.5)
    np.testing.assert_allclose(preprocess(image)[0, 1], wanted, atol=1e-6)
    assert not preprocess(np.ones((1, 1, 5, 5), np.float32)).any()


def test_the_cover_outlines_the_objects(grey_model):
    labels = np.zeros((1, 1, 256, 256), np.float32)
    sample = make_sample(grey_model.config, lambda image: labels[:, :, : image.shape[2]])
    left, right = np.split(imagecodecs.png_decode(draw_cover(sample)), 2, axis=1)
    assert np.array_equal(left, right)
    labels[0, 0, 100:140, 50:80] = 1
    left, right = np.split(imagecodecs.png_decode(draw_cover(sample)), 2, axis=1)
    rows, columns = np.nonzero((left != right).any(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (200, 279, 100, 159)


def test_the_same_model_gives_the_same_bytes_and_leaves_other_files(grey_model, tmp_path):
    first = tmp_path / "one" / "bright-0.1.0"
    first.mkdir(parents=True)
    (first / "notes.txt").write_text("mine")
    (first / "rdf.yaml").write_text("old")
    again, other = to_qupath(grey_model, tmp_path / "one"), to_qupath(grey_model, tmp_path / "other")
    assert (again / "notes.txt").read_text() == "mine"
    for path in other.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
    assert again.with_suffix(".0.zip").read_bytes() == other.with_suffix(".0.zip").read_bytes()
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["bright-0.1.0", "bright-0.1.0.zip"]


def test_the_description_is_written_last(tmp_path, monkeypatch):
    """QuPath looks for it: an interrupted export leaves none, or the old one."""
    real, names = paths.os.replace, []

    def replace(source: object, place: object) -> None:
        names.append(str(place).rpartition("/")[2])
        if names[-1] == "rdf.yaml":
            raise OSError("no room")
        real(source, place)

    monkeypatch.setattr(paths.os, "replace", replace)
    with pytest.raises(OSError, match="no room"):
        write_package(dict.fromkeys([*FILES, "zebra"], b""), tmp_path, "bright-0.1.0")
    assert {path.name for path in (tmp_path / "bright-0.1.0").iterdir()} == {*FILES, "zebra"} - {"rdf.yaml"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "mine"}, "its name is 'mine'; it must be 5 to 128 letters"),
        ({"name": "über-alles"}, "without accents"),
        ({"name": "../escape"}, "its name is"),
        ({"version": "final"}, "its version is 'final'; it must be a version such as 0.1.0"),
        ({"licence": "free for all my friends"}, "its licence is 'free .*must be an SPDX identifier such as"),
    ],
)
def test_names_that_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=f"{message}.*config.json"):
        to_qupath(small_model(**changed), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", ["1", "1.0.0rc1", "2.0.0-beta.1", "1.2.3.post4", "1.0+local"])
def test_versions_that_are_allowed(version):
    assert package_name(ModelConfig("nuclei", version=version)) == f"nuclei-{version}"


def test_a_model_of_two_channels_that_finds_nothing(tmp_path):
    folder = to_qupath(small_model(2, min_size_px=10**6), tmp_path)
    assert read_as_qupath(folder).channels == ANY_CHANNELS
    assert np.load(folder / "test_input.npy").shape == (1, 2, 256, 256)
    assert not np.load(folder / "test_output.npy").any()


def test_the_readme_is_made_from_the_configuration():
    config = ModelConfig(
        "tissue",
        version="2.0",
        description="Nuclei in tissue.",
        licence="CC-BY-NC-4.0",
        pixel_size_um=0.325,
        trained_on=(DatasetNote("slides", "CC-BY-NC-4.0", "https://example.org", 12), DatasetNote("more", "CC0-1.0")),
        recipe={"stages": [{"steps": 7, "crop_px": 256}, {"steps": 9}], "machine": "a laptop"},
        figures={"val": {"f1": 0.87654, "slides brightfield": {"f1": 0.5}}, "note": "few images"},
        sha256="abc",
    )
    page = model_card(config, "tissue-2.0")
    for words in (
        "Pixel size: 0.325 µm",
        "SHA-256 abc",
        "**Not for commercial use**",
        "- slides: 12 images, CC-BY-NC-4.0 (https://example.org)",
        "- val: f1 0.87654\n- val, slides brightfield: f1 0.5\n- note: few images",
        "1. steps 7, crop_px 256\n2. steps 9",
    ):
        assert words in page
    plain = model_card(ModelConfig("grey-model", channels=1), "grey-model-0.1.0")
    assert "Not for commercial use" not in plain
    assert "Tick one input channel" in plain
    assert plain.count("Not stated.") == 2


def test_non_commercial_training_images_make_a_non_commercial_model():
    config = ModelConfig("mixed", trained_on=(DatasetNote("a", "CC0-1.0"), DatasetNote("b", "CC-BY-NC-SA-4.0")))
    assert "**Not for commercial use**" in model_card(config, "mixed-0.1.0")
