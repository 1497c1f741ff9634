"""The network's ONNX file: made once for a set of weights, again where it is damaged, by one process of several."""

import subprocess
import sys

import torch

from cytoseed.core.network import build_network
from cytoseed.run import network_file as files


def small_network():
    torch.manual_seed(0)
    network = build_network("lite", 1, 4).eval()
    network.fold()
    return network


def test_the_file_is_made_once_and_again_if_it_is_damaged(tmp_path, monkeypatch):
    network = small_network()
    content, made = b"a graph" * 1000, []
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "make_network_file", lambda network: made.append(network) or content)
    folder = tmp_path / "networks"
    assert files.network_file(network) == files.network_file(network) == content
    (path,) = folder.glob("*.onnx")
    assert path.read_bytes() == content
    assert len(made) == 1
    for damaged in (content[:-1], content[:50] + b"!" + content[51:], b""):
        made.clear()
        path.write_bytes(damaged)
        assert files.network_file(network) == files.network_file(network) == content
        assert len(made) == 1
    with torch.no_grad():
        network.head.bias[0] += 1e-6
    assert files.network_file(network) == content
    assert len(made) == 2
    assert len(list(folder.glob("*.onnx"))) == 2
    assert not list(folder.glob("*.part"))


def test_what_a_killed_process_left_is_cleared_away(tmp_path, monkeypatch):
    network = small_network()
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "make_network_file", lambda _: b"a graph")
    left = tmp_path / "networks" / f"{files._key(network)}.1234.part"
    left.parent.mkdir()
    left.write_bytes(b"half")
    files.network_file(network)
    assert not left.exists()


def test_without_a_folder_for_it_the_file_is_made_and_not_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(files, "make_network_file", lambda _: b"a graph")
    assert files.network_file(small_network()) == b"a graph"


TWO = """
import sys, time
import torch
from cytoseed.core.network import build_network
from cytoseed.run import network_file as files

def make(network):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(1)
    return b"a graph"

files.make_network_file = make
torch.manual_seed(0)
network = build_network("lite", 1, 4)
print(flush=True)
sys.stdin.readline()
assert files.network_file(network) == b"a graph"
"""


def test_of_two_processes_one_makes_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "log"
    start = [sys.executable, "-c", TWO, str(log)]
    both = [subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "\n"  # it is ready
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert log.read_text() == "made\n"
