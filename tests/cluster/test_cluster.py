"""Dask workers: the objects, ids and files of one process, also when workers die."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from bright import bright_config, bright_segmenter
from cytoseed.cli.main import app
from cytoseed.models.weights import load_model, save_model
from cytoseed.run.cluster import Cluster
from cytoseed.run.dask_client import connect, key_options
from cytoseed.run.slide import Callbacks
from runs import run
from scenes import contents, write_discs

TILES = {"tile_size_px": 128}
FORMATS = ("labels", "geojson", "table")

pytestmark = [
    # Dask and tornado on shutdown
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder of a model and an image of some hundred bright discs, some across borders of tiles."""
    folder = tmp_path_factory.mktemp("cluster")
    save_model(bright_segmenter(), bright_config(), folder / "bright")
    write_discs(folder / "scene.tif", 700, 640)
    return folder


@pytest.fixture(scope="module")
def expected(place):
    """Files that one process writes."""
    run(place / "scene.tif", place / "one", place / "bright", formats=FORMATS, **TILES)
    return contents(place / "one")


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=2) as found:
        yield found


def test_a_client_that_closes_while_a_result_is_fetched_is_not_waited_for():
    client = SimpleNamespace(status="running", nthreads=lambda: {"a": 1}, cancel=lambda *_, **__: None)

    def fetch(timeout):
        client.status = "closed"
        time.sleep(min(timeout, 0.01))
        raise TimeoutError

    future = Mock(status="finished", result=fetch, add_done_callback=lambda put: put(future))
    client.submit = lambda *_, **__: future
    cluster = Cluster(workers=1)
    cluster._client = client
    with pytest.raises(ConnectionError, match="--resume continues"):
        list(cluster.map(deque([print])))
    client.status, future.status = "running", "error"
    with pytest.raises(TimeoutError):
        list(cluster.map(deque([print])))


def nannies(cluster):
    """Process numbers of the workers, by address."""
    return cluster._client.run(os.getpid)


def test_two_workers_write_the_files_of_one_process(place, expected, cluster, tmp_path):
    progress = []
    report = run(
        place / "scene.tif",
        tmp_path,
        place / "bright",
        formats=FORMATS,
        callbacks=Callbacks(progress=progress.append),
        cluster=cluster,
        **TILES,
    )
    assert contents(tmp_path) == expected
    assert report.result.count > 300
    assert progress[-1].done == progress[-1].total == report.tiles == 30
    assert {"network", "objects", "measure", "read"} <= set(report.seconds)


def test_killed_workers_change_nothing(place, expected, cluster, tmp_path):
    killed, started, stop = [], threading.Event(), threading.Event()
    rng = np.random.default_rng(1)

    def kill():
        started.wait(60)  # for the first tile
        while not stop.wait(rng.uniform(0.2, 0.8)) and len(killed) < 4:
            for process in list(nannies(cluster).values())[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        calls = Callbacks(progress=lambda _: started.set())
        more = {"cluster": cluster, "callbacks": calls, **TILES}
        report = run(place / "scene.tif", tmp_path, place / "bright", formats=FORMATS, **more)
    finally:
        started.set()
        stop.set()
        thread.join()
    assert killed
    assert not report.failures
    assert contents(tmp_path) == expected


def test_a_worker_may_join_during_a_run(place, expected, tmp_path):
    with Cluster(workers=1) as cluster:
        joined = []

        def join(_):
            if not joined:
                joined.append(start_worker(cluster._address, tmp_path, *keys_of(cluster, tmp_path)))

        try:
            watch = Callbacks(lambda _: None, join)
            more = {"callbacks": watch, "cluster": cluster, **TILES}
            run(place / "scene.tif", tmp_path / "out", place / "bright", formats=FORMATS, **more)
        finally:
            for process in joined:
                process.terminate()
                process.wait()
    assert contents(tmp_path / "out") == expected


def test_workers_on_this_machine_serve_this_process_only(cluster):
    from distributed.security import Security

    nanny = next(iter(cluster._client.scheduler_info()["workers"].values()))["nanny"]
    for own in (cluster._address, *cluster._client.nthreads(), nanny):
        for scheme in ("tls", "tcp"):
            other = Security.temporary() if scheme == "tls" else None
            address = f"{scheme}://{own.partition('://')[2]}"
            with pytest.raises(TimeoutError, match="no Dask scheduler answered"), connect(address, 2, other):
                pass
    assert cluster._client.submit(os.getpid, pure=False).result(30)  # they still work
    processes = {os.getpid()} | {process for pid in nannies(cluster).values() for process in (pid, parent_of(pid))}
    assert len(processes) > 2
    assert {host for process in processes for host in listening(process)} == {"127.0.0.1"}


def test_a_remote_scheduler_by_its_file(place, expected, tmp_path):
    file = tmp_path / "scheduler.json"
    scheduler = start("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", file)
    try:
        wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        worker = start_worker(address, tmp_path)
        result = invoke(place, tmp_path / "out", "--scheduler", file, "--format", ",".join(FORMATS))
        worker.terminate()
        worker.wait()
        assert result.exit_code == 0, result.output
        assert contents(tmp_path / "out") == expected
        result = invoke(place, tmp_path / "none", "--scheduler", address, "--patience", "1")
        assert result.exit_code == 1
        assert f"the scheduler at {address} has had no worker for 1 s" in result.stderr
    finally:
        scheduler.terminate()
        scheduler.wait()


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_a_scheduler_that_does_not_answer_times_out_with_its_address(place, tmp_path, kind):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        result = invoke(place, tmp_path, "--scheduler", address, "--patience", "2")
    assert result.exit_code == 1
    assert f"no Dask scheduler answered at {address} within 2 s" in result.stderr


def test_a_missing_or_invalid_scheduler_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scheduler file .*nowhere\.json' does not exist"):
        Cluster(scheduler="nowhere.json").__enter__()
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(ValueError, match=r"odd\.json is not a scheduler file"):
        Cluster(scheduler=tmp_path / "odd.json").__enter__()


def test_workers_without_this_version_of_cytoseed_are_refused(place, tmp_path):
    (tmp_path / "odd.py").write_text("import cytoseed\ncytoseed.__version__ = '0.0.1'\n")
    with Cluster(workers=1) as cluster:
        other = start_worker(cluster._address, tmp_path, "--preload", tmp_path / "odd.py", *keys_of(cluster, tmp_path))
        try:
            wait_for(lambda: cluster.size == 2)
            with pytest.raises(ValueError, match=r"^worker tls://.*has cytoseed 0\.0\.1, not "):
                run(place / "scene.tif", tmp_path / "out", place / "bright", cluster=cluster, **TILES)
        finally:
            other.terminate()
            other.wait()
    assert not list((tmp_path / "out").glob("*.csv"))


def test_a_worker_that_dies_in_the_first_check_does_not_hold_up_the_run(place, expected, tmp_path):
    (tmp_path / "deadly.py").write_text(
        "import os, sys\n"
        "class Deadly:\n"
        "    def find_spec(self, name, *_):\n"
        "        name == 'cytoseed' and os._exit(1)\n"
        "sys.meta_path.insert(0, Deadly())\n"
    )
    with Cluster(workers=1) as cluster:
        flags = ("--no-nanny", "--preload", tmp_path / "deadly.py", *keys_of(cluster, tmp_path))
        other = start_worker(cluster._address, tmp_path, *flags)
        wait_for(lambda: cluster.size == 2)
        began = time.monotonic()
        run(place / "scene.tif", tmp_path / "out", place / "bright", formats=FORMATS, cluster=cluster, **TILES)
        assert time.monotonic() - began < 100
        assert other.wait(10) == 1
    assert contents(tmp_path / "out") == expected


def test_workers_without_the_model_or_with_another_image_are_refused(place, cluster, tmp_path):
    gone = load_model(place / "bright")
    object.__setattr__(gone, "folder", tmp_path / "gone")
    with pytest.raises(ValueError, match=r"^worker tls://.* there is no model"):
        run(place / "scene.tif", tmp_path / "out", gone, cluster=cluster, **TILES)
    with pytest.raises(ValueError, match="the image is held in memory"):
        run(np.zeros((64, 64), np.uint8), tmp_path / "out", place / "bright", cluster=cluster)
    memory = type(gone)(gone.config, gone.segmenter)
    with pytest.raises(ValueError, match="the model is held in memory"):
        run(place / "scene.tif", tmp_path / "out", memory, cluster=cluster, **TILES)


def test_small_images_are_shared_among_workers(place, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(5):
        pixels = np.zeros((50, 60), np.uint8)
        pixels[5 : 15 + index, 10:30] = 200
        tifffile.imwrite(folder / f"{index}.tif", pixels)
    arguments = [str(folder), "--model", str(place / "bright"), "--format", ",".join(FORMATS)]
    one = CliRunner().invoke(app, ["segment", *arguments, "--output", str(tmp_path / "one")])
    two = CliRunner().invoke(app, ["segment", *arguments, "--output", str(tmp_path / "two"), "--workers", "2"])
    assert one.exit_code == two.exit_code == 0, two.output
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "two")) == 20


def test_the_calling_script_is_not_run_again(place, tmp_path):
    """A script without the usual guard around its main part."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
print("once")
import cytoseed
from cytoseed.run.cluster import Cluster
with Cluster(workers=2) as cluster:
    cytoseed.segment({str(place / "scene.tif")!r}, {str(place / "bright")!r}, output={str(tmp_path / "out")!r},
                     cluster=cluster, formats=["table"], tile_size_px=256)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "once\n"
    assert (tmp_path / "out" / "scene.csv").exists()


@pytest.mark.parametrize("values", [{}, {"workers": 2, "scheduler": "tcp://x:1"}, {"workers": 0}])
def test_impossible_clusters_are_refused(values):
    with pytest.raises(ValueError, match="workers"):
        Cluster(**values)
    with pytest.raises(ValueError, match="patience_s is 0"):
        Cluster(workers=1, patience_s=0)


def invoke(place, output, *flags):
    command = ["segment", place / "scene.tif", "--model", place / "bright", "--output", output, "--tile-size", "128"]
    return CliRunner().invoke(app, [str(part) for part in (*command, *flags)])


def start(module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_worker(address, folder, *flags):
    return start(
        "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--memory-limit", "0",
        "--local-directory", Path(folder) / "worker", *flags,
    )  # fmt: skip


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def listening(process):
    """Addresses at which a process takes connections."""
    sockets = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(link))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                host = bytes.fromhex(fields[1].partition(":")[0])
                found.append(socket.inet_ntop(socket.AF_INET, host[::-1]) if len(host) == 4 else host.hex())
    return found


def keys_of(cluster, folder):
    """Options by which a worker joins those that were started here."""
    return key_options(cluster._client.security, folder)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
