"""Networks from outside: what they say of themselves is checked, what they do not say is measured."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ail_ray.learning.config import RunConfig
from ail_ray.learning.inference import super_resolve
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, VDSR, WHOLE_PICTURE, Made, Traits
from ail_ray.networks.building import build_model
from ail_ray.networks.code import resolve
from ail_ray.networks.counts import _of_convolutions, _of_operators, multiply_accumulates
from ail_ray.networks.probe import problems_of, radius_of, upsampling_of

EXAMPLE = "docs/examples/networks.py:SubPixel"


class Plain(nn.Module):
    """5x5 and 3x3: a radius of 3."""

    made = Made(network="plain")

    def __init__(self, traits: Traits | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 1, 3, padding=1)
        self.traits = traits or Traits(radius=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x).relu())


class Halved(Plain):
    """Works on a picture of half the size, so that sides have to be even."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.interpolate(super().forward(nn.functional.avg_pool2d(x, 2)), scale_factor=2)


class Smaller(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[..., 1:]


class NotANumber(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.nan


class Normalised(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


class Mixing(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) - x.mean()


class Forgetful(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(x), 0.1, self.training)


class Counting(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Rigid(nn.Module):
    made, traits = Made(network="rigid"), Traits(radius=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    "make", [lambda: VDSR(4, 5), lambda: DRRN(4, 8), lambda: FSRCNN(12, 6, 3), lambda: ABPN(4, 5, 2), Plain]
)
def test_the_radius_is_measured_to_the_pixel(make: Any) -> None:
    model = make()
    u = upsampling_of(model, 1)
    assert u == model.traits.upsampling
    measured = radius_of(model, 1, u)
    assert measured == model.traits.radius if u == 1 else measured in (model.traits.radius, model.traits.radius - 1)
    assert problems_of(model, [u] if u > 1 else [2, 3]) == []


def test_a_network_that_looks_at_all_of_a_picture_is_known() -> None:
    class Whole(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) - x.mean((1, 2, 3), keepdim=True)

    assert radius_of(Whole(), 1, 1) == WHOLE_PICTURE
    assert problems_of(Whole(Traits()), [2]) == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: Plain(Traits(radius=2)), "states a radius of 2, and its outputs depend on 3 pixels away"),
        (lambda: Plain(Traits(upsampling=2)), "makes [2, 1, 12, 17] of [2, 1, 12, 17]; needed is [2, 1, 24, 34]"),
        (Smaller, "makes [2, 1, 12, 16] of [2, 1, 12, 17]; needed is [2, 1, 12, 17]"),
        (NotANumber, "makes values of an image that are not finite floats"),
        (Normalised, "its layer norm normalises over a batch, which workers and strips split; leave it out"),
        (Mixing, "mixes the images of a batch, which workers and strips split"),
        (Forgetful, "makes something else of the same image; it may draw no random numbers, as dropout does"),
        (Counting, "changes its buffers as it runs, which no two workers would do alike"),
        (Rigid, "has no weights that could be trained"),
    ],
)  # fmt: skip
def test_what_no_run_could_cope_with_is_refused(model: Any, said: str) -> None:
    made = model()
    assert problems_of(made, [2]) == [f"network {made.made.network}: {said}"]


def test_a_scale_that_it_does_not_serve_is_refused() -> None:
    assert problems_of(FSRCNN(12, 6, 3), [2]) == ["network: this fsrcnn upsamples by 3, it cannot serve scale 2"]
    three = Plain(Traits(radius=3, scales=(3,)))
    assert problems_of(three, [2, 3]) == ["network: this plain serves 3, it cannot serve scale 2"]  # type: ignore[arg-type]
    for wrong in ({"multiple": 0}, {"upsampling": 0}, {"radius": -1}, {"scales": (0,)}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            Traits(**wrong)  # type: ignore[arg-type]


class Dilated(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(8, 1, 3, padding=38, dilation=38)


class ToOneSide(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.conv2d(nn.functional.pad(x, (0, 8, 0, 8)), torch.ones(1, 1, 9, 9)) * self.first.bias[0]


class Absorbing(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).nan_to_num()


@pytest.mark.parametrize(("make", "radius"), [(Dilated, 40), (ToOneSide, 8), (Absorbing, 3)])
def test_the_radius_is_that_of_the_farthest_side(make: Any, radius: int) -> None:
    torch.manual_seed(0)
    assert radius_of(make(), 1, 1) == radius


def test_sides_become_multiples_and_strips_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Halved(Traits(multiple=2))
    model.double()
    model.traits = Traits(multiple=2, radius=radius_of(copy.deepcopy(model).float(), 2, 1))
    image = torch.rand(701, 333, dtype=torch.float64)
    whole = super_resolve(model, image, "fp64")  # type: ignore[arg-type]
    assert whole.shape == (701, 333)
    monkeypatch.setattr("ail_ray.learning.inference.STRIP", 40 * 333)
    tiled = super_resolve(model, image, "fp64")  # type: ignore[arg-type]
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_example_does_what_it_says(scale: int) -> None:
    config = RunConfig(network=resolve(EXAMPLE, "network"), width=6, depth=3, scales=(scale,), crop=48)
    model = config.student()
    assert model.made == Made(network=config.network, width=6, depth=3, scale=scale)
    assert model.traits == Traits(upsampling=scale, radius=4)
    assert problems_of(model, [scale]) == []


def test_both_ways_of_counting_agree() -> None:
    image = torch.zeros(1, 1, 12, 12)
    for model in (VDSR(13, 20), DRRN(25, 10), FSRCNN(56, 8, 3), ABPN(28, 7, 2)):
        assert _of_convolutions(model, image) == _of_operators(model, image)
    model = build_model(resolve(EXAMPLE, "network"), width=24, depth=4, scale=2)
    by_hand = (25 * 24 + 2 * 9 * 24 * 24 + 9 * 24 * 4) * 128 * 128
    assert multiply_accumulates(model) == by_hand
