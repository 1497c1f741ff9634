"""The example scripts for Slurm run, and write the files of one process."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cytoseed.run.cluster import Cluster
from runs import run

EXAMPLES = Path(__file__).parents[2] / "examples" / "slurm"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_the_job_script_of_dask_jobqueue(place):
    spec = importlib.util.spec_from_file_location("segment_on_slurm", EXAMPLES / "segment_on_slurm.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with example.slurm() as jobs:
        script = jobs.job_script()
        lines = [line for line in script.splitlines() if line]
        asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
        assert {"-p normal", "-n 1", "--cpus-per-task=8", "-t 04:00:00"} <= set(asked)
        assert any(line.startswith("--mem=") for line in asked)
        command = shlex.split(lines[-1])  # what a node would run
        assert command[0] == sys.executable
        assert command[command.index("--nthreads") + 1] == "8"
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place)
        try:
            with Cluster(scheduler=jobs.scheduler_address) as cluster:
                options = {"formats": ["table"], "tile_size_px": 128}
                run(place / "scene.tif", place / "node", place / "bright", cluster=cluster, **options)
        finally:
            process.terminate()
            process.wait()
    run(place / "scene.tif", place / "one", place / "bright", formats=["table"], tile_size_px=128)
    assert (place / "node" / "scene.csv").read_bytes() == (place / "one" / "scene.csv").read_bytes()


def test_the_job_array(place):
    """As Slurm runs it: the script, with the number of the job in the environment."""
    folder = Path(sys.executable).parent
    flags = ["--model", place / "bright", "--tile-size", "128", "--format", "table"]
    for number in (1, 2):
        environment = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(number),
            "SLURM_ARRAY_TASK_COUNT": "2",
        }
        command = ["bash", EXAMPLES / "shards.sh", place / "parts", place / "scene.tif", *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [folder / "cytoseed", "merge", place / "parts"], capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    run(place / "scene.tif", place / "one", place / "bright", formats=["table"], tile_size_px=128)
    assert (place / "parts" / "scene.csv").read_bytes() == (place / "one" / "scene.csv").read_bytes()
