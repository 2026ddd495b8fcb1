r"""Train small super-resolution networks by adaptive importance learning, and compare them.

    # the preset demo: bundled photographs, minutes
    python jobs/ail_sweep.py

    # the preset mini: two sizes, each with and without a
    # teacher and as a control, on two workers each
    python jobs/ail_sweep.py mini --rho 0.75 0.8 \
        --teacher vdsr none --workers 2

    # what would the paper's own protocol cost on GPUs?
    python jobs/ail_sweep.py paper --gpu --plan --price 0.8

A preset (demo, mini or paper) comes first, and every option overrides it. Several values of --rho (or --width), --lam,
--teacher, --rule or --seed make a trial of every combination. The same command, started again, goes on where it was
stopped.

The results are in the file summary.json in --out, and every round is in MLflow. Exit codes: 0 when all trials have
finished, 1 when one has failed, 2 when the command was refused and nothing was started, 130 after Ctrl-C, 143 after
SIGTERM.
"""

import shlex

from ail_ray.entry import GOES_ON, run, say

from ail_ray.commands.flags import Flags, flags_of, job_of
from ail_ray.commands.parsing import parse, refuse, value_of
from ail_ray.errors import ConfigError
from ail_ray.learning.presets import PRESETS, preset
from ail_ray.sweeps.sweep_job import SweepJob, costs
from ail_ray.sweeps.terminal import trials_table


def main(arguments: list[str]) -> int:
    """Parse, run, print; returns the exit code."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else "demo"
    if name not in PRESETS:
        refuse([f"{name}: no such preset; there are {', '.join(PRESETS)}"])
    options = arguments[1:] if arguments[:1] == [name] else arguments
    default = flags_of(SweepJob(sweep=preset(name, value_of("--network", options) or "vdsr")))
    description = f"{__doc__}\nThe defaults below are those of the preset {name}."
    prog = f"ail_sweep.py [{'|'.join(PRESETS)}]"
    job = job_of(parse(Flags, options, default=default, prog=prog, description=description))
    try:
        if job.plan:
            say("\n".join(costs(job)))
            return 0
        # Here: with Train, Tune and MLflow they take seconds to load.
        from ail_ray.commands.sweep import run_sweep
        from ail_ray.tracking.connection import opened_by

        summary = run_sweep(job, name=name, command=shlex.join(["python", "jobs/ail_sweep.py", *arguments]), say=say)
    except ConfigError as error:
        refuse(error.problems)
    say(f"\n{trials_table(summary)}\n\nSummary: {job.out_path / 'summary.json'}")
    say(f"As one page: {shlex.join(['python', 'jobs/report.py', '--out', str(job.out_path)])}")
    say(f"Compare in MLflow: {opened_by(summary.tracking_uri, summary.mlflow_page)}")
    return int(summary.failed)


if __name__ == "__main__":
    run(main, again=GOES_ON)
