"""The command line: what it writes, what it says, and its exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from bright import bright_config, bright_segmenter
from cytoseed.apps import segmenting
from cytoseed.apps.cli import app
from cytoseed.core.model import Segmenter
from cytoseed.models.weights import save_model
from cytoseed.settings import ModelConfig

RESULTS = (".labels.tif", ".geojson", ".csv", ".overlay.png", ".cytoseed.json")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_model(bright_segmenter(1), bright_config(1), folder / "grey")
    save_model(bright_segmenter(3), bright_config(3), folder / "colour")
    torch.manual_seed(0)
    untrained = ModelConfig("untrained")
    save_model(Segmenter(untrained), untrained, folder / "untrained")
    return folder


@pytest.fixture
def run(models, monkeypatch):
    monkeypatch.setenv("CYTOSEED_MODELS", str(models))

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def segment(run, tmp_path):
    """Run `cytoseed segment` with the grey model into tmp_path/out."""

    def invoke(*arguments, model="grey"):
        return run("segment", *arguments, "--model", model, "--output", tmp_path / "out")

    return invoke


@pytest.fixture
def image(tmp_path):
    return write_image(tmp_path / "in" / "scene.tif")


def write_image(path, objects=2, shape=(60, 80)):
    """Write a TIFF of bright boxes on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(shape, np.uint8)
    for index in range(objects):
        pixels[10:25, 5 + 25 * index : 20 + 25 * index] = 200
    tifffile.imwrite(path, pixels)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_results_are_written_and_told_in_a_line(segment, image, tmp_path):
    done = segment(image)
    assert done.exit_code == 0
    assert done.stdout.startswith("scene.tif: 2 nuclei in ")
    assert done.stdout.rstrip().endswith("scene.overlay.png")
    assert names(tmp_path / "out") == sorted("scene" + ending for ending in RESULTS)
    assert tifffile.imread(tmp_path / "out" / "scene.labels.tif").max() == 2
    assert len(json.loads((tmp_path / "out" / "scene.geojson").read_text())["features"]) == 2


def test_an_unknown_pixel_size_is_noted_on_stderr(segment, image):
    done = segment(image)
    assert done.stderr.count("pixel size unknown") == 1
    assert "pixel size unknown" not in done.stdout
    assert "pixel size" not in segment(image, "--pixel-size", 0.5, "--overwrite").stderr


def test_chosen_formats_only(segment, image, tmp_path):
    assert segment(image, "--format", "labels, geojson").exit_code == 0
    assert names(tmp_path / "out") == ["scene.cytoseed.json", "scene.geojson", "scene.labels.tif"]


def test_a_result_that_is_there_is_left(segment, image, tmp_path):
    segment(image)
    labels = tmp_path / "out" / "scene.labels.tif"
    before = labels.stat().st_mtime_ns
    again = segment(image)
    assert (again.exit_code, again.stdout) == (0, "scene.tif: already there\n")
    assert labels.stat().st_mtime_ns == before


def test_a_format_that_lacks_is_added(segment, image, tmp_path):
    segment(image, "--format", "labels")
    assert segment(image).exit_code == 0
    assert names(tmp_path / "out") == sorted("scene" + ending for ending in RESULTS)


def test_a_different_result_is_kept_until_overwritten(segment, image, tmp_path):
    segment(image)
    labels = tmp_path / "out" / "scene.labels.tif"
    before = labels.read_bytes()
    refused = segment(image, "--min-size", 10_000)
    assert refused.exit_code == 1
    assert "settings.min_size_px: 4 -> 10000" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert labels.read_bytes() == before
    assert segment(image, "--min-size", 10_000, "--overwrite").exit_code == 0
    assert tifffile.imread(labels).max() == 0


def test_a_folder_without_what_cytoseed_wrote(segment, tmp_path):
    write_image(tmp_path / "in" / "b.tif", 1)
    write_image(tmp_path / "in" / "a.tif")
    write_image(tmp_path / "in" / "a.labels.tif")
    write_image(tmp_path / "in" / ".hidden.tif")
    (tmp_path / "in" / "a.overlay.png").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    done = segment(tmp_path / "in")
    assert done.exit_code == 0
    assert [line.split(" in ")[0] for line in done.stdout.splitlines()] == ["a.tif: 2 nuclei", "b.tif: 1 nucleus"]


def test_a_pattern(segment, tmp_path):
    for name in ("a1.tif", "a2.tif", "b1.tif"):
        write_image(tmp_path / "in" / name)
    done = segment(tmp_path / "in" / "a*.tif", tmp_path / "in" / "a1.tif")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a1.tif", "a2.tif"]


def test_one_bad_file_does_not_stop_the_others(segment, tmp_path):
    write_image(tmp_path / "in" / "a.tif")
    (tmp_path / "in" / "b.png").write_text("this is a text")
    write_image(tmp_path / "in" / "c.tif")
    done = segment(tmp_path / "in")
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.tif", "c.tif"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "b.png" in errors[0]
    assert "Traceback" not in done.output


def truncated_tiff(path):
    write_image(path, shape=(300, 300))
    path.write_bytes(path.read_bytes()[:-5000])


def stack(path):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, np.zeros((4, 30, 30), np.uint8), ome=True, metadata={"axes": "ZYX"})


def not_a_number(path):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, np.full((30, 30), np.nan, np.float32))


def five_channels(path):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, np.zeros((5, 30, 31), np.uint8), ome=True, metadata={"axes": "CYX"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated_tiff, "cut short"),
        (stack, "4 planes in z"),
        (not_a_number, "NaN"),
        (five_channels, "--channels"),
    ],
)
def test_a_bad_image_is_told_in_one_line(segment, tmp_path, make, message):
    make(tmp_path / "in" / "bad.tif")
    done = segment(tmp_path / "in" / "bad.tif", "--pixel-size", 0.5, model="colour")
    assert done.exit_code == 1
    assert done.stderr.startswith("error:")
    assert len(done.stderr.splitlines()) == 1
    assert "bad.tif" in done.stderr
    assert message in done.stderr
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (63, 200)])
def test_small_images_work(segment, tmp_path, shape):
    done = segment(write_image(tmp_path / "in" / "small.tif", 0, shape))
    assert done.exit_code == 0
    assert done.stdout.startswith("small.tif: 0 nuclei")
    assert tifffile.imread(tmp_path / "out" / "small.labels.tif").shape == shape


def test_channels_by_name_and_number(segment, tmp_path):
    path = tmp_path / "multi.ome.tif"
    pixels = np.zeros((5, 60, 80), np.uint8)
    pixels[3, 10:30, 10:30] = 200
    channels = {"Name": ["a", "b", "c", "DAPI", "e"]}
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "CYX", "Channel": channels})
    assert segment(path, "--channels", "dapi").stdout.startswith("multi.ome.tif: 1 nucleus")
    assert segment(path, "--channels", "3", "--overwrite").stdout.startswith("multi.ome.tif: already there")
    assert segment(path, "--channels", "0,1,3", "--overwrite", model="colour").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "labels,svg"], "format is 'svg'; it must be of labels, geojson, table, overlay"),
        (["--device", "abacus"], "device is 'abacus'; it must be one of auto, cpu, cuda, mps"),
        (["--pixel-size", "-1"], "pixel_size_um is -1.0; it must be above 0"),
        (["--pixel-size", "1", "--diameter", "17"], "each alone sets the scale"),
        (["--seed-threshold", "2"], "seed_threshold is 2.0; it must be from 0 to 1"),
    ],
)
def test_a_misuse_is_told_before_any_work(segment, image, tmp_path, arguments, message):
    done = segment(image, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_lists_the_known(segment, image):
    done = segment(image, model="nucleus")
    assert done.exit_code == 2
    assert "there is no model 'nucleus'" in done.stderr
    assert "colour, grey, untrained" in done.stderr


def test_a_missing_file(segment, image, tmp_path):
    done = segment(image, tmp_path / "nowhere.tif")
    assert done.exit_code == 2
    assert "nowhere.tif" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images(segment, tmp_path):
    done = segment(tmp_path)
    assert done.exit_code == 2
    assert "no image found" in done.stderr


def test_results_that_would_collide(segment, image, tmp_path):
    done = segment(image, write_image(tmp_path / "other" / "scene.ome.tif"))
    assert done.exit_code == 2
    assert f"{image} and {tmp_path / 'other' / 'scene.ome.tif'} would both be written as 'scene'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(run, image):
    done = run("segment", image, "--model", "grey", "--output", image / "out")
    assert done.exit_code == 2
    assert "cannot be made" in done.stderr


def test_an_interruption_leaves_nothing_half_written(segment, tmp_path, monkeypatch):
    first, second = (write_image(tmp_path / "in" / name) for name in ("a.tif", "b.tif"))
    whole = segmenting.SegmentJob._segment_one

    def interrupted(job, path):
        if path == second:
            raise KeyboardInterrupt
        return whole(job, path)

    monkeypatch.setattr(segmenting.SegmentJob, "_segment_one", interrupted)
    done = segment(first, second)
    assert done.exit_code == 130
    assert names(tmp_path / "out") == sorted("a" + ending for ending in RESULTS)


def test_the_demo(run, tmp_path):
    done = run("demo", "--model", "untrained", "--output", tmp_path / "demo")
    assert done.exit_code == 0
    assert " nuclei in " in done.stdout
    assert done.stdout.rstrip().endswith("immunohistochemistry.overlay.png")
    stem = "immunohistochemistry"
    assert names(tmp_path / "demo") == sorted([f"{stem}.png", *(stem + ending for ending in RESULTS)])


def test_models_are_listed(run):
    done = run("models")
    assert done.exit_code == 0
    assert "bright" in done.stdout
    assert "lite" in done.stdout


def test_info(run, tmp_path, image):
    path = tmp_path / "stated.ome.tif"
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "actin"]}, **sizes}
    tifffile.imwrite(path, np.zeros((2, 30, 40), np.uint16), ome=True, metadata=metadata)
    done = run("info", path, image, tmp_path / "nowhere.png")
    assert done.exit_code == 1
    for text in ("40 x 30 px", "0 (DAPI), 1 (actin)", "uint16", "0.25 µm (OME metadata)", "unknown (not stated)"):
        assert text in done.stdout
    assert "nowhere.png" in done.stderr


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
    assert wrong.exit_code == 1
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
    assert "3 images to learn from, 1 to validate with" in done.stdout
    assert "step 2 of 2" in done.stdout
    config = json.loads((output / "best" / "config.json").read_text())
    assert (config["name"], config["recipe"]["steps"], config["recipe"]["crop_px"]) == ("trained", 2, 64)
    assert segment(image, model=output / "best").exit_code == 0
    again = run("train", "--data", training_data, "--output", output, *flags)
    assert again.exit_code == 1
    assert "holds a training already" in again.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"step": 5}', "no setting 'step'"), ("{", "not valid JSON"), ("[]", "holds a list")],
)
def test_a_broken_training_configuration(run, training_data, tmp_path, text, message):
    settings = tmp_path / "settings.json"
    settings.write_text(text)
    done = run("train", "--data", training_data, "--output", tmp_path / "trained", "--config", settings)
    assert done.exit_code == 2
    assert message in done.stderr


def test_every_setting_has_a_flag_with_its_help():
    for command, flags in {
        "segment": ("--pixel-size", "--diameter", "--channels", "--device", "--peak-radius", "--agreement-iou"),
        "train": ("--steps", "--batch-size", "--learning-rate", "--scale-range", "--compile", "--no-compile"),
    }.items():
        done = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(app, [command, "--help"])
        assert done.exit_code == 0
        assert all(flag in done.stdout for flag in flags)
    assert "Highest learning rate." in done.stdout


def test_the_version(run):
    assert run("--version").stdout.startswith("cytoseed 0")


def test_help_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "cytoseed", "--help"], check=True, capture_output=True, text=True, timeout=120
    )
    assert "segment" in done.stdout
    assert done.stderr == ""


def test_the_package_and_the_command_line_are_light():
    heavy = ("torch", "scipy", "skimage", "cv2", "pandas", "tifffile", "imagecodecs", "numpy")
    code = (
        "import sys, cytoseed, cytoseed.apps.cli, cytoseed.__main__;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
