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


class OfNetwork(torch.nn.Module):
    """One node of a graph; the names of its class and of the next are how the quantiser tells them apart."""

    def __init__(self, node: onnx.NodeProto, held: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.reads, self.writes = [name for name in node.input if name not in held], node.output[0]
        self.operator = OPERATORS[node.op_type]
        self.given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        self.places, self.numbers = [name in held for name in node.input], list[float]()
        for i, name in enumerate(node.input):
            if name in held and node.op_type == "Clip":
                self.numbers.append(float(held[name]))
            elif name in held:
                self.register_buffer(f"constant_{i}", torch.from_numpy(held[name].copy()))

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        left = list(values)
        inputs = [
            left.pop(0) if not constant else self.numbers[i - 1] if self.numbers else getattr(self, f"constant_{i}")
            for i, constant in enumerate(self.places)
        ]
        return self.operator(*inputs, **self.given)


class OfPicture(OfNetwork):
    """A node that stays in floating point."""


class Operators(torch.nn.Module):
    """A graph as a torch module that computes node after node."""

    def __init__(self, graph: onnx.GraphProto, own: set[str]) -> None:
        super().__init__()
        self.reads, self.writes = graph.input[0].name, graph.output[0].name
        held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.steps: Any = torch.nn.ModuleList(
            (OfPicture if node.name in own else OfNetwork)(node, held) for node in graph.node
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self.reads: x}
        for step in self.steps:
            values[step.writes] = step(*[values[name] for name in step.reads])
        return values[self.writes]


def _convolution(x: torch.Tensor, weight: torch.Tensor, bias: Any = None, **given: Any) -> torch.Tensor:
    pads = given.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise ValueError("convolutions must be padded alike on both sides")
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
    "Clip": lambda x, low, high: torch.clamp(x, low, high),
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
    import litert_torch

    sides = [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim]
    integers = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    example = torch.zeros(sides, dtype=torch.uint8 if integers else torch.float32)
    written, own = made / "graph.tflite", set(json.loads((given / "own.json").read_text(encoding="utf-8")))
    litert_torch.convert(Operators(proto.graph, own).eval(), (example,)).export(str(written))
    if variant != "fp32":
        _quantise(written, variant, sorted(given.glob("*.npy")))


def _quantise(path: Path, variant: str, examples: list[Path]) -> None:
    """Rewrite a file with weights in float16, or with the network's operators in integers."""
    from ai_edge_quantizer import quantizer, recipe_manager

    recipe, operators = recipe_manager.RecipeManager(), recipe_manager.qtyping.TFLOperationName
    if variant == "fp16":
        for operator in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D):
            recipe.add_quantization_config(
                regex=".*", operation_name=operator, algorithm_key="float_casting",
                op_config=recipe_manager.qtyping.OpQuantizationConfig(
                    weight_tensor_config=recipe_manager.qtyping.TensorQuantizationConfig(
                        num_bits=16, dtype=recipe_manager.qtyping.TensorDataType.FLOAT
                    ),
                    compute_precision=recipe_manager.qtyping.ComputePrecision.FLOAT, explicit_dequantize=True,
                ),
            )  # fmt: skip
    else:
        # Not the sum at the end: in 8 bits of all of luma's range it would lose a decibel.
        recipe.add_static_config(
            regex=".*OfNetwork.*", operation_name=operators.CONV_2D, activation_num_bits=8, weight_num_bits=8
        )
    work = quantizer.Quantizer(str(path), recipe.get_quantization_recipe())
    ranges = None
    if work.need_calibration:
        name = next(iter(_signature(path)))
        ranges = work.calibrate({"serving_default": [{name: np.load(each)} for each in examples]})
    path.write_bytes(bytes(work.quantize(ranges).quantized_model))


def _signature(path: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    return list(Interpreter(model_path=str(path)).get_signature_list()["serving_default"]["inputs"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
