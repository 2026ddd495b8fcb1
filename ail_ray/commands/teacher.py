r"""Train a teacher: a network for all scales, written in half precision with a card that describes it.

    ail teacher --width 32 --epochs 20 \
        --workers 2 --to teachers/vdsr-f32.safetensors

The card, beside the weights, has the command, the data, and PSNR and SSIM on every test set that is here. The same
command, started again, goes on where it was stopped. Exit codes: 0 when the teacher was written, 1 when the training
has failed, 2 when the command was refused and nothing was started.
"""

from ail_ray.commands.parsing import parse, refusals, refuse
from ail_ray.commands.sweep import run_sweep
from ail_ray.entry import called, say
from ail_ray.files import unwritable_file
from ail_ray.paper.teacher_card import Teacher, publish


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, train, write; returns the exit code."""
    teacher = parse(Teacher, arguments, default=Teacher(), prog="ail teacher", description=__doc__ or "")
    if problems := unwritable_file(teacher.to_path):
        refuse([f"to: {line}" for line in problems])
    command = called("teacher", *arguments)
    (trial,) = run_sweep(teacher.job(), name="teacher", command=command, say=say).trials
    if trial.status == "finished":
        say(publish(trial, teacher.to_path, command))
    return int(trial.status != "finished")
