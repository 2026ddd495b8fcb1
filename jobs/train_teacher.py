r"""Train a teacher: a network for all scales, written in half precision with a card that describes it.

    python jobs/train_teacher.py --width 32 --epochs 20 \
        --workers 2 --to teachers/vdsr-f32.safetensors

The card, beside the weights, has the command, the data, and PSNR and SSIM on every test set that is here. The same
command, started again, goes on where it was stopped. Exit codes: 0 when the teacher was written, 1 when the training
has failed, 2 when the command was refused and nothing was started.
"""

import shlex

from ail_ray.entry import GOES_ON, run, say

from ail_ray.commands.parsing import parse, refuse
from ail_ray.errors import ConfigError
from ail_ray.files import unwritable_file
from ail_ray.paper.teacher_card import Teacher, publish


def main(arguments: list[str]) -> int:
    """Parse, train, write; returns the exit code."""
    teacher = parse(Teacher, arguments, default=Teacher(), prog="train_teacher.py", description=__doc__ or "")
    if problems := unwritable_file(teacher.to_path):
        refuse([f"to: {line}" for line in problems])
    command = shlex.join(["python", "jobs/train_teacher.py", *arguments])
    from ail_ray.commands.sweep import run_sweep

    try:
        (trial,) = run_sweep(teacher.job(), name="teacher", command=command, say=say).trials
    except ConfigError as error:
        refuse(error.problems)
    if trial.status == "finished":
        say(publish(trial, teacher.to_path, command))
    return int(trial.status != "finished")


if __name__ == "__main__":
    run(main, again=GOES_ON)
