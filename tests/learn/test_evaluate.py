"""Evaluation of folders and of a function over samples, on tiny images whose figures are known."""

from __future__ import annotations

import csv
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from cytoseed.learn.evaluate import Evaluation, ScoredImage, evaluate_folders, evaluate_samples
from cytoseed.learn.metrics import pool, score
from cytoseed.learn.samples import find_samples


def labels(*ids):
    """A label image with a 2 x 2 object of each id on its diagonal; 0 leaves the place empty."""
    image = np.zeros((3 * len(ids), 3 * len(ids)), np.uint16)
    for place, label in enumerate(ids):
        image[3 * place : 3 * place + 2, 3 * place : 3 * place + 2] = label
    return image


def write(path: Path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    else:
        tifffile.imwrite(path, image)


@pytest.fixture
def folders(tmp_path):
    """Two images: all of `a` found under other ids, one of three objects of `b`."""
    write(tmp_path / "true" / "a.png", labels(1, 2))
    write(tmp_path / "true" / "b.tif", labels(1, 2, 3))
    write(tmp_path / "predicted" / "a.labels.tif", labels(9, 4).astype(np.int32))
    write(tmp_path / "predicted" / "b.png", labels(0, 5, 0))
    return tmp_path / "predicted", tmp_path / "true"


def test_folders_are_paired_by_stem_and_pooled(folders):
    evaluation = evaluate_folders(*folders)
    first, second = evaluation.images
    assert (first.name, first.score.f1) == ("a", 1)
    assert (second.name, second.score.f1) == ("b", 0.5)
    assert evaluation.pooled == pool([first.score, second.score])
    assert evaluation.pooled.f1 == pytest.approx(6 / 8)
    assert evaluation.groups == {}
    assert evaluation.unpaired == 0


def test_label_images_of_cytoseed_go_before_other_files_of_the_stem(folders):
    predicted, true = folders
    write(predicted / "a.png", labels(0, 0))
    assert evaluate_folders(predicted, true).images[0].score.f1 == 1
    write(predicted / "a.labels.png", labels(0, 0))
    with pytest.raises(ValueError, match=r"a\.labels\.png and a\.labels\.tif"):
        evaluate_folders(predicted, true)


def test_predictions_that_nothing_belongs_to_are_counted(folders):
    predicted, true = folders
    write(predicted / "c.png", labels(1))
    (predicted / "a.geojson").touch()
    evaluation = evaluate_folders(predicted, true)
    assert evaluation.unpaired == 1
    assert len(evaluation.images) == 2


def test_what_cannot_be_paired_is_named(folders, tmp_path):
    predicted, true = folders
    for name in "cde":
        write(true / f"{name}.png", labels(1))
    with pytest.raises(FileNotFoundError, match=r"3 of 5 true masks.*: c, d, e;"):
        evaluate_folders(predicted, true)
    for name in "bcde":
        write(predicted / f"{name}.png", labels(1))
    with pytest.raises(ValueError, match=r"predicted.b\.png and .*b\.tif: .*\(3, 3\).*\(9, 9\)"):
        evaluate_folders(predicted, true)
    (tmp_path / "empty").mkdir()
    for given, message in (
        ((tmp_path / "nowhere", true), r"predicted is .*nowhere"),
        ((predicted, tmp_path / "nowhere"), r"true is .*nowhere"),
        ((predicted, tmp_path / "empty"), "holds no masks"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            evaluate_folders(*given)


def test_every_bad_file_is_named(folders):
    predicted, true = folders
    (predicted / "a.labels.tif").write_bytes(b"")
    (true / "b.tif").write_bytes(b"II*")
    (true / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write(predicted / "c.png", labels(1))
    with pytest.raises(ValueError, match="3 of 3 images cannot be scored: ") as caught:
        evaluate_folders(predicted, true)
    assert all(name in str(caught.value) for name in ("a.labels.tif", "b.tif", "c.png"))
    assert str(caught.value).count("copy or export it again") == 1


def test_a_table_groups_by_data_set_and_modality(folders, tmp_path):
    table = tmp_path / "samples.csv"
    table.write_text("stem,dataset,modality\nb,tissue,brightfield\na,cells,\nz,cells,\n")
    evaluation = evaluate_folders(*folders, samples_csv=table)
    a, b = (image.score for image in evaluation.images)
    assert evaluation.groups == {("cells", "unknown"): a, ("tissue", "brightfield"): b}
    table.write_text("stem,dataset,modality\nb,tissue,brightfield\n")
    groups = evaluate_folders(*folders, samples_csv=table).groups
    assert list(groups) == [("", "unknown"), ("tissue", "brightfield")]


def test_tables_that_cannot_be_used_are_refused(folders, tmp_path):
    table = tmp_path / "samples.csv"
    with pytest.raises(FileNotFoundError, match="samples_csv is"):
        evaluate_folders(*folders, samples_csv=table)
    for text, message in (
        ("stem,dataset\nb,tissue\n", "no column 'modality'"),
        ("stem,dataset,modality\nb,tissue,x\nb,cells,x\n", r"lists 'b' as \('tissue', 'x'\) and as \('cells', 'x'\)"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            evaluate_folders(*folders, samples_csv=table)


@pytest.fixture
def samples(tmp_path):
    """Three samples whose images show their masks."""
    lines = ["dataset,stem,modality"]
    for dataset, stem, ids in (("cells", "a", (1, 2)), ("cells", "b", (1, 2, 3)), ("tissue", "a", (1,))):
        image = labels(*ids)
        lines.append(f"{dataset},{stem},fluorescence")
        write(tmp_path / dataset / "images" / f"{stem}.png", image.astype(np.uint8))
        write(tmp_path / dataset / "masks" / f"{stem}.png", image)
    (tmp_path / "samples.csv").write_text("\n".join(lines))
    return find_samples(tmp_path)


def test_a_function_is_run_over_samples(samples):
    calls = []

    def without_the_first(pixels, _sample):
        return np.where(pixels[0] == 1, 0, pixels[0]).astype(np.int32)

    evaluation = evaluate_samples(without_the_first, samples, lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    names = [(image.dataset, image.name) for image in evaluation.images]
    assert names == [("cells", "a"), ("cells", "b"), ("tissue", "a")]
    assert [image.score.tp[0] for image in evaluation.images] == [1, 2, 0]
    assert [image.score.fn[0] for image in evaluation.images] == [1, 1, 1]
    assert evaluation.groups["cells", "fluorescence"].f1 == pytest.approx(6 / 8)
    assert evaluation.groups["tissue", "fluorescence"].f1 == 0


@pytest.fixture
def evaluation():
    found, missed = score(labels(1, 2), labels(1, 2)), score(labels(0, 1), labels(1, 1))
    return Evaluation(
        (
            ScoredImage("one", "tissue", "brightfield", missed),
            ScoredImage("two", "cells", "fluorescence", found),
            ScoredImage("three", "cells", "fluorescence", found),
        )
    )


def test_the_table_shows_groups_and_all(evaluation):
    header, *lines = (line.split() for line in evaluation.to_table().splitlines())
    assert " ".join(header) == "images objects F1@0.5 mean F1 AP PQ AJI Dice"
    assert lines == [
        ["cells", "fluorescence", "2", "4", *["1.000"] * 6],
        # one object in two pieces, of which one was found: an IoU of 0.5
        ["tissue", "brightfield", "1", "1", "1.000", "0.200", "1.000", "0.500", "0.500", "0.667"],
        ["all", "3", "5", "1.000", "0.840", "1.000", "0.900", "0.833", "0.909"],
    ]
    assert len({len(line) for line in evaluation.to_table().splitlines()}) == 1


def test_the_csv_file_holds_every_image(evaluation, tmp_path):
    path = tmp_path / "figures.csv"
    path.write_text("from before")
    evaluation.write_csv(path)
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns = "name dataset modality true_objects predicted_objects tp fp fn f1 f1_mean ap precision recall pq sq aji"
    assert list(rows[0]) == [*columns.split(), "dice"]
    assert [row["name"] for row in rows] == ["one", "two", "three"]
    assert [rows[0][name] for name in ("tp", "fp", "fn", "true_objects")] == ["1", "0", "0", "1"]
    assert float(rows[0]["dice"]) == pytest.approx(2 / 3)
    assert [file.name for file in tmp_path.iterdir()] == ["figures.csv"]
