"""Pictures of evaluations: which files there are, and that each kind of object is drawn in its colour."""

from __future__ import annotations

import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from matplotlib.figure import Figure

from cytoseed.learn import plots
from cytoseed.learn.evaluate import Evaluation, ScoredImage, evaluate_folders
from cytoseed.learn.metrics import score
from cytoseed.learn.plots import write_plots

pytestmark = pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")  # masks without objects

COLOURS = {"found": "56B4E9", "missed": "F0E442", "false": "FF7F2A", "split": "FFA6DD", "merged": "00C08F"}


def boxes(*places, shape=(60, 90)):
    """A label image of boxes: (row, column, height, width), in the order of their ids."""
    labels = np.zeros(shape, np.int32)
    for number, (row, column, height, width) in enumerate(places, start=1):
        labels[row : row + height, column : column + width] = number
    return labels


TRUE = boxes((2, 2, 12, 12), (2, 30, 12, 12), (20, 2, 12, 20), (20, 40, 12, 12), (20, 52, 12, 12))
PREDICTED = boxes((2, 2, 12, 12), (40, 60, 12, 12), (20, 2, 12, 9), (20, 12, 12, 9), (20, 40, 12, 24))


@pytest.fixture
def folders(tmp_path):
    """Image `all` has one object of each verdict, `empty` none, and in `fine` all are found."""
    pairs = {"all": (PREDICTED, TRUE), "fine": (TRUE, TRUE), "empty": (0 * TRUE, 0 * TRUE)}
    for name in ("predicted", "true", "images"):
        (tmp_path / name).mkdir()
    for stem, (predicted, true) in pairs.items():
        tifffile.imwrite(tmp_path / "predicted" / f"{stem}.labels.tif", predicted)
        tifffile.imwrite(tmp_path / "true" / f"{stem}.tif", true)
        tifffile.imwrite(tmp_path / "images" / f"{stem}.tif", (100 + 50 * (true > 0)).astype(np.uint8))
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read_png(path):
    return imagecodecs.png_decode(path.read_bytes())[:, :, :3]


def pixels_of(picture, colour):
    """Number of pixels of this colour, apart from smoothed edges."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (0, 2, 4)])
    return int(np.count_nonzero((np.abs(picture.astype(int) - wanted) < 12).all(axis=2)))


def test_an_earlier_runs_worst_images_go(folders):
    plots = folders / "plots"
    plots.mkdir()
    for name in ("worst_01_other.png", "worst_100_all.png", "worst_case.png", "worst_01_all.tif", "mine.png"):
        (plots / name).touch()
    evaluation = evaluate_folders(folders / "predicted", folders / "true")
    write_plots(evaluation, plots, worst=1)
    kept = ["mine.png", "worst_01_all.tif", "worst_case.png"]
    assert names(plots) == sorted(["f1_box.png", "f1_iou.png", "worst_01_all.png", *kept])
    write_plots(evaluation, plots, worst=0)
    assert names(plots) == sorted(["f1_box.png", "f1_iou.png", *kept])


@pytest.mark.parametrize("images", [None, "images"])
def test_every_verdict_is_drawn_in_its_colour(folders, images):
    evaluation = evaluate_folders(folders / "predicted", folders / "true")
    write_plots(evaluation, folders / "plots", None if images is None else folders / images)
    worst, fine = (read_png(folders / "plots" / f"worst_{name}.png") for name in ("01_all", "03_fine"))
    legend = 110
    for verdict, colour in COLOURS.items():
        assert pixels_of(worst[:-legend], colour) > 500, verdict
        assert pixels_of(worst[-legend:], colour) > 20, verdict
        assert (pixels_of(fine[:-legend], colour) > 500) == (verdict == "found"), verdict
    assert worst.shape[1] == 1600  # small images are enlarged
    assert worst.shape[0] == pytest.approx(1600 * 60 / 90 + 100 + legend, abs=2)


def test_pixels_that_nobody_annotated(folders):
    true = TRUE.copy()
    true[36:] = -1
    tifffile.imwrite(folders / "true" / "all.tif", true)
    evaluation = evaluate_folders(folders / "predicted", folders / "true")
    write_plots(evaluation, folders / "plots", worst=1)
    picture = read_png(folders / "plots" / "worst_01_all.png")
    assert pixels_of(picture[:-110], COLOURS["false"]) == 0
    assert pixels_of(picture[:-110], "999999") > 100
    assert pixels_of(picture[:-110], "282828") > 10_000  # the ground where nobody annotated


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (700, 20), (1200, 900)])
def test_images_of_odd_sizes(folders, shape):
    for stem in ("all", "fine", "empty"):
        for path in (folders / "predicted" / f"{stem}.labels.tif", folders / "true" / f"{stem}.tif"):
            tifffile.imwrite(path, np.ones(shape, np.int32), metadata={"axes": "YX"})
    evaluation = evaluate_folders(folders / "predicted", folders / "true")
    write_plots(evaluation, folders / "plots", worst=1)
    picture = read_png(folders / "plots" / "worst_01_all.png")
    assert picture.shape[1] >= 1100
    assert pixels_of(picture, COLOURS["found"]) > 20


def test_ties_go_by_name_and_ranks_have_enough_digits(folders, monkeypatch):
    evaluation = evaluate_folders(folders / "predicted", folders / "true")
    fine = next(image for image in evaluation.images if image.name == "fine")
    many = tuple(fine._replace(name=f"image {number:03d}") for number in reversed(range(101)))
    drawn = []
    monkeypatch.setattr(plots, "draw_errors", lambda image, *_: drawn.append(image.name) or Figure((1, 1)))
    written = write_plots(Evaluation(many), folders / "plots", worst=100)
    assert drawn == [f"image {number:03d}" for number in range(100)]
    assert written[2].name == "worst_001_image 000.png"


def test_images_that_are_not_there(folders):
    evaluation = evaluate_folders(folders / "predicted", folders / "true")
    (folders / "others").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image of all, empty, fine"):
        write_plots(evaluation, folders / "plots", folders / "others")
    (folders / "images" / "all.tif").unlink()
    assert len(write_plots(evaluation, folders / "plots", folders / "images")) == 5
    tifffile.imwrite(folders / "images" / "all.tif", np.zeros((5, 6), np.uint8))
    with pytest.raises(ValueError, match=r"all\.tif has \(5, 6\) pixels"):
        write_plots(evaluation, folders / "plots", folders / "images")
    assert not [name for name in names(folders / "plots") if name.startswith(".")]


def test_what_cannot_be_drawn_is_refused(folders):
    evaluation = Evaluation((ScoredImage("a", "", "unknown", score(PREDICTED, TRUE)),))
    with pytest.raises(ValueError, match="a has no label images on disk"):
        write_plots(evaluation, folders / "plots")


@pytest.fixture
def without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib" or name == "cytoseed.learn.plots"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_the_command(run, folders):
    table = folders / "samples.csv"
    kinds = ("all,cells,fluorescence", "fine,cells,brightfield", "empty,cells,fluorescence")
    table.write_text("\n".join(["stem,dataset,modality", *kinds]))
    command = ["evaluate", folders / "predicted", folders / "true", "--samples", table, "--plot", folders / "plots"]
    done = run(*command, "--images", folders / "images", "--worst", 2)
    assert done.exit_code == 0, done.output
    expected = ["f1_box.png", "f1_iou.png", "worst_01_all.png", "worst_02_empty.png"]
    assert [Path(line).name for line in done.stdout.splitlines()[-4:]] == names(folders / "plots") == expected
    for name in expected:
        assert read_png(folders / "plots" / name).std() > 10  # something is on it


@pytest.mark.usefixtures("without_matplotlib")
def test_the_command_refuses_before_it_scores(run, folders):
    command = ["evaluate", folders / "predicted", folders / "true"]
    for flags, message in (
        (["--images", folders / "images"], "give --plot too"),
        (["--plot", folders / "plots", "--images", folders / "nowhere"], "nowhere"),
        (["--plot", folders / "plots"], "pip install 'cytoseed[plot]'"),
    ):
        refused = run(*command, *flags)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert message in refused.stderr
