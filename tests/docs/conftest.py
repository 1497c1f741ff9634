"""The module that runs pages of the documentation, and the sample images that pages begin with."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cytoseed.cli.main import app

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "scripts"))


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Folder that `cytoseed samples` wrote."""
    folder = tmp_path_factory.mktemp("samples")
    result = CliRunner().invoke(app, ["samples", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    return folder
