r"""Write the small pictures of a sweep, for a model elsewhere to enlarge: its results are then a teacher.

    # those of the preset mini
    ail teacher-inputs mini --to small

    # afterwards, with the model's results in large/
    ail sweep mini --teacher large/

A preset (demo, mini or paper) comes first; give it and the options of the data as in the sweep. Every image is written
at each of its sizes and scales, as a PNG in colour whose name ends in the size and the scale, as -0.5-x2.png. The model
has to enlarge it by that scale, and to save the result under the same name, with the suffix of any format that loses
nothing, in a folder of its own.

The same command, started again, writes only what is missing. Exit codes: 0 when all pictures are there, 2 when the
command was refused and nothing was written.
"""

import io
import sys
from dataclasses import dataclass, fields

from PIL import Image

from ail_ray.commands.parsing import by_flag, parse, progress, refusals, refuse
from ail_ray.entry import called, say
from ail_ray.errors import ConfigError, counted
from ail_ray.files import as_path, unwritable, write_bytes
from ail_ray.imaging.images import ImageError
from ail_ray.imaging.pairs import Pair
from ail_ray.learning.config import RunConfig
from ail_ray.learning.presets import PRESETS, preset
from ail_ray.runs.preparation import plan_data


@dataclass(frozen=True, kw_only=True)
class TeacherInputs:
    """Which pictures to write, and where to."""

    train: tuple[str, ...]
    """Sets that the sweep trains on."""
    validation: tuple[str, ...]
    """Sets on which its trials are compared."""
    test: tuple[str, ...]
    """Sets that are measured after every round."""
    scales: tuple[int, ...]
    """Super-resolution factors (2, 3 or 4)."""
    downsizes: tuple[float, ...]
    """Factors in (0, 1]. Every training image is used once at each of these fractions of its size."""
    degrade: str
    """How small pictures are made of large ones, if not by bicubic downsizing; as in the sweep."""
    copies: int
    """With --degrade: how many times every training image is drawn."""
    degrade_seed: int
    """With --degrade: seed of the draws."""
    crop: int
    """Side of a crop that is trained on, in pixels; what is smaller is left out."""
    to: str = "teacher_inputs"
    """Folder for the pictures, or address of a bucket."""

    def __post_init__(self) -> None:
        self.config()  # refuses what a sweep refuses

    def config(self) -> RunConfig:
        """A run on the same data."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "to"}
        return RunConfig(**values, shards=1)


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, write; returns the exit code."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else "demo"
    if name not in PRESETS:
        refuse([f"{name}: no such preset; there are {', '.join(PRESETS)}"])
    options, base = arguments[1:] if arguments[:1] == [name] else arguments, preset(name).base
    default = TeacherInputs(**{each.name: getattr(base, each.name) for each in fields(RunConfig) if each.name in DATA})
    description = f"{__doc__}\nThe defaults below are those of the preset {name}."
    prog = "ail teacher-inputs [PRESET]"
    asked = parse(TeacherInputs, options, default=default, prog=prog, description=description)
    to = as_path(asked.to)
    if problems := unwritable(to):
        refuse([f"to: {line}" for line in problems])
    pairs = list({pair.name: pair for pair in plan_data(asked.config(), to).pairs}.values())
    missing = [pair for pair in pairs if not (to / f"{pair.name}.png").exists()]
    failed = list[str]()
    with progress(len(missing), sys.stderr) as (_, advance):
        for pair in missing:
            try:
                write_bytes(to / f"{pair.name}.png", _png(pair))
            except ImageError as error:
                failed.append(str(error))
            advance(1)
    if failed:
        raise ConfigError(failed)
    say(f"{counted(len(pairs), 'picture')} in {asked.to}, {len(missing)} of them written now.")
    data = [word for group in by_flag(options) if group[0] != "--to" for word in group]
    say(f"With what a model makes of them in a folder: {called('sweep', name, *data, '--teacher', 'FOLDER/')}")
    return 0


DATA = {"train", "validation", "test", "scales", "downsizes", "degrade", "copies", "degrade_seed", "crop"}


def _png(pair: Pair) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pair.sides().small_rgb).save(buffer, "png")
    return buffer.getvalue()
