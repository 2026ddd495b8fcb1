"""The rows of the paper's tables and figures: students, the conditions they train under, and what the paper prints."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from ail_ray.learning.config import Value
from ail_ray.sweeps.controls import from_zeros, is_control

Values = dict[str, Value]

SETS = ("Set5", "Set14", "BSD100", "Urban100")
JOINT = (2, 3, 4)
"""Scales that the paper's baselines are trained for together. Its AIL students, and all others here, have one."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of a table: a student and a condition it is trained under."""

    name: str  # as the paper prints it; those it lacks named alike
    student: Values  # of the configuration
    condition: Values
    control: str | None = None  # the method with w = 1 that trains as many rounds
    together: bool = False  # on the joint scales at once
    every_seed: bool = False  # else only the first

    @property
    def from_zeros(self) -> bool:
        """Whether round 0 trains nothing, so that one more round is needed to train as much as the control."""
        return from_zeros({"teacher": self.condition.get("teacher")})

    @property
    def is_control(self) -> bool:
        """Whether this is plain training itself, as under one schedule too."""
        return is_control({"teacher": None, **self.condition}) and "beta" not in self.condition

    def seeds(self, all: tuple[int, ...]) -> tuple[int, ...]:
        """The seeds, out of those of a study, that the method is run with."""
        return all if self.every_seed else all[:1]


AIL: Values = {"rule": "eq7"}
PLAIN: Values = {"rule": "uniform"}


def _methods(student: str, **values: Value) -> Iterator[Method]:
    """The baseline (Eq. 1), AIL, and the control that the paper lacks."""
    control = f"{student}, w = 1"
    together = values["network"] != "fsrcnn"
    yield Method(name=student, student=values, condition={**PLAIN, "rounds": 0}, together=together)
    yield Method(name=f"{student}+AIL", student=values, condition=AIL, control=control, every_seed=True)
    yield Method(name=control, student=values, condition=PLAIN, every_seed=True)


def _ablations(student: str, **values: Value) -> Iterator[Method]:
    """The conditions of section 5.4, the rule of the authors' code, and two more controls: one keeps the importance of
    round 0, one keeps to a single schedule of the learning rate."""
    control = f"{student}, w = 1"
    conditions: tuple[tuple[str, Values, bool], ...] = (
        ("+AIL+init_0", {**AIL, "teacher": "none"}, False),
        ("+AIL+init_r", {**AIL, "teacher": "random"}, False),
        ("+AIL, reference rule", {"rule": "reference"}, True),
        (", w = w_0", {"rule": "fixed"}, True),
        ("+Distil", {**PLAIN, "beta": 0.1}, False),
        (", w = 1, one schedule", {**PLAIN, "restart": "never"}, True),
    )
    for name, condition, every_seed in conditions:
        yield Method(
            name=f"{student}{name}", student=values, condition=condition, control=control, every_seed=every_seed
        )


VDSR13: Values = {"network": "vdsr", "width": 13}
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *_methods("VDSR-f13", **VDSR13),
        *_ablations("VDSR-f13", **VDSR13),
        *_methods("VDSR-f16", network="vdsr", width=16),
        *_methods("VDSR-f22", network="vdsr", width=22),
        *_methods("VDSR-f32", network="vdsr", width=32),
        *_methods("DRRN-f25", network="drrn", width=25),
        *_methods("FSRCNN", network="fsrcnn", width=56),
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
        "VDSR-f13, w = w_0", "VDSR-f13, w = 1", "VDSR-f13, w = 1, one schedule",
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
"""The tables by number, except for Table 3, which needs no runs."""

FIGURES: dict[int, tuple[str, ...]] = {
    1: (),
    2: (),
    3: ("VDSR-f13+AIL", "VDSR-f13+AIL+init_0", "VDSR-f13+AIL+init_r", "VDSR-f13, w = 1"),
    4: ("VDSR-f13", "VDSR-f13+Distil", "VDSR-f13+AIL", "VDSR-f13, w = 1"),
    9: ("FSRCNN", "FSRCNN+AIL", "FSRCNN, w = 1"),
}
"""The names of the methods that each figure shows."""


def printed() -> dict[tuple[str, str, int], tuple[float, float]]:
    """The paper's PSNR in dB and SSIM, by method, set and scale."""
    text = (files("ail_ray.paper") / "paper.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {(r["method"], r["set"], int(r["scale"])): (float(r["psnr"]), float(r["ssim"])) for r in rows}
