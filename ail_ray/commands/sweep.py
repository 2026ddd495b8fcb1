r"""Train small super-resolution networks by adaptive importance learning, and compare them.

    # the preset demo: bundled photographs, minutes
    ail sweep

    # the preset mini: two sizes, each with and without a
    # teacher and as a control, on two workers each
    ail sweep mini --rho 0.75 0.8 \
        --teacher vdsr none --workers 2

    # a network and a rule of your own, with a parameter
    ail sweep mini --network net.py:Net \
        --rule mine.py:rule --rule.gamma 0.3 0.5

    # what would the paper's own protocol cost on GPUs?
    ail sweep paper --gpu --plan --price 0.8

A preset (demo, mini or paper) comes first, and every option overrides it. Several values of an option of network,
importance, training or seed make a trial of every combination. The same command, started again, goes on where it was
stopped.

The results are in the file summary.json in --out, and every round is in MLflow. Exit codes: 0 when all trials have
finished, 1 when one has failed, 2 when the command was refused and nothing was started, 130 after Ctrl-C, 143 after
SIGTERM.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

from ail_ray.commands.flags import flags_for, flags_of, job_of
from ail_ray.commands.parsing import parse, refusals, refuse, values_of
from ail_ray.entry import called, say
from ail_ray.errors import ConfigError
from ail_ray.learning.presets import PRESETS, preset
from ail_ray.learning.sweep_config import NAMES
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob, costs
from ail_ray.sweeps.terminal import trials_table


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, run, print; returns the exit code."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else "demo"
    if name not in PRESETS:
        refuse([f"{name}: no such preset; there are {', '.join(PRESETS)}"])
    options = arguments[1:] if arguments[:1] == [name] else arguments
    kind, sweep = flags_for(options), preset(name)
    asks = bool({"-h", "--help"} & set(options))
    if asks:  # for the defaults of the network and the loss that are named
        with suppress(ConfigError):  # without the options that are left out here, it may not be one that can run
            sweep = sweep.for_run({each: given[0] for each in NAMES if (given := values_of(f"--{each}", options))})
    default = flags_of(kind, SweepJob(sweep=sweep), shown=asks)
    description = f"{__doc__}\nThe defaults below are those of the preset {name}."
    prog = f"ail sweep [{'|'.join(PRESETS)}]"
    job = job_of(parse(kind, options, default=default, prog=prog, description=description))
    if job.plan:
        say("\n".join(costs(job)))
        return 0
    summary = run_sweep(job, name=name, command=called("sweep", *arguments), say=say)
    from ail_ray.tracking.connection import opened_by

    say(f"\n{trials_table(summary)}\n\nSummary: {job.out_path / 'summary.json'}")
    say(f"As one page: {called('report', '--out', str(job.out_path))}")
    say(f"Compare in MLflow: {opened_by(summary.tracking_uri, summary.mlflow_page)}")
    return int(summary.failed)


def run_sweep(job: SweepJob, *, name: str = "sweep", command: str = "", say: Callable[[str], None] = print) -> Summary:
    """Run one sweep, and return its summary; as `ail_ray.sweeps.sweep.run_sweeps` otherwise."""
    (summary,) = run_sweeps({name: job}, command=command, say=say)
    return summary


def run_sweeps(jobs: Mapping[str, SweepJob], *, command: str = "", say: Callable[[str], None] = print) -> list[Summary]:
    """Run sweeps beside each other, as `ail_ray.sweeps.sweep.run_sweeps`: with Ray or, with --local, in this process.

    MLflow has the record of them.
    """
    from ail_ray.sweeps.sweep import Executor, InThisProcess  # here, as MLflow and Ray: they take seconds to load
    from ail_ray.sweeps.sweep import run_sweeps as run
    from ail_ray.tracking.listener import MLflow

    executor: Executor = InThisProcess()
    if not next(iter(jobs.values())).local:
        from ail_ray.orchestration.launch import OnRay

        executor = OnRay()
    return run(jobs, executor, MLflow(), command=command, say=say)
