"""One AIL run: the plan of it with all that it reads, and all its rounds in this process, without Ray."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import FileError, write_bytes
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, fastest
from ail_ray.learning.weights import load_model
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.importance_store import ImportanceStore
from ail_ray.runs.lease import Lease, LeaseLostError
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import Prepared, run_path
from ail_ray.runs.references import Rows
from ail_ray.runs.teacher_maps import TEACHER
from ail_ray.runs.work import Assignment, work

NEVER: AbstractContextManager[Callable[[], int]] = nullcontext(lambda: 0)  # whom no signal asks to leave


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """A run with everything that it reads and its place on the storage path."""

    config: RunConfig
    prepared: Prepared
    teacher: str | None  # digest of its weights
    errors: UPath | None
    precision: Precision
    outputs: UPath | None = None  # the teacher's, for distillation
    start: tuple[str, UPath] | None = None  # digest and path of the weights that the student starts from
    references: dict[str, Rows] = field(default_factory=dict)  # `bicubic`, and `teacher` if there is one

    @property
    def directory(self) -> UPath:
        return run_path(self.config, self.prepared, self.teacher, self.start)

    @property
    def student(self) -> UPath:
        """Weights after the rounds asked for: the run's result, or that round's student if the run has gone further."""
        directory = RunDirectory(self.directory)
        longer = directory.last_round > self.config.rounds
        return directory.student_path(self.config.rounds) if longer else self.directory / "student.safetensors"

    def open(self, directory: RunDirectory, placement: Placement) -> dict[str, Any]:
        """Mend the run directory, or make it if the run is new; returns its manifest, by which a run goes on."""
        manifest = directory.create(
            self.config, corpus=self.prepared.corpus.digest, pairs=len(self.prepared.corpus.pairs),
            pixels=self.prepared.corpus.pixels, precision=self.precision, threads=placement.threads,
            workers=placement.most, references=self.references,
        )  # fmt: skip
        directory.forget_failure()
        directory.mend(len(self.prepared.corpus.shards))
        return manifest

    def assignment(self, manifest: dict[str, Any], holder: str) -> Assignment:
        """The assignment that all workers get."""
        maps = self.errors or self.outputs
        return Assignment(
            config=self.config, directory=self.directory, shards=self.prepared.shard_paths,
            validation=[file.path for file in self.prepared.validation],
            test=[file.path for file in self.prepared.test],
            crops=self.prepared.crops_per_epoch(self.config), precision=manifest["precision"],
            threads=manifest["threads"], teacher_errors=self.errors, teacher_outputs=self.outputs,
            teacher=maps / TEACHER if maps else None, start=self.start[1] if self.start else None, holder=holder,
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
def _held(directory: RunDirectory) -> Iterator[Lease]:
    """Hold the run; whatever ends the block too early is recorded as the failure of the run while it is held."""
    with Lease(directory.path) as lease:
        try:
            yield lease
        except Exception as error:
            known = isinstance(error, RunError | FileError | ConfigError)
            with suppress(LeaseLostError):
                RunDirectory(directory.path, lease.holder).fail(
                    str(error) if known else f"{type(error).__name__}: {error}"
                )
            raise


def run_local(
    plan: TrialPlan,
    threads: int,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    *,
    leaving: AbstractContextManager[Callable[[], int]] = NEVER,
    complete: Callable[[RunDirectory], object] = RunDirectory.finalise,
) -> RunDirectory:
    """Run in this process, without Ray, into the same kind of run directory.

    Args:
        report: is called with every committed round.
        complete: writes the result when all rounds are there.
        leaving: entered while it trains; yields what tells the signal that asks to leave at the next step (see
            `asked_to_leave`), 0 for none.
    """
    directory = RunDirectory(plan.directory)
    with _held(directory) as lease:
        manifest = plan.open(directory, Placement(threads=threads))
        if directory.last_round < plan.config.rounds:
            store = ImportanceStore(plan.directory, plan.config, plan.errors)
            with leaving as asked:
                work(plan.assignment(manifest, lease.holder), store, Group(), device, report, asked)
        complete(directory)
    return directory


def complete_with_onnx(directory: RunDirectory) -> None:
    """Write the result of a finished run, also as ONNX; if ONNX fails, the run notes why and is finished anyway."""
    directory.finalise()
    path = directory.path / "student.onnx"
    try:
        if not path.exists():
            from ail_ray.delivery.onnx import to_onnx

            write_bytes(path, to_onnx(load_model(directory.path / "student.safetensors")))
    except Exception as error:  # whatever torch's exporter or a full disk raises
        with suppress(Exception):  # of the same disk
            directory.note(f"no ONNX, the same command tries again: {error}")
