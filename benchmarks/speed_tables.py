"""The tables of docs/benchmarks.md's section on speed, made of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from speed_fit import Fit, fit_line, fit_power, median_of, seconds, spread
from speed_runs import Ledger, Record, names

STARDIST, INSTANSEG, INSTANSEG_PYTHON, CELLPOSE = (
    "StarDist (2,2)",
    "instanseg-torch",
    "instanseg-torch, Python",
    "Cellpose 3",
)
PEERS = {STARDIST: (STARDIST,), INSTANSEG: (INSTANSEG, INSTANSEG_PYTHON)}
"""Those that ours are held against, and the ways to run them: the faster one, or the one with less memory, counts."""
MAIN_THREADS = 2
MIDDLE = "600"
"""The image of the section `main` whose density those of the section `sizes` have."""


class Chosen(NamedTuple):
    """Rows that stand for our three networks where targets are judged and lines are drawn."""

    lite: str
    slim: str
    paper: str


class Target(NamedTuple):
    """One aim, what was measured, and whether it was reached; None where nothing was measured."""

    aim: str
    measured: str
    is_reached: bool | None


def table_methods(ledger: Ledger) -> str:
    """Make the paper's Table 4: seconds for all images of the section `main` together, and the highest memory."""
    images = _images(ledger, "main")
    rows = []
    totals = {}
    for method in names(ledger.of("main")):
        runs = [ledger.of("main", method, image) for image in images]
        if all(runs):
            totals[method] = [sum(_median(some, field) for some in runs) for field in _PARTS]
    for method, (before, network, after, total) in totals.items():
        figures = [seconds(value) for value in (before, network, after, total)]
        ratios = [_ratio(total, [totals[way][3] for way in ways if way in totals]) for ways in PEERS.values()]
        rows.append([method, *figures, f"{100 * after / total:.0f} %", *ratios, _memory(ledger, method)])
    header = ["method", "normalise, s", "network, s", "post-processing, s", "image to labels, s", "after the network"]
    return _table([*header, *(f"× {peer}" for peer in PEERS), "peak memory, MB"], rows)


def table_images(ledger: Ledger, section: str = "main") -> str:
    """Seconds from image to labels of each image: median, lowest and highest."""
    return _by_image(ledger, section, lambda runs: str(spread(run.total_s for run in runs)))


def table_found(ledger: Ledger) -> str:
    """Objects found in each image, and F1@0.5 against its masks."""

    def found(runs: Sequence[Record]) -> str:
        f1 = median_of(runs, "f1")
        return f"{runs[0].objects}" + ("" if f1 is None else f" ({f1:.3f})")

    return _by_image(ledger, "main", found)


def table_threads(ledger: Ledger) -> str:
    """One core beside two, on the image that the section `single` has."""
    rows = []
    for method in names(ledger.of("single")):
        for image in _images(ledger, "single"):
            one, two = ledger.of("single", method, image), ledger.of("main", method, image)
            if one and two:
                times = [spread(run.total_s for run in runs) for runs in (one, two)]
                rows.append([method, *map(str, times), f"{times[0].median / times[1].median:.2f}"])
    return _table(["method", "1 core, s", "2 cores, s", "gained"], rows)


def table_stages(ledger: Ledger) -> str:
    """Where the time of ours goes, in milliseconds, on each image of the section `main`."""
    rows = []
    ours = [method for method in names(ledger.of("main")) if any(run.stages for run in ledger.of("main", method))]
    for method in ours:
        for image in _images(ledger, "main"):
            runs = ledger.of("main", method, image)
            stages = {stage: _median_stage(runs, stage) for stage in _STAGES}
            parts = [_median(runs, "prepare_s"), _median(runs, "network_s"), *stages.values()]
            rest = _median(runs, "total_s") - sum(parts)
            rows.append([method, image, *(f"{1000 * value:.0f}" for value in (*parts, rest, _median(runs, "total_s")))])
    return _table(["method", "image", "normalise", "network", *_STAGES, "rest", "all, ms"], rows)


def table_fits(ledger: Ledger) -> str:
    """Straight lines through time against objects, and against pixels."""
    rows = []
    for method in names(ledger.of("objects")):
        line, power = fit_objects(ledger, method), fit_sizes(ledger, method)
        cells = ["", "", ""] if line is None else _objects_cells(line)
        more = (
            ["", "", ""] if power is None else [f"{power.slope:.2f}", f"{power.r2:.3f}", f"{100 * power.worst:.0f} %"]
        )
        rows.append([method, *cells, *more])
    header = ["method", "0 nuclei, s", "1,000 more, s", "R²", "exponent of pixels", "R²", "furthest from the line"]
    return _table(header, rows)


def table_accuracy(ledger: Ledger) -> str:
    """F1 of each of our configurations, and what it lost to PyTorch in float32."""
    rows = []
    for row in ledger.accuracy:
        base = next((other["f1_mean"] for other in ledger.accuracy if other["baseline"] == row["baseline"]), None)
        lost = "" if base is None else f"{row['f1_mean'] - base:+.4f}"
        runs = [ledger.of("main", row["method"], image) for image in _images(ledger, "main")]
        total = seconds(sum(_median(some, "total_s") for some in runs)) if runs and all(runs) else ""
        rows.append([row["method"], f"{row['f1']:.4f}", f"{row['f1_mean']:.4f}", lost, total])
    return _table(["method", "F1@0.5", "mean F1", "difference of mean F1", "image to labels, s"], rows)


def table_tiles(ledger: Ledger) -> str:
    """Tiles a second on a GPU, and the share of the network."""
    rows = []
    for method in names(ledger.of("tiles")):
        for image in _images(ledger, "tiles"):
            runs = ledger.of("tiles", method, image)
            if runs:
                total, count = _median(runs, "total_s"), int(image.rpartition("x")[2])
                share = 100 * _median(runs, "network_s") / total
                rows.append([method, str(count), f"{count / total:.1f}", f"{share:.0f} %"])
    return _table(["method", "tiles in a batch", "tiles a second", "network"], rows)


def table_targets(ledger: Ledger, chosen: Chosen) -> str:
    """Judge the aims that docs/benchmarks.md states."""
    said = {None: "not measured", True: "yes", False: "**no**"}
    rows = [[target.aim, target.measured, said[target.is_reached]] for target in judge(ledger, chosen)]
    return _table(["aim", "measured", "reached"], rows)


def judge(ledger: Ledger, chosen: Chosen) -> list[Target]:
    """Compare what was measured with what was aimed at; of several images the worst counts.

    Parameters
    ----------
    ledger : Ledger
    chosen : Chosen
        Rows that stand for `nuclei`, `nuclei-slim` and `nuclei-paper`.
    """
    targets = [
        *(_ratio_target(ledger, method, STARDIST, 0.25) for method in (chosen.lite, chosen.slim)),
        *(_ratio_target(ledger, method, INSTANSEG, 0.06) for method in (chosen.lite, chosen.slim)),
        _ratio_target(ledger, chosen.paper, INSTANSEG, 0.5),
    ]
    for method in chosen:
        targets.append(_share_target(ledger, method))
        targets += [_memory_target(ledger, method, peer) for peer in (STARDIST, INSTANSEG)]
        for what, fit in (("nuclei", fit_objects(ledger, method)), ("pixels", fit_sizes(ledger, method))):
            targets.append(_line_target(method, what, fit))
    return [*targets, *_accuracy_targets(ledger, chosen)]


def fit_objects(ledger: Ledger, method: str) -> Fit | None:
    """Line of seconds against true objects, images of 1024 px; None without enough of them."""
    points = object_points(ledger, method)
    return fit_line([n for n, _ in points], [run_s for _, run_s in points]) if len(points) > 2 else None


def fit_sizes(ledger: Ledger, method: str) -> Fit | None:
    """Power of pixels that seconds grow with; None without enough images."""
    points = size_points(ledger, method)
    return fit_power([n for n, _ in points], [run_s for _, run_s in points]) if len(points) > 2 else None


def object_points(ledger: Ledger, method: str, field: str = "total_s") -> list[tuple[float, float]]:
    """Give true objects and median seconds of each mosaic of the sections `objects` and `main`."""
    images = [*_images(ledger, "objects"), *_images(ledger, "main")]
    mosaics = [image for image in images if ledger.images[image]["channels"] == 1]
    return _points(ledger, method, mosaics, field, "objects")


def size_points(ledger: Ledger, method: str, field: str = "total_s") -> list[tuple[float, float]]:
    """Pixels and median seconds of each image of one density."""
    sides = _points(ledger, method, [*_images(ledger, "sizes"), MIDDLE], field, "side")
    return [(side**2, value) for side, value in sides]


_PARTS = ("prepare_s", "network_s", "post_s", "total_s")
_STAGES = ("seeds", "maps", "merge", "pieces")


def _points(ledger: Ledger, method: str, images: Iterable[str], field: str, place: str) -> list[tuple[float, float]]:
    points = []
    for image in images:
        sections = [ledger.of(section, method, image, MAIN_THREADS) for section in ("main", "objects", "sizes")]
        value = median_of([run for runs in sections for run in runs], field)
        if value is not None:
            points.append((float(ledger.images[image][place]), value))
    return sorted(points)


def _ratio_target(ledger: Ledger, method: str, peer: str, most: float) -> Target:
    """Judge one row; tell of the fastest other row of the same model where it is faster."""
    aim = f"{method}: time at most {most:g} × {peer}"
    model = method.partition(",")[0]
    rows = [name for name in names(ledger.of("main")) if name.startswith(f"{model},")]
    known = {row: max(ratios) for row in rows if (ratios := _ratios(ledger, "main", row, peer, "total_s"))}
    if method not in known:
        return Target(aim, "", None)
    best = min(known, key=lambda row: known[row])
    other = f" ({known[best]:.3f}: {best.removeprefix(model).strip(', ')})" if known[best] < known[method] else ""
    return Target(aim, f"{known[method]:.3f}{other}", known[method] <= most)


def _share_target(ledger: Ledger, method: str) -> Target:
    shares = [
        _median(runs, "post_s") / _median(runs, "total_s")
        for runs in (ledger.of("main", method, image) for image in _images(ledger, "main"))
        if runs
    ]
    aim = f"{method}: post-processing at most 25 % of the whole"
    return Target(aim, f"{100 * max(shares):.0f} %", max(shares) <= 0.25) if shares else Target(aim, "", None)


def _memory_target(ledger: Ledger, method: str, peer: str) -> Target:
    aim = f"{method}: memory below {peer}"
    ratios = _ratios(ledger, "memory", method, peer, "peak_bytes")
    return Target(aim, f"{max(ratios):.2f} ×", max(ratios) < 1) if ratios else Target(aim, "", None)


def _ratios(ledger: Ledger, section: str, method: str, peer: str, field: str) -> list[float]:
    """Give ours over the best of the peer's ways, for each image that both have."""
    ratios = []
    for image in _images(ledger, section):
        own = ledger.of(section, method, image)
        others = [runs for way in PEERS[peer] if (runs := ledger.of(section, way, image))]
        if own and others:
            ratios.append(_median(own, field) / min(_median(runs, field) for runs in others))
    return ratios


def _line_target(method: str, what: str, fit: Fit | None) -> Target:
    aim = f"{method}: time linear in {what}"
    if fit is None:
        return Target(aim, "", None)
    fits = fit.r2 >= 0.95 or fit.worst <= 0.1
    text = f"R² {fit.r2:.3f}, at most {100 * fit.worst:.0f} % from the line"
    if what == "pixels":
        return Target(aim, f"exponent {fit.slope:.2f}, {text}", fits and fit.slope <= 1.1)
    return Target(aim, text, fits)


def _accuracy_targets(ledger: Ledger, chosen: Chosen) -> list[Target]:
    """Loss of accuracy by other precisions, relative to the first row of the model, and by the lighter network."""
    targets = []
    first = {}
    for row in ledger.accuracy:
        base = first.setdefault(row["baseline"], row)
        if row["method"] == chosen.slim:
            base = next((other for other in ledger.accuracy if other["method"] == chosen.lite), row)
        if row is not base:
            lost = row["f1_mean"] - base["f1_mean"]
            aim = f"{row['method']}: mean F1 no more than 0.005 below {base['method']}"
            targets.append(Target(aim, f"{lost:+.4f}", lost >= -0.005))
    return targets


def _objects_cells(line: Fit) -> list[str]:
    return [seconds(line.start), seconds(1000 * line.slope), f"{line.r2:.3f}"]


def _by_image(ledger: Ledger, section: str, cell: Callable[[Sequence[Record]], str]) -> str:
    images = _images(ledger, section)
    rows = []
    for method in names(ledger.of(section)):
        runs = [ledger.of(section, method, image) for image in images]
        rows.append([method, *(cell(some) if some else "" for some in runs)])
    return _table(["method", *(title(ledger, image) for image in images)], rows)


def title(ledger: Ledger, image: str) -> str:
    """Give what a table calls an image."""
    known = ledger.images[image]
    kind = "slide" if known["channels"] == 3 else "mosaic"
    return f"{kind}, {known['side']} px, {known['objects']} nuclei"


def _images(ledger: Ledger, section: str) -> list[str]:
    return list(dict.fromkeys(record.image for record in ledger.of(section)))


def _median(runs: Sequence[Record], field: str) -> float:
    value = median_of(runs, field)
    return float("nan") if value is None else value


def _median_stage(runs: Sequence[Record], stage: str) -> float:
    return spread(run.stages.get(stage, 0.0) for run in runs).median


def _ratio(value: float, others: Sequence[float]) -> str:
    return f"{value / min(others):.3f}" if others else ""


def _memory(ledger: Ledger, method: str) -> str:
    known = [record.peak_bytes for record in ledger.of("memory", method)]
    return f"{max(known) / 1e6:.0f}" if known else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
