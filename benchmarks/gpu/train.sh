#!/usr/bin/env bash
# Trains models side by side from .gpu/pack, and copies their best weights and logs into $OUT. From the project's root, after prepare.sh:
#
#   benchmarks/gpu/train.sh SECONDS NAME [NAME ...]
#
# The options of each training are in benchmarks/gpu/NAME.options. Trainings end after SECONDS; another call goes on from their checkpoints,
# which are a minute old at most.
set -euo pipefail
seconds=$1
shift
WORK=${WORK:-/tmp/cytoseed-gpu}
OUT=${OUT:-runs/gpu}
export PYTHONPATH=$PWD/src:$PWD/.gpu/python PYTHONUNBUFFERED=1
mkdir -p "$WORK" "$OUT"

for name in "$@"; do
    mapfile -t options < <(tr ' ' '\n' <"benchmarks/gpu/$name.options" | sed '/^$/d')
    timeout --signal=KILL "$seconds" "${PYTHON:-python3}" -m cytoseed train --data .gpu/pack "${options[@]}" --output "$WORK/$name" --resume >>"$WORK/$name.log" 2>&1 &
done
wait || true

for name in "$@"; do
    echo "== $name"
    tail -n 4 "$WORK/$name.log"
    [ -d "$WORK/$name/best" ] || continue
    # files that come back may have at most 16 MiB; put together with: cat NAME.tar.* | tar x
    tar -C "$WORK" -c "$name/best" "$name/log.jsonl" | split --bytes=15M --numeric-suffixes - "$OUT/$name.tar."
done
