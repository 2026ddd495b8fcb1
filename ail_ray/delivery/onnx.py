"""A student as an ONNX graph of plain operators, the one form from which every file for a device is made.

Luma is here, as everywhere, that of ITU-R BT.601 in studio range, `rgb2ycbcr` of MATLAB: for R, G and B in 0..255

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255,

black is 16 and white 235, and a network reads and writes Y / 255. The luma of JPEG files and of most libraries'
YCbCr lies in 0..255 and is another one. Grey pictures are taken as luma as they are.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript.optimizer import optimize
from torch import nn

from ail_ray.delivery.picture import with_picture
from ail_ray.delivery.plain import plain
from ail_ray.delivery.widened import widen
from ail_ray.imaging.metrics import to_uint8
from ail_ray.networks.architectures import Made, Network
from ail_ray.networks.building import build_model

Variant = Literal["fp32", "fp16", "int8", "int8-w7"]

INPUT, OUTPUT = "luma", "sr"
OPSET = 18
"""In which torch writes; what is written needs less."""


def to_onnx(
    model: Network,
    variant: Variant = "fp32",
    *,
    eight_bit: bool = False,
    picture: int = 0,
    planes: bool = False,
    shape: tuple[int, int] | None = None,
    wide: bool = False,
    calibration: Sequence[np.ndarray] = (),
    about: Mapping[str, str] | None = None,
) -> bytes:
    """The network as an ONNX model; the given one is left as it is.

    Input `luma`: (batch, 1, height, width) float32, Y / 255 of the luma that this file's head states, as the network
    reads it: bicubic-upsampled, or the low-resolution image where the network upsamples. Output `sr`: (batch, 1,
    upsampling * height, upsampling * width) float32, about [0, 1], not clipped. Batch, height and width are free,
    1 included. The version of the format and of its operators are the lowest that have these operators.

    Args:
        variant: arithmetic. fp16 has weights and activations of that type; int8 has the convolutions' inputs,
            outputs and weights (by channel) in 8 bits, with the global skip in float32; int8-w7 has 7 bits of weight,
            for CPUs that add products of eight in 16 bits, which saturate (x86 without VNNI).
        eight_bit: input and output are uint8, 255 for 1; the scaling, clipping and rounding is in the graph.
        picture: instead, a whole RGB picture in and out, as `with_picture` has it, enlarged by this factor.
        planes: the picture is (1, 3, height, width) float32 on [0, 255], rounded: for a runtime without integers.
        wide: maps of zeros fill those between convolutions up, which kernels of CPUs want.
        shape: height and width of the one image that the graph takes; any number of any size without.
        calibration: for int8: images as the network reads them, (H, W) float on [0, 1], whose activations set the
            ranges.
        about: what is noted in the file, by name.

    Raises:
        ValueError: int8 without calibration images.
    """
    eight_bit, int8 = eight_bit and not picture, variant.startswith("int8")
    if int8 and not calibration:
        raise ValueError("int8 needs calibration images")
    proto = onnx.load_from_string(_graph(model.made, variant == "fp16", eight_bit))
    weights = _wrapped(plain(model), variant == "fp16", eight_bit).state_dict()
    for held in proto.graph.initializer:
        held.CopyFrom(onnx.numpy_helper.from_array(weights[held.name].numpy(), held.name))
    proto = optimize(proto)
    _forget_origin(proto)
    _clamp_before_shuffle(proto.graph)
    if wide:
        widen(proto.graph)
    if int8:
        from ail_ray.delivery.quantised import quantised  # here, since it takes a second that fp32 need not wait for

        batches = [{INPUT: _fed(inputs, eight_bit)} for inputs in calibration]
        proto = quantised(proto, batches, bits=7 if variant == "int8-w7" else 8)
    if picture:
        proto = with_picture(proto, picture, model.traits.upsampling, planes)
    if shape:
        _fix_shape(proto.graph, *shape)
    _lower(proto)
    onnx.helper.set_model_props(proto, dict(about or {}))
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


@cache
def _graph(made: Made, half: bool, eight_bit: bool) -> bytes:
    """The model of every network of this architecture, with the weights of none in particular.

    It is what torch takes a second or two to write. Nothing in it has been simplified, since that looks at the weights.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_model(made.network, width=made.width, depth=made.depth, scale=made.scale)
    side = network.traits.multiple
    example = torch.zeros(2, 1, 8 * side, 9 * side, dtype=torch.uint8 if eight_bit else torch.float32)
    # It warns that torchvision, which nothing here needs, is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's about torch
        written = torch.onnx.export(
            _wrapped(plain(network), half, eight_bit), (example,), dynamo=True, verbose=False, optimize=False,
            opset_version=OPSET,
            input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        )  # fmt: skip
    assert written is not None
    return bytes(written.model_proto.SerializeToString())


def _wrapped(network: nn.Module, half: bool, eight_bit: bool) -> nn.Module:
    """The network in the arithmetic that is asked for."""
    network = _Half(network) if half else network
    return (_EightBit(network) if eight_bit else network).eval()


class _Half(nn.Module):
    """Wraps a network so that it reads and returns float32 and computes in float16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs.half()).float()


class _EightBit(nn.Module):
    """Wraps a network so that it reads and returns uint8."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (self.network(inputs.float() / 255).clamp(0, 1) * 255).round().to(torch.uint8)


def _clamp_before_shuffle(graph: onnx.GraphProto) -> None:
    """Let the last depth-to-space come after what is done to each value alone, which costs less on the small grid."""
    nodes, constants = list(graph.node), {each.name for each in graph.initializer if not each.dims}
    for i, (shuffle, after) in enumerate(pairwise(nodes)):
        to_float = after.op_type == "Cast" and after.attribute[0].i == onnx.TensorProto.FLOAT
        alone = to_float or (after.op_type in ("Clip", "Mul", "Round") and {*after.input[1:]} <= constants)
        users = [node for node in nodes if shuffle.output[0] in node.input]
        if shuffle.op_type == "DepthToSpace" and alone and users == [after]:
            after.input[0], shuffle.input[0] = shuffle.input[0], after.input[0]
            shuffle.input[0], shuffle.output[0], after.output[0] = (
                after.output[0] + ".small", after.output[0], after.output[0] + ".small",
            )  # fmt: skip
            nodes[i : i + 2] = [after, shuffle]
            del graph.node[:]
            graph.node.extend(nodes)
            return _clamp_before_shuffle(graph)
    return None


def _fix_shape(graph: onnx.GraphProto, height: int, width: int) -> None:
    """Let a graph take one image of one size; the sizes of all that it computes follow."""
    sides = graph.input[0].type.tensor_type.shape.dim
    rows = 1 if sides[3].dim_value == 3 else 2  # a picture is (1, H, W, 3), luma (N, 1, H, W), planes (1, 3, H, W)
    for side, value in ((sides[0], 1), (sides[rows], height), (sides[rows + 1], width)):
        side.dim_value = value
    for side in graph.output[0].type.tensor_type.shape.dim:
        if side.dim_param:
            side.Clear()
    del graph.value_info[:]


def _lower(proto: onnx.ModelProto) -> None:
    """State the lowest version of the operators and of the format that have all operators of a graph."""
    given = proto.opset_import[0].version
    needed = max(onnx.defs.get_schema(node.op_type, given, node.domain).since_version for node in proto.graph.node)
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", needed))
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    proto.graph.CopyFrom(onnx.shape_inference.infer_shapes(proto).graph)


def session_of(written: bytes, threads: int) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on so many threads of this CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def _fed(inputs: np.ndarray, eight_bit: bool) -> np.ndarray:
    """An image in the form that the model reads: (1, 1, H, W) float32 or uint8."""
    return (to_uint8(inputs) if eight_bit else inputs.astype(np.float32))[None, None]


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop what torch notes about where it was called: stack traces with this machine's paths, a third of the file."""
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
