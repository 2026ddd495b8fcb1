"""Weights in and out: our files, the public checkpoint, half precision, and every file that is not a network's."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from upath import UPath

from ail_ray.files import FileError
from ail_ray.learning.weights import WeightsError, load_model, model_tensors, save_model
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, VDSR, Network
from ail_ray.networks.counts import parameter_count
from ail_ray.tensors import read_tensors


@pytest.fixture
def model() -> VDSR:
    torch.manual_seed(0)
    return VDSR(width=3, depth=4)


def public(model: VDSR) -> dict[str, np.ndarray]:
    """The weights under the names of the released checkpoints."""
    first, *middle, last = model_tensors(model).values()
    return {
        "input.weight": first,
        **{f"residual_layer.{i}.conv.weight": weight for i, weight in enumerate(middle)},
        "output.weight": last,
    }


def assert_same(loaded: Network, model: Network) -> None:
    assert type(loaded) is type(model)
    assert (loaded.made, loaded.traits) == (model.made, model.traits)
    for weight, expected in zip(loaded.parameters(), model.parameters(), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_saved_weights_come_back_bit_for_bit(tmp_path: Path, model: VDSR, where: str) -> None:
    path = (
        UPath(tmp_path / "new" / "a.safetensors") if where == "disk" else UPath("memory://test_weights/a.safetensors")
    )
    save_model(path, model, {"round": "3"})
    assert_same(load_model(path), model)
    _, metadata = read_tensors(path)
    assert {"network": "vdsr", "width": "3", "depth": "4", "round": "3"}.items() <= metadata.items()


@pytest.mark.parametrize(
    "network", [DRRN(width=3, depth=8), FSRCNN(width=5, depth=6, scale=3), ABPN(width=3, depth=4, scale=3)]
)
def test_every_network_comes_back_and_can_be_trained(tmp_path: Path, network: Network) -> None:
    save_model(tmp_path / "a.safetensors", network)
    loaded = load_model(tmp_path / "a.safetensors")
    assert_same(loaded, network)
    inputs = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(loaded(inputs), network(inputs))
    loaded(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"network": "edsr"}, "network must be one of vdsr, drrn, fsrcnn, abpn"),
        ({"width": "1000000000"}, "its width is 1000000000"),
        ({"width": "four"}, "invalid literal"),
        ({"depth": "1000000000"}, "depth must lie in 5..999"),
        ({"scale": "9"}, "scale must be 1, 2, 3 or 4"),
        ({"width": "6"}, r"not a fsrcnn: layers\.0\.weight has shape \(5, 1, 5, 5\), expected \(6, 1, 5, 5\)"),
        ({"depth": "7"}, r"not a fsrcnn: layers\.4\.weight has shape"),
        ({"depth": "5"}, r"not a fsrcnn: layers\.3\.weight has shape"),
        ({"network": "drrn", "depth": "8"}, r"not a drrn: lacks first\.weight"),
        ({"network": "vdsr"}, "not a vdsr: layers"),
    ],
)
def test_a_file_that_lies_about_its_network_is_refused(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    save_model(tmp_path / "a.safetensors", FSRCNN(width=5, depth=6, scale=3), metadata)
    with pytest.raises(WeightsError, match=rf"a\.safetensors: .*{message}"):
        load_model(tmp_path / "a.safetensors")


def test_loaded_weights_are_the_models_own(tmp_path: Path, model: VDSR) -> None:
    save_model(tmp_path / "a.safetensors", model)
    loaded, again = load_model(tmp_path / "a.safetensors"), load_model(tmp_path / "a.safetensors")
    with torch.no_grad():
        next(loaded.parameters()).zero_()
    assert_same(again, model)
    assert_same(load_model(tmp_path / "a.safetensors"), model)


def test_channels_last_weights_are_saved_in_order(tmp_path: Path, model: VDSR) -> None:
    save_model(tmp_path / "a.safetensors", VDSR(3, 4).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    turned = VDSR(3, 4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    turned.load_state_dict(model.state_dict())
    save_model(tmp_path / "a.safetensors", turned)
    assert_same(load_model(tmp_path / "a.safetensors"), model)


def test_public_layout_is_read_in_the_order_of_the_layers(tmp_path: Path, model: VDSR) -> None:
    tensors = public(model)
    save_file(dict(sorted(tensors.items(), reverse=True)), tmp_path / "public.safetensors")
    assert_same(load_model(tmp_path / "public.safetensors"), model)


def test_more_than_ten_layers_are_not_sorted_as_text(tmp_path: Path) -> None:
    deep = VDSR(width=2, depth=15)
    save_model(tmp_path / "ours.safetensors", deep)
    save_file(public(deep), tmp_path / "public.safetensors")
    assert_same(load_model(tmp_path / "ours.safetensors"), deep)
    assert_same(load_model(tmp_path / "public.safetensors"), deep)


def test_the_public_teacher_is_a_full_vdsr(teacher_path: Path) -> None:
    teacher = load_model(teacher_path)
    assert (teacher.width, teacher.depth, parameter_count(teacher)) == (64, 20, 664_704)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_load_as_float32(tmp_path: Path, model: VDSR, kind: type) -> None:
    save_file({name: weight.astype(kind) for name, weight in public(model).items()}, tmp_path / "a.safetensors")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half() if kind is np.float16 else weight)
    assert_same(load_model(tmp_path / "a.safetensors"), model)


def broken(model: VDSR, how: str) -> dict[str, np.ndarray]:
    tensors = public(model)
    middle = "residual_layer.0.conv.weight"
    if how == "missing":
        del tensors["output.weight"]
    elif how == "gap":
        del tensors[middle]
    elif how == "shape":
        tensors[middle] = np.zeros((3, 3, 5, 5), np.float32)
    elif how == "width":
        tensors["output.weight"] = np.zeros((1, 4, 3, 3), np.float32)
    elif how == "scalar":
        tensors["input.weight"] = np.array(1, np.float32)
    elif how == "nan":
        tensors[middle] = tensors[middle].copy()
        tensors[middle][1, 2, 0, 1] = np.nan
    elif how == "integers":
        tensors[middle] = np.ones((3, 3, 3, 3), np.int64)
    elif how == "other":
        tensors = {"head.0.weight": tensors["input.weight"]}
    elif how == "bias":
        tensors["input.bias"] = np.zeros(3, np.float32)
    return {} if how == "nothing" else tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "lacks"),
        ("gap", "lacks"),
        ("shape", r"residual_layer\.0\.conv\.weight has shape \(3, 3, 5, 5\), expected \(3, 3, 3, 3\)"),
        ("width", r"output\.weight has shape \(1, 4, 3, 3\), expected \(1, 3, 3, 3\)"),
        ("scalar", r"input\.weight has shape \(\)"),
        ("nan", r"residual_layer\.0\.conv\.weight holds values that are not finite"),
        ("integers", r"residual_layer\.0\.conv\.weight holds values that are not finite floats"),
        ("other", r"lacks layers\.0\.weight .*head\.0\.weight"),
        ("bias", r"lacks"),
        ("nothing", r"not a network we know: .*none"),
    ],
)
def test_what_is_not_a_vdsr_is_named(tmp_path: Path, model: VDSR, how: str, message: str) -> None:
    save_file(broken(model, how), tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=rf"bad\.safetensors: .*{message}"):
        load_model(tmp_path / "bad.safetensors")


def test_tensors_that_the_network_does_not_have_are_refused(tmp_path: Path) -> None:
    network = DRRN(width=3, depth=8)
    tensors = model_tensors(network) | {"notes": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "a.safetensors", {"network": "drrn", "width": "3", "depth": "8"})
    with pytest.raises(WeightsError, match=r"a\.safetensors: not a drrn: has notes too"):
        load_model(tmp_path / "a.safetensors")


def test_files_that_are_not_safetensors_are_named(tmp_path: Path, model: VDSR) -> None:
    path = tmp_path / "bad.safetensors"
    with pytest.raises(FileError, match=r"bad\.safetensors: no such file"):
        load_model(path)
    save_model(path, model)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileError, match=r"bad\.safetensors: not a readable safetensors file"):
        load_model(path)
    torch.save(model.state_dict(), path)
    with pytest.raises(FileError, match=r"bad\.safetensors: .*pickles are never loaded"):
        load_model(path)
    path.write_bytes(pickle.dumps(model_tensors(model)))
    with pytest.raises(FileError, match=r"bad\.safetensors: .*pickles are never loaded"):
        load_model(path)
