"""The commands beside `segment`: what they write, what they say, and their exit codes."""

import dataclasses
import json
import re
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from cytoseed.cli.main import app
from cytoseed.cli.train_command import _find_split_samples, read_train_config
from cytoseed.learn.settings import TrainConfig
from cytoseed.models.weights import list_models
from cytoseed.settings import SegmentOptions
from scenes import RESULTS, names

NUCLEI = resources.files("cytoseed.models") / "nuclei" / "config.json"


def test_the_demo(run, tmp_path):
    done = run("demo", "--model", "untrained", "--output", tmp_path / "demo")
    assert done.exit_code == 0
    assert " nuclei in " in done.stdout
    assert done.stdout.rstrip().endswith("immunohistochemistry.overlay.png")
    stem = "immunohistochemistry"
    assert names(tmp_path / "demo") == sorted([f"{stem}.png", *(stem + ending for ending in RESULTS)])


def test_models_are_listed(run):
    assert run("--version").stdout.startswith("cytoseed 0")
    done = run("models")
    assert done.exit_code == 0
    assert "bright" in done.stdout
    assert "lite" in done.stdout
    for model in list_models():
        assert model.description in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_info(run, tmp_path, image):
    path = tmp_path / "stated.ome.tif"
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "actin"]}, **sizes}
    tifffile.imwrite(path, np.zeros((2, 30, 40), np.uint16), ome=True, metadata=metadata)
    wide = tmp_path / "wide.tif"
    tifffile.imwrite(wide, np.zeros((30, 40), np.uint8), resolution=(10_000, 20_000), resolutionunit="CENTIMETER")
    done = run("info", path, image, wide, tmp_path / "nowhere.png")
    assert "1 x 0.5 µm, width x height (TIFF resolution tags)" in done.stdout
    assert done.exit_code == 1
    for text in ("40 x 30 px", "0 (DAPI), 1 (actin)", "uint16", "0.25 µm (OME metadata)", "pixel size  not stated"):
        assert text in done.stdout
    assert "nowhere.png" in done.stderr
    with tifffile.TiffWriter(tmp_path / "scan.ome.tif", ome=True) as writer:
        for name, side in (("macro", 20), ("scan", 160)):
            writer.write(np.zeros((side, side), np.uint8), metadata={"axes": "YX", "Name": name})
    done = run("info", tmp_path / "scan.ome.tif")
    for text in ("image 0     macro (20 x 20 px), a smaller picture", "image 1     scan", "size        160 x 160 px"):
        assert text in done.stdout


def test_evaluate(run, segment, image, tmp_path):
    segment(image, "--format", "labels")
    truth = tmp_path / "true"
    truth.mkdir()
    tifffile.imwrite(truth / "scene.tif", (tifffile.imread(image) > 0).astype(np.uint8))
    figures = tmp_path / "figures.csv"
    done = run("evaluate", tmp_path / "out", truth, "--csv", figures)
    assert done.exit_code == 0
    assert "F1@0.5" in done.stdout
    assert figures.read_text().splitlines()[1].startswith("scene,")
    wrong = run("evaluate", tmp_path / "nowhere", truth)
    assert wrong.exit_code == 2
    assert "nowhere" in wrong.stderr


@pytest.fixture
def training_data(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(4):
        mask = np.zeros((64, 64), np.uint8)
        for number, (row, column) in enumerate(rng.integers(0, 48, (4, 2)), start=1):
            mask[row : row + 14, column : column + 14] = number
        for kind, pixels in (("images", 200 * (mask > 0).astype(np.uint8)), ("masks", mask)):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "data" / kind / f"{index}.tif", pixels)
    return tmp_path / "data"


def test_train_makes_a_model_that_segments(run, segment, image, training_data, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"steps": 50, "pretrain_steps": 1, "batch_size": 1, "crop_px": 64}))
    output = tmp_path / "trained"
    flags = ["--config", settings, "--steps", 2, "--validate-every", 2, "--device", "cpu"]
    done = run("train", "--data", training_data, "--output", output, *flags)
    assert done.exit_code == 0, done.output
    assert "3 training images, 1 validation images" in done.stdout
    assert re.search(r"step 2 of 2: .* crops/s, 0 min left", done.stdout)
    config = json.loads((output / "best" / "config.json").read_text())
    (stage,) = config["recipe"]["stages"]
    assert (config["name"], stage["steps"], stage["crop_px"]) == ("trained", 2, 64)
    assert segment(image, model=output / "best").exit_code == 0
    again = run("train", "--data", training_data, "--output", output, *flags)
    assert again.exit_code == 1
    assert "holds a training run" in again.stderr


def test_training_goes_on_from_a_model(run, training_data, tmp_path):
    """Settings are those for few images; figures are shown before and after, and do not fall."""
    output = tmp_path / "mine"
    flags = ["--steps", 2, "--crop", 64, "--batch-size", 1, "--device", "cpu", "--model-pixel-size", 0.4]
    done = run("train", "--data", training_data, "--output", output, "--from", "nuclei", *flags)
    assert done.exit_code == 0, done.output
    config = json.loads((output / "best" / "config.json").read_text())
    *before, last = config["recipe"]["stages"]
    assert len(before) == len(json.loads(NUCLEI.read_text())["recipe"]["stages"])
    assert (last["pretrain_steps"], last["patience"]) == (0, 5)
    assert (config["name"], config["pixel_size_um"], config["licence"]) == ("mine", 0.4, "not stated")
    was, now = re.search(r"^all .*?([\d.]+) -> ([\d.]+)  ", done.stdout, re.MULTILINE).groups()
    assert float(now) >= float(was) > 0


def test_a_lighter_network_is_made_of_another_and_taught_by_it(run, training_data, tmp_path):
    wide, output = tmp_path / "wide", tmp_path / "light"
    flags = ["--data", training_data, "--steps", 1, "--crop", 64, "--batch-size", 1, "--device", "cpu"]
    first = run("train", "--output", wide, "--network", "lite", *flags)
    assert first.exit_code == 0, first.output
    flags += ["--teacher", wide / "last", "--teacher-weight", 2]
    done = run("train", "--output", output, "--from", wide / "last", "--network", "slim", *flags)
    assert done.exit_code == 0, done.output
    config = json.loads((output / "last" / "config.json").read_text())
    assert (config["network"], config["recipe"]["stages"][-1]["teacher_weight"]) == ("slim", 2)
    assert len(config["recipe"]["stages"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "settings.json is not valid JSON"),
        ('{"learning_rate": 0,001}', "settings.json is not valid JSON"),
        ('{"learning_rate": "0,001"}', "settings.json: learning_rate is '0,001'"),
        (None, "No such file or directory"),
        ('{"step": 5}', "no setting 'step'"),
        ('{"batch_size": 2.5}', "batch_size is 2.5; it must be a whole number"),
        ('{"scale_range": [0.5, 1, 2]}', "scale_range is (0.5, 1, 2); it must be 2 numbers"),
        ('{"synthetic_stain_share": 7}', "synthetic_stain_share is 7; it must be from 0 to 1"),
    ],
)
def test_a_broken_training_configuration_is_named(tmp_path, text, message):
    settings = tmp_path / "settings.json"
    if text is not None:
        settings.write_text(text)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=re.escape(message)):
        read_train_config("default", settings, {})
    settings.write_text('{"steps": 7}', encoding="utf-16")
    assert read_train_config("default", settings, {"batch_size": 3}).steps == 7
    with pytest.raises(ValueError, match="recipe is 'best'; it must be one of default, paper, finetune"):
        read_train_config("best", None, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0.5,2", "folder 'nowhere' does not exist"),
        ("2, 0.5", r"scale_range is (2.0, 0.5); it must be two numbers above 0"),
        ("0.5,x", "is not a list of numbers"),
    ],
)
def test_several_numbers_have_commas_between(run, tmp_path, given, message):
    done = run("train", "--data", "nowhere", "--output", tmp_path / "trained", "--scale-range", given)
    assert done.exit_code == 2
    assert message in done.stderr


def test_thresholds_are_chosen_on_what_the_training_set_aside(run, training_data, tmp_path):
    flags = ["--steps", 1, "--crop", 64, "--batch-size", 1, "--device", "cpu"]
    trained = run("train", "--data", training_data, "--output", tmp_path / "mine", "--from", "nuclei", *flags)
    assert "3 training images, 1 validation images" in trained.stdout
    last = tmp_path / "mine" / "last"
    for model, which in (("nuclei", "4 images in the data"), (last, "1 image set aside in training")):
        tuned = run("tune", "--model", model, "--data", training_data, "--output", tmp_path / f"tuned {which}")
        assert f"thresholds are chosen on the {which}" in tuned.stdout, tuned.output
        assert "with less than 5 images" in tuned.stderr


def test_the_pixel_size_of_training_images_is_stated(training_data):
    for stated, expected in ((None, {None}), (0.3, {0.3})):
        samples = _find_split_samples(training_data, (), stated)
        assert {sample.pixel_size_um for sample in samples.train + samples.val} == expected
    with pytest.raises(ValueError, match="pixel_size_um is -1"):
        _find_split_samples(training_data, (), -1)


@pytest.mark.parametrize(("name", "settings"), [("segment", SegmentOptions), ("train", TrainConfig)])
def test_every_setting_has_a_flag_in_a_group_with_its_help(name, settings):
    parameters = {one.name: one for one in typer.main.get_command(app).commands[name].params}
    for entry in dataclasses.fields(settings):
        assert len(parameters[entry.name].help) > 15
    for parameter in parameters.values():
        assert parameter.rich_help_panel or parameter.name in ("inputs", "help")
    assert parameters["steps" if name == "train" else "min_size_px"].opts[0] in ("--steps", "--min-size")


@pytest.mark.parametrize("width", [80, 120])
def test_help_of_segment_in_words_for_biologists(width):
    done = CliRunner(env={"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)}).invoke(app, ["segment", "--help"])
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= width
    titles = re.findall(r"╭─ ([^─]+) ─", done.stdout)
    assert titles == [
        "Arguments",
        "Options",
        "Input and scale",
        "Model",
        "Output",
        "Large images",
        "Advanced",
        "Messages",
    ]
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "higher values give smaller objects" in text
    seed, pixel_size = (re.search(f"{flag} (.*?) --", text)[1] for flag in ("--seed-threshold", "--pixel-size"))
    assert "default: (the model's)" in seed
    assert "the model's" not in pixel_size


def test_the_package_and_the_command_line_are_light():
    heavy = ("torch", "scipy", "skimage", "cv2", "pandas", "tifffile", "imagecodecs", "numpy")
    code = (
        "import atexit, runpy, sys; sys.argv = ['cytoseed', '--help']\n"
        f"atexit.register(lambda: print([name for name in {heavy} if name in sys.modules]))\n"
        "runpy.run_module('cytoseed', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert "segment" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
