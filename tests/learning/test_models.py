"""The networks: Table 3's parameter counts, the global skip, and what is refused."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ail_ray.learning.models import VDSR, build_model, parameter_count, resolved_width


@pytest.mark.parametrize(
    ("width", "rho", "parameters"),
    [(64, 0.0, 664_704), (32, 0.5, 166_464), (22, 0.66, 78_804), (16, 0.75, 41_760), (13, 0.8, 27_612)],
)
def test_table_3(width: int, rho: float, parameters: int) -> None:
    assert resolved_width("vdsr", rho=rho) == width
    for model in (build_model("vdsr", width=width), build_model("vdsr", rho=rho)):
        assert parameter_count(model) == parameters
        assert (model.width, model.depth) == (width, 20)
    assert parameters == 9 * (2 * width + 18 * width**2)


def test_the_full_network_is_the_default_and_width_wins_over_rho() -> None:
    assert build_model("vdsr").width == resolved_width("vdsr") == 64
    assert resolved_width("vdsr", width=25, rho=0.8) == 25
    assert resolved_width("vdsr", rho=0.999) == 1


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_depth_is_the_number_of_convolutions(depth: int) -> None:
    model = build_model("vdsr", width=5, depth=depth)
    assert len([m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]) == depth == model.depth
    assert parameter_count(model) == 9 * (2 * 5 + (depth - 2) * 25)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "edsr"}, "network must be one of vdsr, got 'edsr'"),
        ({"scale": 5}, "scale must be 2, 3 or 4, got 5"),
        ({"depth": 1}, "depth must be at least 2, got 1"),
        ({"depth": 0}, "depth must be at least 2, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"rho": 1.0}, r"rho must be in \[0, 1\), got 1.0"),
        ({"rho": -0.1}, r"rho must be in \[0, 1\), got -0.1"),
        ({"rho": math.nan}, r"rho must be in \[0, 1\), got nan"),
    ],
)
def test_bad_values_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(**({"name": "vdsr"} | changed))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_without_weights_the_network_is_the_identity(kind: torch.dtype) -> None:
    model = VDSR(width=4, depth=3).to(kind)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    inputs = torch.rand(2, 1, 7, 9, dtype=kind) * 1.4 - 0.2
    assert torch.equal(model(inputs), inputs)


def test_forward_is_convolutions_with_relu_between_and_a_global_skip() -> None:
    torch.manual_seed(0)
    model = VDSR(width=3, depth=3).double()
    inputs = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    first, second, last = (layer.weight for layer in model.layers)
    hidden = F.conv2d(inputs, first, padding=1).clamp(min=0)
    hidden = F.conv2d(hidden, second, padding=1).clamp(min=0)
    expected = inputs + F.conv2d(hidden, last, padding=1)
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-14)
    assert (expected - inputs).min() < 0 < (expected - inputs).max(), "the last layer has no ReLU behind it"


def test_fresh_weights_follow_the_seed_and_he() -> None:
    torch.manual_seed(1)
    model = build_model("vdsr", width=32)
    torch.manual_seed(1)
    again = build_model("vdsr", width=32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for layer in list(model.layers)[1:-1]:
        # 9216 draws: the sample deviation lies within 3 % of the true one (4 of its own deviations)
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.03)
    assert model.layers[-1].weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.2)
