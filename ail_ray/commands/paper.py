r"""Train what the paper's tables and figures need, and write them with the paper's numbers beside ours and controls.

    # do all eight tables come out? This takes minutes.
    ail paper --budget smoke --scales 2

    # what would three tables cost?
    ail paper --budget mini --scales 2 \
        --tables 1 2 3 --workers 2 --plan

    # the tables of those runs that have finished so far
    ail paper --budget mini --tables 1 2 \
        --scales 2 --collect

    # the figures at the paper's budget, on GPUs
    ail paper --budget paper --gpu \
        --figures 1 2 3 4 9 --storage s3://bucket/ail

Tables that need the same run share it. All runs fill the cluster together, and the same command, started again, goes on
where they were stopped. It writes table_1.md, table_1.json and figure_1.png and so on into docs/results/BUDGET. Exit
codes: 0 when all runs have finished, 1 when one has failed, 2 when the command was refused and nothing was started.
"""

from ail_ray.commands.parsing import parse, refusals, refuse
from ail_ray.commands.sweep import run_sweeps
from ail_ray.entry import called, say
from ail_ray.files import unwritable
from ail_ray.paper import study as paper
from ail_ray.paper.study import Study, plan


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, run, write; returns the exit code."""
    study = parse(Study, arguments, default=Study(), prog="ail paper", description=__doc__ or "")
    problems = [] if study.plan else [f"out: {line}" for line in unwritable(study.out_path)]
    if problems:
        refuse(problems)
    command = called("paper", *arguments)
    if study.plan:
        plan(study, say)
        return 0
    results = paper.run(study, command, say, run_sweeps)
    from ail_ray.paper.write import write  # here: with matplotlib it takes a second to load

    write(study, results, command, say)
    if study.collect:
        return 0
    missing = [f"{e.method.name} ×{s}" for e in study.experiments() for s in e.sweep.base.scales
               if len(results.get((e.method.name, s), {})) < len(list(e.sweep.grid()))]  # fmt: skip
    for name in missing:
        say(f"failed: {name}; the same command tries again")
    return int(bool(missing))
