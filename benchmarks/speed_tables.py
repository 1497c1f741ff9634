"""Tables of docs/benchmarks.md's section on speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from speed_fits import Fit, fit_objects, fit_sizes
from speed_runs import STAGES, Ledger

STARDIST, INSTANSEG, CELLPOSE = "StarDist (2,2)", "instanseg-torch", "Cellpose 3"
PEERS = (STARDIST, INSTANSEG)
"""Peers that aims refer to."""


class Chosen(NamedTuple):
    """Methods that stand for our three networks in aims and pictures."""

    lite: str
    slim: str
    paper: str


class Target(NamedTuple):
    """One aim, what was measured, and whether it was reached; None where nothing was measured."""

    aim: str
    measured: str = ""
    is_reached: bool | None = None


def tables(ledger: Ledger, chosen: Chosen) -> dict[str, str]:
    """Every table that there are figures for, by its mark on the page."""
    versions = ", ".join(f"{name} {number}" for name, number in sorted(ledger.versions.items()))
    machine = ledger.machine
    made = {
        "speed setup": f"{machine['processor']}; {machine['date']}, at commit {machine['commit']}. {versions}.",
        "speed targets": table_targets(ledger, chosen),
        "speed methods": table_methods(ledger),
        "speed images": table_images(ledger),
        "speed found": table_found(ledger),
        "speed threads": table_threads(ledger),
        "speed fits": table_fits(ledger),
        "speed stages": table_stages(ledger),
        "speed gpu": table_images(ledger, "gpu"),
    }
    return {mark: text for mark, text in made.items() if text.count("\n") != 1}  # without rows there are two lines


def table_methods(ledger: Ledger) -> str:
    """The paper's Table 4: seconds of all images of the section `main` together, and the highest memory."""
    fields = ("prepare_s", "network_s", "post_s", "total_s")
    images = ledger.images_of("main")
    totals = {
        method: [sum(ledger.median(field, "main", method, image) for image in images) for field in fields]
        for method in ledger.methods_of("main")
        if all(ledger.of("main", method, image) for image in images)
    }
    rows = []
    for method, figures in totals.items():
        after, total = figures[2:]
        ratios = [f"{total / totals[peer][3]:.3f}" if peer in totals else "" for peer in PEERS]
        peaks = [record.peak_bytes for record in ledger.of("memory", method)]
        peak = f"{max(peaks) / 1e6:.0f}" if peaks else ""
        rows.append([method, *map(seconds, figures), f"{100 * after / total:.0f} %", *ratios, peak])
    header = ["method", "normalise, s", "network, s", "post-processing, s", "image to labels, s", "after the network"]
    return _table([*header, *(f"× {peer}" for peer in PEERS), "peak memory, MB"], rows)


def table_images(ledger: Ledger, section: str = "main") -> str:
    """Seconds from image to labels: median, lowest and highest."""
    images = ledger.images_of(section)
    rows = [[method, *(spread(ledger, section, method, i) for i in images)] for method in ledger.methods_of(section)]
    return _table(["method", *(_title(ledger, image) for image in images)], rows)


def table_found(ledger: Ledger) -> str:
    """Objects found per image, and F1@0.5 against its masks."""

    def found(method: str, image: str) -> str:
        records = ledger.of("main", method, image)
        f1 = next((f" ({record.f1:.3f})" for record in records if record.f1 is not None), "")
        return f"{records[0].objects}{f1}" if records else ""

    images = ledger.images_of("main")
    rows = [[method, *(found(method, image) for image in images)] for method in ledger.methods_of("main")]
    return _table(["method", *(_title(ledger, image) for image in images)], rows)


def table_threads(ledger: Ledger) -> str:
    """One core and two, on the image of the section `single`."""
    rows = []
    for method in ledger.methods_of("single"):
        for image in ledger.images_of("single"):
            one, two = (ledger.median("total_s", section, method, image) for section in ("single", "main"))
            if not math.isnan(one / two):
                times = [spread(ledger, section, method, image) for section in ("single", "main")]
                rows.append([method, *times, f"{one / two:.2f}"])
    return _table(["method", "1 core, s", "2 cores, s", "gained"], rows)


def table_stages(ledger: Ledger) -> str:
    """Milliseconds per stage of our methods, on each image of the section `main`."""
    rows = []
    for method in ledger.methods_of("main"):
        for image in ledger.images_of("main"):
            which = ("main", method, image)
            if any(record.stages for record in ledger.of(*which)):
                parts = [ledger.median(field, *which) for field in ("prepare_s", "network_s", *STAGES)]
                total = ledger.median("total_s", *which)
                rows.append([method, image, *(f"{1000 * s:.0f}" for s in (*parts, total - sum(parts), total))])
    return _table(["method", "image", "normalise", "network", *STAGES, "rest", "all, ms"], rows)


def table_fits(ledger: Ledger) -> str:
    """Lines through time against objects, and powers through time against pixels."""
    rows = []
    for method in ledger.methods_of("objects"):
        line, power = fit_objects(ledger, method), fit_sizes(ledger, method)
        cells = [seconds(line.start), seconds(1000 * line.slope), f"{line.r2:.3f}"] if line else [""] * 3
        cells += [f"{power.slope:.2f}", f"{power.r2:.3f}", f"{100 * power.worst:.0f} %"] if power else [""] * 3
        rows.append([method, *cells])
    header = ["method", "0 nuclei, s", "1,000 more, s", "R²", "exponent of pixels", "R²", "furthest from the line"]
    return _table(header, rows)


def table_targets(ledger: Ledger, chosen: Chosen) -> str:
    """Aims and whether they were reached."""
    words = {None: "not measured", True: "yes", False: "**no**"}
    return _table(
        ["aim", "measured", "reached"], [[t.aim, t.measured, words[t.is_reached]] for t in judge(ledger, chosen)]
    )


def judge(ledger: Ledger, chosen: Chosen) -> list[Target]:
    """Every aim compared with what was measured; of several images the worst counts."""
    light = (chosen.lite, chosen.slim)
    targets = [_ratio_target(ledger, method, STARDIST, 0.25) for method in light]
    targets += [_ratio_target(ledger, method, INSTANSEG, 0.06) for method in light]
    targets.append(_ratio_target(ledger, chosen.paper, INSTANSEG, 0.5))
    for method in chosen:
        targets.append(_share_target(ledger, method))
        targets += [_memory_target(ledger, method, peer) for peer in PEERS]
        targets.append(_line_target(method, "nuclei", fit_objects(ledger, method)))
        targets.append(_line_target(method, "pixels", fit_sizes(ledger, method)))
    return targets


def seconds(value: float) -> str:
    """Three digits: 0.012, 0.123, 1.23, 12.3, 123."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if value >= 1 else f"{value:.3f}"


def spread(ledger: Ledger, section: str, method: str, image: str) -> str:
    """Median seconds, then lowest and highest where there are several."""
    known = [record.total_s for record in ledger.of(section, method, image)]
    if not known:
        return ""
    text = seconds(ledger.median("total_s", section, method, image))
    return text if min(known) == max(known) else f"{text} ({seconds(min(known))} to {seconds(max(known))})"


def _ratio_target(ledger: Ledger, method: str, peer: str, most: float) -> Target:
    """Time relative to a peer's; a faster method of the same model is named in brackets."""
    aim = f"{method}: time at most {most:g} × {peer}"
    model = method.partition(",")[0]
    rows = [name for name in ledger.methods_of("main") if name.startswith(f"{model},")]
    known = {row: max(ratios) for row in rows if (ratios := _ratios(ledger, "main", row, peer, "total_s"))}
    if method not in known:
        return Target(aim)
    best = min(known, key=lambda row: known[row])
    other = f" ({known[best]:.3f}: {best.removeprefix(model).strip(', ')})" if known[best] < known[method] else ""
    return Target(aim, f"{known[method]:.3f}{other}", known[method] <= most)


def _share_target(ledger: Ledger, method: str) -> Target:
    aim = f"{method}: post-processing at most 25 % of the whole"
    which = [("main", method, image) for image in ledger.images_of("main") if ledger.of("main", method, image)]
    shares = [ledger.median("post_s", *one) / ledger.median("total_s", *one) for one in which]
    return Target(aim, f"{100 * max(shares):.0f} %", max(shares) <= 0.25) if shares else Target(aim)


def _memory_target(ledger: Ledger, method: str, peer: str) -> Target:
    aim = f"{method}: memory below {peer}"
    ratios = _ratios(ledger, "memory", method, peer, "peak_bytes")
    return Target(aim, f"{max(ratios):.2f} ×", max(ratios) < 1) if ratios else Target(aim)


def _ratios(ledger: Ledger, section: str, method: str, peer: str, field: str) -> list[float]:
    """Our figure divided by the peer's, for each image that both have."""
    return [
        ledger.median(field, section, method, image) / ledger.median(field, section, peer, image)
        for image in ledger.images_of(section)
        if ledger.of(section, method, image) and ledger.of(section, peer, image)
    ]


def _line_target(method: str, what: str, fit: Fit | None) -> Target:
    aim = f"{method}: time linear in {what}"
    if fit is None:
        return Target(aim)
    fits = fit.r2 >= 0.95 or fit.worst <= 0.1
    text = f"R² {fit.r2:.3f}, at most {100 * fit.worst:.0f} % from the line"
    if what == "pixels":
        return Target(aim, f"exponent {fit.slope:.2f}, {text}", fits and fit.slope <= 1.1)
    return Target(aim, text, fits)


def _title(ledger: Ledger, image: str) -> str:
    known = ledger.images[image]
    kind = "slide" if known["channels"] == 3 else "mosaic"
    return f"{kind}, {known['side']} px, {known['objects']} nuclei"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
