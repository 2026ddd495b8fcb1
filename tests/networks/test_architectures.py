"""The networks: Table 3's counts, each forward pass by hand, and what is refused."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ail_ray.imaging.images import degrade, enlarge
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, NETWORKS, VDSR, start_from_identity
from ail_ray.networks.building import build_model, resolved_width
from ail_ray.networks.counts import multiply_accumulates, parameter_count


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


@pytest.mark.parametrize(("width", "rho", "parameters"), [(128, 0.0, 297_216), (25, 0.8, 11_700)])
def test_table_3_for_drrn(width: int, rho: float, parameters: int) -> None:
    assert resolved_width("drrn", rho=rho) == width
    for model in (build_model("drrn", width=width), build_model("drrn", rho=rho)):
        assert parameter_count(model) == parameters == 9 * (2 * width + 2 * width**2)
        assert (model.width, model.depth) == (width, 52)


def test_fsrcnn_has_its_published_12464_weights_beside_biases_and_slopes() -> None:
    model = build_model("fsrcnn", scale=3)
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 4)
    assert weights == 25 * 56 + 56 * 12 + 4 * 9 * 12 * 12 + 12 * 56 + 81 * 56 == 12_464
    maps = 56 + 12 * 5 + 56
    assert parameter_count(model) == weights + 2 * maps + 1 == 12_809
    assert resolved_width("fsrcnn", rho=0.5) == 28
    assert build_model("fsrcnn", width=28, scale=2).layers[1].weight.shape == (6, 28, 1, 1)


@pytest.mark.parametrize(("scale", "parameters"), [(2, 36_712), (3, 37_977), (4, 39_748)])
def test_an_abpn_has_seven_convolutions_of_28_maps_and_biases(scale: int, parameters: int) -> None:
    model = build_model("abpn", scale=scale)
    last = scale**2
    assert parameter_count(model) == 9 * (28 + 5 * 28**2 + 28 * last) + 6 * 28 + last == parameters
    assert vars(model.made) == {"network": "abpn", "width": 28, "depth": 7, "scale": scale}
    assert (model.traits.upsampling, model.traits.radius) == (scale, 7)
    assert resolved_width("abpn", rho=0.5) == 14
    assert build_model("abpn", rho=0.5, scale=scale).layers[1].weight.shape == (14, 14, 3, 3)  # type: ignore[union-attr, index]


@pytest.mark.parametrize(("name", "width", "scale", "by_hand"), [
    ("vdsr", 64, None, 664_704 * 256**2),
    ("vdsr", 13, None, 27_612 * 256**2),
    ("drrn", 128, None, 9 * (2 * 128 + 50 * 128**2) * 256**2),  # 483,335 M; the paper prints 483,337 M
    ("fsrcnn", 56, 2, 12_464 * 128**2),
    ("fsrcnn", 56, 3, 12_464 * 85**2),
    ("abpn", 28, 2, 36_540 * 128**2),
])  # fmt: skip
def test_multiply_accumulates(name: str, width: int, scale: int | None, by_hand: int) -> None:
    model = build_model(name, width=width, scale=scale)
    assert multiply_accumulates(model) == by_hand
    assert next(model.parameters()).device.type == "cpu"


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
        ({"name": "edsr"}, "network must be one of vdsr, drrn, fsrcnn, abpn, or file.py:Name, got 'edsr'"),
        ({"name": "fsrcnn"}, "fsrcnn upsamples by itself: name the scale, 2, 3 or 4"),
        ({"name": "abpn"}, "abpn upsamples by itself: name the scale, 2, 3 or 4"),
        ({"name": "abpn", "depth": 1, "scale": 2}, "depth must lie in 2..999, got 1"),
        ({"name": "drrn", "depth": 9}, "depth must be even and lie in 4..998, got 9"),
        ({"name": "fsrcnn", "depth": 4, "scale": 2}, "depth must lie in 5..999, got 4"),
        ({"scale": 5}, "scale must be 1, 2, 3 or 4, got 5"),
        ({"depth": 1}, "depth must lie in 2..999, got 1"),
        ({"depth": 0}, "depth must lie in 2..999, got 0"),
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
@pytest.mark.parametrize("network", [VDSR(width=4, depth=3), DRRN(width=4, depth=6)])
def test_without_weights_the_network_is_the_identity(network: VDSR | DRRN, kind: torch.dtype) -> None:
    model = network.to(kind)
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


def test_drrn_repeats_two_convolutions_and_adds_the_first_layer_each_time() -> None:
    torch.manual_seed(0)
    model = DRRN(width=3, depth=8).double()
    inputs = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    (one, two), first, last = (layer.weight for layer in model.block), model.first.weight, model.last.weight
    start = hidden = F.conv2d(inputs, first, padding=1)
    for _ in range(3):
        hidden = start + F.conv2d(F.conv2d(hidden.clamp(min=0), one, padding=1).clamp(min=0), two, padding=1)
    expected = inputs + F.conv2d(hidden.clamp(min=0), last, padding=1)
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_fsrcnn_upsamples_and_keeps_pixels_in_place(scale: int) -> None:
    torch.manual_seed(0)
    model = FSRCNN(width=14, depth=6, scale=scale).double()
    for layer in (*model.layers, model.deconvolution):
        torch.nn.init.normal_(layer.bias, std=0.1)
        torch.nn.init.normal_(layer.weight, std=0.1)
    inputs = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    features = inputs
    for layer, slopes in zip(model.layers, model.slopes, strict=True):
        features = F.conv2d(features, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)
        features = torch.where(features > 0, features, slopes.weight[:, None, None] * features)
    # The deconvolution as a convolution of the features with zeros between them.
    spread = torch.zeros(2, 14, 6 * scale, 5 * scale, dtype=torch.float64)
    spread[:, :, ::scale, ::scale] = features
    turned = model.deconvolution.weight.flip(2, 3).transpose(0, 1)
    expected = F.conv2d(spread, turned, model.deconvolution.bias, padding=4)
    sr = model(inputs)
    assert sr.shape == (2, 1, 6 * scale, 5 * scale)
    torch.testing.assert_close(sr, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_abpn_adds_the_repeated_pixel_and_lays_maps_out_as_blocks(scale: int) -> None:
    torch.manual_seed(0)
    model = ABPN(width=5, depth=4, scale=scale).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    features = inputs
    for layer in list(model.layers)[:-1]:
        features = F.conv2d(features, layer.weight, layer.bias, padding=1).clamp(min=0)  # type: ignore[arg-type]
    last = model.layers[-1]
    maps = F.conv2d(features, last.weight, last.bias, padding=1) + inputs.repeat(1, scale**2, 1, 1)  # type: ignore[arg-type]
    sr = model(inputs)
    assert sr.shape == (2, 1, 6 * scale, 5 * scale)
    for row in range(scale):
        for column in range(scale):
            part = maps[:, [scale * row + column]]
            torch.testing.assert_close(sr[..., row::scale, column::scale], part, rtol=0, atol=1e-13)
    assert sr.min() < 0, "nothing is clipped, so that every pixel has a gradient"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_weights_an_abpn_repeats_pixels(scale: int) -> None:
    model = ABPN(width=4, depth=3, scale=scale)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    inputs = torch.rand(2, 1, 5, 7) * 1.4 - 0.2
    assert torch.equal(model(inputs), F.interpolate(inputs, scale_factor=scale, mode="nearest"))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_one_channel_has_one_order_of_depth_to_space(scale: int) -> None:
    """ONNX's CRD splits the maps into channel, row, column, its DCR into row, column, channel: here they are one."""
    maps, (h, w) = torch.rand(2, scale**2, 3, 5), (3, 5)
    crd = maps.reshape(2, 1, scale, scale, h, w).permute(0, 1, 4, 2, 5, 3).reshape(2, 1, h * scale, w * scale)
    dcr = maps.reshape(2, scale, scale, 1, h, w).permute(0, 3, 4, 1, 5, 2).reshape(2, 1, h * scale, w * scale)
    assert torch.equal(crd, dcr)
    assert torch.equal(F.pixel_shuffle(maps, scale), crd)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_draws_the_same_weights(name: str) -> None:
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(torch.cat([p.flatten() for p in build_model(name, width=8, scale=2).parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_fresh_weights_follow_he() -> None:
    torch.manual_seed(1)
    model = build_model("vdsr", width=32)
    for layer in list(model.layers)[1:-1]:
        # 9216 draws: the sample deviation lies within 3 % of the true one (4 of its own deviations)
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.03)
    assert model.layers[-1].weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.2)


def test_a_start_from_the_identity_passes_maps_on() -> None:
    for name, inner in (("vdsr", ["layers.1", "layers.2"]), ("drrn", ["block.0", "block.1"])):
        torch.manual_seed(0)
        model = build_model(name, width=5, depth=4)
        drawn = {key: value.clone() for key, value in model.state_dict().items()}
        start_from_identity(model, 0.25)
        for key, weight in model.state_dict().items():
            expected = 0.25 * drawn[key]
            if key.removesuffix(".weight") in inner:
                for channel in range(5):
                    expected[channel, channel, 1, 1] += 1
            torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)


def test_a_network_of_one_map_keeps_its_draw() -> None:
    model = build_model("vdsr", width=1, depth=4)
    drawn = {key: value.clone() for key, value in model.state_dict().items()}
    start_from_identity(model, 0.25)
    assert all(torch.equal(drawn[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("scale", "within"), [(2, 1e-5), (3, 0.04), (4, 0.06)])
def test_an_fsrcnn_starts_as_bicubic_interpolation(scale: int, within: float) -> None:
    """Up to what nine taps leave of the kernel; the border is what a deconvolution makes of it."""
    torch.manual_seed(0)
    model = build_model("fsrcnn", scale=scale)
    torch.nn.init.zeros_(model.deconvolution.weight)  # type: ignore[union-attr, arg-type]
    start_from_identity(model, 1e-9)
    waves = torch.sin(torch.arange(48) / 5)[:, None] * torch.cos(torch.arange(48) / 7) / 2 + 0.5
    small = degrade((waves * 255).round().to(torch.uint8).numpy(), scale)
    with torch.no_grad():
        enlarged = model(torch.from_numpy(small)[None, None].float())[0, 0]
    inner = slice(3 * scale, -3 * scale)
    error = (enlarged - torch.from_numpy(enlarge(small, scale)))[inner, inner].abs().max()
    assert error < within
    flat = model(torch.full((1, 1, 9, 9), 0.5)).detach()[0, 0]
    torch.testing.assert_close(flat[inner, inner], torch.full_like(flat[inner, inner], 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scale", "within"), [(2, 0.02), (3, 0.04), (4, 0.05)])
def test_an_abpn_starts_near_bicubic_interpolation(scale: int, within: float) -> None:
    """Up to what nine pixels leave of sixteen; from He's draw it starts near its anchor, the nearest neighbour."""
    torch.manual_seed(0)
    model = build_model("abpn", scale=scale)
    waves = torch.sin(torch.arange(48) / 5)[:, None] * torch.cos(torch.arange(48) / 7) / 2 + 0.5
    small = degrade((waves * 255).round().to(torch.uint8).numpy(), scale)
    inputs = torch.from_numpy(small)[None, None].float()
    inner = slice(3 * scale, -3 * scale)
    with torch.no_grad():
        nearest = F.interpolate(inputs, scale_factor=scale, mode="nearest")
        assert (model(inputs) - nearest).abs().max() < 0.1
        torch.nn.init.zeros_(model.layers[-1].weight)  # type: ignore[union-attr, index, arg-type]
        start_from_identity(model, 1e-9)
        enlarged = model(inputs)[0, 0]
        flat = model(torch.full((1, 1, 9, 9), 0.5))[0, 0]
    bicubic = torch.from_numpy(enlarge(small, scale))
    error = (enlarged - bicubic)[inner, inner].abs().max()
    assert error < within < (nearest[0, 0] - bicubic)[inner, inner].abs().max()
    torch.testing.assert_close(flat[inner, inner], torch.full_like(flat[inner, inner], 0.5), rtol=0, atol=1e-5)
