"""A sweep as a command runs it: by Ray, or with --local in this process; recorded in MLflow."""

from collections.abc import Callable, Mapping

from ail_ray.sweeps.sweep import Executor, InThisProcess
from ail_ray.sweeps.sweep import run_sweeps as run
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob


def run_sweep(job: SweepJob, *, name: str = "sweep", command: str = "", say: Callable[[str], None] = print) -> Summary:
    """Run one sweep, and return its summary; as `ail_ray.sweeps.sweep.run_sweeps` otherwise."""
    (summary,) = run_sweeps({name: job}, command=command, say=say)
    return summary


def run_sweeps(jobs: Mapping[str, SweepJob], *, command: str = "", say: Callable[[str], None] = print) -> list[Summary]:
    """Run sweeps beside each other, as `ail_ray.sweeps.sweep.run_sweeps`; all of them with Ray, or all without."""
    from ail_ray.tracking.listener import MLflow  # here, as Ray below: both take seconds to load

    executor: Executor = InThisProcess()
    if not next(iter(jobs.values())).local:
        from ail_ray.orchestration.launch import OnRay

        executor = OnRay()
    return run(jobs, executor, MLflow(), command=command, say=say)
