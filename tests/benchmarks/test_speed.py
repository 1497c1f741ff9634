"""Speed: mosaics of known objects, methods in turns, figures that survive a kill, tables from recorded runs."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cytoseed
from cytoseed.models.weights import load_model
from cytoseed.run.api import network_image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
images, runs, fits, tables, speed = (
    importlib.import_module(f"speed{name}") for name in ("_images", "_runs", "_fits", "_tables", "")
)
MACHINE = {"processor": "abacus", "date": "2026-11-25", "commit": "abc"}
LITE, SLIM, PAPER = speed.CHOSEN
STARDIST, INSTANSEG = tables.STARDIST, tables.INSTANSEG
FAKE = f"""
import json, os, sys
sys.path.insert(0, {str(BENCHMARKS / "peers")!r})
import numpy as np
from speed_adapter import Stopwatch, serve

class Fake:
    def __init__(self, settings):
        self.versions, self.watch, self.settings = {{"fake": settings.model}}, Stopwatch(), settings

    def prepare(self, request):
        self.truth = np.load(request.truth)

    def segment(self, image):
        print("noise on standard output")
        with open(self.settings.phi, "a") as log:
            log.write(json.dumps([self.settings.model, os.getpid(), os.environ["OMP_NUM_THREADS"]]) + "\\n")
        self.watch.begin()
        self.watch.end()
        with self.watch.stage("merge"):
            return self.truth

serve(Fake)
"""


def test_mosaics_have_known_objects():
    def part(objects, is_unseen):
        mask = np.zeros((256, 256), np.int32)
        mask[np.arange(objects) // 16 * 8, np.arange(objects) % 16 * 8] = np.arange(1, objects + 1)
        return images.Part(np.full((256, 256), 10 * is_unseen + objects, np.uint8), mask, objects, is_unseen)

    image, truth = images.mosaic([part(objects, False) for objects in (2, 0, 3, 1)], 512)
    assert image[[0, 0, 256, 256], [0, 256, 0, 256]].tolist() == [2, 0, 3, 1]
    assert truth[[0, 256, 256], [0, 0, 256]].tolist() == [1, 3, 6]  # ids go on from part to part
    assert np.unique(truth).tolist() == list(range(7))
    parts = [part(objects, is_unseen) for objects, is_unseen in [(50, False)] * 4 + [(10, True)] * 4]
    for objects, value in ((40, 20), (200, 50)):  # unseen parts where they suffice
        image, truth = images.draw(parts, 512, objects)
        assert set(np.unique(image)) == {value}
        assert truth.max() == objects


def test_raw_fields_suit_instanseg_torch():
    teacher = load_model("nuclei-paper")
    image = np.random.default_rng(0).integers(0, 255, (40, 56), np.uint8)
    raw = torch.from_numpy(images.raw_fields(image, teacher))
    positional = 8 * (torch.sigmoid(2 * raw[:4]) - 0.5)  # their formula on twice our output
    theirs = torch.cat([positional, raw[4:8], raw[8:] / 15 + 0.5])
    with torch.inference_mode():
        ours = teacher.segmenter.fields(network_image(image, teacher.config)[None])[0, 0]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def fake(tmp_path, name, is_slow=False):
    (tmp_path / "fake.py").write_text(FAKE)
    settings = {"model": name, "phi": str(tmp_path / "calls")}
    return runs.Method(name, Path(sys.executable), str(tmp_path / "fake.py"), settings, is_slow)


def save_image(tmp_path, name, pixels, truth):
    np.save(tmp_path / f"{name}.npy", pixels)
    np.save(tmp_path / f"{name}.truth.npy", truth)
    paths = tmp_path / f"{name}.npy", tmp_path / f"{name}.truth.npy"
    return images.Files(name, len(pixels), 1, int(truth.max()), *paths, paths[1])


def measure(section, tmp_path):
    ledger = runs.Ledger(tmp_path / "results.jsonl", MACHINE)
    runs.run(section, ledger, tmp_path, lambda _: None)
    return ledger


def calls(tmp_path):
    text = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    (tmp_path / "calls").unlink(missing_ok=True)
    return [json.loads(line) for line in text.splitlines()]


def test_methods_take_turns_and_continue_after_a_kill(tmp_path):
    methods = [fake(tmp_path, "one"), fake(tmp_path, "two", is_slow=True)]
    pictures = [save_image(tmp_path, name, np.ones((8, 8), np.uint8), np.diag([1] * 4 + [2] * 4)) for name in "abc"]
    section = runs.Section("main", [*pictures[:2], pictures[2]._replace(fields=None)], methods, 2, 1, threads=1)
    ledger = measure(section, tmp_path)
    taken = [(record.image, record.round, record.method) for record in ledger.records]
    once = [("a", 0, "one"), ("a", 0, "two"), ("a", 1, "one")]
    assert taken == [*once, *(("b", number, method) for _, number, method in once)]  # peers need fields
    called = calls(tmp_path)
    assert [call[0] for call in called] == ["one", "one", "two", "two", "one", "one", "two", "one"]  # each warms up
    assert {call[2] for call in called} == {"1"}
    first = ledger.records[0]
    assert (first.objects, first.f1, set(first.stages)) == (2, 1.0, {"merge"})
    assert first.prepare_s + first.network_s + first.post_s == pytest.approx(first.total_s)
    assert ledger.records[2].f1 is None
    assert "noise" in (tmp_path / "one.log").read_text()
    assert measure(section, tmp_path).records == ledger.records
    assert not calls(tmp_path)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text()[:-30])  # killed while it wrote the last line
    assert [(record.image, record.round, record.method) for record in measure(section, tmp_path).records] == taken
    assert [call[0] for call in calls(tmp_path)] == ["one", "one"]
    with pytest.raises(ValueError, match=r"holds figures of abacus; begin anew with --fresh"):
        runs.Ledger(path, MACHINE | {"processor": "slide rule"})


def test_our_adapter_segments_as_segment_does(tmp_path):
    rows, columns = np.mgrid[:64, :64]
    picture = (200 * ((rows % 21 - 10) ** 2 + (columns % 21 - 10) ** 2 < 50)).astype(np.uint8)
    known = cytoseed.segment(picture, load_model("nuclei")).labels
    files = save_image(tmp_path, "p", picture, known)._replace(fields=None)
    section = runs.Section("memory", [files], speed.our_methods()[:1], 1, 1, threads=1, each_alone=True)
    record = measure(section, tmp_path).records[0]
    assert (record.method, record.objects, record.f1) == (LITE, known.max(), 1)
    assert set(record.stages) == set(runs.STAGES)
    assert sum(record.stages.values()) <= record.post_s


@pytest.fixture
def ledger(tmp_path):
    """Recorded runs: time linear in nuclei and in pixels, StarDist ten times slower."""
    made = runs.Ledger(tmp_path / "r.jsonl", MACHINE)
    sides = {"300": 1024, "600": 1024, "slide": 1000, "o0": 1024, "s256": 256, "s512": 512}
    objects = {"300": 300, "600": 600, "slide": 1100, "o0": 0, "s256": 38, "s512": 150}
    for name, side in sides.items():
        made.images[name] = {"side": side, "channels": 3 if name == "slide" else 1, "objects": objects[name]}
    main = [("objects", "o0", 1.0), ("main", "300", 1.3), ("main", "600", 1.6), ("main", "slide", 5.0)]
    for section, image, total in [*main, ("sizes", "s256", 0.1), ("sizes", "s512", 0.4), ("single", "600", 3.2)]:
        for number in range(3):
            add(made, section, LITE, image, (1, 2, 0.5)[number] * total, number)
        add(made, section, STARDIST, image, 10 * total)
    add(made, "main", "half done", "300", 1.0)
    for method, peak in ((LITE, 400), (STARDIST, 800), (PAPER, 900)):
        add(made, "memory", method, "600", 1.0, peak_bytes=peak * 10**6)
    return made


def add(ledger, section, method, image, total, number=0, share=0.2, **others):
    parts = {"prepare_s": 0.05 * total, "network_s": (0.95 - share) * total, "post_s": share * total}
    figures = {"threads": 1 if section == "single" else 2, "peak_bytes": 1, "objects": 9} | parts | others
    record = runs.Record(section=section, method=method, image=image, round=number, total_s=total, **figures)
    ledger.records.append(record)


def test_tables_of_recorded_runs(ledger, tmp_path):
    made = tables.tables(ledger, speed.CHOSEN)
    rows = made["speed methods"].splitlines()
    assert rows[2:] == [  # what lacks an image has no sum
        "| nuclei, torch | 0.395 | 5.93 | 1.58 | 7.90 | 20 % | 0.100 |  | 400 |",
        "| StarDist (2,2) | 3.95 | 59.2 | 15.8 | 79.0 | 20 % | 1.000 |  | 800 |",
    ]
    assert "| nuclei, torch | 1.30 (0.650 to 2.60) | 1.60 (0.800 to 3.20) |" in made["speed images"]
    assert "| nuclei, torch | 3.20 (1.60 to 6.40) | 1.60 (0.800 to 3.20) | 2.00 |" in made["speed threads"]
    assert "| nuclei, torch | 1.00 | 1.00 | 1.000 | 1.00 | 1.000 | 0 % |" in made["speed fits"]
    assert (
        "| method | mosaic, 1024 px, 300 nuclei | mosaic, 1024 px, 600 nuclei | slide, 1000 px," in made["speed found"]
    )
    assert not {"speed stages", "speed gpu"} & set(made)  # nothing recorded
    for draw in (fits.plot_objects, fits.plot_sizes):
        assert draw(ledger, tmp_path / "plot.png")
