"""Sweeps on Ray: their trials by Ray Tune, and the tasks that prepare them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

from ail_ray.files import FileError
from ail_ray.learning.precision import Precision
from ail_ray.orchestration.cluster import cannot_start, cluster, concurrency
from ail_ray.orchestration.tasks import OnCluster, check_shared, first_answer
from ail_ray.orchestration.tune import run_on_tune
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import Everywhere
from ail_ray.runs.run import resolve_precision
from ail_ray.sweeps.listeners import Monitor
from ail_ray.sweeps.sweep import Ended, Sweep
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.sweeps.trials import proposals


class OnRay:
    """Runs trials beside each other on the cluster that RAY_ADDRESS names, else on a Ray of our own."""

    def problems(self, placement: Placement) -> list[str]:
        return cannot_start(placement)

    def running(self) -> AbstractContextManager[object]:
        return cluster()

    def check(self, job: SweepJob) -> None:
        check_shared(job.storage_path)
        concurrency(job.placement, job.max_workers)

    def precision(self, asked: str, job: SweepJob, say: Callable[[str], None]) -> Precision:
        found = first_answer(resolve_precision, (asked, job.placement.device), job.placement, say)
        check_shared(job.storage_path)  # again: a node may just have come
        return found

    def everywhere(self, job: SweepJob, *, heavy: bool) -> Everywhere:
        p = job.placement
        return OnCluster(p.threads if heavy else 1, p.worker_resources().get("GPU", 0) if heavy else 0, job.max_workers)

    def run(self, sweeps: Sequence[Sweep], monitors: Sequence[Monitor], *, name: str, ended: Ended) -> None:
        job = sweeps[0].job
        at_once = concurrency(_begun(job.placement, sweeps), job.max_workers)
        run_on_tune(sweeps, monitors, name=name, at_once=at_once, ended=ended)


def _begun(placement: Placement, sweeps: Sequence[Sweep]) -> Placement:
    """The placement of the largest trial; one that was begun goes on with its own workers and threads."""
    for sweep in sweeps:
        for config in proposals(sweep.job.sweep) if sweep.job.sweep.search != "optuna" else ():
            directory = RunDirectory(sweep.plan(config).directory)
            with suppress(FileError):  # not begun
                manifest = directory.manifest()
                there = placement.of(manifest)
                larger = placement.most * placement.threads < there.most * there.threads
                if larger and manifest.last_round < config.rounds:
                    placement = there
    return placement
