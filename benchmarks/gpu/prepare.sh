#!/usr/bin/env bash
# Makes .gpu/pack, images to train from, and .gpu/python, the image decoders that a bare machine with PyTorch lacks. From the project's root:
#
#   benchmarks/gpu/prepare.sh --dataset dsb2018 bbbc039 bitdepth_nucseg nuinsseg tnbc --pixel-size-um 0.5     (30 MiB)
#   benchmarks/gpu/prepare.sh --dataset nuinsseg tnbc --pixel-size-um 0.35                                   (22 MiB)
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
TARGET=${TARGET:---python-version 312 --platform manylinux_2_28_x86_64}

rm -rf .gpu
mkdir -p .gpu/wheel .gpu/python
PYTHONPATH=src:benchmarks "$PYTHON" benchmarks/gpu/pack.py "$@"
# shellcheck disable=SC2086 # several words
"$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: $TARGET --dest .gpu/wheel imagecodecs
"$PYTHON" - <<'END'
import re
import zipfile
from pathlib import Path

wanted = ("imagecodecs.py", "__init__.py", "_shared", "_imcd", "_jpeg8", "_png", "libjpeg-", "libpng", "libz-", "libgomp")
(wheel,) = Path(".gpu/wheel").glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if Path(name).name.startswith(wanted):
            archive.extract(name, ".gpu/python")
wheel.unlink()
version = re.search(r'__version__ = "(.+)"', Path("src/cytoseed/__init__.py").read_text())[1]
about = Path(f".gpu/python/cytoseed-{version}.dist-info/METADATA")  # the code is not installed there
about.parent.mkdir()
about.write_text(f"Metadata-Version: 2.1\nName: cytoseed\nVersion: {version}\n")
END
rm -rf .gpu/wheel
du -sh .gpu/pack .gpu/python
