"""`cytoseed doctor`: the installation, described for a bug report and tested on a drawn image."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import typer

from cytoseed import __version__
from cytoseed.cli.console import FAILED, exit_on_mistake, one_line, print_json, print_line, wants_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*extra == ['\"]([\w-]+)['\"])?")
_IMPORTED_AS = {  # where a package's module has another name
    "opencv-python-headless": "cv2",
    "openslide-bin": "openslide_bin",
    "openslide-python": "openslide",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "universal-pathlib": "upath",
}
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CYTOSEED_MODELS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONUTF8")
_ROWS, _STEP_PX, _RADIUS_PX = 7, 40, 8.5  # drawn nuclei, as wide as models expect them


def doctor() -> None:
    """Describe this installation, for a bug report, and test it on a drawn image.

    Exits with 1 if a package cannot be imported, a model is damaged, or the test does not find what was drawn.
    """
    with exit_on_mistake(FAILED):
        faults: list[str] = []
        began = time.perf_counter()
        packages = dict(_packages(faults))
        facts: dict[str, Any] = {
            "cytoseed": __version__,
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "system": platform.platform(),
            "packages": packages,
            "import_seconds": round(time.perf_counter() - began, 2),
            "missing_for_extras": _missing_for_extras(),
            "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        }
        if not faults:
            facts |= _machine()
            facts["models"] = _models(faults)
            facts["self_test"] = [_self_test(device, faults) for device in facts["devices"]]
        facts |= {"faults": faults}
        _show(facts)
        if faults:
            raise typer.Exit(FAILED)


def _requirements() -> Iterator[tuple[str, str]]:
    """Names of the packages that cytoseed needs, and the extra that needs each, or an empty text."""
    for line in metadata.requires("cytoseed") or ():
        found = _REQUIREMENT.match(line)
        if found:
            yield found[1].lower(), found[2] or ""


def _packages(faults: list[str]) -> Iterator[tuple[str, str]]:
    """Versions of the packages that are always needed; each is imported."""
    for name in sorted(name for name, extra in _requirements() if not extra):
        try:
            import_module(_IMPORTED_AS.get(name, name))
            yield name, metadata.version(name)
        except (ImportError, OSError, RuntimeError, ValueError) as error:  # ValueError: built for another NumPy
            faults.append(f"package {name} cannot be imported: {one_line(error)}")
            yield name, "broken"


def _missing_for_extras() -> dict[str, list[str]]:
    """Packages that are not installed, by the extra that needs them."""
    missing: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra and extra not in ("dev", "docs") and name != "cytoseed":
            missing.setdefault(extra, []).extend([] if _is_installed(name) else [name])
    return missing


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _machine() -> dict[str, Any]:
    """Processor, memory and devices, as a run sees them."""
    import psutil
    import torch

    from cytoseed.run.engine import bfloat16_is_fast
    from cytoseed.run.memory import free_bytes

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    devices = [*cuda, *mps, "cpu"]
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "free_memory_gb": round(free_bytes() / 1e9, 1),
        "devices": devices,
        "gpus": [torch.cuda.get_device_name(name) for name in cuda],
        "fast_bfloat16": [name for name in devices if bfloat16_is_fast(torch.device(name))],
    }


def _models(faults: list[str]) -> dict[str, str]:
    """Versions of the models known by name, all of whose weights are read."""
    from cytoseed.models.weights import list_models, load_model

    versions = {config.name: config.version for config in list_models()}
    for name in versions:
        try:
            load_model(name)
        except (OSError, ValueError) as error:
            faults.append(one_line(error, name))
    return versions


def _self_test(device: str, faults: list[str]) -> dict[str, Any]:
    """Segment drawn nuclei twice, since the first time includes preparations."""
    import cytoseed

    model, image, centres = cytoseed.load_model("nuclei"), *_drawn()
    first, _ = _timed(lambda: cytoseed.segment(image, model, device=device, pixel_size_um=0.5).labels)
    second, labels = _timed(lambda: cytoseed.segment(image, model, device=device, pixel_size_um=0.5).labels)
    found = int(labels.max())
    right = len({int(labels[y, x]) for y, x in centres} - {0})
    if not found == right == len(centres):
        faults.append(f"self-test on {device}: {right} of {len(centres)} drawn nuclei are found, among {found} objects")
    return {
        "device": device,
        "nuclei": len(centres),
        "found": right,
        "objects": found,
        "first_seconds": round(first, 3),
        "second_seconds": round(second, 3),
    }


def _timed(work: Callable[[], NDArray[np.int32]]) -> tuple[float, NDArray[np.int32]]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _drawn() -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """Bright discs with soft edges in rows, (H,W), and their centres."""
    import numpy as np

    centres = [(_STEP_PX * row + 20, _STEP_PX * column + 20) for row in range(_ROWS) for column in range(_ROWS)]
    rows, columns = np.mgrid[: _ROWS * _STEP_PX, : _ROWS * _STEP_PX]
    distance = np.min([np.hypot(rows - y, columns - x) for y, x in centres], axis=0)
    return (20 + 180 / (1 + np.exp(2 * (distance - _RADIUS_PX)))).astype(np.uint8), centres


def _show(facts: dict[str, Any]) -> None:
    if wants_json():
        print_json(facts)
        return
    complete = [extra for extra, missing in facts["missing_for_extras"].items() if not missing]
    incomplete = [f"{extra} ({', '.join(each)})" for extra, each in facts["missing_for_extras"].items() if each]
    lines = {
        "cytoseed": facts["cytoseed"],
        "Python": facts["python"],
        "system": facts["system"],
        "packages": f"{_listed(facts['packages'])}; imported in {facts['import_seconds']} s",
        "extras": ", ".join(complete) or "none",
        "not there": ", ".join(incomplete) or "nothing",
        "variables": _listed(facts["environment"], "=") or "none",
    }
    if "devices" in facts:
        lines |= {
            "processor": f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads",
            "memory": f"{facts['memory_gb']} GB, {facts['free_memory_gb']} GB free",
            "devices": ", ".join([*facts["devices"], *facts["gpus"]]),
            "bfloat16": f"fast on {', '.join(facts['fast_bfloat16']) or 'none'}",
            "models": _listed(facts["models"]),
        }
    for test in facts.get("self_test", ()):
        times = f"{test['first_seconds']:.2f} s, then {test['second_seconds']:.2f} s"
        lines[f"test {test['device']}"] = f"{test['found']} of {test['nuclei']} nuclei in {times}"
    lines["result"] = "; ".join(facts["faults"]) or "everything works"
    print_line(*(f"{title:<11} {text}" for title, text in lines.items()))


def _listed(values: dict[str, str], joint: str = " ") -> str:
    return ", ".join(f"{name}{joint}{value}" for name, value in values.items())
