#!/usr/bin/env bash
# One virtual environment per peer, under runs/peers/NAME/venv, which git ignores.
#   benchmarks/peers/environments.sh [NAME ...]      NAME: instanseg cellpose stardist hovernet; none: all
# On a machine with an NVIDIA GPU: TENSORFLOW='tensorflow[and-cuda]==2.21.0' benchmarks/peers/environments.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3.11}
TORCH=${TORCH:-torch==2.13.0}
TENSORFLOW=${TENSORFLOW:-tensorflow-cpu==2.21.0}
FILES="imageio==2.38.1 tifffile==2026.3.3 imagecodecs==2026.3.6"

create() { # NAME, then packages
    local folder=runs/peers/$1/venv
    shift
    "$PYTHON" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet "$@"
}

instanseg() {
    # Its training script needs pandas, seaborn, torchvision and monai, which only its large extra `full` names.
    # Without their dependencies the last two leave torch as it is. torchvision 0.28 goes with torch 2.13.
    create instanseg instanseg-torch==0.1.2 "$TORCH" numpy==2.4.6 pandas==3.1.1 scipy==1.17.1 \
        seaborn==0.13.2 $FILES
    runs/peers/instanseg/venv/bin/python -m pip install --quiet --no-deps torchvision==0.28.0 monai==1.6.1
}

cellpose() {
    create cellpose cellpose==3.1.1.3 "$TORCH" numpy==2.0.2 $FILES
}

stardist() {
    create stardist stardist==0.9.2 "$TENSORFLOW" numpy==2.4.6 $FILES
}

hovernet() {
    create hovernet monai==1.6.1 "$TORCH" numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0 $FILES
}

for name in "${@:-instanseg cellpose stardist hovernet}"; do
    for one in $name; do
        "$one"
        echo "$one: runs/peers/$one/venv"
    done
done
