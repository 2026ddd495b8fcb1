"""An ncnn model in 8-bit integers: convolutions whose weights and activations are signed bytes.

The format is ncnn's: parameter 8 of a convolution says that behind its bias stand a scale for each map of weights, one
for what it reads and, above 100, one for what it writes, which the next convolution then takes as bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FLOATS, BYTES = 0, 0x000D4B38
"""How ncnn marks weights of these types."""
SCALED, PASSED_ON = 2, 100
"""What parameter 8 says."""


@dataclass
class Layer:
    """A line of a .param, and its part of the .bin."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: dict[str, str]
    weights: bytes = b""

    @property
    def line(self) -> str:
        counts = [str(len(self.inputs)), str(len(self.outputs))]
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        return " ".join([self.kind, self.name, *counts, *self.inputs, *self.outputs, *settings])


def read(param: str, weights: bytes) -> list[Layer]:
    """The layers of a model in float32.

    Raises:
        ValueError: one has weights that are not understood here.
    """
    layers, at = [], 0
    for line in param.splitlines()[2:]:
        kind, name, reads, writes, *rest = line.split()
        ends = int(reads), int(reads) + int(writes)
        settings = dict(word.split("=") for word in rest[ends[1] :])
        layer = Layer(kind, name, rest[: ends[0]], rest[ends[0] : ends[1]], settings)
        if kind == "Convolution":
            length = 4 + 4 * int(settings["6"]) + 4 * int(settings["0"]) * int(settings.get("5", 0))
        elif kind == "MemoryData":
            length = 4 * int(
                np.prod([int(settings[axis]) for axis in ("0", "1", "2") if settings.get(axis, "0") != "0"])
            )
        else:
            length = 0
        layer.weights, at = weights[at : at + length], at + length
        layers.append(layer)
    if at != len(weights):
        raise ValueError("it has weights in other layers than convolutions")
    return layers


def write(layers: Sequence[Layer]) -> tuple[str, bytes]:
    """The .param and the .bin."""
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = ["7767517", f"{len(layers)} {blobs}", *(layer.line for layer in layers)]
    return "\n".join(lines) + "\n", b"".join(layer.weights for layer in layers)


def quantise(layers: Sequence[Layer], chosen: Callable[[bytes], bool], largest: Callable[[str], float]) -> None:
    """Let the chosen convolutions compute in integers.

    Args:
        chosen: whether a convolution is, by its weights.
        largest: the largest magnitude of what a blob holds.
    """
    ours = [
        layer for layer in layers
        if layer.kind == "Convolution" and chosen(layer.weights[4 : 4 + 4 * int(layer.settings["6"])])
    ]  # fmt: skip
    reads = {layer.name: np.float32(127 / max(largest(layer.inputs[0]), 1e-6)) for layer in ours}
    for layer in ours:
        assert layer.weights[:4] == FLOATS.to_bytes(4, "little")
        count, maps = int(layer.settings["6"]), int(layer.settings["0"])
        weight = np.frombuffer(layer.weights, np.float32, count, 4).reshape(maps, -1)
        scales = (127 / np.maximum(np.abs(weight).max(1), 1e-12)).astype(np.float32)
        whole = np.rint(weight * scales[:, None]).astype(np.int8).tobytes()
        parts = [BYTES.to_bytes(4, "little"), whole, bytes(-count % 4), layer.weights[4 + 4 * count :]]
        parts += [scales.tobytes(), reads[layer.name].tobytes()]
        users = [each for each in layers if layer.outputs[0] in each.inputs]
        passed_on = len(users) == 1 and users[0] in ours
        if passed_on:
            parts.append(reads[users[0].name].tobytes())
        layer.settings["8"] = str(SCALED + PASSED_ON * passed_on)
        layer.weights = b"".join(parts)
