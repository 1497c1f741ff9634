"""What commands print, where, and how: encodings, streams that are closed, hostile names, JSON, logs, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cytoseed.cli import console
from scenes import RESULTS, names, write_image

HOSTILE = "a\x1b[2Jb\n[red]c :smile:.tif"
SHOWN = r"a\x1b[2Jb\n[red]c :smile:.tif"
BARE = [sys.executable, "-m", "cytoseed"]


@pytest.fixture
def bare(models, tmp_path):
    """Start the program in a process of its own."""

    def start(*arguments, command=BARE, **options):
        (tmp_path / "tmp").mkdir(exist_ok=True)
        environment = os.environ | {"CYTOSEED_MODELS": str(models), "TMPDIR": str(tmp_path / "tmp")}
        environment |= options.pop("env", {})
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in background jobs
        return subprocess.Popen([*command, *map(str, arguments)], env=environment, **options)

    return start


@pytest.mark.parametrize("encoding", ["gbk", "cp932", "cp437", "cp1252", "ascii"])
def test_an_encoding_that_lacks_the_letters_of_a_name(bare, tmp_path, encoding):
    paths = [write_image(tmp_path / "in" / name) for name in ("a.tif", "m图像.tif", "z.tif")]
    wanted = [("segment", "--help"), ("models",), ("info", *paths)]
    if encoding == "cp932":
        wanted.append(("segment", *paths, "--model", "grey", "--output", tmp_path / "out"))
    lists = repr([list(map(str, arguments)) for arguments in wanted])
    code = f"""
import sys
from cytoseed.cli.main import main
for arguments in {lists}:
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as done:
        if done.code:
            raise
"""
    process = bare(command=[sys.executable, "-c", code], env={"PYTHONIOENCODING": encoding})
    printed = process.communicate(timeout=120)[0].decode(encoding)
    assert process.returncode == 0
    assert re.search("0.5 (um|µm) per pixel", printed)
    assert printed.count("size        80 x 60 px") == 3
    if encoding == "cp932":
        assert re.search(r"m\\u56fe.*: 2 nuclei", printed)
        assert len(names(tmp_path / "out")) == 3 * len(RESULTS)


def test_streams_that_are_closed_full_or_left(bare, tmp_path):
    paths = [write_image(tmp_path / "in" / f"{name}.tif") for name in "abc"]
    segment = ("segment", *paths, "--model", "grey", "--format", "table", "--output", tmp_path / "out")
    wanted = [
        ('"$@" 2>&- | head -c 1; exit ${PIPESTATUS[0]}', segment),
        ('exec "$@" >&-', ("info", *paths)),
        ('exec "$@" > /dev/full', ("info", *paths)),
    ]
    running = [bare(*command, command=["bash", "-c", line, "bash", *BARE]) for line, command in wanted]
    errors = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 1]
    assert errors[1:] == ["", "error: the output could not be written (No space left on device)\n"]
    assert [name for name in names(tmp_path / "out") if name.endswith(".csv")] == ["a.csv", "b.csv", "c.csv"]


def test_names_cannot_command_the_terminal(run, segment, tmp_path):
    path = write_image(tmp_path / "in" / HOSTILE)
    done = [run("info", path), segment(path), segment(path, "--channels", "x")]
    (tmp_path / HOSTILE).mkdir()
    done.append(run("info", tmp_path / HOSTILE))
    assert [each.exit_code for each in done] == [0, 0, 1, 1]
    for each in done:
        assert "\x1b" not in each.output
        assert not re.search(r"^\[red\]", each.output, re.MULTILINE)
    assert SHOWN in done[0].stdout
    assert done[1].stdout.startswith(f"{SHOWN}: 2 nuclei")


def test_quiet_verbose_and_a_log(segment, image, tmp_path):
    log, bad = tmp_path / "log", tmp_path / "bad.tif"
    bad.write_text("no image")
    quiet = segment(image, bad, "--quiet", "--log-file", log)
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    assert [line.split(":")[0] for line in quiet.stderr.splitlines()] == ["error"]
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    for text in ("note: scene.tif: pixel size unknown", "scene.tif: 2 nuclei", "Traceback", "1 of 2 failed: bad.tif"):
        assert any(text in line for line in lines)
    verbose = segment(image, bad, "--verbose", "--overwrite")
    assert "scene.tif: 80 x 60 px of uint8, channels channel 0, pixel size unknown; level 0" in verbose.stderr
    assert "Traceback" in verbose.stderr
    refused = segment(image, "--log-file", tmp_path / "no" / "log")
    assert (refused.exit_code, "cannot be written to (No such file" in refused.stderr) == (2, True)


def test_json_of_segment_is_an_object_per_line(segment, image, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_text("no image")
    for status in ("done", "already there"):
        done = segment(image, bad, "--json")
        assert done.exit_code == 1
        good, failed = map(json.loads, done.stdout.splitlines())
        assert (good["image"], good["status"], good["model"]) == (str(image), status, "bright")
        assert good["files"]["table"] == str(tmp_path / "out" / "scene.csv")
        assert (failed["status"], failed["image"]) == ("failed", str(bad))
        assert f"error: {failed['error']}" in done.stderr
        if status == "done":
            assert (good["objects"], good["target"]) == (2, "nuclei")
            assert good["notes"][0].startswith("pixel size unknown")


def test_json_of_other_commands_is_whole(run, segment, image, tmp_path):
    segment(image, "--format", "labels")
    (tmp_path / "out" / "scene.labels.tif").rename(image.parent / "scene.labels.tif")
    models = json.loads(run("models", "--json").stdout)
    assert {"nuclei", "bright"} <= {model["name"] for model in models}
    good, bad = json.loads(run("info", "--json", image, tmp_path / "nowhere").stdout)
    assert (good["width"], good["height"], good["dtype"], good["pixel_size_x_um"]) == (80, 60, "uint8", None)
    assert "nowhere" in bad["error"]
    scores = json.loads(run("evaluate", image.parent, image.parent, "--json").stdout)
    assert scores["groups"][-1]["name"] == "all"
    assert scores["images"][0]["true_objects"] == scores["images"][0]["tp"]


def test_cells_of_scores_are_no_formulas(run, segment, image, tmp_path):
    name = "=cmd|' C'!A0.tif"
    segment(image, "--format", "labels")
    for folder in ("found", "true"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((tmp_path / "out" / "scene.labels.tif").read_bytes())
    assert run("evaluate", tmp_path / "found", tmp_path / "true", "--csv", tmp_path / "scores.csv").exit_code == 0
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("'=cmd|' C'!A0,")


def test_a_missing_package_has_one_exit_code(run, segment, image, tmp_path, monkeypatch):
    monkeypatch.setattr("cytoseed.run.cluster.find_spec", lambda _: None)
    monkeypatch.setattr("cytoseed.export.package.find_spec", lambda _: None)
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "cytoseed.learn.plots", raising=False)
    done = [
        segment(image, "--workers", 2),
        run("export", "nuclei", "--to", "onnx", "--output", tmp_path / "models"),
        run("evaluate", tmp_path, tmp_path, "--plot", tmp_path / "plots"),
    ]
    assert [(each.exit_code, "pip install 'cytoseed[" in each.stderr) for each in done] == [(2, True)] * 3


def test_time_left_where_there_is_no_terminal(monkeypatch, capsys):
    now = iter((0.0, 10.0, 40.0, 50.0))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    pace = console.Pace()
    for done in (1, 2, 3):
        pace.print("a.tif: tile", done, 10, ", 3 objects")
    assert capsys.readouterr().err == "progress: a.tif: tile 2 of 10, 3 objects, about 3 min left\n"
    assert [console.as_time(seconds) for seconds in (5, 119, 130, 8000)] == ["5 s", "2 min", "2 min", "2 h 13 min"]


def test_an_interruption_while_text_is_run_leaves_the_exit_code(tmp_path):
    code = (
        "import sys; from cytoseed.cli.streams import stop_on_signals; stop_on_signals()\n"
        "try: exec('import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)')\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    (tmp_path / "interrupted.py").write_text(code)
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, check=False)
    assert done.returncode == 130  # without `stop_on_signals`: -2


@pytest.mark.parametrize(("number", "flags"), [(signal.SIGTERM, ["--workers", "1"]), (signal.SIGINT, [])])
def test_a_signal_leaves_nothing_temporary_and_says_what_is_kept(bare, tmp_path, number, flags):
    path = write_image(tmp_path / "in" / "wide.tif", 1, (4000, 4000))
    flags += ["--tile-size", 128, "--pixel-size", 0.5, "--no-skip-background"]
    process = bare("segment", path, "--model", "grey", "--output", tmp_path / "out", *flags)
    tiles, deadline = tmp_path / "out" / "wide.cytoseed" / "tiles", time.monotonic() + 100
    while not any(tiles.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1].decode()
    assert (process.returncode, error.splitlines()[-1]) == (
        128 + number,
        "interrupted: finished images and tiles are kept; the same command with --resume continues",
    )
    assert [name for name in names(tmp_path / "tmp") if name.startswith("cytoseed")] == []
    assert [name for name in names(tmp_path / "out" / "wide.cytoseed") if name in ("staging", "owner")] == []
    assert any(tiles.iterdir())
