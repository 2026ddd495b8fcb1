"""What a run directory says, as frozen dataclasses: its manifest, and the record of each round."""

from dataclasses import dataclass, field, fields
from typing import Annotated, NamedTuple

from msgspec import Meta
from upath import UPath

from ail_ray.files import FileError, as_record
from ail_ray.learning.config import Plain, RunConfig
from ail_ray.learning.precision import Precision
from ail_ray.learning.records import EpochLog, Measured, Rows
from ail_ray.learning.rules import recipe_of
from ail_ray.learning.told import Told, told

Number = Annotated[int, Meta(ge=0, lt=10**9)]
Count = Annotated[int, Meta(ge=1, lt=10**6)]


class Place(NamedTuple):
    """How far a run is: the round it is in, and the epochs of that round done."""

    round: Number
    epochs: Number
    steps: Number = 0  # always 0 now; versions before could leave within an epoch
    commit: Number = 0  # whose state it is; 0 where an older version wrote it

    @property
    def file(self) -> str:
        """Name of the file with the state there, made of numbers only, so that it leads to no other folder."""
        if self.commit:
            return f"commit-{self.commit:08d}.safetensors"
        return f"round-{self.round:03d}-epoch-{self.epochs:02d}-step-{self.steps:06d}.safetensors"

    def at(self, other: "Place") -> bool:
        """Whether another commit is as far as this one."""
        return self[:3] == other[:3]


@dataclass(frozen=True, kw_only=True)
class Death:
    """A student that died in its first training, after which another was drawn."""

    round: int
    epoch: int
    silent: tuple[str, ...]  # layers


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights by their content, and where they are."""

    digest: str
    path: UPath


@dataclass(frozen=True, kw_only=True)
class RoundRecord(Measured):
    """All that is known of a round; made once, when the round is committed, and never changed."""

    seconds: dict[str, float]  # by part; `theta` has those of interrupted attempts too
    time: float  # of the commit, seconds since 1970
    epochs: tuple[EpochLog, ...]
    loss: float | None  # of the last epoch, as the rest is; None where nothing was trained
    squared_error: float | None
    patches_per_second: float | None
    system: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """A line about the round for a log."""
        speed = f", {self.patches_per_second:.0f} crops/s" if self.patches_per_second else ""
        return (
            f"round {self.round}: {', '.join(map(str, self.all))}; importance mean {self.importance.mean:.3f}, "
            f"saturated {100 * self.importance.saturated:.1f} %{speed}"
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run is, and how far it is."""

    format: int
    run: str
    config: RunConfig  # network, rule and loss by their names only
    told: Told | None = None  # what their code tells; None where an older version began the run
    corpus: str  # digest
    pairs: int = 0  # of training; 0 where it was not written down
    pixels: int = 0
    precision: Precision
    threads: Count
    workers: Count
    references: dict[str, Rows] = field(default_factory=dict)  # `bicubic`, and `teacher` if there is one
    versions: dict[str, str]
    machine: dict[str, str | None]  # its commit is None in older ones that had none
    created: float  # seconds since 1970
    last_round: Annotated[int, Meta(ge=-1, lt=10**6)]  # committed
    record: RoundRecord | None = None  # of the last round; its file is written after the commit
    holder: str | None = None  # of the lease under which it was committed
    failure: str | None = None  # why the last attempt cannot go on
    ends: tuple[Place, ...] = ()  # of rounds, where the optimizer is kept from one to the next
    places: tuple[Place, ...] = ()  # the last two commits, in order
    epochs: tuple[EpochLog, ...] = ()  # of the round that is worked on, or of the last one
    draws: tuple[Death, ...] = ()
    incidents: tuple[str, ...] = ()  # a line for everything that was found damaged, or could not be written

    @property
    def known(self) -> Told:
        """What the code of the run tells, whether it is here or not."""
        return self.told or told(self.config)

    @property
    def needs_first(self) -> bool:
        """Whether the rule reads the importance of round 0 in every round."""
        return self.told.needs_first if self.told else recipe_of(self.config.rule).needs_first


def as_manifest(content: Plain, path: UPath) -> Manifest:
    """The manifest that a file holds, all of whose values are checked: who can write one can write its checksum too.

    Raises:
        FileError: it is none, or its configuration has fields that this version does not know.
    """
    config = content.get("config")
    if isinstance(config, dict) and (unknown := config.keys() - {each.name for each in fields(RunConfig)}):
        raise FileError(f"{path}: written by another version, its configuration has {', '.join(sorted(unknown))}")
    return as_record(content, Manifest, path)
