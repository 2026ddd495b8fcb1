"""A study: it plans the runs that some tables and figures need, runs them, and finds those that there are.

Every method is a sweep of its own over seeds. All sweeps run together, in run directories that are named by content. So
a run that two tables need is trained once, and one that is there is not trained again.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import as_path, digest_of
from ail_ray.imaging import image_sets
from ail_ray.learning.config import Plain
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.teachers import find_our_weights
from ail_ray.networks.architectures import NETWORKS
from ail_ray.paper.methods import FIGURES, JOINT, METHODS, SETS, TABLES, Method
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import data_key, run_path
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.sweeps.sweep_job import IN_JOB, SweepJob, check, costs, relative_in_job

MEASURED = {"smoke": SETS[:1], "mini": SETS[:2], "paper": SETS}
"""Test sets of each budget; where they are missing, `smoke` takes bundled photographs."""

SEEDS = {"smoke": (0,), "mini": (0, 1, 2), "paper": (0, 1, 2)}
"""Seeds of each budget, unless others are asked for."""


PAPER: Plain = {
    "train": ("T91", "BSDS200"), "validation": (), "test": SETS, "scales": (2,), "downsizes": (1.0, 0.7, 0.5),
    "network": "vdsr", "depth": None, "mu0": 0.01, "alpha0": 100.0, "error_unit": "squared", "error_factor": 1.0,
    "rounds": 10, "epochs": 50, "crops": None, "crop": 41, "batch": 128, "optimizer": "sgd", "learning_rate": 0.1,
    "schedule": "step", "restart": "round", "weight_decay": 1e-4, "clip": 0.4, "shards": 16, "precision": "auto",
    "init": "he", "init_noise": 0.25, "beta": 0.0, "start": None, "lam": 0.15, "rule": "eq7",
    "degrade": "", "copies": 1, "degrade_seed": 0, "train_lr": (), "validation_lr": (), "test_lr": (),
    "loss": "squared",
}  # fmt: skip
"""The paper's budget with all its values, so that recorded runs are found whatever becomes of the presets."""

MINI = PAPER | {
    "validation": ("BSDS200-val",), "epochs": 2, "crops": 18_000, "batch": 16, "optimizer": "adam",
    "learning_rate": 3e-3, "schedule": "cosine", "weight_decay": 0.0,
}  # fmt: skip
"""A budget of hours on CPUs."""

SMOKE = MINI | {
    "train": ("sample",), "validation": (), "downsizes": (0.5,), "shards": 4, "rounds": 1, "epochs": 1, "crops": 64,
}  # fmt: skip
"""A budget of seconds on bundled photographs, which shows that everything runs; its numbers mean nothing."""

BUDGETS = {"smoke": SMOKE, "mini": MINI, "paper": PAPER}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Tables and figures to make, at what budget, and where."""

    tables: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Numbers of the paper's tables to make."""
    figures: tuple[int, ...] = ()
    """Numbers of the paper's figures to make: 1, 2, 3, 4 or 9."""
    budget: str = "smoke"
    """`smoke` takes minutes and shows that everything runs; `mini` takes hours on CPUs; `paper` is the paper's own
    budget, for GPUs."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Super-resolution factors. Every method has one run for each; the paper's baselines are trained for 2, 3 and 4
    together."""
    seeds: tuple[int, ...] | None = None
    """Seeds for AIL, for the authors' rule and for the controls; all other methods are trained with the first one only.
    By default 0 1 2, and 0 at the budget `smoke`."""
    teacher: str = "vdsr"
    """Network whose errors decide the importance of round 0 for all students: `vdsr`, the name of a file in
    $AIL_TEACHER_DIR, or a path."""
    placement: Placement = field(default_factory=Placement)
    max_workers: int | None = None
    """Train workers that the cluster can grow to, all runs together; by default as many as have CPUs or GPUs now."""
    local: bool = False
    """Train one run after the other in this process, without Ray."""
    out: str | None = None
    """Folder in which a folder named like the budget is made for tables and figures; by default docs/results, and in a
    submitted job --storage."""
    storage: str | None = None
    """Folder or address of the runs; by default ./ail_out, and ~/ail_out in a submitted job."""
    plan: bool = False
    """Start nothing, and say which runs, crops and hours it would take."""
    collect: bool = False
    """Start nothing, and make tables and figures of the runs that have finished so far."""

    def __post_init__(self) -> None:
        known = {"tables": {3, *TABLES}, "figures": set(FIGURES), "scales": {2, 3, 4}}
        found = [
            f"{name} must be among {' '.join(map(str, sorted(there)))}, got {' '.join(map(str, getattr(self, name)))}"
            for name, there in known.items()
            if not set(getattr(self, name)) <= there
        ]
        if not self.tables and not self.figures:
            found.append("tables or figures must name at least one")
        several = {"scales": self.scales} | ({} if self.seeds is None else {"seeds": self.seeds})
        found += [f"{name} must name at least one" for name, values in several.items() if not values]
        found += [f"{name} must not repeat, got {' '.join(map(str, values))}" for name, values in several.items()
                  if len(set(values)) < len(values)]  # fmt: skip
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
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that were given, or those of the budget."""
        return SEEDS[self.budget] if self.seeds is None else self.seeds

    @property
    def storage_path(self) -> UPath:
        """The folder of the runs."""
        return as_path(self.storage or ("~/ail_out" if IN_JOB else "ail_out"))

    @property
    def out_path(self) -> UPath:
        """The folder that the tables are written to."""
        return as_path(self.out or (self.storage_path if IN_JOB else "docs/results")) / self.budget

    def experiments(self) -> list["Experiment"]:
        """The sweeps of all tables and figures, each once."""
        names = [name for table in self.tables if table in TABLES for name in TABLES[table].methods]
        names += [name for figure in self.figures for name in FIGURES[figure]]
        return [
            Experiment(method, self._sweep(method, scales))
            for method in (METHODS[name] for name in dict.fromkeys(names))
            for scales in ([JOINT] if method.together else [(scale,) for scale in self.scales])
        ]

    def _sweep(self, method: Method, scales: tuple[int, ...]) -> SweepConfig:
        """The sweep of a method at the study's budget, with as many crops of each scale as the others."""
        base, measured = BUDGETS[self.budget], MEASURED[self.budget]
        if self.budget == "smoke" and not available(measured):
            measured = ("sample-val",)
        values = {**method.student, **method.condition}
        if method.from_zeros:
            values["rounds"] = base["rounds"] + 1
        if method.student["network"] == "fsrcnn":
            values["crop"] = -(-base["crop"] // scales[0]) * scales[0]
        return SweepConfig.of(**base | {"teacher": self.teacher, **values} | {
            "scales": scales, "test": measured, "seed": method.seeds(self.all_seeds),
            "crops": base["crops"] and base["crops"] * len(scales),
        })  # fmt: skip

    def job(self, sweep: SweepConfig, folder: str = "paper") -> SweepJob:
        """The job of a sweep, as its own command would make it, with its summary in a folder of the storage path."""
        storage = str(self.storage_path)
        out = str(self.storage_path / folder)
        return SweepJob(
            sweep=sweep, placement=self.placement, max_workers=self.max_workers, local=self.local, out=out,
            storage=storage,
        )  # fmt: skip

    def checked(self, sweep: SweepConfig) -> tuple[SweepJob, dict[int, RunDirectory]]:
        """The job, with its summary in a folder named by all that it reads, and its run directories by seed.

        Raises:
            ConfigError: for what a sweep refuses before it starts.
        """
        job = self.job(sweep)
        inputs = check(replace(job, out=job.storage) if self.collect else job)  # makes its folders
        teachers = {name: teacher.digest if teacher else None for name, teacher in inputs.teachers.items()}
        runs = {
            config.seed: RunDirectory(
                run_path(config, inputs.prepared[data_key(config)].data, teachers.get(config.teacher), None)
            )
            for config in sweep.grid()
        }
        return self.job(
            sweep, f"paper/{digest_of([sweep.base.rounds, *(run.path.name for run in runs.values())])}"
        ), runs


@dataclass(frozen=True)
class Experiment:
    """A method at a scale, or at several together, over seeds."""

    method: Method
    sweep: SweepConfig


Results = dict[tuple[str, int], dict[int, Trial]]
"""The finished trials of each method and scale, by seed; of a run that another method has extended the rounds asked."""


def available(sets: Iterable[str]) -> tuple[str, ...]:
    """Those of these image sets that are on this machine."""
    here = []
    for name in sets:
        with suppress(image_sets.DatasetError):
            image_sets.find(name)
            here.append(name)
    return tuple(here)


def run(study: Study, command: str, say: Callable[[str], None], run_sweeps: Callable[..., object]) -> Results:
    """Run what is not there yet, as much of it at once as the cluster has room for.

    Args:
        run_sweeps: runs sweeps that are given by their names, as `ail_ray.commands.sweep.run_sweeps`.

    Raises:
        ConfigError: something is wrong; nothing has been started then.
    """
    find_our_weights(study.teacher)
    wanted = {_title(experiment): experiment for experiment in study.experiments()}
    checked = {title: study.checked(experiment.sweep) for title, experiment in wanted.items()}
    there = {title: _finished(runs, wanted[title]) for title, (_, runs) in checked.items()}
    for title, (_, runs) in checked.items():
        say(_state(title, runs, there[title]))
    todo = {title: job for title, (job, runs) in checked.items() if len(there[title]) < len(runs)}
    if todo and not study.collect:
        run_sweeps(todo, command=command, say=say)
    results: Results = {}
    for title, experiment in wanted.items():
        finished = _finished(checked[title][1], experiment)
        for scale in experiment.sweep.base.scales:
            results.setdefault((experiment.method.name, scale), {}).update(finished)
    return results


def _finished(runs: Mapping[int, RunDirectory], experiment: Experiment) -> dict[int, Trial]:
    """The runs that have finished all their rounds; a damaged one mends itself when it is run again."""
    found = {seed: read_trial(run.path, experiment.sweep.base.rounds) for seed, run in runs.items()}
    return {seed: trial for seed, trial in found.items() if trial.status == "finished"}


def _state(title: str, runs: Mapping[int, RunDirectory], finished: Mapping[int, Trial]) -> str:
    asked, there = (" ".join(map(str, seeds)) for seeds in (runs, finished))
    return f"{title}, seeds {asked}" + (": there" if asked == there else f": there for {there}" if there else "")


def plan(study: Study, say: Callable[[str], None]) -> None:
    """Say what each sweep would cost."""
    for experiment in study.experiments():
        job, runs = study.checked(experiment.sweep)
        finished = _finished(runs, experiment)
        say(f"--- {_state(_title(experiment), runs, finished)}")
        if lacking := tuple(seed for seed in runs if seed not in finished):
            say("\n".join(costs(replace(job, sweep=job.sweep.where(seed=lacking)))))


def teacher_weights(study: Study, name: str) -> UPath | None:
    """The weights of a table's full network, if that is the study's teacher."""
    found = find_our_weights(study.teacher)
    if found is None or name.lower() not in NETWORKS:
        return None
    model = found.model()
    full = NETWORKS[name.lower()]
    made = (model.made.network, model.made.width, model.made.depth)
    return found.path if made == (full.name, full.full_width, full.full_depth) else None


def _title(experiment: Experiment) -> str:
    return f"{experiment.method.name} ×{','.join(map(str, experiment.sweep.base.scales))}"
