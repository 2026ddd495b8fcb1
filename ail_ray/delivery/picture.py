"""A graph that takes a picture and gives the enlarged picture, built around an ONNX graph that enlarges luma.

Everything is in it that `upscale` does: from RGB to luma and chroma, bicubic enlargement, and back. Bicubic enlargement
by s makes of each pixel s² pixels, each a weighted sum of 5×5: that is a convolution to s² maps, and depth-to-space.
At the rim Pillow leaves out the pixels that are not there and divides by the sum of the weights that are left; here the
same convolution over ones gives that sum. No tensor has a rank above 4.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ail_ray.imaging.colour import FROM_YCC, OFFSET, TO_YCC
from ail_ray.imaging.images import enlarge

PICTURE, ENLARGED = "picture", "enlarged"
REACH = 2
"""How far away bicubic enlargement looks, in pixels."""
OURS = "picture."
"""Begins the name of every tensor of the graph that does not belong to the network."""


def with_picture(core: onnx.ModelProto, scale: int, upsampling: int, planes: bool = False) -> onnx.ModelProto:
    """A graph from `picture`, (1, H, W, 3) uint8 RGB, to `enlarged`, (1, scale H, scale W, 3) uint8 RGB.

    Args:
        core: from luma, (1, 1, h, w) float32 as a network reads and writes it; its one input and its one output.
        upsampling: 1 where the core reads luma that was enlarged by `scale` before, else `scale`.
        planes: the pictures are (1, 3, H, W) float32 on [0, 255] instead; those that come out are rounded.
    """
    (luma,), (sr,) = core.graph.input, core.graph.output
    nodes, before = _Nodes(), list(core.graph.node)
    x, kind = PICTURE, TensorProto.FLOAT if planes else TensorProto.UINT8
    if not planes:
        x = nodes.add("Transpose", [nodes.add("Cast", [PICTURE], to=TensorProto.FLOAT)], perm=[0, 3, 1, 2])
    # Here and not in the weights, which would become too small for float16.
    x = nodes.add("Mul", [x, nodes.held(np.array(1 / 255))])
    ones = nodes.convolution(x, np.zeros((1, 3, 1, 1)), np.ones(1))
    rim = nodes.convolution(ones, phases(scale)[:, None], pad=REACH)
    spread = [
        nodes.add("Div", [nodes.convolution(x, np.einsum("pij,c->pcij", phases(scale), row), pad=REACH), rim])
        for row in TO_YCC[0 if upsampling == 1 else 1 :]
    ]
    # What the network's graph ends with, where it upsamples: then all that follows is done on the small grid.
    last = before[-1]
    on_small = upsampling > 1 and last.op_type == "DepthToSpace" and last.output[0] == sr.name
    if upsampling == 1:
        bare = nodes.add("DepthToSpace", [spread.pop(0)], blocksize=scale, mode="CRD")
        nodes.add("Add", [bare, nodes.held(np.full((1, 1, 1, 1), OFFSET[0]))], named=luma.name)
    else:
        nodes.convolution(x, TO_YCC[:1, :, None, None], OFFSET[:1], named=luma.name)
    first = list(nodes.nodes)
    if on_small:
        before, parts, copies = before[:-1], [last.input[0], *spread], scale**2
    else:
        shown = [nodes.add("DepthToSpace", [each], blocksize=scale, mode="CRD") for each in spread]
        parts, copies = [sr.name, *shown], 1
    shift = np.array([0.0, *OFFSET[1:]])  # which chroma lacks so far, and luma has
    back = np.kron(FROM_YCC, np.eye(copies))[:, :, None, None] * 255
    towards = np.repeat(255 * FROM_YCC @ (shift - OFFSET), copies)
    rgb = nodes.convolution(nodes.add("Concat", parts, axis=1), back, towards)
    rgb = nodes.add("Clip", [rgb, nodes.held(np.array(0.0)), nodes.held(np.array(255.0))])
    rgb = nodes.add("Round", [rgb], named=ENLARGED if planes and not on_small else "")
    if on_small:
        rgb = nodes.add("DepthToSpace", [rgb], blocksize=scale, mode="CRD", named=ENLARGED if planes else "")
    if not planes:
        rgb = nodes.add("Transpose", [rgb], perm=[0, 2, 3, 1])
        nodes.add("Cast", [rgb], to=TensorProto.UINT8, named=ENLARGED)
    after = nodes.nodes[len(first) :]
    small, large = ["height", "width"], ["rows", "columns"]
    graph = helper.make_graph(
        [*first, *before, *after], "picture",
        [helper.make_tensor_value_info(PICTURE, kind, [1, 3, *small] if planes else [1, *small, 3])],
        [helper.make_tensor_value_info(ENLARGED, kind, [1, 3, *large] if planes else [1, *large, 3])],
        [*core.graph.initializer, *nodes.constants],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=core.opset_import, ir_version=core.ir_version)


def phases(scale: int) -> np.ndarray:
    """The weights by which bicubic enlargement makes scale² pixels of each: (scale², 5, 5), by row and column."""
    pixel = np.zeros((1, 2 * REACH + 7), np.float64)
    pixel[0, pixel.size // 2] = 1
    spread = enlarge(np.repeat(pixel, 5, 0), scale)[2].astype(np.float64)
    # Of the pixel d further on, the one that is spread here is d before: so the order is turned round.
    first = scale * (pixel.size // 2 - REACH)
    rows = spread[first : first + scale * (2 * REACH + 1)].reshape(2 * REACH + 1, scale)[::-1].T
    rows = np.where(np.abs(rows) < 1e-7, 0, rows)
    rows /= rows.sum(1, keepdims=True)
    return np.einsum("ai,bj->abij", rows, rows).reshape(scale**2, 2 * REACH + 1, 2 * REACH + 1)


class _Nodes:
    """The nodes and constants of a graph as they are made."""

    def __init__(self) -> None:
        self.nodes, self.constants = list[onnx.NodeProto](), list[onnx.TensorProto]()

    def add(self, operator: str, inputs: list[str], *, named: str = "", **attributes: Any) -> str:
        """A node; returns the name of its result, which is made up unless it is given."""
        name = f"{OURS}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [named or name], name=name, **attributes))
        return named or name

    def held(self, values: np.ndarray) -> str:
        """A constant in float32; returns its name."""
        name = f"{OURS}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def convolution(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None = None, pad: int = 0, named: str = ""
    ) -> str:
        given = [x, self.held(weight), *([] if bias is None else [self.held(bias)])]
        side = weight.shape[2]
        return self.add("Conv", given, named=named, kernel_shape=[side, side], pads=[pad] * 4)
