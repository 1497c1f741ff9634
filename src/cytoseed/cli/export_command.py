"""`cytoseed export`: models for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, print_line, print_note
from cytoseed.settings import is_non_commercial


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model (`cytoseed models`) or its folder.")],
    target: Annotated[str, typer.Option("--to", help="qupath, onnx, torchscript or bioimageio.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Export a model, with all steps from pixels to labels, for other programs.

    qupath: a folder for QuPath's InstanSeg extension. onnx: one file, for ONNX Runtime, OpenVINO and browsers.
    torchscript: for C++. bioimageio: a bioimage.io package. The files are reopened and compared with the model before
    they are put into place.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.export.package import export_model, find_target
        from cytoseed.models.weights import load_model

        find_target(target)
        loaded = load_model(model)
    with exit_on_mistake(FAILED):
        if is_non_commercial(loaded.config.licence):
            print_note(f"{loaded.config.name} has the licence {loaded.config.licence}: for non-commercial use only")
        exported = export_model(loaded, target, output, overwrite)
        print_line(*exported.paths)
        found = exported.agreement
        files = f"{found.files} file{'' if found.files == 1 else 's'}"
        same = f"the same objects as the model ({found.objects})"
        print_line(f"checked: {files} reopened, {same}; {found.differing_px} border pixels differ")
