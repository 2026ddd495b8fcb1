"""A program for an environment with litert-torch: an ONNX graph of plain operators to a .tflite file.

    python litert_convert.py GIVEN MADE fp32|fp16|int8

GIVEN has graph.onnx, own.json (the nodes that stay in floating point) and for int8 examples of the input, *.npy.
It imports nothing of this project. What it cannot do it says in the last line on standard error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper


class Operators(torch.nn.Module):
    """A graph as a torch module that computes node after node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__()
        self.steps, self.reads, self.writes = [], graph.input[0].name, graph.output[0].name
        for held in graph.initializer:
            self.register_buffer(_name(held.name), torch.from_numpy(numpy_helper.to_array(held).copy()))
        for node in graph.node:
            given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            self.steps.append((node.op_type, [_name(name) for name in node.input], _name(node.output[0]), given))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = dict(self.named_buffers()) | {_name(self.reads): x}
        for operator, reads, writes, given in self.steps:
            values[writes] = OPERATORS[operator](*[values[name] for name in reads if name], **given)
        return values[_name(self.writes)]


def _name(name: str) -> str:
    return name.replace(".", "_").replace("/", "_").replace(":", "_")


def _convolution(x: torch.Tensor, weight: torch.Tensor, bias: Any = None, **given: Any) -> torch.Tensor:
    pads = given.get("pads", [0, 0])
    return F.conv2d(
        x, weight, bias, given.get("strides", 1), tuple(pads[:2]), given.get("dilations", 1), given.get("group", 1)
    )


def _shuffle(x: torch.Tensor, blocksize: int, mode: bytes = b"DCR") -> torch.Tensor:
    if mode != b"CRD" and x.shape[1] != blocksize**2:
        raise ValueError("depth-to-space of several colours must be in the order CRD")
    return F.pixel_shuffle(x, blocksize)


def _cast(x: torch.Tensor, to: int, **given: Any) -> torch.Tensor:
    return x.to({1: torch.float32, 2: torch.uint8, 10: torch.float16}[to])


OPERATORS: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "Cast": _cast,
    "Clip": lambda x, low, high: torch.clamp(x, float(low), float(high)),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _convolution,
    "DepthToSpace": _shuffle,
    "Div": lambda a, b: a / b,
    "Mul": lambda a, b: a * b,
    "Neg": lambda x: -x,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sub": lambda a, b: a - b,
    "Transpose": lambda x, perm: x.permute(perm),
}


def main(given: Path, made: Path, variant: str) -> None:
    """Convert, and write graph.tflite."""
    proto = onnx.load(given / "graph.onnx")
    if unknown := sorted({node.op_type for node in proto.graph.node} - OPERATORS.keys()):
        raise SystemExit(f"the converter does not know {', '.join(unknown)}")
    for held in proto.graph.initializer:  # constants of Clip have to be numbers when the graph is traced
        held.name = held.name
    import litert_torch

    sides = [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim]
    integers = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    example = torch.zeros(sides, dtype=torch.uint8 if integers else torch.float32)
    written = made / "graph.tflite"
    litert_torch.convert(Operators(proto.graph).eval(), (example,)).export(str(written))
    if variant != "fp32":
        _quantise(written, variant, sorted(given.glob("*.npy")), json.loads((given / "own.json").read_text("utf-8")))


def _quantise(path: Path, variant: str, examples: list[Path], own: list[str]) -> None:
    raise SystemExit("not yet")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
