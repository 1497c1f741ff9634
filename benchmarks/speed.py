"""Speed and memory from raw image to labels, of our models and of the peers; writes the tables.

python benchmarks/speed.py --write                       everything; continues an interrupted run
python benchmarks/speed.py --sections main --methods nuclei StarDist --output runs/glance
python benchmarks/speed.py --quick --output runs/quick   one small image, one round, to check that it works

Each method runs in its own process and environment (`benchmarks/peers/environments.sh`), bound to the same cores, and
they take turns, image by image and round by round. Methods that are not installed are reported and skipped. Every run
is a line of OUTPUT/results.jsonl; `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from places import DATA, PAGE, ROOT, write_page
from speed_fits import MIDDLE, plot_objects, plot_sizes
from speed_images import Shelf
from speed_runs import Ledger, Method, Section, run
from speed_tables import CELLPOSE, INSTANSEG, STARDIST, Chosen, tables

MODELS = ("nuclei", "nuclei-slim", "nuclei-paper")
CHOSEN = Chosen("nuclei, torch", "nuclei-slim, torch", "nuclei-paper, torch")
"""Default configurations of `cytoseed segment`."""
SECTIONS = ("main", "single", "memory", "objects", "sizes", "gpu")


def our_methods() -> list[Method]:
    """Our models in float32, and in bfloat16 if that is fast here."""
    import torch

    from cytoseed.run.engine import bfloat16_is_fast

    precisions = ["float32", "bfloat16"] if bfloat16_is_fast(torch.device("cpu")) else ["float32"]
    return [_ours(model, precision) for model in MODELS for precision in precisions]


def peer_methods(phi: Path) -> list[Method]:
    """Peers whose environments are installed."""
    peers = [
        Method(STARDIST, _python("stardist"), "speed_stardist.py", {}),
        Method(INSTANSEG, _python("instanseg"), "speed_instanseg.py", {"phi": str(phi)}, True),
        Method(CELLPOSE, _python("cellpose"), "speed_cellpose.py", {}, True),
    ]
    for peer in peers:
        if not peer.python.exists():
            print(f"{peer.name} is left out: benchmarks/peers/environments.sh makes its environment", flush=True)
    return [peer for peer in peers if peer.python.exists()]


def plan(shelf: Shelf, methods: list[Method], quick: bool = False) -> Iterator[Section]:
    """Sections one after the other, whose images are made when it is their turn; `quick`: one image of 256 px."""
    lines = [method for method in methods if not method.is_ours or method.name in CHOSEN]
    if quick:
        small = [shelf.mosaic("quick", 256, 40)]
        yield Section("main", small, methods, 1, 1)
        yield Section("memory", small, methods, 1, 1, each_alone=True)
        return
    main = [shelf.mosaic(str(objects), 1024, objects) for objects in (300, 600, 1000)]
    main.append(shelf.slide("slide"))
    yield Section("main", main, methods, 5, 3)
    yield Section("single", [image for image in main if image.name == MIDDLE], methods, 3, 2, threads=1)
    yield Section("memory", main[-2:], methods, 1, 1, each_alone=True)
    more = [shelf.mosaic(f"o{objects}", 1024, objects) for objects in (0, 150, 1500)]
    yield Section("objects", more, lines, 3, 2)
    # peers would take minutes for the largest
    sizes = [shelf.mosaic(f"s{side}", side, 600 * side**2 // 1024**2, side <= 2048) for side in (256, 512, 2048, 4096)]
    yield Section("sizes", sizes, lines, 3, 1)
    gpu = [method for method in methods if (method.is_ours or method.name == INSTANSEG) and _sees_gpu(method.python)]
    yield Section("gpu", [*main, sizes[-1]] if gpu else [], gpu, 5, 5, device="cuda")


def main() -> None:
    arguments = _arguments()
    output: Path = arguments.output
    if arguments.fresh:
        shutil.rmtree(output, ignore_errors=True)
    shelf = Shelf(output / "images", arguments.data)
    methods = [*our_methods(), *peer_methods(output / "images" / "phi.npz")]
    if arguments.methods:
        methods = [method for method in methods if method.name.startswith(tuple(arguments.methods))]
    if not all(method.is_ours for method in methods):
        shelf.phi()
    ledger = Ledger(output / "results.jsonl", _machine())
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {text}", flush=True)

    for section in plan(shelf, methods, arguments.quick):
        if section.name in arguments.sections:
            run(section, ledger, output, say)
    for mark, text in tables(ledger, CHOSEN).items():
        print(f"\n{mark}\n{text}")
        if arguments.write:
            write_page(mark, text)
    folder = PAGE.parent / "images" if arguments.write else output
    plot_objects(ledger, folder / "speed-objects.png")
    plot_sizes(ledger, folder / "speed-sizes.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--methods", nargs="+", help="beginnings of the names of the methods to run")
    parser.add_argument("--write", action="store_true", help="write tables and pictures into docs")
    parser.add_argument("--quick", action="store_true", help="one small image, once")
    parser.add_argument("--fresh", action="store_true", help="discard earlier measurements")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "speed")
    parser.add_argument("--data", type=Path, default=DATA)
    return parser.parse_args()


def _ours(model: str, precision: str) -> Method:
    name = f"{model}, torch" + ("" if precision == "float32" else f", {precision}")
    return Method(name, Path(sys.executable), "speed_ours.py", {"model": model, "precision": precision})


def _python(peer: str) -> Path:
    return ROOT / "runs" / "peers" / peer / "venv" / "bin" / "python"


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
    words = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    return {"processor": processor, "date": time.strftime("%Y-%m-%d"), "commit": commit or "unknown"}


if __name__ == "__main__":
    main()
