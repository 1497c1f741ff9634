"""`cytoseed datasets`: what it says, and its exit codes."""

from __future__ import annotations

from downloads import DOWNLOADS

from cytoseed.learn.datasets import SOURCES
from cytoseed.learn.samples import find_samples


def test_the_list_says_where_to_download_what_under_which_licence(run):
    done = run("datasets", "list")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = " ".join(done.stdout.split())
    for source in SOURCES.values():
        for part in (f"{source.name}: {source.title}", source.licence, source.download, source.url):
            assert part in said


def test_prepare_says_what_it_made(run, tmp_path):
    DOWNLOADS["monuseg"](tmp_path / "download")
    done = run("datasets", "prepare", "monuseg", tmp_path / "download", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "5 images written, 0 there already" in done.stdout
    assert "licence CC-BY-NC-SA-4.0, from https://monuseg" in done.stdout
    assert "note: monuseg has 5 images; Table 1 has 51" in done.stderr
    assert "note: monuseg is for non-commercial use" in done.stderr
    assert len(find_samples(tmp_path / "out")) == 5
    again = run("datasets", "prepare", "monuseg", tmp_path / "download", tmp_path / "out")
    assert "0 images written, 5 there already" in again.stdout


def test_mistakes_are_one_line_and_an_exit_code(run, tmp_path):
    for arguments, message in (
        (("mine", tmp_path, tmp_path / "out"), "name is 'mine'; it must be one of"),
        (
            ("consep", tmp_path, tmp_path / "out"),
            "is not consep as downloaded: no file matches 'Train/Images/{stem}.png'",
        ),
    ):
        done = run("datasets", "prepare", *arguments)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    DOWNLOADS["lynsec"](tmp_path / "download")
    (tmp_path / "download" / "lynsec 1" / "0_l1.npy").write_bytes(b"cut short")
    done = run("datasets", "prepare", "lynsec", tmp_path / "download", tmp_path / "out")
    assert done.exit_code == 1
    assert "0_l1.npy cannot be read" in done.stderr
