"""The configuration of one AIL run: a frozen dataclass that refuses bad values when it is made.

It has a value for everything that a run depends on; the defaults are the paper's (section 5.3 with its slips mended).
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from ail_ray.errors import ConfigError
from ail_ray.files import digest_of
from ail_ray.imaging.recipes import Recipe, RecipeError
from ail_ray.learning.importance import MU0, Arguments, ErrorUnit
from ail_ray.learning.precision import Precision
from ail_ray.learning.rules import READABLE, recipe_of
from ail_ray.learning.validity import problems_of
from ail_ray.networks.architectures import NETWORKS, Network, start_from_identity
from ail_ray.networks.building import build_model, resolved_width, traits_of
from ail_ray.networks.code import Code

Plain = dict[str, Any]
"""A configuration as plain data, such as JSON has: its fields by name."""
Value = str | int | float | None
"""A value of a run's configuration as people compare it; a tuple of words is one text."""

OFF: dict[str, Any] = {
    "restart": "round", "beta": 0.0, "start": None, "init": "he", "init_noise": 0.25,
    "loss": "squared", "arguments": (), "degrade": "", "copies": 1, "degrade_seed": 0,
    "train_lr": (), "validation_lr": (), "test_lr": (),
}  # fmt: skip
"""Fields that were added later, with the value that runs had before: a digest names only what differs from it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One AIL run: its data, budget, student, importance and optimisation."""

    train: tuple[str, ...] = ("T91", "BSDS200")
    """Sets to train on: folders in $AIL_DATA_DIR, paths, addresses; `sample` is bundled, 'clips/**' enters folders."""
    validation: tuple[str, ...] = ("BSDS200-val",)
    """Sets on which trials are compared. Images that are in them are left out of training."""
    test: tuple[str, ...] = ("Set5", "Set14")
    """Sets that are measured after every round, and never used to choose anything."""
    train_lr: tuple[str, ...] = ()
    """The small pictures of --train, one folder for each of its sets, instead of such that are made here. They are
    matched by name, `0801x2.png` with `0801.png`."""
    validation_lr: tuple[str, ...] = ()
    """The small pictures of --validation."""
    test_lr: tuple[str, ...] = ()
    """The small pictures of --test."""
    scales: tuple[int, ...] = (2,)
    """Super-resolution factors (2, 3 or 4). One student is trained for all of them together. With --degrade also 1, at
    which students restore pictures."""
    downsizes: tuple[float, ...] = (1.0, 0.7, 0.5)
    """Factors in (0, 1]. Every training image is used once at each of these fractions of its size."""
    degrade: str = ""
    """How small pictures are made of large ones instead of by bicubic downsizing, such as
    `blur=0.2..1.5,noise=0..10,jpeg=40..95`: steps in their order, each drawn from its range. There are `blur` and
    `aniso` (sigma in pixels), `down` (`bicubic`, `bilinear` or `area`), `noise` and `poisson` (sigma in grey levels of
    255), `jpeg` (quality), and `luma`, from which on there is no colour. Or a .yaml or .json file that has them as
    `blur: [0.2, 1.5]`. Sets that are measured are degraded alike."""
    copies: int = 1
    """With --degrade: how many times every training image is drawn."""
    degrade_seed: int = 0
    """With --degrade: seed of the draws. Runs of all --seed share them."""
    network: str = "vdsr"
    """Architecture of the student: `vdsr`, `drrn`, `fsrcnn` or `abpn`, which enlarge by themselves and serve one scale
    only, or one of your own, as `file.py:Name` or `package.module:Name`."""
    depth: int | None = None
    """Number of convolutions that an image passes through; by default 20 for vdsr, 52 for drrn, 8 for fsrcnn and
    7 for abpn. Networks of your own get it if they take a `depth`."""
    mu0: float | None = MU0
    """Eq. 8: error of the teacher, on luma in [0, 1], around which the importance of round 0 falls. With --degrade or
    --train-lr, if it is not given, it is the median of that teacher's errors in the first shard."""
    alpha0: float = 100.0
    """Eq. 8: how steeply the importance of round 0 falls as the teacher's error grows."""
    error_unit: ErrorUnit = "squared"
    """Eqs. 6 and 7: whether the student's error d is the squared or the absolute difference, on luma in [0, 1], or the
    loss of it; by default what the loss is."""
    error_factor: float = 1.0
    """Eqs. 6 and 7: factor for d. With `squared`, 65025 makes it the error in squared grey levels."""
    rounds: int = 10
    """Number of rounds after round 0. A finished run is extended by asking for more of them."""
    epochs: int = 50
    """Epochs in every round."""
    crops: int | None = None
    """Crops in every epoch; by default as many as have the pixels of all training pairs."""
    crop: int = 41
    """Side of a training crop in pixels."""
    batch: int = 128
    """Crops in every step, over all workers together."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """`sgd` has a momentum of 0.9."""
    learning_rate: float = 0.1
    """Highest learning rate of a schedule."""
    schedule: Literal["step", "cosine"] = "step"
    """`step` divides the rate by ten after every fifth; `cosine` raises it over the first 3 % and lowers it to 0."""
    restart: Literal["round", "never"] = "round"
    """`round` begins the schedule and the optimizer anew in every round; `never` has one schedule over all rounds."""
    weight_decay: float = 1e-4
    """Factor of the L2 penalty on the weights."""
    clip: float = 0.4
    """Largest norm that the gradient of the summed loss may have; a larger one is scaled down."""
    shards: int = 16
    """Number of parts that images and importance are stored in. Unlike the number of workers, it changes the result."""
    precision: Literal["auto"] | Precision = "auto"
    """Arithmetic of training. `auto` is bf16 (by autocast) where the device accelerates that, and fp32 elsewhere."""
    init: Literal["he", "identity"] = "he"
    """First weights of the student. `he` draws all of them (He et al. 2015). With `identity`, every layer with as many
    maps out as in begins by passing its input on; such students train faster, and few of them fail to learn."""
    init_noise: float = 0.25
    """With --init identity: factor of the random weights (He et al. 2015) that are added to the identity."""
    beta: float = 0.0
    """Distillation (Eq. 10): weight of the loss of (teacher - student), 0.1 in the paper; for --rule uniform only."""
    start: str | None = None
    """Weights (.safetensors) from which the student starts, instead of fresh ones."""
    loss: str = "squared"
    """Loss of the weighed difference, summed (Eq. 4): `squared` as in the paper, `absolute`, `huber`, `charbonnier`, or
    one of your own as `file.py:name`. Parameters of a loss are given as --loss.delta."""
    arguments: Arguments = ()
    """Parameters of rule and loss by their names, such as `rule.gamma`; those that are left out have their defaults."""

    rho: float = 0.8
    """Share of the filters, in [0, 1), that every layer of the student lacks: at 0.8 it has 13 of VDSR's 64."""
    width: int | None = None
    """Number of feature maps in every layer, instead of --rho. Networks of your own get it if they take a `width`."""
    lam: float = 0.15
    """Lambda of Eq. 7: the most by which the importance of a pixel rises in one round."""
    teacher: str = "vdsr"
    """Whose errors decide the importance of round 0: `vdsr` (comes with the program), the name of a file in
    $AIL_TEACHER_DIR, the path of weights (.safetensors) or of a folder of pictures, or code of your own as
    `file.py:name`. `none` starts with importance 0 everywhere, `random` with random importance."""
    rule: str = "eq7"
    """How the importance changes from round to round: `eq7` as in the paper, `reference` as in the authors' code, or
    one of your own as `file.py:name`, with parameters as --rule.gamma. `fixed` keeps the importance of round 0.
    `uniform` keeps importance 1 everywhere: plain training, the control."""
    seed: int = 0
    """Seed for the draws of weights, crops and random importance."""

    def __post_init__(self) -> None:
        with suppress(RecipeError):  # as `problems` says
            object.__setattr__(self, "degrade", str(Recipe.of(self.degrade)))  # in one way only
        found = self.problems()
        if found:
            raise ConfigError(found)

    @property
    def scale(self) -> int | None:
        """The one scale of the run, which a network is told that enlarges by itself; None if there are several."""
        return self.scales[0] if len(self.scales) == 1 else None

    @property
    def known_mu0(self) -> float:
        """`mu0` as a number: a trial whose `mu0` follows its teacher is given it when it is planned."""
        if self.mu0 is None:
            raise ValueError("mu0 follows the teacher's errors, which nobody has looked at yet")
        return self.mu0

    @property
    def upsampling(self) -> int:
        """The factor by which the network itself enlarges its input."""
        if self.network in NETWORKS:
            return (self.scale or 1) if NETWORKS[self.network].upsamples else 1
        return traits_of(self.network, self.width, self.rho, self.depth, self.scale).upsampling

    def of(self, kind: str) -> Arguments:
        """The parameters of the `rule` or of the `loss` by their own names."""
        return tuple((name.partition(".")[2], value) for name, value in self.arguments if name.startswith(f"{kind}."))

    def problems(self) -> list[str]:
        """A line for everything that is wrong with the values."""
        return problems_of(self)

    @property
    def student_width(self) -> int | None:
        """Number of feature maps in every layer; None for a network from outside that was given none."""
        return resolved_width(self.network, width=self.width, rho=self.rho)

    @property
    def student_depth(self) -> int | None:
        """Number of convolutions that an image passes through; None for a network from outside that was given none."""
        return self.depth or (NETWORKS[self.network].full_depth if self.network in NETWORKS else None)

    def student(self) -> Network:
        """The student with fresh weights, drawn from torch's global generator."""
        student = build_model(self.network, width=self.width, rho=self.rho, depth=self.depth, scale=self.scale)
        if self.init == "identity":
            start_from_identity(student, self.init_noise)
        return student

    def drawn(self, attempt: int = 0) -> Network:
        """The student with its first weights, drawn from the run's seed, or from seed and attempt where others died."""
        words = np.random.SeedSequence([self.seed, attempt]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) if attempt else self.seed)
        return self.student()

    @property
    def redraws(self) -> bool:
        """Whether a student that dies in its first training is drawn again. With `he` none is, as in recorded runs."""
        return self.init == "identity" and self.start is None

    @property
    def unweighed(self) -> bool:
        """Whether importance is 1 everywhere in all rounds."""
        return self.rule == "uniform"

    @property
    def initialisation(self) -> Literal["ones", "zeros", "random", "teacher", "rule"]:
        """Where the importance of round 0 comes from."""
        if recipe_of(self.rule).start:
            return "rule"
        if "teacher" not in recipe_of(self.rule).reads:
            return "ones"
        return {"none": "zeros", "random": "random"}.get(self.teacher, "teacher")  # type: ignore[return-value]

    @property
    def reads(self) -> frozenset[str]:
        """What the run reads of λ, teacher and the constants of Eqs. 6 to 8, for its rule or for distillation."""
        return recipe_of(self.rule).reads | ({"teacher"} if self.beta > 0 else set())

    @property
    def first_trained(self) -> int:
        """The first round whose θ-subproblem trains: 0, or 1 where all importance is 0 before."""
        return int(self.initialisation == "zeros")

    @property
    def trained_rounds(self) -> int:
        """How many rounds train."""
        return self.rounds + 1 - self.first_trained

    @property
    def error_passes(self) -> int:
        """How often the student runs over the corpus: before every round but the first, if its rule needs errors."""
        return self.rounds if recipe_of(self.rule).needs_error else 0

    @property
    def settles(self) -> bool:
        """Whether a pixel whose importance is 1 keeps it, so that no error of it is needed."""
        return recipe_of(self.rule).settles

    @property
    def content(self) -> Plain:
        """All that makes the run what it is, except for images and weights, which are known by what is in them.

        The number of rounds is left out, so that a finished run can be extended, unless one schedule spans them all;
        so are λ, teacher and the constants of Eqs. 6 to 8 where the run does not read them.
        """
        content = described(self) | {
            "initialisation": self.initialisation, "width": self.student_width, "depth": self.student_depth,
        }  # fmt: skip
        left_out = {"rho", *(READABLE - self.reads)}
        left_out |= {f"{role}{side}" for role in ("train", "validation", "test") for side in ("", "_lr")}
        left_out |= {"init", "init_noise"} if self.start is not None else set()  # then no weights are drawn
        left_out |= {"rounds"} if self.restart == "round" else set()
        return {name: value for name, value in content.items() if name not in left_out}

    def digest(self, *, corpus: str, evaluation: list[str], teacher: str | None, start: str | None = None) -> str:
        """Name of the run: its `content`, with digests of the corpus, of evaluation images, of the weights read."""
        read = {"corpus": corpus, "evaluation": evaluation}
        read |= {"teacher": teacher} if "teacher" in self.reads else {}  # type: ignore[dict-item]
        read |= {"start": start} if self.start is not None else {}  # type: ignore[dict-item]
        return digest_of(self.content | read)


def described(config: RunConfig) -> Plain:
    """A configuration as plain data, without the conditions that are off."""
    values = {name: value for name, value in asdict(config).items() if name not in OFF or value != OFF[name]}
    return {name: str(value) if isinstance(value, Code) else value for name, value in values.items()}


def named_only(config: RunConfig) -> RunConfig:
    """The configuration as records have it: with the names of code from outside, and not the code."""
    c = config
    return replace(c, network=str(c.network), rule=str(c.rule), loss=str(c.loss), teacher=str(c.teacher))
