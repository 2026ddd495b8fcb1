"""A network in an ONNX file, run by onnxruntime on the CPU: what a device will compute, measured and seen here."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import FileError
from ail_ray.imaging.metrics import to_uint8
from ail_ray.networks.architectures import WHOLE_PICTURE, Made, Network, Traits
from ail_ray.tensors import as_tensor

PIXEL_BY_PIXEL = {
    "Add", "Cast", "CastLike", "Clip", "Constant", "DepthToSpace", "DequantizeLinear", "Div", "Identity", "LeakyRelu",
    "Max", "Min", "Mul", "Neg", "PRelu", "QuantizeLinear", "Relu", "Round", "Sigmoid", "Sub", "Tanh",
}  # fmt: skip
"""Operations whose result at a pixel depends on that pixel only."""
TRIED = (24, 32)
"""Height and width of the image by which a network is tried, to see by how much it upsamples."""


class OnnxFile(Network):
    """A network of any origin that turns luma into luma, in the way its own input asks for.

    The input is (N, 1, H, W) float32 on [0, 1], or uint8 with 255 for 1. A file whose output is of the input's size
    reads the bicubic-upsampled image and serves every scale; one whose output is 2, 3 or 4 times as large reads the
    low-resolution image and serves that scale.
    """

    def __init__(self, path: UPath) -> None:
        """Open a file and try it on a small image; it will compute with as many threads as torch does.

        Raises:
            FileError: it is missing, onnxruntime cannot run it, or it is no network from luma to luma of any size.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what is wrong comes as an exception, too
        try:
            written = path.read_bytes()
            session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
            inputs, outputs = session.get_inputs(), session.get_outputs()
            (kind, shape), number = (inputs[0].type, inputs[0].shape), (len(inputs), len(outputs))
        except FileNotFoundError:
            raise FileError(f"{path}: no such file") from None
        except Exception as error:  # onnxruntime's are of many kinds; object stores have errors of their own
            raise FileError(f"{path}: not a network that onnxruntime can run ({one_line(error)})") from None
        takes = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}.get(kind)
        free = len(shape) == 4 and shape[1] == 1 and not any(isinstance(side, int) for side in shape[2:])
        if takes is None or not free or number != (1, 1):
            found = f"{number[0]} inputs, the first {kind} {shape}, and {number[1]} outputs"
            needed = "one input, luma of any size as (N, 1, height, width) float or uint8, and one output"
            raise FileError(f"{path}: has {found}; needed is {needed}")
        try:
            tried = session.run(None, {inputs[0].name: np.zeros((1, 1, *TRIED), takes)})[0]
        except Exception as error:
            raise FileError(f"{path}: fails on an image of {TRIED[0]}×{TRIED[1]} pixels ({one_line(error)})") from None
        factors = [s for s in (1, 2, 3, 4) if tried.shape == (1, 1, TRIED[0] * s, TRIED[1] * s)]
        if not factors or tried.dtype != takes:
            found = f"{tried.dtype} {list(tried.shape)} from {np.dtype(takes)} {[1, 1, *TRIED]}"
            raise FileError(f"{path}: makes {found}; needed is the same type, and 1, 2, 3 or 4 times the size")
        super().__init__()
        self.session, self.given, self.takes = session, inputs[0].name, takes
        radius = _reach(onnx.load_model_from_string(written).graph)
        self.traits, self.made = Traits(upsampling=factors[0], radius=radius), Made(network=f"network in {path.name}")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Super-resolve: (N, 1, H, W) luma on [0, 1] of any float type, to the same type."""
        images = inputs.float().cpu().numpy()
        sr = self.session.run(None, {self.given: to_uint8(images) if self.takes is np.uint8 else images})[0]
        outputs = as_tensor(sr.astype(np.float32) / 255 if self.takes is np.uint8 else sr)
        return outputs.to(device=inputs.device, dtype=inputs.dtype)


def _reach(graph: onnx.GraphProto) -> int:
    """How far a graph sees around a pixel, at most: the sum of the pixels by which its convolutions pad."""
    return min(WHOLE_PICTURE, sum(_padding(node) for node in graph.node))


def _padding(node: onnx.NodeProto) -> int:
    given: dict[str, Any] = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    pads, stride = max(given.get("pads", [0])), max(given.get("strides", [1]))
    if node.op_type in PIXEL_BY_PIXEL:
        return 0
    if given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return WHOLE_PICTURE
    if node.op_type == "Conv" and stride == 1:
        return pads
    # Between two pixels that it reads it writes `stride` of them.
    return pads // stride + 1 if node.op_type == "ConvTranspose" else WHOLE_PICTURE
