"""Students as ONNX: the same numbers as torch in every size, and what 16 and 8 bits cost."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from ail_ray.delivery.onnx import Variant, to_onnx
from ail_ray.delivery.upscale import upscale
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import border, psnr, to_uint8
from ail_ray.learning.inference import predict, super_resolve
from ail_ray.learning.precision import placed
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, NETWORKS, VDSR, Network

SIZES = [(1, 1, 1), (1, 1, 7), (3, 20, 1), (2, 33, 50)]


def network(name: str) -> Network:
    """Small, and so that what it adds to luma is about what a trained one adds."""
    torch.manual_seed(0)
    model = {"vdsr": VDSR(4, 5), "drrn": DRRN(4, 6), "fsrcnn": FSRCNN(12, 6, 3), "abpn": ABPN(6, 5, 3)}[name]
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d) and name != "fsrcnn":
                layer.weight *= 0.6
        if isinstance(model, FSRCNN):
            model.deconvolution.weight.normal_(std=0.02)
            model.deconvolution.bias.fill_(0.4)  # type: ignore[union-attr]
        if isinstance(model, ABPN):
            model.layers[-1].weight.normal_(std=0.02)
    return model


def run(written: bytes, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["sr"], {"luma": inputs})[0])


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How an ONNX model differs from torch in fp32 on an image set: largest difference on [0, 1], mean PSNR in dB."""

    largest: float
    torch_psnr: float
    onnx_psnr: float


def compare(model: Network, written: bytes, images: EvaluationImages) -> Difference:
    """Run an ONNX model and its network over whole images."""
    largest, decibels = 0.0, np.zeros(2)
    for hr, inputs in zip(images.hr, images.inputs(model.traits.upsampling), strict=True):
        expected = super_resolve(model, torch.from_numpy(inputs), "fp32").numpy()
        sr = run(written, inputs[None, None])[0, 0]
        largest = max(largest, float(np.abs(sr - expected).max()))
        decibels += [min(psnr(hr, to_uint8(image), border(images.scale)), 100.0) for image in (expected, sr)]
    torch_psnr, onnx_psnr = decibels / len(images)
    return Difference(largest=largest, torch_psnr=float(torch_psnr), onnx_psnr=float(onnx_psnr))


@pytest.fixture(scope="module")
def images() -> EvaluationImages:
    rows, columns = np.mgrid[0:60, 0:72]
    waves = [128 + 60 * np.sin(rows / (3 + i)) * np.cos(columns / 4) + 20 * (columns > 30) for i in range(2)]
    return EvaluationImages("waves", 3, [wave.astype(np.uint8) for wave in waves])


@cache
def single(name: str) -> bytes:
    """The network as ONNX, from another type, layout and mode than it is saved in."""
    model = placed(network(name), "fp64", torch.device("cpu")).train()
    written = to_onnx(model)
    assert next(model.parameters()).dtype == torch.float64, "the given one is left as it is"
    assert model.training
    return written


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_torch_in_every_size(name: str) -> None:
    model, written = network(name), single(name)
    for batch, height, width in SIZES:
        inputs = torch.rand(batch, 1, height, width)
        sr = run(written, inputs.numpy())
        expected = model(inputs).detach().numpy()
        assert sr.shape == (batch, 1, height * model.traits.upsampling, width * model.traits.upsampling)
        assert np.abs(sr - expected).max() <= 1e-5
        assert np.abs(expected - 0.5).max() > 0.01
    shape = onnx.load_from_string(written).graph.input[0].type.tensor_type.shape
    assert [side.dim_param or side.dim_value for side in shape.dim] == ["batch", 1, "height", "width"]
    assert str(Path(__file__).parents[2]).encode() not in written, "says nothing about where it was made"
    assert b"torch/nn" not in written


def test_the_same_student_gives_the_same_file() -> None:
    assert to_onnx(network("vdsr")) == single("vdsr")


@pytest.mark.parametrize(("name", "variant", "kind", "largest", "cost"), [
    ("fsrcnn", "fp16", onnx.TensorProto.FLOAT16, 2e-3, 0.01),
    ("vdsr", "int8", onnx.TensorProto.INT8, 0.05, 0.1),
    ("drrn", "int8", onnx.TensorProto.INT8, 0.05, 0.3),
    ("fsrcnn", "int8", onnx.TensorProto.INT8, 0.05, 0.1),
    ("abpn", "int8", onnx.TensorProto.INT8, 0.05, 0.1),
])  # fmt: skip
def test_half_precision_and_eight_bits_cost_little(
    images: EvaluationImages, name: str, variant: Variant, kind: int, largest: float, cost: float
) -> None:
    model = network(name)
    written = to_onnx(model, variant, calibration=images.inputs(model.traits.upsampling))
    graph = onnx.load_from_string(written).graph
    kinds = {tensor.data_type for tensor in graph.initializer if np.prod(tensor.dims) > 12}
    assert kinds == {kind}, "weights of that type"
    if variant == "int8":
        weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == kind and len(t.dims) == 4]
        assert weights
        assert all(np.abs(weight.astype(int)).max() in (127, 128) for weight in weights)
        seven = onnx.load_from_string(to_onnx(model, "int8-w7", calibration=images.inputs(model.traits.upsampling)))
        small = [onnx.numpy_helper.to_array(t) for t in seven.graph.initializer if t.data_type == kind]
        assert all(np.abs(weight.astype(int)).max() <= 64 for weight in small), "where the CPU saturates"
        rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
        assert not rounded & {
            node.output[0]
            for node in graph.node
            if node.op_type == "Conv"
            and any(node.output[0] in each.input for each in graph.node if each.op_type == "Relu")
        }, "in one step with its ReLU"
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    difference, exact = compare(model, written, images), compare(model, single(name), images)
    assert exact.largest <= 1e-5 < difference.largest < largest
    assert difference.torch_psnr == exact.torch_psnr == pytest.approx(exact.onnx_psnr, abs=1e-3)
    assert difference.torch_psnr - difference.onnx_psnr < cost


def test_eight_bit_luma_in_and_out() -> None:
    model = network("vdsr")
    inputs = np.random.default_rng(0).integers(0, 256, (2, 1, 30, 41), np.uint8)
    sr = run(to_onnx(model, eight_bit=True), inputs)
    assert (sr.dtype, sr.shape) == (np.uint8, inputs.shape)
    with torch.no_grad():
        expected = to_uint8(model(torch.from_numpy(inputs) / 255).numpy()).astype(int)
    assert (expected.min(), expected.max()) == (0, 255), "some are clipped"
    assert np.abs(sr - expected).max() <= 1
    assert (sr != expected).mean() < 1e-3, "but for a tie that float32 rounds otherwise"


def test_the_difference_is_measured_as_images_are(images: EvaluationImages) -> None:
    model, other = network("vdsr"), VDSR(2, 2)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    difference = compare(model, to_onnx(other), images)
    pairs = list(zip(images.hr, images.bicubic, strict=True))
    sr = [predict(model, inputs) for inputs in images.bicubic]
    assert difference.onnx_psnr == pytest.approx(np.mean([psnr(hr, to_uint8(inputs), 3) for hr, inputs in pairs]))
    assert difference.torch_psnr == pytest.approx(
        np.mean([psnr(hr, y, 3) for hr, y in zip(images.hr, sr, strict=True)])
    )
    with torch.no_grad():
        changes = [np.abs(model(torch.from_numpy(y)[None, None]).numpy()[0, 0] - y).max() for y in images.bicubic]
    assert difference.largest == pytest.approx(max(changes), rel=1e-4)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_who_follows_the_tutorial_gets_the_picture_of_upscale(eight_bit: bool) -> None:
    """With the formulas as the tutorial states them, and Pillow's bicubic interpolation of floats."""
    model, picture = network("vdsr"), np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    image = Image.fromarray(picture).resize((42, 36), Image.Resampling.BICUBIC)
    red, green, blue = (np.asarray(image, np.float64)[..., i] for i in range(3))
    y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    cb = 128 + (-37.797 * red - 74.203 * green + 112 * blue) / 255
    cr = 128 + (112 * red - 93.786 * green - 18.214 * blue) / 255
    y, cb, cr = (
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((84, 72), Image.Resampling.BICUBIC))
        for plane in (y, cb, cr)
    )
    given = to_uint8(y / 255) if eight_bit else y / 255
    sr = run(to_onnx(model, eight_bit=eight_bit), given[None, None])[0, 0]
    y = sr.astype(np.float32) * (1 if eight_bit else 255)
    rgb = [
        1.164384 * (y - 16) + 1.596027 * (cr - 128),
        1.164384 * (y - 16) - 0.391762 * (cb - 128) - 0.812968 * (cr - 128),
        1.164384 * (y - 16) + 2.017232 * (cb - 128),
    ]
    followed = np.rint(np.clip(np.stack(rgb, -1), 0, 255))
    difference = np.abs(followed - np.asarray(upscale(model, image, 2)))
    assert difference.max() <= (3 if eight_bit else 1), "8 bits round luma on the way in and on the way out"


def test_onnxruntime_is_told_to_tell_nobody() -> None:
    """Its telemetry reads this when it is imported, by whatever comes first."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import os, ail_ray.delivery.onnx_file; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(("name", "operators"), [
    ("vdsr", {"Conv", "Relu", "Add"}), ("abpn", {"Conv", "Relu", "Add", "DepthToSpace"}),
])  # fmt: skip
def test_two_networks_are_of_what_every_device_knows(name: str, operators: set[str]) -> None:
    """No deconvolution, no PReLU, nothing that measures or reshapes a tensor, and none of more than four sides."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(single(name))).graph
    assert {node.op_type for node in graph.node} == operators
    kernels = [t for t in graph.initializer if len(t.dims) == 4]
    assert {tuple(kernel.dims[2:]) for kernel in kernels} == {(3, 3)}
    tensors = [*graph.value_info, *graph.input, *graph.output]
    assert {len(tensor.type.tensor_type.shape.dim) for tensor in tensors} == {4}


def test_both_orders_of_depth_to_space_give_the_same_picture() -> None:
    written = onnx.load_from_string(single("abpn"))
    (node,) = [node for node in written.graph.node if node.op_type == "DepthToSpace"]
    (mode,) = [attribute for attribute in node.attribute if attribute.name == "mode"]
    assert mode.s == b"CRD"
    mode.s = b"DCR"
    inputs = np.random.default_rng(0).random((2, 1, 9, 7), np.float32)
    assert np.array_equal(run(written.SerializeToString(), inputs), run(single("abpn"), inputs))
