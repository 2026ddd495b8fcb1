r"""Send a job to a Ray cluster: `ray job submit`, with the code, and with the settings that are set here.

    # the paper's protocol, on a cluster with GPUs
    ail submit --address http://127.0.0.1:8265 \
        -- ail sweep paper --gpu \
        --storage s3://bucket/ail --out /home/ray/sweep

What would be uploaded is counted first, since Ray refuses a folder that is too large only after it was sent. The
command's AIL_DATA_DIR, AIL_TEACHER_DIR and MLFLOW_TRACKING_URI are those of this environment, so they must mean
something on the cluster. Exit codes: that of `ray job submit`, and 2 when nothing was sent.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ail_ray.commands.parsing import parse, refuse
from ail_ray.entry import say
from ail_ray.machine import PACKAGE, checkout


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the job is sent to, and how."""

    address: str | None = None
    """Address of the cluster's dashboard, such as http://127.0.0.1:8265; $RAY_ADDRESS by default."""
    submission_id: str | None = None
    """Name of the job, for `ray job status` and `ray job stop`; Ray chooses one by default."""
    working_dir: str | None = None
    """Folder that is uploaded, in which the command starts; by default this checkout or, where ail_ray was installed,
    the folder that you stand in, and the installed package goes along."""
    no_wait: bool = False
    """Return as soon as the job was taken, without following its log."""


def main(arguments: list[str]) -> int:
    """Check, and become `ray job submit`; returns only if that cannot be."""
    ours, command = _split(arguments)
    o = parse(Options, ours, default=Options(), prog="ail submit", description=__doc__ or "")
    from ail_ray.orchestration.submission import no_answer, relative, told, too_large  # here: Ray takes seconds

    folder, settings = Path(o.working_dir or checkout() or ".").expanduser().absolute(), told(os.environ)
    problems = [] if command else ["name the command to run on the cluster after --"]
    problems += relative(settings)
    problems += too_large(folder) if folder.is_dir() else [f"working-dir: {folder}: no such folder"]
    if problems := problems or no_answer(o.address):
        refuse(problems)
    words = ["job", "submit", "--working-dir", str(folder)]
    words += ["--address", o.address] if o.address else []
    words += ["--submission-id", o.submission_id] if o.submission_id else []
    words += ["--no-wait"] if o.no_wait else []
    there = ({"env_vars": settings} if settings else {}) | ({} if checkout() else {"py_modules": [str(PACKAGE)]})
    words += ["--runtime-env", _private(json.dumps(there))] if there else []
    if settings:
        say(f"The job is told {', '.join(settings)} as set here")
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *words, "--", *command])


def _private(text: str) -> str:
    """The path of a file without a name, for the program that this one becomes; all see the words of a command."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        kept = os.dup(file.fileno())
    os.set_inheritable(kept, True)
    return f"/dev/fd/{kept}"


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own options, and after `--` the command to run on the cluster, where `ail` may be on no path."""
    here = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[here + 1 :]
    return arguments[:here], ["python", "-m", "ail_ray", *command[1:]] if command[:1] == ["ail"] else command
