"""Segment slides with workers that Slurm starts.

Run it where jobs are submitted, with the same Python as on the nodes:

    python segment_on_slurm.py RESULTS SLIDE...

Slides, model and this Python must be on a disk that every node sees. Adapt `slurm` to your cluster.
"""

import sys

from dask_jobqueue import SLURMCluster

import cytoseed
from cytoseed.run.cluster import Cluster


def slurm() -> SLURMCluster:
    """Resources of one worker, a job of Slurm."""
    return SLURMCluster(
        queue="normal",
        cores=8,  # one process that uses all of them
        processes=1,
        memory="8GB",
        walltime="04:00:00",
        worker_extra_args=["--memory-limit", "0"],  # cytoseed bounds its memory itself
        # job_extra_directives=["--gres=gpu:1"],  # if the nodes have GPUs
    )


def main(output: str, slides: list[str]) -> None:
    """Segment slides one after the other; finished ones are kept, interrupted ones continue."""
    with slurm() as jobs:
        jobs.adapt(minimum_jobs=1, maximum_jobs=20)  # workers come and go with the queue
        with Cluster(scheduler=jobs.scheduler_address, patience_s=24 * 3600) as cluster:
            for slide in slides:
                result = cytoseed.segment(slide, output=output, existing="resume", cluster=cluster)
                print(slide, result.count)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
