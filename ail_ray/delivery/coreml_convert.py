"""A program for an environment with coremltools: an ONNX graph of plain operators to a package for Core ML.

    python coreml_convert.py GIVEN MADE fp32|fp16|int8

GIVEN has graph.onnx, whose pictures are planes of floats, and about.json. It writes MADE/graph.mlpackage.
It imports nothing of this project. What it cannot do it says in the last line on standard error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import onnx
from coremltools.converters.mil import Builder as mb  # noqa: N813 (as its own documentation has it)
from onnx import numpy_helper


def _convolution(name: str, x: Any, weight: np.ndarray, bias: np.ndarray | None = None, **given: Any) -> Any:
    pads = given.get("pads", [0, 0, 0, 0])
    more = {"strides": given.get("strides", [1, 1]), "dilations": given.get("dilations", [1, 1])}
    more |= {"groups": given.get("group", 1)} | ({} if bias is None else {"bias": bias})
    return mb.conv(x=x, weight=weight, pad_type="custom", pad=[pads[0], pads[2], pads[1], pads[3]], name=name, **more)


def _shuffle(name: str, x: Any, blocksize: int, mode: bytes = b"DCR") -> Any:
    if mode != b"CRD" and x.shape[1] != blocksize**2:
        raise SystemExit("depth-to-space of several colours must be in the order CRD")
    return mb.pixel_shuffle(x=x, upscale_factor=blocksize, name=name)


OPERATORS: dict[str, Any] = {
    "Add": lambda name, a, b: mb.add(x=a, y=b, name=name),
    "Clip": lambda name, x, low, high: mb.clip(x=x, alpha=float(low), beta=float(high), name=name),
    "Concat": lambda name, *parts, axis: mb.concat(values=parts, axis=axis, name=name),
    "Conv": _convolution,
    "DepthToSpace": _shuffle,
    "Div": lambda name, a, b: mb.real_div(x=a, y=b, name=name),
    "Mul": lambda name, a, b: mb.mul(x=a, y=b, name=name),
    "Neg": lambda name, x: mb.mul(x=x, y=np.float32(-1), name=name),
    "Relu": lambda name, x: mb.relu(x=x, name=name),
    "Round": lambda name, x: mb.round(x=x, name=name),
    "Sub": lambda name, a, b: mb.sub(x=a, y=b, name=name),
}


def main(given: Path, made: Path, variant: str) -> None:
    """Convert, and write graph.mlpackage."""
    graph = onnx.load(given / "graph.onnx").graph
    if unknown := sorted({node.op_type for node in graph.node} - OPERATORS.keys()):
        raise SystemExit(f"the converter does not know {', '.join(unknown)}")
    sides = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}

    @mb.program(input_specs=[mb.TensorSpec(shape=sides)], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        values = dict(held) | {graph.input[0].name: x}
        for node in graph.node:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            inputs = [values[name] for name in node.input]
            name = node.output[0].replace(".", "_")
            values[node.output[0]] = OPERATORS[node.op_type](name, *inputs, **attributes)
        return values[graph.output[0].name]

    images: dict[str, Any] = {}
    if sides[1] == 3:  # pictures go in and out as images
        images = {"inputs": [ct.ImageType(name="x", shape=tuple(sides), color_layout=ct.colorlayout.RGB)],
                  "outputs": [ct.ImageType(color_layout=ct.colorlayout.RGB)]}  # fmt: skip
    precision = ct.precision.FLOAT16 if variant == "fp16" else ct.precision.FLOAT32
    model = ct.convert(program, convert_to="mlprogram", compute_precision=precision,
                       minimum_deployment_target=ct.target.iOS16, skip_model_load=True, **images)  # fmt: skip
    if variant == "int8":
        settings = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        model = ct.optimize.coreml.linear_quantize_weights(
            model, ct.optimize.coreml.OptimizationConfig(global_config=settings)
        )
    model.user_defined_metadata.update(json.loads((given / "about.json").read_text(encoding="utf-8")))
    model.save(str(made / "graph.mlpackage"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
