"""Weights in and out, as safetensors: our own files, and the public layout of VDSR's released checkpoints."""

import numpy as np
import torch

from ail_ray.files import AnyPath, FileError, as_path, as_tensor, read_tensors, write_tensors
from ail_ray.learning.models import VDSR


class WeightsError(FileError):
    """Weights that do not describe a network we know; the message names the file and the tensor."""


def save_model(path: AnyPath, model: VDSR, metadata: dict[str, str] | None = None) -> None:
    """Write the weights, in their own type, as safetensors, with what is needed to build the network again."""
    description = {
        "network": "vdsr",
        "width": str(model.width),
        "depth": str(model.depth),
        **(metadata or {}),
    }
    write_tensors(as_path(path), model_tensors(model), description)


def load_model(path: AnyPath) -> VDSR:
    """A network from a safetensors file: one of ours, or a VDSR under its public names.

    The public layout is `input.weight`, `residual_layer.{i}.conv.weight`, `output.weight`. Width and depth are
    read from the tensors' shapes. Half-precision files load as float32.

    Raises:
        FileError: the file is missing or is not safetensors.
        WeightsError: its tensors are not those of a VDSR, or hold values that are not finite.
    """
    path = as_path(path)
    tensors, _ = read_tensors(path)
    layers = _vdsr_layers(path, tensors)
    model = VDSR(width=layers[0].shape[0], depth=len(layers))
    model.load_state_dict({f"layers.{i}.weight": as_tensor(w.astype(np.float32)) for i, w in enumerate(layers)})
    return model


def model_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The model's weights by name, as contiguous arrays in its own type."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.state_dict().items()}


def _vdsr_layers(path: object, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    depth = len(tensors)
    public = ["input.weight", *[f"residual_layer.{i}.conv.weight" for i in range(depth - 2)], "output.weight"]
    names = public if "input.weight" in tensors else [f"layers.{i}.weight" for i in range(depth)]
    missing = [name for name in names if name not in tensors]
    if depth < 2 or missing:
        found = ", ".join(sorted(tensors)[:4]) or "none"
        raise WeightsError(
            f"{path}: not a VDSR: {f'lacks {missing[0]}' if missing else 'too few layers'} (has {found})"
        )
    width = max((1, *tensors[names[0]].shape[:1]))
    for i, name in enumerate(names):
        shape = (1 if i == depth - 1 else width, 1 if i == 0 else width, 3, 3)
        if tensors[name].shape != shape:
            raise WeightsError(f"{path}: not a VDSR: {name} has shape {tensors[name].shape}, expected {shape}")
        if tensors[name].dtype.kind != "f" or not np.isfinite(tensors[name]).all():
            raise WeightsError(f"{path}: {name} holds values that are not finite floats")
    return [tensors[name] for name in names]
