"""Speed and memory from raw image to labels, of our models and of the peers; writes the tables.

python benchmarks/speed.py --accuracy --stages --write       everything; continues an interrupted run
python benchmarks/speed.py --sections main --methods nuclei StarDist --output runs/glance
python benchmarks/speed.py --quick --output runs/quick       one small image, one run each, to check that it works

Each method runs in its own process and environment (`benchmarks/peers/environments.sh`), bound to the same
cores, and they take turns, image by image and round by round. Methods that are not installed are reported and skipped.
Every run is a line of OUTPUT/results.jsonl; `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from accuracy import DATA, OPEN_DATA, PAGE, ROOT, write_page
from speed_images import Files, Shelf
from speed_plots import plot_objects, plot_sizes
from speed_runs import Ledger, Method, Section, run
from speed_tables import (
    CELLPOSE,
    INSTANSEG,
    INSTANSEG_PYTHON,
    MIDDLE,
    STARDIST,
    Chosen,
    table_accuracy,
    table_fits,
    table_found,
    table_images,
    table_methods,
    table_stages,
    table_targets,
    table_threads,
    table_tiles,
)

MODELS = ("nuclei", "nuclei-slim", "nuclei-paper")
CHOSEN = Chosen("nuclei, torch", "nuclei-slim, torch", "nuclei-paper, torch")
"""Default configurations of `cytoseed segment`."""
SECTIONS = ("main", "single", "objects", "sizes", "memory", "tiles")
TILE_PX = 512


def our_methods(models: tuple[str, ...] = MODELS) -> list[Method]:
    """Our models in float32, and in bfloat16 if that is fast here."""
    import torch

    from cytoseed.run.engine import bfloat16_is_fast

    precisions = ["float32", "bfloat16"] if bfloat16_is_fast(torch.device("cpu")) else ["float32"]
    return [_ours(model, precision) for model in models for precision in precisions]


def peer_methods(phi: Path) -> list[Method]:
    """Those peers whose environments are there."""
    peers = [
        Method(STARDIST, _python("stardist"), "speed_stardist.py", {}),
        Method(INSTANSEG, _python("instanseg"), "speed_instanseg.py", {"phi": str(phi)}, True),
        Method(
            INSTANSEG_PYTHON,
            _python("instanseg"),
            "speed_instanseg.py",
            {"phi": str(phi), "runtime": "python"},
            True,
        ),
        Method(CELLPOSE, _python("cellpose"), "speed_cellpose.py", {}, True),
    ]
    return [peer for peer in peers if peer.python.exists()]


def plan(shelf: Shelf, methods: list[Method], quick: bool = False) -> Iterator[Section]:
    """Give the sections one after the other; their images are made when it is their turn.

    Parameters
    ----------
    shelf : Shelf
    methods : list of Method
    quick : bool
        One image of 256 px instead, once.
    """
    usual = [method for method in methods if method.name != INSTANSEG_PYTHON]
    lines = [method for method in usual if not method.is_ours or method.name in CHOSEN]
    if quick:
        small = [shelf.mosaic("quick", 256, 40)]
        yield Section("main", small, methods, 1, 1)
        yield Section("memory", small, methods, 1, 1, each_alone=True)
        yield from _tiles(shelf, methods, shelf.mosaic("quick512", 512, 160))
        return
    main = [shelf.mosaic(str(objects), 1024, objects) for objects in (300, 600, 1000)]
    main.append(shelf.slide("slide"))
    yield Section("main", main, methods, 5, 3)
    yield Section("single", [image for image in main if image.name == MIDDLE], usual, 3, 2, threads=1)
    yield Section("memory", main[-2:], methods, 1, 1, each_alone=True)
    more = [shelf.mosaic(f"o{objects}", 1024, objects) for objects in (0, 150, 1500)]
    yield Section("objects", more, lines, 3, 2)
    # of the largest only ours: peers would take minutes each
    sizes = [shelf.mosaic(f"s{side}", side, 600 * side**2 // 1024**2, side <= 2048) for side in (256, 512, 2048, 4096)]
    yield Section("sizes", sizes, lines, 3, 1)
    yield from _tiles(shelf, methods, sizes[2])


def _tiles(shelf: Shelf, methods: list[Method], whole: Files) -> Iterator[Section]:
    """Batches of tiles on a GPU, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return
    batch = shelf.tiles(f"{whole.name}x{(whole.side // TILE_PX) ** 2}", whole, TILE_PX)
    able = [method for method in methods if method.is_ours]
    able += [method for method in methods if method.name == INSTANSEG and _sees_gpu(method.python)]
    yield Section("tiles", [batch], able, 5, 5, device="cuda", batch=True)


def measure_accuracy(ledger: Ledger, methods: list[Method], data: Path, say: Callable[[str], None]) -> None:
    """Score our configurations on the validation images; those that the ledger has are left out."""
    from cytoseed.learn.evaluate import evaluate_model
    from cytoseed.learn.samples import find_samples
    from cytoseed.models.weights import load_model
    from cytoseed.settings import SegmentOptions

    samples = find_samples(data, splits=["val"], datasets=OPEN_DATA)
    done = {row["method"] for row in ledger.accuracy}
    for method in methods:
        if method.is_ours and method.name not in done:
            model = method.settings["model"]
            options = SegmentOptions(device="cpu", precision=method.settings["precision"])
            pooled = evaluate_model(load_model(model), samples, options).pooled
            row = {"method": method.name, "baseline": model, "f1": pooled.f1, "f1_mean": pooled.f1_mean}
            ledger.add_accuracy(row)
            say(f"accuracy {method.name}: {pooled.f1:.4f} / {pooled.f1_mean:.4f}")


def tables(ledger: Ledger, with_stages: bool) -> dict[str, str]:
    """Give every table that there are figures for, by its mark on the page."""
    made = {
        "speed setup": _setup(ledger),
        "speed targets": table_targets(ledger, CHOSEN),
        "speed methods": table_methods(ledger),
        "speed images": table_images(ledger),
        "speed found": table_found(ledger),
        "speed threads": table_threads(ledger),
        "speed fits": table_fits(ledger),
        "speed accuracy": table_accuracy(ledger),
        "speed gpu": table_tiles(ledger),
    }
    if with_stages:
        made["speed stages"] = table_stages(ledger)
    return {mark: text for mark, text in made.items() if text.count("\n") != 1}  # one without rows has two lines


def main() -> None:
    arguments = _arguments()
    output: Path = arguments.output
    if arguments.fresh:
        shutil.rmtree(output, ignore_errors=True)
    shelf = Shelf(output / "images", arguments.data)
    methods = [*our_methods(), *peer_methods(output / "images" / "phi.npz")]
    _report_missing(methods)
    if arguments.methods:
        methods = [method for method in methods if any(method.name.startswith(name) for name in arguments.methods)]
    if not all(method.is_ours for method in methods):
        shelf.phi()
    ledger = Ledger(output / "results.jsonl", _machine())
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {text}", flush=True)

    for section in plan(shelf, methods, arguments.quick):
        if section.name in arguments.sections:
            run(section, ledger, output, say)
    if arguments.accuracy:
        measure_accuracy(ledger, methods, arguments.data, say)
    for mark, text in tables(ledger, arguments.stages).items():
        print(f"\n{mark}\n{text}")
        if arguments.write:
            write_page(mark, text)
    folder = PAGE.parent / "images" if arguments.write else output
    plot_objects(ledger, folder / "speed-objects.png")
    plot_sizes(ledger, folder / "speed-sizes.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--methods", nargs="+", help="only those whose names begin so")
    parser.add_argument("--accuracy", action="store_true", help="score our configurations on the validation images")
    parser.add_argument("--stages", action="store_true", help="tell where our time goes")
    parser.add_argument("--write", action="store_true", help="write tables and pictures into docs")
    parser.add_argument("--quick", action="store_true", help="one small image, once")
    parser.add_argument("--fresh", action="store_true", help="throw away what was measured")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "speed")
    parser.add_argument("--data", type=Path, default=DATA)
    return parser.parse_args()


def _ours(model: str, precision: str) -> Method:
    name = f"{model}, torch" + ("" if precision == "float32" else f", {precision}")
    settings = {"model": model, "precision": precision}
    return Method(name, Path(sys.executable), "speed_ours.py", settings)


def _python(peer: str) -> Path:
    return ROOT / "runs" / "peers" / peer / "venv" / "bin" / "python"


def _report_missing(methods: list[Method]) -> None:
    present = {method.name for method in methods}
    for name in (STARDIST, INSTANSEG, CELLPOSE):
        if name not in present:
            print(f"{name} is left out: benchmarks/peers/environments.sh makes its environment", flush=True)


def _sees_gpu(python: Path) -> bool:
    words = [str(python), "-c", "import torch; print(torch.cuda.is_available())"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() == "True"


def _machine() -> dict[str, str]:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        processor += "".join(f", {flag}" for flag in ("avx512f", "amx_bf16") if flag in flags)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return {"processor": processor, "date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip()}


def _setup(ledger: Ledger) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in sorted(ledger.versions.items()))
    machine = ledger.machine
    return f"{machine['processor']}; {machine['date']}, at commit {machine['commit'] or 'unknown'}. {versions}."


if __name__ == "__main__":
    main()
