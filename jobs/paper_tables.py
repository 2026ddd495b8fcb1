"""The paper's tables and figures, with our numbers beside its own and the controls that it lacks.

    python jobs/paper_tables.py --budget smoke --scales 2                      do all eight tables come out? minutes
    python jobs/paper_tables.py --budget mini --tables 1 2 3 --scales 2 --workers 2 --plan       what would it cost?
    python jobs/paper_tables.py --budget paper --figures 1 2 3 4 9 --gpu --storage s3://bucket/ail
    python jobs/paper_tables.py --budget mini --tables 1 2 --scales 2 --collect    tables of what has finished so far

Runs are shared between tables, fill the cluster together, and go on where they were stopped. Writes
docs/results/BUDGET/table_1.md, .json and figure_1.png. Exit code 1: a run failed; 2: nothing was started.
"""

import shlex

from ail_ray.entry import GOES_ON, run, say

from ail_ray.commandline import parse, refuse
from ail_ray.errors import ConfigError
from ail_ray.files import unwritable
from ail_ray.reporting import paper
from ail_ray.reporting.paper import Study, plan
from ail_ray.reporting.study import write


def main(arguments: list[str]) -> int:
    """Parse, run, write; returns the exit code."""
    study = parse(Study, arguments, default=Study(), prog="paper_tables.py", description=__doc__ or "")
    problems = [] if study.plan else [f"out: {line}" for line in unwritable(study.out_path)]
    if problems:
        refuse(problems)
    command = shlex.join(["python", "jobs/paper_tables.py", *arguments])
    try:
        if study.plan:
            plan(study, say)
            return 0
        results = paper.run(study, command, say)
    except ConfigError as error:
        refuse(error.problems)
    write(study, results, command, say)
    if study.collect:
        return 0
    missing = [f"{e.method.name} ×{s}" for e in study.experiments() for s in e.sweep.scales
               if len(results.get((e.method.name, s), {})) < len(e.sweep.seed)]  # fmt: skip
    for name in missing:
        say(f"failed: {name}; the same command tries again")
    return int(bool(missing))


if __name__ == "__main__":
    run(main, again=GOES_ON)
