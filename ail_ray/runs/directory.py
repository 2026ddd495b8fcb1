"""The run directory: manifest, snapshots and round records of one AIL run; the only authority on what has happened.

manifest.json                        the format of all this
manifests/00000042.json              what the run is, and its 42nd commit (the last two): the newest whole one holds
state/commit-00000042.safetensors    student and optimizer (two commits, round ends that need it)
importance/round-003/shard-0007.safetensors  W (round 0, the last two rounds, the best one)
rounds/round-003.json                what the round measured
rounds/round-003/*.png               what it looks like
students/round-003.safetensors       the student at the end of a round
student.safetensors, student.onnx, config.json  the result
lease.json                           which job works on the run now

A commit writes its files and then the next manifest, which a job that was overtaken cannot (`manifests.py`). What that
one removes is older than its own commits, and what it writes besides has the name of a commit that it will not make.

A directory of format 2 has one manifest, `manifest.json`, with `manifest-previous.json` and `failure.json`. It is read
as it is, and the first commit converts it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from upath import UPath

from ail_ray.files import (
    TEMPORARY,
    FileError,
    is_local,
    read_record,
    remove_tree,
    write_bytes,
    write_json,
    write_record,
)
from ail_ray.learning.config import RunConfig, named_only
from ail_ray.learning.records import EpochLog, Measured, mean_psnr
from ail_ray.learning.theta import TrainState
from ail_ray.learning.told import told
from ail_ray.learning.weights import save_model
from ail_ray.machine import machine, versions
from ail_ray.runs.lease import LeaseLostError
from ail_ray.runs.manifests import FORMAT, NUMBER, Manifests
from ail_ray.runs.records import Death, Manifest, Place, RoundRecord
from ail_ray.tensors import read_tensors, write_tensors

STUDENT = "student.safetensors"  # of the result
PASSING = ("places", "epochs", "ends", "record", "holder", "failure")
"""Fields of the manifest that a finished run has no use for."""


@dataclass(frozen=True)
class Failure:
    """Why the last attempt at a run of format 2 could not go on."""

    reason: str


class RunDirectory:
    """Paths, commits and records of one run. Any number of processes may read, and one worker (rank 0) commits."""

    def __init__(self, path: UPath, holder: str | None = None) -> None:
        """
        Args:
            holder: holds the lease that this process works under; once another job has committed, `LeaseLostError`.
        """
        self.path, self.holder = path, holder
        self.manifests = Manifests(path, holder)
        self._best: RoundRecord | None = None  # of all rounds, once this process has committed one

    def create(self, config: RunConfig, **resolved: Any) -> Manifest:
        """Take the run over, or begin it; returns the manifest, by which it goes on.

        Args:
            config: the configuration; its `rounds` may exceed the recorded ones, which extends the run.
            resolved: fields of the manifest: corpus, pairs, pixels, precision, threads, workers, references, told.

        Raises:
            FileError: the directory was written by another format, or its manifest is damaged.
        """
        while True:
            there, number = self.manifests.taken_over()
            if there is None:
                resolved["told"] = resolved.get("told") or told(config)
                manifest = Manifest(
                    format=FORMAT, run=self.path.name, config=named_only(config), **resolved,
                    versions=versions(), machine={**machine()}, created=time.time(), last_round=-1,
                )  # fmt: skip
            else:
                rounds = max(there.config.rounds, config.rounds)
                references = there.references or resolved.get("references", {})  # older runs have none
                config = replace(there.config, rounds=rounds)
                manifest = replace(there, config=config, references=references, failure=None)  # a new attempt begins
                free = self.holder in (None, there.holder) or there.last_round >= rounds  # nobody else works on it
                if free and manifest == there:
                    return there
            with suppress(LeaseLostError):  # a job that is overtaken just now had one more commit in hand
                return self.manifests.write(manifest, number + 1)

    def manifest(self) -> Manifest:
        """Read the newest manifest that is whole; FileError as `Manifests.newest`."""
        return self.manifests.newest()[0]

    @property
    def last_round(self) -> int:
        """The last committed round; -1 if there is none."""
        try:
            return self.manifest().last_round
        except FileError:
            return -1

    @property
    def place(self) -> Place | None:
        """How far the run was at its last commit."""
        places = self.manifest().places
        return places[-1] if places else None

    def follow(self, after: int = -1, until: int = 10**9) -> Iterator[RoundRecord]:
        """The records of the rounds that are committed, behind one round and up to another; each is read once.

        Raises:
            FileError: one is damaged.
        """
        try:
            manifest = self.manifest()
        except FileError:
            return
        for t in range(after + 1, min(manifest.last_round, until) + 1):
            last = manifest.record
            yield last if last and last.round == t else read_record(self.record_path(t), RoundRecord)

    def record(self, round: int) -> RoundRecord:
        """The record of a committed round; FileError if it is damaged."""
        (record,) = self.follow(round - 1, round)
        return record

    def record_path(self, round: int) -> UPath:
        return self.path / "rounds" / f"round-{round:03d}.json"

    def pictures(self, round: int) -> list[UPath]:
        """The pictures of a round by the names of their files."""
        folder = self.path / "rounds" / f"round-{round:03d}"
        return sorted(folder.glob("*.png"), key=lambda path: path.name) if folder.exists() else []

    def importance_path(self, round: int, shard: int) -> UPath:
        return self.path / "importance" / f"round-{round:03d}" / f"shard-{shard:04d}.safetensors"

    def student_path(self, round: int) -> UPath:
        return self.path / "students" / f"round-{round:03d}.safetensors"

    def _end(self, manifest: Manifest, t: int) -> UPath:
        """What goes on after round t begins with: its student, or the whole state where the optimizer is kept."""
        if manifest.config.restart == "never":
            place = next((place for place in manifest.ends if place.round == t), Place(t, manifest.config.epochs))
            return self.path / "state" / place.file
        return self.student_path(t)

    def load_state(self) -> tuple[dict[str, np.ndarray], Place] | None:
        """Student and optimizer of the last commit at the end of an epoch, and where that is."""
        manifest = self.manifest()
        for place in reversed([place for place in manifest.places if not place.steps]):
            return read_tensors(self.path / "state" / place.file)[0], place
        if (t := manifest.last_round) < 0:
            return None
        arrays, _ = read_tensors(end := self._end(manifest, t))
        if end == self.student_path(t):  # a round begins with a fresh optimizer: nothing is missing
            arrays = {f"student.{name}": array for name, array in arrays.items()}
        return arrays, Place(t, manifest.config.epochs)

    def commit_epoch(self, log: EpochLog, arrays: dict[str, np.ndarray]) -> None:
        """Write the state after an epoch, then the manifest that points to it."""
        manifest, number = self.manifests.check()
        before = [each for each in manifest.epochs if each.round == log.round and each.epoch < log.epoch]
        place = Place(log.round, log.epoch + 1)
        self._commit_state(replace(manifest, epochs=(*before, log)), number, place, arrays)

    def commit_death(self, round: int, epoch: int, silent: Sequence[str]) -> None:
        """Write that the student died in its first training; the round begins anew, with another draw."""
        manifest, number = self.manifests.check()
        line = (
            f"draw {len(manifest.draws) + 1} of the student died in round {round}, epoch {epoch} "
            f"({', '.join(silent)} lets nothing through); drawn again"
        )
        self.manifests.write(
            replace(
                manifest,
                draws=(*manifest.draws, Death(round=round, epoch=epoch, silent=tuple(silent))),
                places=tuple(place for place in manifest.places if place.round < round),
                epochs=tuple(log for log in manifest.epochs if log.round < round),
                incidents=(*manifest.incidents, line),
            ),
            number,
        )

    def commit_round(
        self, measured: Measured, seconds: dict[str, float], system: dict[str, float], state: TrainState
    ) -> RoundRecord:
        """Write student and state of a finished round, then the manifest with its record; returns the record."""
        (manifest, number), t = self.manifests.check(), measured.round
        logs = tuple(log for log in manifest.epochs if log.round == t)
        trained = sum(log.seconds for log in logs)  # those of an interrupted attempt included
        record = RoundRecord(
            **vars(measured), seconds=seconds | {"theta": trained}, time=time.time(), epochs=logs,
            loss=logs[-1].loss if logs else None,
            squared_error=logs[-1].squared_error if logs else None,
            patches_per_second=sum(log.crops for log in logs) / trained if trained else None, system=system,
        )  # fmt: skip
        save_model(self.student_path(t), state.student, {"round": str(t), "run": self.path.name})
        place = Place(t, manifest.config.epochs)
        self._commit_state(replace(manifest, last_round=t, record=record), number, place, state.tensors())
        write_record(self.record_path(t), record)  # from the manifest: a job that was overtaken writes the same
        self._prune(record)
        return record

    def finalise(self) -> UPath:
        """Write the result, the last round's student and the resolved configuration; safe to repeat."""
        manifest, result = self.manifest(), self.path / STUDENT
        student = self.student_path(manifest.last_round).read_bytes()
        if not (result.exists() and result.read_bytes() == student):
            (self.path / "student.onnx").unlink(missing_ok=True)  # that of fewer rounds
            write_bytes(result, student)
        content = msgspec.to_builtins(manifest)
        write_json(self.path / "config.json", {k: content[k] for k in content if k not in PASSING})
        return result

    def mend(self, shards: int) -> list[str]:
        """Go back to the last commit that is whole; returns what was damaged, a line each.

        A damaged snapshot of importance is removed: it is computed again from the round before. To be called while
        nobody works on the run.
        """
        manifest, number, damages = self.manifests.newest()
        lines = [f"{damage}; the one before is used" for damage in damages]
        if (record := manifest.record) and not self._sound(path := self.record_path(record.round), []):
            lines += [f"{path}: damaged; written again from the manifest"] if path.exists() else []
            write_record(path, record)
        if is_local(self.path):
            for left in Path(str(self.path)).rglob(f".*{TEMPORARY}"):  # of processes that were killed while they wrote
                left.unlink(missing_ok=True)

        @cache
        def importance(t: int) -> bool:
            paths = [self.importance_path(t, s) for s in range(shards)]
            damaged = [path for path in paths if path.exists() and not self._sound(path, lines)]
            for path in damaged:
                path.unlink()
            return all(path.exists() for path in paths)

        if manifest.needs_first:  # a damaged one is made again when the run goes on
            importance(0)
        last = committed = manifest.last_round
        finished = last >= manifest.config.rounds
        first_bad = next((t for t in range(last + 1) if not self._sound(self.record_path(t), lines)), last + 1)
        while last >= 0 and not (
            last < first_bad
            and all(self._sound(path, lines) for path in {self.student_path(last), self._end(manifest, last)})
            and (finished or importance(last + 1) or importance(last))
        ):
            last, finished = last - 1, False
        if last < committed:
            lines.append(f"round {committed} is not whole; going on after round {last}")
        going_on = not finished and importance(last + 1)
        end = Place(last, manifest.config.epochs) if last >= 0 else None
        places = list(manifest.places)
        if not finished:  # then none is needed
            places = [p for p in places if (end and p.at(end)) or (going_on and p.round == last + 1)]
            places = [p for p in places if self._sound(self.path / "state" / p.file, lines)]
        if lines:
            incidents = (*manifest.incidents, *lines)
            self.manifests.check()
            self.manifests.write(
                replace(
                    manifest, last_round=last, places=tuple(places), incidents=incidents,
                    record=manifest.record if last == committed else None,
                    ends=tuple(place for place in manifest.ends if place.round <= last),
                ),
                number + 1,
            )  # fmt: skip
        return lines

    def _sound(self, path: UPath, lines: list[str]) -> bool:
        """Whether a file is whole; if it is not, a line about it is added."""
        try:
            read_record(path, RoundRecord) if path.suffix == ".json" else read_tensors(path)
        except FileError as error:
            lines.append(str(error))
            return False
        return True

    def note(self, incident: str) -> None:
        """Add a line to the manifest's `incidents`, if it is not there yet."""
        manifest, number = self.manifests.check()
        if incident not in manifest.incidents:
            self.manifests.write(replace(manifest, incidents=(*manifest.incidents, incident)), number)

    def fail(self, reason: str) -> None:
        """Record why this attempt cannot go on, since trying again would only fail again."""
        manifest, number = self.manifests.check()
        self.manifests.write(replace(manifest, failure=reason), number)

    def failure(self) -> str | None:
        """Why the last attempt could not go on, if it could not."""
        try:
            manifest = self.manifest()
        except FileError as error:
            return str(error)
        path = self.path / "failure.json"
        try:
            return read_record(path, Failure).reason if manifest.format == 2 and path.exists() else manifest.failure
        except FileError:
            return f"{path}: damaged"

    def _commit_state(self, manifest: Manifest, number: int, place: Place, arrays: dict[str, np.ndarray]) -> None:
        if manifest.places and manifest.places[-1].at(place):  # the last epoch's state is the round's too
            place = manifest.places[-1]
        else:
            place = place._replace(commit=number)
            write_tensors(self.path / "state" / place.file, arrays)
            manifest = replace(manifest, places=(*manifest.places[-1:], place))
        if manifest.config.restart == "never" and manifest.last_round == place.round:
            manifest = replace(manifest, ends=(*manifest.ends, place))
        self.manifests.write(manifest, number)
        kept = {each.file for each in manifest.places}
        kept |= {self._end(manifest, t).name for t in range(manifest.last_round + 1)}
        for path in (self.path / "state").glob("*.safetensors"):
            named = NUMBER.fullmatch(path.name)
            if path.name not in kept and (named is None or int(named[1]) <= number):  # later ones are of another job
                path.unlink(missing_ok=True)

    def _prune(self, record: RoundRecord) -> None:
        """Keep the importance of round 0, of the last two rounds and of the best one."""
        earlier = [self._best] if self._best else self.follow(until=record.round - 1)
        self._best = max((*earlier, record), key=lambda each: mean_psnr(each.validation))
        kept = {f"round-{t:03d}" for t in (0, record.round - 1, record.round, self._best.round)}
        for folder in (self.path / "importance").iterdir():
            if folder.name not in kept and folder.name < f"round-{record.round:03d}":  # later ones are of another job
                remove_tree(folder)
