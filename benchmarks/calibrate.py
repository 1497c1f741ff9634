"""Calibrates the scores of models on validation images, and draws how reliable they are on test images.

python benchmarks/calibrate.py --models nuclei nuclei-he --fit    # into config.json
python benchmarks/calibrate.py --models nuclei nuclei-he --write  # table and picture of docs/benchmarks.md

A model is calibrated on the validation images that its config.json has figures of, and tested on the test images of the
same kinds, which are never fitted to; `--datasets` names others. The test is of the first target.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from cytoseed.core.score import UNCALIBRATED
from cytoseed.learn.calibrate import Bin, Judged, calibration_error, fit_calibration, judge_objects, reliability
from cytoseed.learn.samples import Sample, find_samples
from cytoseed.models.weights import CONFIG_FILE, Model, load_model
from places import DATA, ROOT, write_page

LEAST_SHOWN = 10  # objects of a point; fewer say nothing
PICTURE = ROOT / "docs" / "images" / "reliability.png"
HEADER = "| model | test images | objects | right | expected calibration error |\n" + "|---" * 5 + "|"


def samples_of(model: Model, split: str, arguments: argparse.Namespace) -> tuple[Sample, ...]:
    """Samples of a split: of the named data sets, or of the kinds of images that the model is made for."""
    samples = find_samples(arguments.data, splits=[split])
    if arguments.datasets:
        return tuple(each for each in samples if each.dataset in arguments.datasets)
    kinds = [name for name, figures in model.config.figures.get("val", {}).items() if isinstance(figures, dict)]
    return tuple(
        each for each in samples if any(f"{kind} ".startswith(f"{each.dataset} {each.modality} ") for kind in kinds)
    )


def fit(model: Model, arguments: argparse.Namespace) -> None:
    """Fit the calibration of a model, and write it into its config.json."""
    assert model.folder is not None
    samples, calibrations = samples_of(model, "val", arguments), []
    for target, objects in enumerate(model.config.targets):
        judged = judge_objects(model, samples, arguments.device, target)
        calibrations.append(fit_calibration(judged))
        error = calibration_error(reliability(judged.scores(calibrations[-1]), judged.is_right))
        print(f"{model.config.name}: {calibrations[-1]} from {len(judged.is_right)} {objects}, error there {error:.4f}")
    path = model.folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config["score_calibration"] = [list(calibration) for calibration in calibrations]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(panels: dict[str, list[Bin]], path: Path) -> None:
    """Share of right objects against their score, a panel per model; points grow with the number of their objects."""
    figure = Figure((3 * len(panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, (name, every) in zip(axes, panels.items(), strict=True):
        bins = [each for each in every if each.objects >= LEAST_SHOWN]
        most = max(each.objects for each in bins)
        panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        scores, rights = [each.score for each in bins], [each.right for each in bins]
        panel.plot(scores, rights, color="#0072b2", linewidth=1)
        panel.scatter(scores, rights, [8 + 120 * each.objects / most for each in bins], color="#0072b2", alpha=0.7)
        panel.set(title=f"{name}\nerror {calibration_error(every):.3f}", xlabel="score", xlim=(0, 1.03), ylim=(0, 1.03))
        panel.set_aspect("equal")
        panel.grid(color="#dddddd")
    axes[0].set_ylabel("share that is right")
    figure.savefig(path, dpi=100)


def describe(name: str, images: int, judged: Judged, bins: list[Bin]) -> str:
    """Row of the table."""
    count, right = len(judged.is_right), judged.is_right.mean()
    return f"| `{name}` | {images} | {count:,} | {right:.1%} | {calibration_error(bins):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="names or folders")
    parser.add_argument("--datasets", nargs="+", default=[])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fit", action="store_true", help="fit on validation images, write config.json, and end")
    parser.add_argument("--write", action="store_true", help="test, and write the picture and the table of the page")
    arguments = parser.parse_args()
    if arguments.fit:
        for name in arguments.models:
            fit(load_model(name), arguments)
        return
    rows, panels = [], {}
    for name in arguments.models:
        model = load_model(name)
        samples = samples_of(model, "test", arguments)
        if not samples:
            print(f"{name}: there are no test images of its kinds", flush=True)
            continue
        judged = judge_objects(model, samples, arguments.device)
        bins = reliability(judged.scores((model.config.score_calibration or (UNCALIBRATED,))[0]), judged.is_right)
        rows.append(describe(model.config.name, len(samples), judged, bins))
        panels[model.config.name] = bins
        print(rows[-1], *bins, sep="\n", flush=True)
    if arguments.write:
        draw(panels, PICTURE)
        write_page("calibration", "\n".join([HEADER, *rows]))


if __name__ == "__main__":
    main()
