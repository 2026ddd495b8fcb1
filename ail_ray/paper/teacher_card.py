"""A teacher to give to others: weights in half precision, and a card that says where they come from."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from upath import UPath

from ail_ray.delivery.evaluate import benchmark
from ail_ray.errors import ConfigError, counted
from ail_ray.files import AnyPath, as_path, write_bytes
from ail_ray.learning.presets import mini
from ail_ray.learning.teachers import Weights, find_teacher
from ail_ray.learning.weights import load_model, save_model
from ail_ray.machine import machine
from ail_ray.paper.methods import SETS
from ail_ray.paper.study import available
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.sweep_job import SweepJob, relative_in_job


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What to train, for how long, and where it goes."""

    network: str = "vdsr"
    """Architecture: `vdsr`, `drrn`, or `fsrcnn` or `abpn`, which take one scale and a crop that is a multiple of it."""
    width: int | None = None
    """Number of feature maps in every layer; by default 64 for vdsr, 128 for drrn, 56 for fsrcnn
    and 28 for abpn."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Super-resolution factors that it is trained for, together."""
    train: tuple[str, ...] = ("T91", "BSDS200")
    """Sets to train on: names of folders in $AIL_DATA_DIR, paths or addresses of folders."""
    degrade: str = ""
    """How small pictures are made of large ones, if not by bicubic downsizing: the recipe of the students' sweep, such
    as `noise=25`."""
    copies: int = 1
    """With --degrade: how many times every training image is drawn."""
    degrade_seed: int = 0
    """With --degrade: seed of the draws."""
    epochs: int = 20
    """Number of epochs, over which the learning rate follows one schedule."""
    crops: int = 36_000
    """Crops in every epoch."""
    crop: int = 41
    """Side of a training crop in pixels."""
    batch: int = 16
    """Crops in every step, over all workers together."""
    learning_rate: float = 2e-3
    """Highest learning rate of Adam, which is reached after a warm-up and falls to zero along a cosine."""
    start: str | None = None
    """Weights (.safetensors), such as an earlier teacher's, from which it starts instead of fresh ones."""
    teacher: str | None = None
    """Network whose errors decide, once for the whole training, how much every pixel counts (Eq. 8, rule `fixed`): a
    name or a path, such as that of the earlier teacher. Without it all pixels count alike."""
    mu0: float = 0.03
    """With --teacher: error of that network, on luma in [0, 1], around which the importance falls."""
    alpha0: float = 50.0
    """With --teacher: how steeply the importance falls as that error grows."""
    seed: int = 0
    """Seed for the draws of weights and crops."""
    placement: Placement = field(default_factory=Placement)
    max_workers: int | None = None
    """Train workers that the cluster can grow to; by default as many as have CPUs or GPUs now."""
    local: bool = False
    """Train in this process, without Ray."""
    out: str | None = None
    """Folder of the run; by default ./ail_out, and ~/ail_out in a submitted job."""
    to: str | None = None
    """File for the weights, beside which the card is written; by default teacher.safetensors in --out."""

    def __post_init__(self) -> None:
        config = self.job().sweep.base  # refuses what a sweep refuses
        problems = relative_in_job(to=self.to)
        if self.teacher is None and (self.mu0, self.alpha0) != (Teacher.mu0, Teacher.alpha0):
            problems.append("mu0 and alpha0 go with --teacher")
        if self.teacher == "random":
            problems.append("teacher must have weights, got random")
        teacher = find_teacher(config.teacher, config.scales, [config.network]) if self.teacher else None
        read = {
            "start": as_path(self.start) if self.start else None,
            "teacher": teacher.path if isinstance(teacher, Weights) else None,
        }
        for name, path in read.items():
            if path == self.to_path:
                problems.append(f"to is {path}, which {name} is read from: name another with --to")
        if problems:
            raise ConfigError(problems)

    @property
    def to_path(self) -> UPath:
        """The file that the weights are written to."""
        return as_path(self.to) if self.to else self.job().out_path / "teacher.safetensors"

    def job(self) -> SweepJob:
        """The sweep of one trial that trains the teacher."""
        names = (
            "degrade",
            "copies",
            "degrade_seed",
            "network",
            "scales",
            "train",
            "epochs",
            "crops",
            "crop",
            "batch",
            "learning_rate",
            "start",
        )
        values = {name: getattr(self, name) for name in names} | {"seed": self.seed}
        values |= {"width": self.width} if self.width is not None else {"rho": 0.0}
        if self.teacher is not None:
            values |= {"rule": "fixed", "teacher": self.teacher, "mu0": self.mu0, "alpha0": self.alpha0}
        else:
            values["rule"] = "uniform"
        # The commands of the shipped teacher's card are older than the other start.
        sweep = mini().where(**values, validation=(), test=(), rounds=0, init="he")
        return SweepJob(
            sweep=sweep, placement=self.placement, max_workers=self.max_workers, local=self.local, out=self.out
        )


def publish(trial: Trial, to: AnyPath, command: str) -> str:
    """Write the student of a finished trial of `summary.json` in float16, and its card; returns the card.

    PSNR and SSIM on the card are those of the rounded weights, computed in float32.
    """
    to, model = as_path(to), load_model(trial.weights or "")
    save_model(to, model.half(), {"run": trial.run})
    config, here = RunDirectory(trial.path).manifest().config, machine()
    start = f", going on from {as_path(config.start).name}" if config.start else ""
    weights = "plainly (w = 1)"
    if config.rule == "fixed":
        names = as_path(config.teacher).name, config.mu0, config.alpha0
        weights = "with the importance of {}'s errors (Eq. 8, μ0 = {:g}, α0 = {:g})".format(*names)
    drawn = f"`{config.degrade}` (seed {config.degrade_seed}, {config.copies} of each)"
    degraded = f" Small pictures are made by {drawn}, those that it is measured on too." if config.degrade else ""
    lines = [
        f"# {to.stem}", "",
        f"A {model.made.network} of width {model.made.width} and depth {model.made.depth}, trained {weights} on scales "
        f"{', '.join(map(str, config.scales))} of {', '.join(config.train)}, seed {config.seed}{start}: "
        f"{counted(config.epochs, 'epoch')} of {config.crops} crops of {config.crop}×{config.crop}, "
        f"{config.optimizer} {config.learning_rate:g}, batch {config.batch}.{degraded}", "",
        f"`{command}`, commit {here['commit']}, {datetime.now(UTC):%Y-%m-%d}, {here['processor']}. "
        f"{to.stat().st_size / 1e6:.2f} MB in half precision.", "",
        "| set | PSNR, dB | SSIM |", "|---|---|---|",
    ]  # fmt: skip
    scales = [model.traits.upsampling] if model.traits.upsampling > 1 else config.scales
    for row in benchmark(
        str(to), available(SETS) or ["sample-val"], scales, precision="fp32", device="cpu", recipe=config.degrade,
        seed=config.degrade_seed, say=lambda line: None,
    ):  # fmt: skip
        lines.append(f"| {row.where} | {row.psnr:.2f} | {row.ssim:.4f} |")
    card = "\n".join(lines) + "\n"
    write_bytes(to.with_suffix(".md"), card.encode())
    return card
