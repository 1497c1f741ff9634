#!/bin/bash
# Segment slides by a plain job array, without Dask: each job does one part of every slide, the last one joins them.
#
#   parts=$(sbatch --parsable --array=1-8 shards.sh RESULTS SLIDE...)
#   sbatch --dependency=afterok:$parts --wrap "cytoseed merge RESULTS"
#
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=04:00:00
set -euo pipefail
results=$1
shift
exec cytoseed segment "$@" --output "$results" --resume \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
