"""One AIL run: the plan of it with all that it reads, and all its rounds in this process, without Ray."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from upath import UPath

from ail_ray.entry import heed_stop
from ail_ray.errors import ConfigError, one_line, printable
from ail_ray.files import FileError, write_bytes
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, fastest
from ail_ray.learning.records import Measured, Rows
from ail_ray.learning.told import Told
from ail_ray.learning.weights import load_model
from ail_ray.runs.directory import STUDENT, RunDirectory
from ail_ray.runs.importance_store import ImportanceStore
from ail_ray.runs.lease import Lease
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import Data, run_path
from ail_ray.runs.records import Manifest, Weights
from ail_ray.runs.teacher_maps import TeacherMaps
from ail_ray.runs.work import Assignment, work


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """A run with everything that it reads and its place on the storage path."""

    config: RunConfig
    data: Data
    maps: TeacherMaps | None  # None for a run that reads no teacher, or one without weights
    precision: Precision
    start: Weights | None = None  # that the student starts from
    references: dict[str, Rows] = field(default_factory=dict)  # `bicubic`, and `teacher` if there is one
    told: Told | None = None  # by the code of the run, where it was planned; None: ask it where the run begins

    @cached_property
    def directory(self) -> UPath:
        teacher = self.maps.teacher if self.maps else None
        return run_path(self.config, self.data, teacher, self.start.digest if self.start else None)

    def open(self, directory: RunDirectory, placement: Placement) -> Manifest:
        """Mend the run directory, or make it if the run is new; returns its manifest, by which a run goes on."""
        manifest = directory.create(
            self.config, corpus=self.data.corpus, pairs=self.data.pairs, pixels=self.data.pixels,
            precision=self.precision, threads=placement.threads, workers=placement.most, references=self.references,
            **({"told": self.told} if self.told else {}),
        )  # fmt: skip
        directory.mend(self.data.shards)
        return manifest

    def assignment(self, manifest: Manifest, holder: str | None) -> Assignment:
        """The assignment that all workers get."""
        return Assignment(
            config=self.config, directory=self.directory, data=self.data, precision=manifest.precision,
            threads=manifest.threads, maps=self.maps, start=self.start.path if self.start else None, holder=holder,
        )  # fmt: skip


def resolve_precision(asked: str, device: str) -> Precision:
    """The precision asked for, or for `auto` the fastest on this device.

    Raises:
        ConfigError: the device is a GPU, Ray gave us one, and torch cannot use it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([f"gpu: torch {torch.__version__} on node {socket.gethostname()} cannot use its GPU"])
    return fastest(torch.device(device)) if asked == "auto" else asked  # type: ignore[return-value]


class RunError(RuntimeError):
    """A run that cannot go on; the message says why."""


@contextmanager
def held(path: UPath) -> Iterator[RunDirectory]:
    """Hold the run; whatever ends the block too early is recorded as the failure of the run while it is held.

    Raises:
        LeaseLostError: another job has taken the run over, and so whatever failed has not failed for itself.
    """
    with Lease(path) as lease:
        directory = RunDirectory(path, lease.holder)
        try:
            yield directory
        except (Exception, SystemExit) as error:  # somebody's rule may raise either
            heed_stop()
            known = isinstance(error, RunError | FileError | ConfigError)
            with suppress(FileError):
                directory.fail(str(error) if known else f"{type(error).__name__}: {error}")
            raise


def run_local(
    plan: TrialPlan,
    threads: int,
    device: torch.device,
    report: Callable[[Measured], None],
    complete: Callable[[RunDirectory], object] = RunDirectory.finalise,
) -> RunDirectory:
    """Run in this process, without Ray, into the same kind of run directory.

    Args:
        report: is called with what was measured of every committed round.
        complete: writes the result when all rounds are there.

    Raises:
        LeaseLostError: another job has taken the run over; called again, it waits for that one.
    """
    with held(plan.directory) as directory:
        manifest = plan.open(directory, Placement(threads=threads))
        if directory.last_round < plan.config.rounds:
            store = ImportanceStore(plan.directory, plan.config, plan.maps)
            work(plan.assignment(manifest, directory.holder), store, Group(), device, report)
        complete(directory)
    return directory


def complete_with_onnx(directory: RunDirectory, network: str = "") -> None:
    """Write the result of a finished run, also as ONNX; if ONNX fails, the run notes why and is finished anyway."""
    directory.finalise()
    path = directory.path / "student.onnx"
    try:
        if not path.exists():
            from ail_ray.delivery.onnx import to_onnx

            write_bytes(path, to_onnx(load_model(directory.path / STUDENT, network)))
    except Exception as error:  # whatever torch's exporter or a full disk raises
        heed_stop()
        with suppress(Exception):  # of the same disk
            directory.note(f"no ONNX, the same command tries again: {printable(one_line(error))[:500]}")
