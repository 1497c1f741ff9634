"""Segment slides with workers that Slurm starts.

Run it where jobs are submitted, in the Python that the nodes have too:

    python segment_on_slurm.py RESULTS SLIDE...

Slides, model and this Python must lie on a disk that every node sees. Adapt `slurm` to your cluster.
"""

import sys

from dask_jobqueue import SLURMCluster

from cytoseed.run.cluster import Cluster


def slurm() -> SLURMCluster:
    """Describe one worker: what a job asks Slurm for."""
    return SLURMCluster(
        queue="normal",
        cores=8,  # one process that uses all of them
        processes=1,
        memory="8GB",
        walltime="04:00:00",
        worker_extra_args=["--memory-limit", "0"],  # cytoseed bounds its memory itself
        # job_extra_directives=["--gres=gpu:1"],  # where the nodes have GPUs
    )


def main(output: str, slides: list[str]) -> None:
    """Segment slides, one after the other; what is done already is left, what was stopped goes on."""
    with slurm() as jobs:
        jobs.adapt(minimum_jobs=1, maximum_jobs=20)  # workers come and go with the queue
        with Cluster(scheduler=jobs.scheduler_address, patience_s=24 * 3600) as cluster:
            for slide in slides:
                run = cluster.segment_slide(slide, output, existing="resume")
                print(slide, "already there" if run.result is None else run.result.count)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
