"""Tables, lines and judgements made of runs."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MACHINE = {"processor": "abacus", "date": "2026-11-25", "commit": "abc"}
LITE, SLIM, PAPER = "nuclei, torch", "nuclei-slim, torch", "nuclei-paper, torch"
STARDIST, INSTANSEG = "StarDist (2,2)", "instanseg-torch"


@pytest.fixture(scope="module")
def speed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("speed_fit", "speed_runs", "speed_tables", "speed_plots", "speed")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture
def ledger(speed, tmp_path):
    made = speed["speed_runs"].Ledger(tmp_path / "r.jsonl", MACHINE)
    made.images = {
        "300": {"side": 1024, "channels": 1, "objects": 300},
        "600": {"side": 1024, "channels": 1, "objects": 600},
        "slide": {"side": 1000, "channels": 3, "objects": 1100},
        "o0": {"side": 1024, "channels": 1, "objects": 0},
        "s256": {"side": 256, "channels": 1, "objects": 38},
        "s512": {"side": 512, "channels": 1, "objects": 150},
    }
    return made


@pytest.fixture
def add(speed, ledger):
    def make(section, method, image, total, number=0, **others):
        share = others.pop("share", 0.2)
        parts = {"prepare_s": 0.05 * total, "network_s": (0.95 - share) * total, "post_s": share * total}
        figures = {"threads": 2, "round": number, "peak_bytes": 1, "objects": 9} | parts | others
        record = speed["speed_runs"].Record(section=section, method=method, image=image, total_s=total, **figures)
        ledger.records.append(record)

    return make


def verdicts(speed, ledger):
    tables = speed["speed_tables"]
    return {target.aim: target for target in tables.judge(ledger, tables.Chosen(LITE, SLIM, PAPER))}


def test_lines_and_powers(speed):
    fit = speed["speed_fit"]
    line = fit.fit_line([0, 1, 2], [1, 3, 5])
    assert (line.start, line.slope, line.r2, line.worst) == pytest.approx((1, 2, 1, 0))
    line = fit.fit_line([0, 1, 2], [1, 2, 1])
    assert line.r2 == pytest.approx(0)
    assert line.worst == pytest.approx(1 / 3)
    power = fit.fit_power([1, 4, 16], [3, 6, 12])
    assert (power.slope, power.r2, power.worst) == pytest.approx((0.5, 1, 0), abs=1e-9)
    assert fit.fit_power([1, 2, 4], [1, 2, 8]).worst > 0.2
    with pytest.raises(ValueError, match="two points of different x"):
        fit.fit_line([1, 1], [2, 3])


def test_seconds_have_three_digits(speed):
    fit = speed["speed_fit"]
    assert [fit.seconds(value) for value in (0.0123, 0.5, 1.234, 12.34, 123.4)] == [
        "0.012",
        "0.500",
        "1.23",
        "12.3",
        "123",
    ]
    assert str(fit.spread([3.0, 1.0, 2.0])) == "2.00 (1.00 to 3.00)"
    assert str(fit.spread([2.0])) == "2.00"


@pytest.mark.parametrize(("slow", "reached"), [(0.25, True), (0.2501, False)])
def test_the_worst_image_decides(speed, ledger, add, slow, reached):
    for image, ours in (("300", 0.1), ("600", slow)):
        add("main", LITE, image, ours)
        for number, total in enumerate((1.0, 9.0, 1.0)):  # its median is 1
            add("main", STARDIST, image, total, number)
    target = verdicts(speed, ledger)[f"{LITE}: time at most 0.25 × {STARDIST}"]
    assert target.is_reached is reached
    assert target.measured == f"{slow:.3f}"


def test_the_faster_way_of_a_peer_counts(speed, ledger, add):
    add("main", PAPER, "300", 4.0)
    add("main", INSTANSEG, "300", 10.0)
    assert verdicts(speed, ledger)[f"{PAPER}: time at most 0.5 × {INSTANSEG}"].is_reached
    add("main", f"{INSTANSEG}, Python", "300", 7.0)
    assert not verdicts(speed, ledger)[f"{PAPER}: time at most 0.5 × {INSTANSEG}"].is_reached


def test_a_faster_runtime_is_told_but_not_judged(speed, ledger, add):
    add("main", STARDIST, "300", 1.0)
    for method, total in ((LITE, 0.3), ("nuclei, openvino, bfloat16", 0.125), ("nuclei-paper, openvino", 0.1)):
        add("main", method, "300", total)
    target = verdicts(speed, ledger)[f"{LITE}: time at most 0.25 × {STARDIST}"]
    assert target.measured == "0.300 (0.125: openvino, bfloat16)"
    assert not target.is_reached


def test_shares_memory_and_accuracy_are_judged(speed, ledger, add):
    add("main", LITE, "300", 1.0, share=0.25)
    add("main", PAPER, "300", 1.0, share=0.1)
    add("main", PAPER, "600", 1.0, share=0.26)
    for method, peak in ((LITE, 400), (PAPER, 900), (STARDIST, 800)):
        add("memory", method, "600", 1.0, peak_bytes=peak)
    ledger.accuracy += [
        {"method": LITE, "baseline": "nuclei", "f1": 0.9, "f1_mean": 0.7},
        {"method": "nuclei, openvino", "baseline": "nuclei", "f1": 0.9, "f1_mean": 0.6951},
        {"method": "nuclei, torch, bfloat16", "baseline": "nuclei", "f1": 0.9, "f1_mean": 0.6949},
        {"method": SLIM, "baseline": "nuclei-slim", "f1": 0.9, "f1_mean": 0.6949},
        {"method": "nuclei-slim, torch, bfloat16", "baseline": "nuclei-slim", "f1": 0.9, "f1_mean": 0.6945},
        {"method": PAPER, "baseline": "nuclei-paper", "f1": 0.9, "f1_mean": 0.1},
    ]
    found = verdicts(speed, ledger)
    assert found[f"{LITE}: post-processing at most 25 % of the whole"].is_reached
    assert not found[f"{PAPER}: post-processing at most 25 % of the whole"].is_reached
    assert found[f"{LITE}: memory below {STARDIST}"].is_reached
    assert found[f"{PAPER}: memory below {STARDIST}"].measured == "1.12 ×"
    assert not found[f"{PAPER}: memory below {STARDIST}"].is_reached
    assert found[f"{LITE}: memory below {INSTANSEG}"].is_reached is None
    lost = {aim: target.is_reached for aim, target in found.items() if "mean F1" in aim}
    assert list(lost.values()) == [True, False, False, True]
    assert f"{SLIM}: mean F1 no more than 0.005 below {LITE}" in lost
    assert f"nuclei-slim, torch, bfloat16: mean F1 no more than 0.005 below {SLIM}" in lost
    table = speed["speed_tables"].table_accuracy(ledger)
    assert "| nuclei, openvino | 0.9000 | 0.6951 | -0.0049 |" in table


def test_lines_are_drawn_through_mosaics_only(speed, ledger, add, tmp_path):
    tables = speed["speed_tables"]
    for section, image, total in (
        ("objects", "o0", 1.0),
        ("main", "300", 1.3),
        ("main", "600", 1.6),
        ("main", "slide", 50.0),
        ("sizes", "s256", 0.1),
        ("sizes", "s512", 0.4),
    ):
        add(section, LITE, image, total)
    add("single", LITE, "600", 99.0, threads=1)
    assert tables.fit_objects(ledger, LITE).slope == pytest.approx(0.001)
    assert tables.fit_objects(ledger, LITE).r2 == pytest.approx(1)
    assert tables.fit_sizes(ledger, LITE).slope == pytest.approx(1)
    assert tables.fit_sizes(ledger, PAPER) is None
    found = verdicts(speed, ledger)
    assert found[f"{LITE}: time linear in nuclei"].is_reached
    assert found[f"{LITE}: time linear in pixels"].is_reached
    assert "| nuclei, torch | 1.00 | 1.00 | 1.000 | 1.00 | 1.000 | 0 % |" in tables.table_fits(ledger)
    for draw, name in ((speed["speed_plots"].plot_objects, "o.png"), (speed["speed_plots"].plot_sizes, "s.png")):
        assert draw(ledger, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    ledger.records.append(ledger.records[0].__class__(**{**vars(ledger.records[-2]), "image": "s512", "total_s": 1.2}))
    assert not verdicts(speed, ledger)[f"{LITE}: time linear in pixels"].is_reached


def test_nothing_is_drawn_of_nothing(speed, ledger, tmp_path):
    assert not speed["speed_plots"].plot_objects(ledger, tmp_path / "o.png")
    assert not speed["speed_plots"].plot_sizes(ledger, tmp_path / "s.png")
    assert not list(tmp_path.glob("*.png"))


def test_the_table_of_methods_adds_up_images(speed, ledger, add):
    for image, total in (("300", 1.0), ("600", 3.0)):
        add("main", LITE, image, total)
        add("main", STARDIST, image, 10 * total)
    add("main", "half done", "300", 1.0)
    add("memory", LITE, "600", 1.0, peak_bytes=123_400_000)
    lines = speed["speed_tables"].table_methods(ledger).splitlines()
    assert lines[2] == "| nuclei, torch | 0.200 | 3.00 | 0.800 | 4.00 | 20 % | 0.100 |  | 123 |"
    assert lines[3].startswith("| StarDist (2,2) | 2.00 | 30.0 | 8.00 | 40.0 | 20 % | 1.000 |  |")
    assert len(lines) == 4  # what lacks an image has no sum


def test_every_table_has_its_figures(speed, ledger, add):
    tables = speed["speed_tables"]
    stages = {"seeds": 0.01, "maps": 0.1, "merge": 0.02, "pieces": 0.03}
    add("main", LITE, "300", 1.0, f1=0.875, stages=stages)
    add("main", LITE, "300", 2.0, 1, stages=stages)
    add("main", LITE, "300", 3.0, 2, stages=stages)
    add("main", STARDIST, "300", 8.0)
    add("single", LITE, "300", 4.0, threads=1)
    add("tiles", LITE, "s2048x16", 0.5)
    assert "| method | mosaic, 1024 px, 300 nuclei |" in tables.table_images(ledger)
    assert "| nuclei, torch | 2.00 (1.00 to 3.00) |" in tables.table_images(ledger)
    assert "| nuclei, torch | 9 (0.875) |" in tables.table_found(ledger)
    assert "| nuclei, torch | 4.00 | 2.00 (1.00 to 3.00) | 2.00 |" in tables.table_threads(ledger)
    rows = tables.table_stages(ledger).splitlines()
    assert rows[2] == "| nuclei, torch | 300 | 100 | 1500 | 10 | 100 | 20 | 30 | 240 | 2000 |"
    assert len(rows) == 3  # peers tell no stages
    assert "| nuclei, torch | 16 | 32.0 | 75 % |" in tables.table_tiles(ledger)
    made = speed["speed"].tables(ledger, with_stages=False)
    assert "speed methods" in made
    assert not {"speed stages", "speed fits", "speed accuracy"} & set(made)  # not asked for, or nothing measured
    assert "abacus" in made["speed setup"]


def test_what_stands_for_ours_is_among_the_methods(speed):
    module = speed["speed"]
    methods = module.our_methods()
    assert set(module.CHOSEN) <= {method.name for method in methods}
    assert len({method.name for method in methods}) == len(methods)
    assert all(method.is_ours for method in methods)


def test_the_plan_gives_peers_no_image_without_fields(speed):
    module, asked = speed["speed"], []

    class Shelf:
        def mosaic(self, name, side, objects, with_fields=True):
            asked.append((name, side, objects, with_fields))
            path = Path(name) if with_fields else None
            return module.Files(name, side, 1, objects, Path(name), Path(name), path)

        def slide(self, name):
            return module.Files(name, 1000, 3, 1100, Path(name), Path(name), Path(name))

    sections = {section.name: section for section in module.plan(Shelf(), module.our_methods())}
    assert {"main", "single", "memory", "objects", "sizes"} <= set(sections)
    assert sections["single"].threads == 1
    assert [image.name for image in sections["main"].images] == ["300", "600", "1000", "slide"]
    assert {(side, objects) for name, side, objects, _ in asked if name.startswith("s")} == {
        (256, 37),
        (512, 150),
        (2048, 2400),
        (4096, 9600),
    }
    assert [name for name, *_, with_fields in asked if not with_fields] == ["s4096"]
