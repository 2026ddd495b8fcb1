"""One AIL run on Ray: given to a slot of workers, followed there, and taken up again where it was lost."""

from collections.abc import Callable
from contextlib import suppress

from upath import UPath

from ail_ray.files import FileError
from ail_ray.learning.records import Measured, mean_psnr
from ail_ray.orchestration import slots
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.run import RunError, TrialPlan, held

ATTEMPTS = 3  # in a row without a commit in between


def reported(measured: Measured, directory: UPath) -> dict[str, float | str]:
    """What Ray Tune's searchers and schedulers get of a round: plain numbers and the name of the run."""
    return {
        "run": directory.name,
        "round": measured.round,
        "training_iteration": measured.round + 1,
        "validation_psnr": mean_psnr(measured.validation),
        "importance_mean": measured.importance.mean,
    }


def run_on_ray(
    plan: TrialPlan,
    placement: Placement,
    report: Callable[[RoundRecord], None],
    complete: Callable[[RunDirectory], object] = RunDirectory.finalise,
    look: Callable[[], None] = lambda: None,
    retried: Callable[[], None] = lambda: None,
) -> RunDirectory:
    """Run on the cluster that this process is connected to, from where the run directory stands.

    However often workers and nodes are lost, it goes on as long as it gets further in between.

    Args:
        report: called with every round, also those committed before; with the last one when the result is there,
            since whoever hears of it may end this process.
        complete: writes the result when all rounds are there.
        look: is called about once a second; what it raises lets the run be.
        retried: is called when workers were lost and others take their place.

    Raises:
        RunError: it failed several times at the same place, or the loss is no longer finite.
        LeaseLostError: another job has taken the run over; called again, it waits for that one.
    """
    told = 0

    def tell() -> None:
        nonlocal told
        look()
        with suppress(FileError):  # damaged; it is told when the run has made it again
            for record in RunDirectory(plan.directory).follow(told - 1, plan.config.rounds - 1):
                told += 1
                report(record)

    with held(plan.directory) as directory:
        manifest = plan.open(directory, placement)
        placement = placement.of(manifest)
        attempts = 0
        while directory.last_round < plan.config.rounds:
            tell()  # whoever hears of it may stop the run, but not one that lacks no more than its result
            before = directory.place
            assignment = plan.assignment(manifest, directory.holder)
            slot, number = slots.give(assignment, placement, plan.data.storage)
            reason = slot.follow(number, tell)
            directory.manifests.check()
            mended = directory.mend(plan.data.shards)
            attempts = attempts + 1 if directory.place == before and not mended else 0
            if (failure := directory.failure()) or attempts == ATTEMPTS:
                raise RunError(failure or reason or "its workers ended without a word")
            if directory.last_round < plan.config.rounds:
                retried()
        complete(directory)
    tell()
    report(directory.record(plan.config.rounds))
    return directory
