"""The paper's experiments: the runs that each table and figure needs, and what the paper prints for them.

Every method is a sweep of its own over seeds, all of them run together, in run directories named by content: what two
tables share is trained once, and what is there is not trained again.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import FileError, as_path, digest_of
from ail_ray.imaging import datasets
from ail_ray.learning.config import PRESETS, SweepConfig, demo
from ail_ray.learning.models import NETWORKS
from ail_ray.learning.weights import load_model, weights_digest
from ail_ray.orchestration.cluster import IN_JOB
from ail_ray.orchestration.job import SweepJob, check, costs, relative_in_job
from ail_ray.orchestration.placement import Placement
from ail_ray.orchestration.prepare import find_teacher, run_path
from ail_ray.orchestration.rundir import RunDirectory

SETS = ("Set5", "Set14", "BSD100", "Urban100")
MEASURED = {"smoke": SETS[:1], "mini": SETS[:2], "paper": SETS}
"""Test sets of each budget; `smoke` makes do with bundled photographs."""
JOINT = (2, 3, 4)
"""Scales that the paper's baselines see together; its AIL students, and all others here, see one."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of a table: a student and a condition it is trained under."""

    name: str  # as the paper prints it; those it lacks named alike
    student: dict[str, Any]  # values of the configuration
    condition: dict[str, Any]
    control: str | None = None  # the method with w = 1 at the same budget
    together: bool = False  # on the joint scales at once
    every_seed: bool = False  # else only the first

    def seeds(self, all: tuple[int, ...]) -> tuple[int, ...]:
        """Those of a study's seeds that it is run with."""
        return all if self.every_seed else all[:1]


AIL: dict[str, Any] = {"rule": ("eq7",)}
PLAIN: dict[str, Any] = {"rule": ("uniform",)}


def _methods(student: str, **values: Any) -> Iterator[Method]:
    """Baseline (Eq. 1), AIL, and the control that the paper lacks."""
    control = f"{student}, w = 1"
    together = values["network"] != "fsrcnn"
    yield Method(name=student, student=values, condition=PLAIN | {"rounds": 0}, together=together)
    yield Method(name=f"{student}+AIL", student=values, condition=AIL, control=control, every_seed=True)
    yield Method(name=control, student=values, condition=PLAIN, every_seed=True)


def _ablations(student: str, **values: Any) -> Iterator[Method]:
    """The conditions of section 5.4, the rule of the authors' code, and a control with one schedule throughout."""
    control = f"{student}, w = 1"
    for name, condition, every_seed in (
        ("+AIL+init_0", AIL | {"teacher": ("none",)}, False),
        ("+AIL+init_r", AIL | {"teacher": ("random",)}, False),
        ("+AIL, reference rule", {"rule": ("reference",)}, True),
        ("+Distil", PLAIN | {"beta": 0.1}, False),
        (", w = 1, one schedule", PLAIN | {"restart": "never"}, False),
    ):
        yield Method(
            name=f"{student}{name}", student=values, condition=condition, control=control, every_seed=every_seed
        )


VDSR13 = {"network": "vdsr", "width": (13,)}
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *_methods("VDSR-f13", **VDSR13),
        *_ablations("VDSR-f13", **VDSR13),
        *_methods("VDSR-f16", network="vdsr", width=(16,)),
        *_methods("VDSR-f22", network="vdsr", width=(22,)),
        *_methods("VDSR-f32", network="vdsr", width=(32,)),
        *_methods("DRRN-f25", network="drrn", width=(25,)),
        *_methods("FSRCNN", network="fsrcnn", width=(56,)),
    )
}


@dataclass(frozen=True)
class Table:
    """What a table compares; `teacher` is a row of the paper that only needs weights."""

    title: str
    methods: tuple[str, ...]
    teacher: str | None = None


def _pair(student: str) -> tuple[str, ...]:
    return student, f"{student}+AIL", f"{student}, w = 1"


TABLES: dict[int, Table] = {
    1: Table("initialisation of the importance", (
        "VDSR-f13", "VDSR-f13+AIL+init_0", "VDSR-f13+AIL+init_r", "VDSR-f13+AIL", "VDSR-f13+AIL, reference rule",
        "VDSR-f13, w = 1", "VDSR-f13, w = 1, one schedule",
    )),
    2: Table("importance learning and distillation", (
        "VDSR-f13", "VDSR-f13+Distil", "VDSR-f13+AIL", "VDSR-f13, w = 1",
    )),
    4: Table("a student of width 16", _pair("VDSR-f16"), "VDSR"),
    5: Table("a student of width 22", _pair("VDSR-f22"), "VDSR"),
    6: Table("a student of width 32", _pair("VDSR-f32"), "VDSR"),
    7: Table("another network with a recursion", _pair("DRRN-f25"), "DRRN"),
    8: Table("a network that is small by design", _pair("FSRCNN")),
}  # fmt: skip
"""Table 3 has no runs."""

FIGURES: dict[int, tuple[str, ...]] = {
    1: (),
    2: (),
    3: ("VDSR-f13+AIL", "VDSR-f13+AIL+init_0", "VDSR-f13+AIL+init_r", "VDSR-f13, w = 1"),
    4: ("VDSR-f13", "VDSR-f13+Distil", "VDSR-f13+AIL"),
    9: ("FSRCNN", "FSRCNN+AIL"),
}
"""The runs of each figure."""


def smoke() -> SweepConfig:
    """Whether everything runs: bundled photographs, seconds of training; the numbers mean nothing."""
    return replace(demo(), depth=None, downsizes=(0.5,), shards=4, validation=(), rounds=1, epochs=1, crops=128)


BUDGETS = {"smoke": smoke, "mini": PRESETS["mini"], "paper": PRESETS["paper"]}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Tables and figures to make, at what budget, and where."""

    tables: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Tables of the paper, 1 to 8."""
    figures: tuple[int, ...] = ()
    """Figures of the paper: 1 2 3 4 9."""
    budget: str = "smoke"
    """`smoke`: minutes, to see that all runs; `mini`: a CPU's hours; `paper`: the paper's own, for GPUs."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Super-resolution factors: one run for each; the paper's baselines see 2, 3 and 4 together."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of AIL, of the authors' rule and of their control; other methods get the first."""
    teacher: str = "vdsr"
    """Whose errors start the importance of all students, DRRN's too: `vdsr`, a name in $AIL_TEACHER_DIR, or a path."""
    placement: Placement = field(default_factory=Placement)
    max_workers: int | None = None
    """Train workers the cluster can grow to, all runs together; as for a sweep."""
    local: bool = False
    """One run after the other in this process, without Ray."""
    out: str | None = None
    """Folder for tables and figures, in a folder named like the budget; docs/results, in a submitted job --storage."""
    storage: str | None = None
    """Folder or address of the runs; ./ail_out, in a submitted job ~/ail_out."""
    plan: bool = False
    """Only say which runs, crops and hours it would take."""
    collect: bool = False
    """Run nothing: tables and figures of the runs that have finished so far."""

    def __post_init__(self) -> None:
        known = {"tables": {3, *TABLES}, "figures": set(FIGURES), "scales": {2, 3, 4}}
        found = [
            f"{name} must be among {' '.join(map(str, sorted(there)))}, got {' '.join(map(str, getattr(self, name)))}"
            for name, there in known.items()
            if not set(getattr(self, name)) <= there
        ]
        found += [f"{name} must name at least one" for name in ("scales", "seeds") if not getattr(self, name)]
        found += [f"{name} must not repeat, got {' '.join(map(str, values))}" for name in ("scales", "seeds")
                  if len(set(values := getattr(self, name))) < len(values)]  # fmt: skip
        if self.teacher in ("none", "random"):
            found.append(f"teacher must have weights, got {self.teacher}; the tables include starts without one")
        found += relative_in_job(out=self.out)
        if self.budget not in BUDGETS:
            found.append(f"budget must be one of {', '.join(BUDGETS)}, got {self.budget}")
        if found:
            raise ConfigError(found)
        for experiment in self.experiments():
            self.job(experiment.sweep)  # refuses what a sweep refuses

    @property
    def storage_path(self) -> UPath:
        """Where the runs are."""
        return as_path(self.storage or ("~/ail_out" if IN_JOB else "ail_out"))

    @property
    def out_path(self) -> UPath:
        """Where the tables go."""
        return as_path(self.out or (self.storage_path if IN_JOB else "docs/results")) / self.budget

    def experiments(self) -> list["Experiment"]:
        """The sweeps of all tables and figures, each once."""
        names = [name for table in self.tables if table in TABLES for name in TABLES[table].methods]
        names += [name for figure in self.figures for name in FIGURES[figure]]
        measured = MEASURED[self.budget]
        if self.budget == "smoke" and not available(measured):
            measured = ("sample-val",)
        made = []
        for method in (METHODS[name] for name in dict.fromkeys(names)):
            for scales in [JOINT] if method.together else [(scale,) for scale in self.scales]:
                base = replace(
                    BUDGETS[self.budget](), scales=scales, test=measured, teacher=(self.teacher,),
                    seed=method.seeds(self.seeds),
                )  # fmt: skip
                crop = -(-base.crop // scales[0]) * scales[0] if method.student["network"] == "fsrcnn" else base.crop
                made.append(Experiment(method, replace(base, crop=crop, **{**method.student, **method.condition})))
        return made

    def job(self, sweep: SweepConfig, folder: str = "paper") -> SweepJob:
        """As the sweep's own command would have it, its summary in a folder of the storage path."""
        storage = str(self.storage_path)
        out = str(self.storage_path / folder)
        return SweepJob(
            sweep=sweep, placement=self.placement, max_workers=self.max_workers, local=self.local, out=out,
            storage=storage,
        )  # fmt: skip

    def checked(self, sweep: SweepConfig) -> tuple[SweepJob, dict[int, RunDirectory]]:
        """The job, its summary in a folder named by all that it reads, and where its runs lie, by seed.

        Raises:
            ConfigError: as a sweep does before it starts.
        """
        prepared, weights, start = check(self.job(sweep))
        teachers = {name: weights_digest(path) if path else None for name, path in weights.items()}
        runs = {
            config.seed: RunDirectory(run_path(config, prepared, teachers.get(config.teacher), start))
            for config in sweep.grid()
        }
        return self.job(sweep, f"paper/{digest_of([sweep.rounds, *(run.path.name for run in runs.values())])}"), runs


@dataclass(frozen=True)
class Experiment:
    """A method at a scale, or at several together, over seeds."""

    method: Method
    sweep: SweepConfig


@dataclass(frozen=True)
class Outcome:
    """A finished run as far as a method goes: another may have taken the same run further."""

    directory: str
    records: list[dict[str, Any]]  # of every round
    weights: str

    @property
    def test(self) -> list[dict[str, Any]]:
        """The rows of the last round."""
        return list(self.records[-1]["test"])


Results = dict[tuple[str, int], dict[int, Outcome]]
"""What came of each method and scale, by seed."""


def available(sets: Iterable[str]) -> tuple[str, ...]:
    """Those of some image sets that are here."""
    here = []
    for name in sets:
        with suppress(datasets.DatasetError):
            datasets.find(name)
            here.append(name)
    return tuple(here)


def run(study: Study, command: str, say: Callable[[str], None]) -> Results:
    """Run what is not there yet, all of it at once as far as the cluster holds it.

    Raises:
        ConfigError: before anything has started.
    """
    find_teacher(study.teacher)
    wanted = {_title(experiment): experiment for experiment in study.experiments()}
    checked = {title: study.checked(experiment.sweep) for title, experiment in wanted.items()}
    there = {title: _finished(runs, wanted[title]) for title, (_, runs) in checked.items()}
    for title, (_, runs) in checked.items():
        say(_state(title, runs, there[title]))
    todo = {title: job for title, (job, runs) in checked.items() if len(there[title]) < len(runs)}
    if todo and not study.collect:
        from ail_ray.orchestration.sweep import run_sweeps  # here: with Train, Tune and MLflow it takes seconds to load

        run_sweeps(todo, command=command, say=say)
    results: Results = {}
    for title, experiment in wanted.items():
        finished = _finished(checked[title][1], experiment)
        for scale in experiment.sweep.scales:
            results.setdefault((experiment.method.name, scale), {}).update(finished)
    return results


def _finished(runs: Mapping[int, RunDirectory], experiment: Experiment) -> dict[int, Outcome]:
    """What has come of those runs that are through all rounds."""
    rounds = experiment.sweep.rounds
    finished = {}
    for seed, run in runs.items():
        if run.last_round >= rounds:
            with suppress(FileError):  # a damaged record: the run mends itself when it is run again
                finished[seed] = Outcome(str(run.path), run.records()[: rounds + 1], str(run.student_path(rounds)))
    return finished


def _state(title: str, runs: Mapping[int, RunDirectory], finished: Mapping[int, Outcome]) -> str:
    asked, there = (" ".join(map(str, seeds)) for seeds in (runs, finished))
    return f"{title}, seeds {asked}" + (": there" if asked == there else f": there for {there}" if there else "")


def plan(study: Study, say: Callable[[str], None]) -> None:
    """Say for each sweep what it would cost."""
    for experiment in study.experiments():
        job, runs = study.checked(experiment.sweep)
        finished = _finished(runs, experiment)
        say(f"--- {_state(_title(experiment), runs, finished)}")
        if lacking := tuple(seed for seed in runs if seed not in finished):
            say("\n".join(costs(replace(job, sweep=replace(job.sweep, seed=lacking)))))


def printed() -> dict[tuple[str, str, int], tuple[float, float]]:
    """The paper's PSNR in dB and SSIM, by method, set and scale."""
    text = (files("ail_ray.reporting") / "paper.tsv").read_text()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {(r["method"], r["set"], int(r["scale"])): (float(r["psnr"]), float(r["ssim"])) for r in rows}


def teacher_weights(study: Study, name: str) -> UPath | None:
    """Of a table's full network, if the study's teacher is that."""
    path = find_teacher(study.teacher)
    if path is None or name.lower() not in NETWORKS:
        return None
    model = load_model(path)
    full = (name.lower(), model.full_width, model.full_depth)
    return path if (model.name, model.width, model.depth) == full else None


def _title(experiment: Experiment) -> str:
    return f"{experiment.method.name} ×{','.join(map(str, experiment.sweep.scales))}"
