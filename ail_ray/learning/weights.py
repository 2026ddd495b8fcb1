"""Reading and writing weights as safetensors: our own files, and the public layout of VDSR's released checkpoints."""

import sys
from pathlib import Path

import numpy as np
import torch
from upath import UPath

from ail_ray.entry import say
from ail_ray.errors import printable
from ail_ray.files import AnyPath, FileError, as_path, digest_of
from ail_ray.networks.architectures import NETWORKS, Network
from ail_ray.networks.building import build_model
from ail_ray.networks.code import Code, is_reference, label
from ail_ray.tensors import as_tensor, checksum, read_tensors, write_tensors

WIDEST = 10_000  # feature maps that a file may speak of


class WeightsError(FileError):
    """Weights that do not describe a network we know; the message names the file and the tensor."""


def save_model(path: AnyPath, model: Network, metadata: dict[str, str] | None = None) -> None:
    """Write the weights, in their own type, as safetensors, with all that is needed to build the network again."""
    description = {name: str(value) for name, value in vars(model.made).items() if value is not None}
    write_tensors(as_path(path), model_tensors(model), description | (metadata or {}))


def load_model(path: AnyPath, network: str = "") -> Network:
    """A network from a safetensors file: one of ours, a VDSR under its public names, or one from outside.

    The public layout is `input.weight`, `residual_layer.{i}.conv.weight`, `output.weight`. Half-precision files load
    as float32.

    Args:
        network: the `Code` of a network from outside, whose weights the file may hold. What the file says of it is only
            compared: no file has code loaded.

    Raises:
        FileError: the file is missing or is not safetensors.
        WeightsError: its tensors are not those of such a network, or hold values that are not finite.
    """
    path = as_path(path)
    tensors, metadata = read_tensors(path)
    if is_reference(said := metadata.get("network", "")):
        return _from_outside(path, tensors, metadata, said, network)
    middle = [f"residual_layer.{i}.conv.weight" for i in range(len(tensors) - 2)]
    is_public = _is_vdsr(metadata.get("network", "vdsr")) and "input.weight" in tensors
    names = ["input.weight", *middle, "output.weight"] if is_public else []
    try:
        model = _described(tensors, metadata, "input.weight" if is_public else "layers.0.weight")
    except ValueError as error:
        found = ", ".join(sorted(tensors)[:4]) or "none"
        raise WeightsError(f"{path}: not a network we know: {error} (has {found})") from None
    weights = {}
    for i, (name, expected) in enumerate(model.state_dict().items()):
        there = names[i] if names else name
        if there not in tensors:
            raise WeightsError(f"{path}: not a {model.made.network}: lacks {there}")
        found_shape, shape = tensors[there].shape, tuple(expected.shape)
        if found_shape != shape:
            raise WeightsError(f"{path}: not a {model.made.network}: {there} has shape {found_shape}, expected {shape}")
        with np.errstate(over="ignore"):  # a float64 too large for float32 is refused as infinite
            values = tensors[there].astype(np.float32)
        if tensors[there].dtype.kind != "f" or not np.isfinite(values).all():
            raise WeightsError(f"{path}: {there} holds values that are not finite floats")
        weights[name] = as_tensor(values)
    if unknown := tensors.keys() - (names or weights.keys()):
        raise WeightsError(f"{path}: not a {model.made.network}: has {min(unknown)} too")
    model.load_state_dict(weights, assign=True)
    return model


def bundled() -> dict[str, UPath]:
    """The teachers that come with the package, by name. Each has its card beside it."""
    folder = UPath(Path(__file__).parent / "teachers")
    return {path.stem: path for path in folder.glob("*.safetensors")}


def weights_digest(path: AnyPath) -> str:
    """Digest of a network: of its weights, and of what they do not tell about it; 16 hexadecimal digits."""
    tensors, metadata = read_tensors(as_path(path))
    digest = checksum(tensors)
    if is_reference(metadata.get("network", "")):  # needs no code
        return digest_of([digest, *(metadata.get(name) for name in ("network", "width", "depth", "scale"))])
    model = load_model(path)
    made = model.made
    return digest[:16] if _is_vdsr(made.network) else digest_of([digest, made.network, made.depth, made.scale or 1])


def model_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The model's weights by name, as contiguous arrays in its own type."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.state_dict().items()}


def _is_vdsr(name: str) -> bool:
    """Whether a network is known by its weights alone, as those of the public layout are, which say no more."""
    return name == "vdsr"


def _from_outside(
    path: UPath, tensors: dict[str, np.ndarray], metadata: dict[str, str], said: str, network: str
) -> Network:
    """A network whose code the command has named."""
    file, digest = label(said, 0), said.rpartition("@")[2]
    if not isinstance(network, Code):
        raise WeightsError(f"{path}: weights of {label(said)}, whose code no file brings: name it, --network {file}")
    if network.partition(":")[2].partition("@")[0] != file.rpartition(":")[2]:
        raise WeightsError(f"{path}: weights of {label(said)}, and not of {label(network)}")
    try:
        sizes = {key: int(metadata[key]) for key in ("width", "depth", "scale") if key in metadata}
        if large := {key: value for key, value in sizes.items() if value > WIDEST}:
            raise ValueError(f"it says {large}, no more than {WIDEST} is believed")
        with torch.random.fork_rng(devices=[]):
            model = build_model(network, **sizes)
    except ValueError as error:  # a ConfigError too
        raise WeightsError(f"{path}: {error}") from None
    weights, other = {}, "" if network == said else f" (its code has changed since: {digest})"
    if other:
        changed = printable(f"{path}: made by {said}, used with {network}: its code has changed since")
        say(changed, sys.stderr, level="WARNING")
    for name, expected in model.state_dict().items():
        if name not in tensors or tensors[name].shape != tuple(expected.shape):
            found = f"has {tensors[name].shape}" if name in tensors else "lacks it"
            raise WeightsError(
                f"{path}: {label(network)} needs {name} {tuple(expected.shape)}, the file {found}{other}"
            )
        values = as_tensor(tensors[name]).to(expected.dtype)
        if not values.isfinite().all():
            raise WeightsError(f"{path}: {name} holds values that are not finite")
        weights[name] = values
    if unknown := tensors.keys() - weights.keys():
        raise WeightsError(f"{path}: {label(network)} has no {min(unknown)}{other}")
    model.load_state_dict(weights)
    return model


def _described(tensors: dict[str, np.ndarray], metadata: dict[str, str], first: str) -> Network:
    """The network that a file speaks of, without memory for its weights; a VDSR follows from its tensors.

    Raises:
        ValueError: there is none such.
    """
    name = metadata.get("network", "vdsr")
    if _is_vdsr(name):
        if first not in tensors:
            raise ValueError(f"lacks {first}")
        sizes = {"width": max((1, *tensors[first].shape[:1])), "depth": len(tensors)}
    elif name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    else:
        sizes = {key: int(metadata[key]) for key in ("width", "depth", "scale") if key in metadata}
    if sizes.get("width", 0) > WIDEST:
        raise ValueError(f"its width is {sizes['width']}")
    with torch.device("meta"):
        return build_model(name, **sizes)
