"""A sweep from its check to its summary: trials here or by Ray Tune, mirrored into MLflow."""

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Any

import ray
import torch
from upath import UPath

from ail_ray.files import as_path, digest_of, write_json
from ail_ray.learning.config import described
from ail_ray.orchestration.champion import crown
from ail_ray.orchestration.cluster import IN_JOB, check_shared, cluster, concurrency
from ail_ray.orchestration.comparison import pictures, table
from ail_ray.orchestration.job import SweepJob, check
from ail_ray.orchestration.journal import asked_to_leave
from ail_ray.orchestration.ledger import Ledger
from ail_ray.orchestration.monitor import Monitor
from ail_ray.orchestration.notes import datasets, sweep_note, sweep_params, sweep_title
from ail_ray.orchestration.prepare import (
    Everywhere,
    OnCluster,
    Prepared,
    build_data,
    here,
    shared_weights,
    teacher_maps,
)  # fmt: skip
from ail_ray.orchestration.progress import shown
from ail_ray.orchestration.search import proposals
from ail_ray.orchestration.tracking import TABLE, Tracker
from ail_ray.orchestration.trial import resolve_precision, run_local
from ail_ray.orchestration.tuning import Sweep, run_on_tune


def run_sweep(
    job: SweepJob, *, name: str = "sweep", command: str = "", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run all trials, each from where its run directory stands, and write `sweep.json` and in the end `summary.json`.

    Args:
        name: of the sweep in MLflow; command: recorded there.
        say: told a line at a time what happens.

    Returns:
        The summary: `{"trials": [...], ...}`, the trials sorted by validation PSNR.

    Raises:
        ConfigError: a bad set, image, teacher, storage path or tracking server; nothing has been started then.
    """
    prepared, weights, start = check(job)
    out = job.out_path
    say(
        f"{len(prepared.corpus.pairs)} training pairs, {prepared.corpus.pixels / 1e6:.1f} M pixels"
        + (f" ({prepared.corpus.skipped} smaller than a crop left out)" if prepared.corpus.skipped else "")
        + f"; storage {job.storage_path}; MLflow {job.tracking_uri.rpartition('@')[2]}"
    )
    protocol = described(job.sweep)
    del protocol["rounds"]  # more rounds: the same sweep
    digest = digest_of([protocol, prepared.corpus.digest])
    tracker = Tracker(
        job.tracking_uri, out if IN_JOB else as_path("."), sweep=digest, name=sweep_title(name, job.sweep),
        note=sweep_note(job.sweep, command), params=sweep_params(job.sweep), datasets=datasets(job.sweep, prepared),
    )  # fmt: skip
    asked = job.sweep.samples if job.sweep.search == "optuna" else len(proposals(job.sweep))
    ledger = Ledger(out / "sweep.json", name=name, command=command, config=asdict(job.sweep), asked=asked)
    monitor = Monitor(tracker, ledger, say)
    try:
        with nullcontext() if job.local else cluster():
            if not job.local:
                check_shared(job.storage_path)
            at_once = 1 if job.local else concurrency(job.placement, job.max_workers)
            sweep = _build(job, prepared, weights, start, say)
            with shown(monitor, asked=asked, storage=job.storage_path):
                if job.local:
                    _run_here(sweep, monitor)
                else:
                    run_on_tune(sweep, monitor, name=digest, at_once=at_once)
            trials = monitor.trials()
    except BaseException:  # an interrupted sweep is not a running one
        with suppress(Exception):  # what ended it is what is to be heard of
            ledger.close("stopped")
        with suppress(Exception):
            tracker.finish(tracker.parent, "stopped")
        raise
    summary = {
        "trials": trials, "sweep": digest, "mlflow_run_id": tracker.parent,
        "tracking_uri": job.tracking_uri.rpartition("@")[2],
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    ledger.close("finished")
    _send_results(tracker, summary, prepared, say)
    return summary


def _send_results(tracker: Tracker, summary: dict[str, Any], prepared: Prepared, say: Callable[[str], None]) -> None:
    """What compares the trials, and the champion, to MLflow; if that is away, the same command does it later."""
    trials = summary["trials"]
    validation = {
        scale: [file.path for file in prepared.validation if file.scale == scale]
        for scale in sorted({file.scale for file in prepared.validation})
    }
    try:
        compared = {"summary.json": json.dumps(summary, indent=1).encode(), TABLE: table(trials)} | pictures(trials)
        tracker.close(compared, failed=any(trial["status"] == "failed" for trial in trials))
    except Exception as error:  # all results are on the storage path
        say(f"MLflow did not take the end of the sweep; the same command sends it when MLflow is back: {error}")
    try:
        for line in crown(tracker.client, trials, validation):
            say(line)
    except Exception as error:
        say(f"no student was registered as champion; the same command tries again: {error}")


def _build(
    job: SweepJob,
    prepared: Prepared,
    weights: dict[str, UPath | None],
    start: tuple[str, UPath] | None,
    say: Callable[[str], None],
) -> Sweep:
    """Precision, shards, evaluation files, teachers and their maps: each once, whatever is there already kept."""
    p = job.placement
    everywhere: Everywhere = here if job.local else OnCluster(p.threads, 1 if p.gpu else 0)
    device = "cuda" if p.gpu else "cpu"
    if job.local:
        precision = resolve_precision(job.sweep.precision, device)
    else:
        probe = ray.remote(num_cpus=p.threads, num_gpus=int(p.gpu))(resolve_precision)
        precision = ray.get(probe.remote(job.sweep.precision, device))
    say(f"precision {precision}")
    build_data(prepared, here if job.local else OnCluster(1), say)
    teachers = {}
    for name, found in weights.items():
        if found is not None:
            teachers[name] = teacher_maps(
                "outputs" if job.sweep.beta > 0 else "errors",
                found,
                prepared,
                precision,
                device=device,
                threads=p.threads,
                everywhere=everywhere,
                say=say,
            )
    if start is not None:
        start = start[0], shared_weights(start[1], job.storage_path)
    return Sweep(job=job, prepared=prepared, precision=precision, teachers=teachers, start=start)


def _run_here(sweep: Sweep, monitor: Monitor) -> None:
    device = torch.device("cuda" if sweep.job.placement.gpu else "cpu")
    with asked_to_leave(monitor.say) as asked:
        for searched in proposals(sweep.job.sweep):
            plan = sweep.plan(searched)
            monitor.started(plan)
            failure = None
            try:
                run_local(
                    plan, sweep.job.placement.threads, device,
                    lambda record, plan=plan: monitor.heard(plan),  # type: ignore[misc]
                    asked=asked,
                )  # fmt: skip
            except Exception as error:  # as under Ray: one failed trial does not sink the others
                failure = f"{type(error).__name__}: {error}"
            monitor.ended(plan, failure)
