"""Losses: their formulas and slopes, what they declare, Eq. 4's weight inside them, losses of one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import tiny

from ail_ray.errors import ConfigError
from ail_ray.imaging.bank import Crops
from ail_ray.learning.config import RunConfig
from ail_ray.learning.importance import pixel_loss
from ail_ray.learning.losses import LOSSES, bound, loss_traits, problems_of
from ail_ray.learning.presets import preset
from ail_ray.learning.rules import next_importance
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.theta import weighted_loss
from ail_ray.networks.code import resolve

RESIDUALS = torch.tensor([-0.5, -0.02, -0.001, 0.0, 0.005, 0.3], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "arguments", "values", "slopes"),
    [
        ("squared", (), RESIDUALS**2, 2 * RESIDUALS),
        ("absolute", (), RESIDUALS.abs(), RESIDUALS.sign()),
        (
            "huber", (("delta", 0.02),), [0.49, 0.01, 0.000025, 0, 0.000625, 0.29], [-1, -1, -0.05, 0, 0.25, 1],
        ),
        (
            "charbonnier", (("delta", 0.01),),
            (RESIDUALS**2 + 1e-4).sqrt() - 0.01, RESIDUALS / (RESIDUALS**2 + 1e-4).sqrt(),
        ),
    ],
)  # fmt: skip
def test_a_loss_is_its_formula(name: str, arguments: tuple, values: object, slopes: object) -> None:
    loss = bound(name, arguments)(RESIDUALS)
    torch.testing.assert_close(loss, torch.as_tensor(values, dtype=torch.float64), rtol=1e-12, atol=1e-15)
    (slope,) = torch.autograd.grad(loss.sum(), RESIDUALS)
    torch.testing.assert_close(slope, torch.as_tensor(slopes, dtype=torch.float64), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_even_smallest_at_0_and_grows(name: str) -> None:
    assert problems_of(name, ()) == []
    loss = bound(name, ())
    residuals = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(loss(residuals), loss(-residuals), rtol=0, atol=0)
    assert loss(residuals)[0] == 0
    assert torch.all(loss(residuals).diff() > 0)


@pytest.mark.parametrize("name", LOSSES)
def test_the_importance_is_on_the_residual_and_0_weighs_nothing(name: str) -> None:
    class Twice(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * inputs

    generator = torch.Generator().manual_seed(0)
    inputs, w = (torch.rand(2, 1, 8, 8, generator=generator) for _ in range(2))
    hr = torch.randint(0, 256, (2, 1, 8, 8), generator=generator, dtype=torch.uint8)
    crops = Crops(inputs=inputs, hr=hr, importance=w, outputs=None)
    loss, squared_error = weighted_loss(Twice(), crops, "fp64", loss_of=bound(name, ()))  # type: ignore[arg-type]
    residual = hr.double() / 255 - 2 * inputs.double()
    torch.testing.assert_close(loss, bound(name, ())(w.double() * residual).sum())
    torch.testing.assert_close(squared_error, residual.square().sum())
    nothing = Crops(inputs=inputs, hr=hr, importance=torch.zeros_like(w), outputs=None)
    assert weighted_loss(Twice(), nothing, "fp64", loss_of=bound(name, ()))[0] == 0  # type: ignore[arg-type]
    taught = Crops(inputs=inputs, hr=hr, importance=w, outputs=inputs)
    distilled, _ = weighted_loss(Twice(), taught, "fp64", 0.1, bound(name, ()))  # type: ignore[arg-type]
    torch.testing.assert_close(distilled, loss + 0.1 * bound(name, ())(-inputs.double()).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_d_is_the_loss_in_its_own_unit(name: str) -> None:
    run = preset("mini").where(loss=name).base
    assert run.error_unit == {"squared": "squared", "absolute": "absolute"}.get(name, "loss")
    error = np.linspace(0, 1, 33, dtype=np.float16)
    d = pixel_loss(error, run.error_unit, 1.0, run.loss, run.of("loss"))
    expected = bound(name, ())(torch.from_numpy(error.astype(np.float32))).numpy()
    np.testing.assert_array_equal(d, expected)
    before = np.full(33, 0.25, np.float16)
    after = next_importance(
        "eq7", before, error, lam=0.15, unit=run.error_unit, loss=run.loss, loss_arguments=run.of("loss")
    )
    np.testing.assert_array_equal(after, (0.25 + np.float32(0.15) * np.exp(-expected)).astype(np.float16))
    given = preset("mini").where(loss=name, error_unit="absolute").base
    assert given.error_unit == "absolute"


def test_a_given_value_wins_then_the_loss_then_the_network_then_the_preset(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "from ail_ray.learning.losses import loss\n"
        "class Net(nn.Conv2d):\n"
        "    defaults = {'crop': 24, 'clip': 0.9, 'learning_rate': 0.01, 'weight_decay': 0.5}\n"
        "    def __init__(self): super().__init__(1, 1, 3, padding=1)\n"
        "@loss(clip=7.0, rate=0.1, batch=4)\n"
        "def mine(residual): return residual.square()\n"
    )
    net, mine = f"{tmp_path}/own.py:Net", f"{tmp_path}/own.py:mine"
    mini = preset("mini")

    def values(sweep: SweepConfig) -> tuple[object, ...]:
        run = sweep.base
        return run.crop, run.clip, run.learning_rate, run.weight_decay, run.batch, run.epochs

    assert values(mini) == (41, 0.4, 3e-3, 0.0, 16, 2)
    assert values(mini.where(network=net)) == (24, 0.9, 0.01, 0.5, 16, 2)
    assert values(mini.where(loss=mine)) == (41, 7.0, pytest.approx(3e-4), 0.0, 4, 2)
    assert values(mini.where(network=net, loss=mine)) == (24, 7.0, pytest.approx(1e-3), 0.5, 4, 2)
    given = mini.where(network=net, loss=mine, clip=0.1, learning_rate=0.5, batch=8, crop=32, weight_decay=0.1)
    assert values(given) == (32, 0.1, 0.5, 0.1, 8, 2)
    several = mini.where(loss=("squared", mine), rule="uniform", learning_rate=(0.1, 0.2))
    assert [(run.clip, run.learning_rate) for run in several.grid()] == [(0.4, 0.1), (7, 0.1), (0.4, 0.2), (7, 0.2)]


def test_the_loss_is_in_the_name_of_a_run() -> None:
    def digest(config: RunConfig) -> str:
        return config.digest(corpus="c", evaluation=[], teacher="t")

    names = {digest(tiny(loss=name)) for name in LOSSES}
    names.add(digest(tiny(loss="huber", arguments=(("loss.delta", 0.5),))))
    assert len(names) == len(LOSSES) + 1
    assert digest(tiny(loss="squared")) == digest(tiny())
    assert loss_traits(LOSSES["squared"]).rate == 1


def test_a_loss_of_ones_own_is_tried_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def sums(residual): return residual.sum()\n"
        "def falls(residual): return -residual.abs()\n"
        "def looks_aside(residual): return (residual - residual.mean()).square()\n"
        "def root(residual): return residual.abs().sqrt()\n"
        "def fails(residual): return residual.nothing\n"
        "def good(residual, *, power: float = 1.5): return residual.abs() ** power\n"
    )

    def said(name: str) -> list[str]:
        return [line.partition(": ")[2] for line in problems_of(resolve(f"{tmp_path}/own.py:{name}", "loss"), ())]

    assert said("sums") == ["makes [] of [1, 5]; needed is a value for every residual"]
    assert said("falls") == said("root") == ["it and its slope must be finite, and it must not be negative"]
    assert said("looks_aside") == ["a pixel's loss must depend on nothing but its own residual"]
    assert said("fails") == ["AttributeError: 'Tensor' object has no attribute 'nothing'"]
    assert said("good") == []


def test_parameters_are_typed_searched_and_refused() -> None:
    sweep = SweepConfig.of(**{"loss": "huber", "loss.delta": (0.01, 0.1), "rule": "uniform"})
    assert [run.arguments for run in sweep.grid()] == [(("loss.delta", 0.01),), (("loss.delta", 0.1),)]
    both = SweepConfig.of(**{"loss": ("squared", "huber"), "loss.delta": (0.01, 0.1), "rule": "uniform"})
    assert [(run.loss, run.of("loss")) for run in both.grid()] == [
        ("squared", ()), ("huber", (("delta", 0.01),)), ("huber", (("delta", 0.1),)),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"^loss\.delta: loss squared has no such parameter$"):
        SweepConfig.of(**{"loss.delta": 0.1})


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("['crop']", "its defaults must be a dictionary, got list"),
        ("{'learnin_rate': 0.1}", "its default learnin_rate is none that it may have"),
        ("{'network': 'vdsr'}", "its default network is none that it may have"),
        ("{'crop': '48'}", "its default crop is '48', which is no value of it"),
        ("{'crop': 48.0}", "its default crop is 48.0, which is no value of it"),
        ("{'clip': 'x'}", "its default clip is 'x', which is no value of it"),
    ],
)
def test_defaults_are_values_of_a_run(tmp_path: Path, defaults: str, said: str) -> None:
    text = f"from torch import nn\nclass Net(nn.Conv2d):\n    defaults = {defaults}\n"
    (tmp_path / "own.py").write_text(text + "    def __init__(self): super().__init__(1, 1, 3, padding=1)\n")
    with pytest.raises(ConfigError) as refused:
        preset("mini").where(network=f"{tmp_path}/own.py:Net")
    assert [line.partition(": ")[2] for line in refused.value.problems] == [said]
