"""Methods asked by turns in processes of their own, and what a kill leaves of their figures."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import cytoseed
from cytoseed.models.weights import load_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MACHINE = {"processor": "abacus", "date": "2026-11-25", "commit": "abc"}

FAKE = f"""
import json, os, sys
sys.path.insert(0, {str(BENCHMARKS / "peers")!r})
import numpy as np
from speed_adapter import Stopwatch, serve

class Fake:
    def __init__(self, settings):
        self.versions = {{"fake": settings.model}}
        self.watch = Stopwatch()
        self.settings = settings

    def prepare(self, request):
        self.truth = np.load(request.truth)

    def segment(self, image):
        print("noise on standard output")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else self.settings.threads
        with open(self.settings.phi, "a") as log:
            log.write(json.dumps([self.settings.model, os.getpid(), cores, os.environ["OMP_NUM_THREADS"]]) + "\\n")
        if self.settings.model == "broken":
            raise ValueError("no such thing")
        if self.settings.model == "dead":
            os._exit(7)
        for _ in range(2 if self.settings.model == "tiled" else 1):
            self.watch.begin()
            held = np.ones(int(image.max()) * 1_000_000, np.uint8)
            self.watch.end()
        with self.watch.stage("merge"):
            return self.truth

serve(Fake)
"""


@pytest.fixture(scope="module")
def runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("speed_runs")


@pytest.fixture
def fake(runs, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def make(name, is_slow=False):
        settings = {"model": name, "phi": str(tmp_path / "calls")}
        return runs.Method(name, Path(sys.executable), str(script), settings, is_slow)

    return make


@pytest.fixture
def image(runs, tmp_path):
    def make(name, side=8, value=1):
        truth = np.zeros((side, side), np.int32)
        truth[:2], truth[4:6] = 1, 2
        paths = [tmp_path / f"{name}{suffix}.npy" for suffix in ("", ".truth")]
        np.save(paths[0], np.full((side, side), value, np.uint8))
        np.save(paths[1], truth)
        return runs.Files(name, side, 1, 2, *paths, paths[1])

    return make


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def quiet(_):
    pass


def test_methods_take_turns_and_the_slow_one_less_often(runs, fake, image, tmp_path):
    section = runs.Section("main", [image("a"), image("b")], [fake("one"), fake("two", is_slow=True)], 2, 1, threads=1)
    ledger = runs.Ledger(tmp_path / "out" / "results.jsonl", MACHINE)
    runs.run(section, ledger, tmp_path / "out", quiet)
    taken = [(record.image, record.round, record.method) for record in ledger.records]
    once = [("a", 0, "one"), ("a", 0, "two"), ("a", 1, "one")]
    assert taken == [*once, *(("b", number, method) for _, number, method in once)]
    assert [call[0] for call in calls(tmp_path)] == ["one", "one", "two", "two", "one", "one", "two", "one"]  # warm
    assert {call[2] for call in calls(tmp_path)} == {1}
    assert {call[3] for call in calls(tmp_path)} == {"1"}
    assert ledger.versions == {"fake": "two"}
    first = ledger.records[0]
    assert (first.objects, first.f1, set(first.stages)) == (2, 1.0, {"merge"})
    assert 0 < first.network_s < first.total_s
    assert first.prepare_s + first.network_s + first.post_s == pytest.approx(first.total_s)
    assert ledger.records[2].f1 is None  # of a first round only
    assert "noise" in (tmp_path / "out" / "one.log").read_text()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a system that binds processes to cores")
def test_the_driver_keeps_all_its_cores(runs, fake, image, tmp_path):
    cores = os.sched_getaffinity(0)
    section = runs.Section("main", [image("a")], [fake("one")], 1, 1, threads=1)
    runs.run(section, runs.Ledger(tmp_path / "r.jsonl", MACHINE), tmp_path, quiet)
    assert os.sched_getaffinity(0) == cores


def test_what_was_measured_is_not_measured_again(runs, fake, image, tmp_path):
    section = runs.Section("main", [image("a")], [fake("one"), fake("two")], 2, 2)
    path = tmp_path / "results.jsonl"
    runs.run(section, runs.Ledger(path, MACHINE), tmp_path, quiet)
    whole = path.read_text()
    (tmp_path / "calls").unlink()
    runs.run(section, runs.Ledger(path, MACHINE), tmp_path, quiet)
    assert not (tmp_path / "calls").exists()  # no process was even started
    path.write_text(whole[:-30])  # killed while it wrote the last run of `two`
    ledger = runs.Ledger(path, MACHINE)
    runs.run(section, ledger, tmp_path, quiet)
    assert [call[0] for call in calls(tmp_path)] == ["two", "two"]  # once to warm up, once measured
    assert {record.key for record in ledger.records} == {("main", 2, m, "a", n) for m in ("one", "two") for n in (0, 1)}
    again = runs.Ledger(path, MACHINE)
    assert again.records == ledger.records
    assert again.images == {"a": {"side": 8, "channels": 1, "objects": 2}}


def test_memory_is_of_a_fresh_process_and_of_one_image(runs, fake, image, tmp_path):
    pictures = [image("large", value=200), image("small", value=1)]
    ledger = runs.Ledger(tmp_path / "r.jsonl", MACHINE)
    runs.run(runs.Section("memory", pictures, [fake("one")], 1, 1, each_alone=True), ledger, tmp_path, quiet)
    assert len({call[1] for call in calls(tmp_path)}) == len(calls(tmp_path)) == 2
    large, small = (record.peak_bytes for record in ledger.records)
    assert large - small > 150_000_000
    runs.run(runs.Section("main", pictures, [fake("one")], 1, 1), ledger, tmp_path, quiet)
    large, small = (record.peak_bytes for record in ledger.of("main"))
    assert large - small > 150_000_000  # the peak is counted anew for each image


def test_stages_side_by_side_have_no_times_of_their_own(runs, fake, image, tmp_path):
    ledger = runs.Ledger(tmp_path / "r.jsonl", MACHINE)
    runs.run(runs.Section("main", [image("a")], [fake("tiled")], 1, 1), ledger, tmp_path, quiet)
    assert ledger.records[0].prepare_s is ledger.records[0].post_s is None


@pytest.mark.parametrize(("name", "reason"), [("broken", "ValueError: no such thing"), ("dead", "it ended with 7")])
def test_a_method_that_fails_is_named_with_its_log(runs, fake, image, tmp_path, name, reason):
    section = runs.Section("main", [image("a")], [fake(name)], 1, 1)
    with pytest.raises(RuntimeError, match=f"{name}: {reason}; see .*{name}.log"):
        runs.run(section, runs.Ledger(tmp_path / "r.jsonl", MACHINE), tmp_path, quiet)


def test_a_peer_is_not_run_where_there_are_no_fields(runs, fake, image, tmp_path):
    section = runs.Section("sizes", [image("a")._replace(fields=None)], [fake("one")], 1, 1)
    ledger = runs.Ledger(tmp_path / "r.jsonl", MACHINE)
    runs.run(section, ledger, tmp_path, quiet)
    assert not ledger.records
    assert not (tmp_path / "calls").exists()


def test_figures_of_another_machine_are_refused(runs, tmp_path):
    path = tmp_path / "r.jsonl"
    runs.Ledger(path, MACHINE)
    with pytest.raises(ValueError, match=r"holds figures of abacus; begin anew with --fresh"):
        runs.Ledger(path, MACHINE | {"processor": "slide rule"})
    kept = runs.Ledger(path, MACHINE | {"date": "2027-01-01"})
    assert kept.machine["date"] == "2026-11-25"  # when it was begun


def test_our_adapter_gives_what_segment_gives_and_tells_every_stage(runs, tmp_path):
    rows, columns = np.mgrid[:64, :64]
    picture = (200 * ((rows % 21 - 10) ** 2 + (columns % 21 - 10) ** 2 < 50)).astype(np.uint8)
    known = cytoseed.segment(picture, load_model("nuclei")).labels
    paths = [tmp_path / "p.npy", tmp_path / "p.truth.npy"]
    np.save(paths[0], picture)
    np.save(paths[1], known)
    files = runs.Files("p", 64, 1, int(known.max()), *paths, None)
    settings = {"model": "nuclei", "runtime": "torch", "precision": "float32"}
    method = runs.Method("nuclei", Path(sys.executable), "speed_ours.py", settings)
    ledger = runs.Ledger(tmp_path / "r.jsonl", MACHINE)
    runs.run(runs.Section("memory", [files], [method], 1, 1, threads=1, each_alone=True), ledger, tmp_path, quiet)
    record = ledger.records[0]
    assert record.objects == known.max() > 4
    assert record.f1 == 1
    assert set(record.stages) == {"seeds", "maps", "merge", "pieces"}
    assert sum(record.stages.values()) <= record.post_s
