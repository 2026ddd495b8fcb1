r"""Send a job to a Ray cluster: `ray job submit`, with the code, and with the settings that are set here.

    # the paper's protocol, on a cluster with GPUs
    python jobs/submit.py --address http://127.0.0.1:8265 \
        -- python jobs/ail_sweep.py paper --gpu \
        --storage s3://bucket/ail --out /home/ray/sweep

What would be uploaded is counted first, since Ray refuses a folder that is too large only after it was sent. The
command's AIL_DATA_DIR, AIL_TEACHER_DIR and MLFLOW_TRACKING_URI are those of this environment, so they must mean
something on the cluster. Exit codes: that of `ray job submit`, and 2 when nothing was sent.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ail_ray.entry import run, say

from ail_ray.commands.parsing import parse, refuse
from ail_ray.orchestration.submission import no_answer, relative, split, told, too_large

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the job is sent to, and how."""

    address: str | None = None
    """Address of the cluster's dashboard, such as http://127.0.0.1:8265; $RAY_ADDRESS by default."""
    submission_id: str | None = None
    """Name of the job, for `ray job status` and `ray job stop`; Ray chooses one by default."""
    working_dir: str = str(REPOSITORY)
    """Folder with the code, which is uploaded; this repository by default."""
    no_wait: bool = False
    """Return as soon as the job was taken, without following its log."""


def main(arguments: list[str]) -> int:
    """Check, and become `ray job submit`; returns only if that cannot be."""
    ours, command = split(arguments)
    o = parse(Options, ours, default=Options(), prog="submit.py", description=__doc__ or "")
    folder, settings = Path(o.working_dir).expanduser().absolute(), told(os.environ)
    problems = [] if command else ["name the command to run on the cluster after --"]
    problems += relative(settings)
    problems += too_large(folder) if folder.is_dir() else [f"working-dir: {folder}: no such folder"]
    if problems := problems or no_answer(o.address):
        refuse(problems)
    words = ["job", "submit", "--working-dir", str(folder)]
    words += ["--address", o.address] if o.address else []
    words += ["--submission-id", o.submission_id] if o.submission_id else []
    words += ["--no-wait"] if o.no_wait else []
    words += ["--runtime-env-json", json.dumps({"env_vars": settings})] if settings else []
    if settings:
        say(f"The job is told {', '.join(settings)} as set here")
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *words, "--", *command])


if __name__ == "__main__":
    run(main)
