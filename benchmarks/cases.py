"""What cytoseed makes of difficult and hostile inputs: a line per input, and whether it is the expected one.

python benchmarks/cases.py INPUTS ATTACK

INPUTS and ATTACK are folders that were filled by programs outside this repository: files as people have them, and files
that claim absurd sizes or point elsewhere. Each command runs in this process; nothing is written into the two folders.
"""

from __future__ import annotations

import argparse
import re
import resource
import tempfile
import time
from pathlib import Path

from typer.testing import CliRunner

from cytoseed.cli.main import app

SEGMENT = ("segment", "--model", "nuclei-slim", "--format", "table", "--device", "cpu")
SCALED = (*SEGMENT, "--pixel-size", "0.5")
TRUTH = ("evaluate", "{inputs}/03_masks/predictions")
LEFT = "{inputs}/02_slide_bounds/left_half_in_qupath.geojson"
NULL = "{inputs}/06_odd_files/null_geometry.geojson"
_IDS = ("palette", "float32_of_fiji", "grey_as_rgb", "one_plane_a_nucleus")
_UNITS = ("micrometers", "micrometres", "Micron", "MICRONS", "nanometers", "millimeters")

INPUTS: tuple[tuple[str, tuple[str, ...], int, str], ...] = (  # file, command, exit code, text in the output
    ("01_several_images/positions.ome.tif", SEGMENT, 0, r"pos0: 2\d nuclei.*pos1: 3\d nuclei.*pos2: 4\d nuclei"),
    ("01_several_images/macro_first.ome.tif", SEGMENT, 0, r"macro_first\.ome\.tif: \d{3} nuclei"),
    ("01_several_images/thumbnail_first.tif", SCALED, 0, r"left out smaller.*thumbnail_first\.tif: \d{3} nuclei"),
    ("01_several_images/bf2raw.zarr", SEGMENT, 0, r"bf2raw\.zarr: 7\d nuclei"),
    ("02_slide_bounds/leica.scn", ("info",), 0, "1024 x 1024"),
    ("02_slide_bounds/leica.scn", (*SEGMENT, "--mask", LEFT), 0, r"leica\.scn: 1\d\d nuclei"),
    ("03_masks/palette/masks", TRUTH, 2, "3 of 6 true masks have no prediction"),
    ("03_masks/black_and_white_255/masks", ("evaluate", "{file}"), 2, "label the objects first"),
    ("03_masks/one_bit/masks", ("evaluate", "{file}"), 2, "6 of 6 images cannot be scored.*label the objects first"),
    *((f"03_masks/{kind}/masks", ("evaluate", "{file}"), 0, r"all +6 +\d+ +1\.000") for kind in _IDS),
    ("03_masks/nothing_outlined/masks", ("evaluate", "{file}"), 0, "holds no objects"),
    ("03_masks/cellpose_beside", SCALED, 0, r"3 images: \d+ objects"),
    *((f"04_pixel_sizes/imagej_{unit}.tif", ("info",), 0, r"0\.65 ") for unit in _UNITS),
    ("04_pixel_sizes/metaseries.tif", ("info",), 0, r"0\.65 .*MetaMorph"),
    ("04_pixel_sizes/zeiss_05um.lsm", ("info",), 0, r"0\.5 .*LSM"),
    ("04_pixel_sizes/aperio_comma_0499um.svs", ("info",), 0, r"0\.499 .*Aperio"),
    ("04_pixel_sizes/set.companion.ome", ("info",), 0, r"DAPI.*CD3"),
    ("04_pixel_sizes/anisotropic.tif", SEGMENT, 0, r"0\.325 x 0\.65 µm"),
    ("04_pixel_sizes/camera_645um.tif", SEGMENT, 0, r"6\.45 µm .*enlarges the image"),
    ("05_names", SCALED, 0, "3 images: "),
    ("05_long_name/" + "y" * 240 + ".png", SEGMENT, 0, "17 nuclei"),
    ("06_odd_files/nan_border.tif", SCALED, 1, "--nan zero"),
    ("06_odd_files/nan_border.tif", (*SCALED, "--nan", "zero"), 0, r"\d+ nuclei"),
    ("06_odd_files/image.png", (*SCALED, "--mask", "{inputs}/06_odd_files/mask_ccitt_g4.tif"), 1, "CCITT"),
    ("06_odd_files/image.png", (*SCALED, "--mask", NULL), 0, "1 of 2 features"),
    ("07_channels/comma.zarr", (*SEGMENT, "--channels", '"DAPI, 405"'), 0, r"7\d nuclei"),
    ("07_channels/merged_fluorescence.png", SCALED, 0, "look like fluorescence channels merged"),
    ("08_plate/plate.zarr", SEGMENT, 0, r"A1_0: 7\d nuclei.*B1_0: 7\d nuclei"),
)
_CLAIM, _OUT = "OME metadata claim .* planes, for which it is too small", "which is not in this folder"
ATTACK: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    *((f"{name}.ome.tif", ("info",), 1, _CLAIM) for name in ("many_t", "many_tz", "planes", "bigxy")),
    *((f"{name}.ome.tif", ("info",), 0, "64 x 64") for name in ("lol", "quad", "xxe", "xxe2", "esc", "deep")),
    ("other.ome.tif", ("info",), 1, "pipe|planes that it does not hold"),
    ("fifo", ("info",), 1, "is a pipe or a device"),
    ("ij.tif", ("info",), 1, "planes that it does not hold"),
    *((f"{name}.tif", ("info",), 1, "pages they overlap") for name in ("chain", "chain2")),
    ("sparse500.tif", SCALED, 1, "choose by number or name"),
    ("sparse500.tif", (*SCALED, "--channels", "3", "--region", "0,0,1024,1024"), 0, "0 nuclei"),
    ("sparse40k.tif", SCALED, 0, "0 nuclei"),
    ("ch500.tif", (*SCALED, "--channels", "3"), 0, r"\d{2,} nuclei"),
    ("zero.png", SCALED, 1, "has no pixels"),
    ("deep.zarr", ("info",), 1, "RecursionError|no image"),
    ("str.zarr", ("info",), 1, "its attributes are not a mapping"),
    ("hugechunk.zarr", ("info",), 1, "chunks of 18.6 GiB"),
    ("tinychunk.zarr", ("info",), 1, "chunks of 1 px"),
    ("trav.zarr", ("info",), 1, _OUT),
    ("bomb.geojson", (*SCALED, "{inputs}/06_odd_files/image.png", "--mask"), 1, "would be more than"),
    ("deep.geojson", (*SCALED, "{inputs}/06_odd_files/image.png", "--mask"), 1, "not valid JSON"),
    ("hugering.geojson", (*SCALED, "{inputs}/06_odd_files/image.png", "--mask"), 1, "crosses itself|lies outside"),
)


def main() -> None:
    """Run every case and print the table; the exit code is the number of unexpected outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("attack", type=Path)
    parser.add_argument("--only", default="", help="cases whose file matches this expression")
    given = parser.parse_args()
    bad = 0
    for folder, cases in ((given.inputs, INPUTS), (given.attack, ATTACK)):
        for name, command, code, says in cases:
            if re.search(given.only, name):
                bad += not run(folder.absolute() / name, command, code, says, given.inputs.absolute())
    raise SystemExit(bad)


def run(file: Path, command: tuple[str, ...], code: int, says: str, inputs: Path) -> bool:
    """Run one command and print its outcome; returns whether it is the expected one."""
    words = [word.format(inputs=inputs, file=file) for word in command]
    with tempfile.TemporaryDirectory(prefix="cases-") as output:
        more = ["--output", output] if words[0] == "segment" else []
        begin = time.perf_counter()
        done = CliRunner().invoke(app, [*words, str(file), *more])
        seconds = time.perf_counter() - begin
    text = " ".join(done.output.split()).replace(str(file.parent), "").replace(output, "OUT")
    fault = "" if done.exception is None or isinstance(done.exception, SystemExit) else repr(done.exception)
    is_expected = not fault and done.exit_code == code and re.search(says, text) is not None
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    mark = "as expected" if is_expected else f"NOT EXPECTED ({code}: {says})"
    print(f"{file.name[:40]} | {' '.join(command[:1] + command[7:])} | {mark} | exit {done.exit_code}, {seconds:.1f} s")
    print(f"    up to {memory:.0f} MB | {fault or text[-420:]}", flush=True)
    return is_expected


if __name__ == "__main__":
    main()
