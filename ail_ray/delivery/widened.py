"""A graph whose convolutions have as many maps as kernels are made for: multiples of 16, filled up with zeros."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

ALONE = {"Relu", "Neg", "Add", "Mul", "Sub", "Max", "Min"}
"""Operators that treat every map alone, and leave one that is 0 as it is."""


def widen(graph: onnx.GraphProto, multiple: int = 16) -> None:
    """Fill the maps between convolutions up with maps of zeros; the graph gives the same numbers.

    ONNX Runtime has fast kernels only for such numbers, in float32 and above all in integers. Maps that something else
    than a convolution looks at, such as those that become pixels, stay as they are.
    """
    held = {each.name: each for each in graph.initializer}
    kept = {each.name for each in (*graph.input, *graph.output)}
    for node in graph.node:
        if node.op_type not in {"Conv", *ALONE} or (node.op_type == "Conv" and not _fillable(node, held)):
            kept.update(node.input, node.output)
    before = 0
    while before != len(kept):
        before = len(kept)
        for node in graph.node:
            names = {name for name in (*node.input, *node.output) if name not in held}
            if node.op_type in ALONE and names & kept:
                kept |= names
    done = dict[str, str]()  # constants that were filled up, by how
    for node in graph.node:
        if node.op_type == "Conv" and _fillable(node, held):
            axes = [axis for axis, name in ((0, node.output[0]), (1, node.input[0])) if name not in kept]
            node.input[1] = _filled(graph, held, done, node.input[1], axes, multiple)
            if len(node.input) > 2:
                node.input[2] = _filled(graph, held, done, node.input[2], axes[:1] if 0 in axes else [], multiple)
        elif node.op_type in ALONE and node.output[0] not in kept:
            for i, name in enumerate(node.input):
                if name in held and len(held[name].dims) >= 3:
                    axis = len(held[name].dims) - 3
                    node.input[i] = _filled(graph, held, done, name, [axis], multiple)
    used = {name for node in graph.node for name in node.input}
    left = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(left)


def _fillable(convolution: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a convolution is one from all maps to all, with weights that are constants."""
    grouped = any(each.name == "group" and each.i != 1 for each in convolution.attribute)
    return not grouped and all(name in held for name in convolution.input[1:])


def _filled(
    graph: onnx.GraphProto, held: dict[str, onnx.TensorProto], done: dict[str, str], name: str, axes: list[int],
    multiple: int,
) -> str:  # fmt: skip
    """A constant filled up with zeros along these axes; returns its name."""
    values = numpy_helper.to_array(held[name])
    more = [(0, -side % multiple if axis in axes and side > 1 else 0) for axis, side in enumerate(values.shape)]
    key = f"{name}.{''.join(map(str, axes))}"
    if not any(after for _, after in more):
        return name
    if key not in done:
        done[key] = key
        held[key] = numpy_helper.from_array(np.pad(values, more), key)
        graph.initializer.append(held[key])
    return key
