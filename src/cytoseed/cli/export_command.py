"""Models for other programs: what `cytoseed export` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cytoseed.cli.console import remark

if TYPE_CHECKING:
    from cytoseed.models.weights import Model


class ExportJob(NamedTuple):
    """Which model is packed for what, and where to."""

    model: Model
    target: str
    folder: Path
    overwrite: bool

    def run(self) -> list[str]:
        """Pack the model; give a line for each file or folder, and one that says how it was checked."""
        from cytoseed.export.package import export_model
        from cytoseed.settings import is_non_commercial

        if is_non_commercial(self.model.config.licence):
            remark(f"{self.model.config.name} has the licence {self.model.config.licence}: for non-commercial use only")
        exported = export_model(self.model, self.target, self.folder, self.overwrite)
        found = exported.agreement
        files = f"{found.files} file{'' if found.files == 1 else 's'}"
        return [
            *(str(path) for path in exported.paths),
            f"checked: {files} reopened, the same objects as the model ({found.objects}); "
            f"{found.differing_px} border pixels differ",
        ]


def prepare_export(model: str, target: str, folder: Path, overwrite: bool) -> ExportJob:
    """Check what can be checked before the work.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError, ValueError
        No such model or target, or a package that the target needs is not installed.
    """
    from cytoseed.export.package import find_target
    from cytoseed.models.weights import load_model

    find_target(target)
    return ExportJob(load_model(model), target, folder, overwrite)
