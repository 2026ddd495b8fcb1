"""A student as ONNX, for devices and servers that know no torch; what it computes there, against torch.

Luma is here, as everywhere, that of ITU-R BT.601 in studio range, `rgb2ycbcr` of MATLAB: for R, G and B in 0..255

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255,

black is 16 and white 235, and a network reads and writes Y / 255. The luma of JPEG files and of most libraries'
YCbCr lies in 0..255 and is another one. Grey pictures are taken as luma as they are.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript.optimizer import optimize
from torch import nn

from ail_ray.errors import ConfigError
from ail_ray.files import AnyPath, as_path, slug, write_bytes
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.image_sets import find
from ail_ray.imaging.metrics import border, psnr, to_uint8
from ail_ray.imaging.panels import central_crop
from ail_ray.learning.inference import super_resolve
from ail_ray.networks.architectures import ENLARGING, NETWORKS, Made, Network, device_of
from ail_ray.networks.building import build_model
from ail_ray.networks.code import Code, label
from ail_ray.tensors import as_tensor

Variant = Literal["fp32", "fp16", "int8"]

INPUT, OUTPUT = "luma", "sr"
CALIBRATION_SIDE = 192
"""Side in pixels of the middle of each calibration image, of which only that is looked at."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How an ONNX model differs from torch in fp32 on an image set: largest difference on [0, 1], mean PSNR in dB."""

    largest: float
    torch_psnr: float
    onnx_psnr: float

    def __str__(self) -> str:
        cost = self.torch_psnr - self.onnx_psnr
        return f"at most {self.largest:.1e} from torch; {self.onnx_psnr:.3f} dB, which costs {cost:.4f} dB"


def to_onnx(
    model: Network,
    variant: Variant = "fp32",
    *,
    eight_bit: bool = False,
    calibration: Sequence[np.ndarray] = (),
) -> bytes:
    """The network as an ONNX model; the given one is left as it is.

    Input `luma`: (batch, 1, height, width) float32, Y / 255 of the luma that this file's head states, as the network
    reads it: bicubic-upsampled, or the low-resolution image where the network upsamples. Output `sr`: (batch, 1,
    upsampling * height, upsampling * width) float32, about [0, 1], not clipped. Batch, height and width are free,
    1 included.

    Args:
        variant: arithmetic. fp16 has weights and activations of that type; int8 has the convolutions' inputs,
            outputs and weights (by channel) in 8 bits, with the global skip in float32.
        eight_bit: input and output are uint8, 255 for 1; the scaling, clipping and rounding is in the graph.
        calibration: for int8: images as the network reads them, (H, W) float on [0, 1], whose activations set the
            ranges.

    Raises:
        ValueError: int8 without calibration images.
    """
    if variant == "int8" and not calibration:
        raise ValueError("int8 needs calibration images")
    whole = _wrapped(copy.deepcopy(model).to("cpu", torch.float32), variant == "fp16", eight_bit)
    graph = _graph(model.made, variant == "fp16", eight_bit)
    proto = onnx.load_from_string(graph)
    weights = whole.state_dict()
    for held in proto.graph.initializer:
        held.CopyFrom(onnx.numpy_helper.from_array(weights[held.name].numpy(), held.name))
    proto = optimize(proto)
    _forget_origin(proto)
    if variant == "int8":
        proto = _quantised(proto, [_fed(inputs, eight_bit) for inputs in calibration])
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def compare(model: Network, written: bytes, images: EvaluationImages) -> Difference:
    """Run an ONNX model (on one thread of this CPU) and its network over whole images."""
    session, (given,) = _session(written)
    eight_bit, largest, decibels = given.type == "tensor(uint8)", 0.0, np.zeros(2)
    for hr, inputs in zip(images.hr, images.inputs(model.traits.upsampling), strict=True):
        expected = super_resolve(model, as_tensor(inputs).to(device_of(model)), "fp32").cpu().numpy()
        sr = session.run(None, {INPUT: _fed(inputs, eight_bit)})[0][0, 0]
        if eight_bit:
            expected, sr = to_uint8(expected).astype(np.float32) / 255, sr.astype(np.float32) / 255
        largest = max(largest, float(np.abs(sr - expected).max()))
        decibels += [min(psnr(hr, to_uint8(image), border(images.scale)), 100.0) for image in (expected, sr)]
    torch_psnr, onnx_psnr = decibels / len(images)
    return Difference(largest=largest, torch_psnr=float(torch_psnr), onnx_psnr=float(onnx_psnr))


def export(model: Network, folder: AnyPath, variant: Variant, scale: int, *, eight_bit: bool, calibration: str) -> str:
    """Write `<network>-f<width>-x<scale>-<variant>[-bytes].onnx`; returns a line that says what it costs at the scale.

    That is measured on the bundled validation images.

    Args:
        calibration: image set for int8.

    Raises:
        ConfigError: there is no such set, or one of its images cannot be read or is too small; or there is a file of
            that name, which could be of other weights.
    """
    made = model.made
    width = "" if made.width is None else f"-f{made.width}"
    name = f"{slug(label(made.network))}{width}-x{scale}-{variant}{'-bytes' if eight_bit else ''}.onnx"
    path, problems, ranges = as_path(folder) / name, list[str](), list[np.ndarray]()
    if made.network not in NETWORKS and not isinstance(made.network, Code):
        raise ConfigError([f"model: only a student or a teacher in safetensors can be written, no {made.network}"])
    if scale not in ENLARGING:
        problems.append(f"scale must be 2, 3 or 4, got {scale}; a network that restores is compared at any of them")
    if path.exists():
        problems.append(f"out: {path} is there already; remove it, or name another folder")
    try:
        if variant == "int8":
            inputs = _images(calibration, scale).inputs(model.traits.upsampling)
            ranges = [central_crop(image, CALIBRATION_SIDE) for image in inputs]
    except ValueError as error:
        problems.append(f"calibration: {error}")
    if problems:
        raise ConfigError(problems)
    written = to_onnx(model, variant, eight_bit=eight_bit, calibration=ranges)
    difference = compare(model, written, _images("sample-val", scale))
    write_bytes(path, written)
    return f"{path}: {len(written) / 1024:.0f} KB, {difference} (sample-val ×{scale})"


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
            _wrapped(network, half, eight_bit), (example,), dynamo=True, verbose=False, optimize=False,
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


def _quantised(proto: onnx.ModelProto, batches: Sequence[np.ndarray]) -> onnx.ModelProto:
    # Here, since it takes a second that fp32 need not wait for.
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({INPUT: batch} for batch in self.left), None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared, path = Path(scratch, "prepared.onnx"), Path(scratch, "int8.onnx")
        quant_pre_process(proto, prepared, skip_symbolic_shape=True)
        # Seven bits of weight: a CPU without VNNI sums products of eight in 16 bits, which saturate.
        quantize_static(
            prepared, path, Reader(), per_channel=True, reduce_range=True,
            op_types_to_quantize=["Conv", "ConvTranspose"], calibration_providers=["CPUExecutionProvider"],
        )  # fmt: skip
        return onnx.load(path)


def _session(written: bytes) -> tuple[onnxruntime.InferenceSession, list[onnxruntime.NodeArg]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    return session, session.get_inputs()


def _fed(inputs: np.ndarray, eight_bit: bool) -> np.ndarray:
    """An image in the form that the model reads: (1, 1, H, W) float32 or uint8."""
    return (to_uint8(inputs) if eight_bit else inputs.astype(np.float32))[None, None]


def _images(name: str, scale: int) -> EvaluationImages:
    return EvaluationImages.read(name, scale, find(name).paths)


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop what torch notes about where it was called: stack traces with this machine's paths, a third of the file."""
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
