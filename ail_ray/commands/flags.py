"""The flags of a sweep, made from the dataclasses that it is made of; a field of a run may be given several values."""

from dataclasses import fields, make_dataclass
from types import NoneType
from typing import Any, get_args, get_origin

from ail_ray.commands.help_page import texts
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.runs.placement import Placement
from ail_ray.sweeps.sweep_job import SweepJob

OWN = tuple(each for each in fields(SweepConfig) if each.name not in ("base", "axes"))
WHERE = tuple(each for each in fields(SweepJob) if each.name not in ("sweep", "placement"))


def _several(kind: Any) -> Any:
    """The type of one or more values of a field of a run; a field that is a tuple keeps its type."""
    if get_origin(kind) is tuple:
        return kind
    without_none = [part for part in get_args(kind) if part is not NoneType] if NoneType in get_args(kind) else [kind]
    several = tuple[without_none[0], ...]  # type: ignore[valid-type]
    return several | None if NoneType in get_args(kind) else several


Flags: Any = make_dataclass(
    "Flags",
    [
        *((each.name, _several(each.type)) for each in fields(RunConfig)),
        *((each.name, each.type) for each in OWN),
        ("placement", Placement),
        *((each.name, each.type) for each in WHERE),
    ],
    frozen=True, kw_only=True,
    namespace={
        "__post_init__": lambda self: job_of(self),  # refuses what a sweep refuses
        "texts": texts(RunConfig) | texts(SweepConfig) | texts(SweepJob),
    },
)  # fmt: skip


def flags_of(job: SweepJob) -> Any:
    """The flags that ask for a sweep."""
    values = {}
    for each in fields(RunConfig):
        value = job.sweep.values[each.name]
        whole = get_origin(each.type) is tuple or each.name in job.sweep.axes or value is None
        values[each.name] = value if whole else (value,)
    values |= {each.name: getattr(job.sweep, each.name) for each in OWN}
    return Flags(**values, placement=job.placement, **{each.name: getattr(job, each.name) for each in WHERE})


def job_of(flags: Any) -> SweepJob:
    """The sweep that flags ask for; ConfigError with everything that is wrong with it."""
    asked = {each.name: getattr(flags, each.name) for each in (*fields(RunConfig), *OWN)}
    where = {each.name: getattr(flags, each.name) for each in WHERE}
    return SweepJob(sweep=SweepConfig.of(**asked), placement=flags.placement, **where)
