"""Wheel and sdist: what they hold, and what their metadata say."""

import email
import json
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from cytoseed import __version__
from cytoseed.settings import is_non_commercial

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cytoseed"
LARGEST_BYTES = 25_000_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    [path] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    assert Path(path).stat().st_size < LARGEST_BYTES
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = {path.relative_to(ROOT / "src").as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    assert inside == {name for name in source if "__pycache__" not in name}


def test_metadata(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert (metadata["Name"], metadata["Version"]) == ("cytoseed", __version__)
    assert metadata["License-Expression"] == PROJECT["license"]
    held = {entry for entry in wheel.namelist() if ".dist-info/licenses/" in entry}
    assert {entry.split("/licenses/")[1] for entry in held} == set(metadata.get_all("License-File"))
    known = {line.rsplit(" ", 1)[1] for line in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", line)}
    assert known == {"3.11", "3.12", "3.13", "3.14"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation


def test_every_bundled_model_has_a_licence_in_the_wheel(wheel):
    notice = wheel.read("cytoseed/models/NOTICE.txt").decode()
    configs = [name for name in wheel.namelist() if re.fullmatch(r"cytoseed/models/[^/]+/config.json", name)]
    for config in (json.loads(wheel.read(name)) for name in configs):
        assert config["licence"] in PROJECT["license"]
        assert re.search(rf"{config['name']}\b[^\n:]*: {re.escape(config['licence'])}", notice), config["name"]
        if is_non_commercial(config["licence"]):
            assert config["licence"] in wheel.read(f"cytoseed/models/{config['name']}/LICENSE.txt").decode()


def test_the_sdist_holds_what_tests_read(tmp_path):
    [path] = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames()}
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        wanted = {
            p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".gz")
        }
        assert {name for name in wanted if "node_modules/" not in name} <= inside
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "constraints.txt", "Makefile"} <= inside


def test_the_conda_recipe_has_the_same_version_and_dependencies():
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == __version__
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["license_file"] == PROJECT["license-files"]
    names = {"opencv-python-headless": "py-opencv", "openslide-bin": "openslide", "torch": "pytorch"}
    names["universal-pathlib"] = "universal_pathlib"
    listed = dict(line.split(" ", 1) for line in recipe["requirements"]["run"])
    assert listed.pop("python") == PROJECT["requires-python"]
    wanted = (re.fullmatch(r"([\w-]+)(.*)", line) for line in PROJECT["dependencies"])
    assert listed == {names.get(found[1], found[1]): found[2] for found in wanted}
