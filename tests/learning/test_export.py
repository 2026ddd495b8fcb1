"""Students as ONNX: the same numbers as torch in every size, and what 16 and 8 bits cost."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ail_ray.errors import ConfigError
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import psnr, to_uint8
from ail_ray.learning.export import Variant, compare, export, to_onnx
from ail_ray.learning.inference import predict
from ail_ray.learning.models import DRRN, FSRCNN, NETWORKS, VDSR, Network
from ail_ray.learning.precision import placed

SIZES = [(1, 1, 1), (1, 1, 7), (3, 20, 1), (2, 33, 50)]


def network(name: str) -> Network:
    """Small, and so that what it adds to luma is about what a trained one adds."""
    torch.manual_seed(0)
    model = {"vdsr": VDSR(4, 5), "drrn": DRRN(4, 6), "fsrcnn": FSRCNN(12, 6, 3)}[name]
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d) and name != "fsrcnn":
                layer.weight *= 0.6
        if isinstance(model, FSRCNN):
            model.deconvolution.weight.normal_(std=0.02)
            model.deconvolution.bias.fill_(0.4)  # type: ignore[union-attr]
    return model


def run(written: bytes, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["sr"], {"luma": inputs})[0])


@pytest.fixture(scope="module")
def images() -> EvaluationImages:
    rows, columns = np.mgrid[0:60, 0:72]
    waves = [128 + 60 * np.sin(rows / (3 + i)) * np.cos(columns / 4) + 20 * (columns > 30) for i in range(2)]
    return EvaluationImages("waves", 3, [wave.astype(np.uint8) for wave in waves])


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_torch_in_every_size(name: str) -> None:
    model = network(name)
    elsewhere = placed(copy.deepcopy(model), "fp64", torch.device("cpu")).train()
    written = to_onnx(elsewhere)
    assert next(elsewhere.parameters()).dtype == torch.float64, "the given one is left as it is"
    assert elsewhere.training
    for batch, height, width in SIZES:
        inputs = torch.rand(batch, 1, height, width)
        sr = run(written, inputs.numpy())
        expected = model(inputs).detach().numpy()
        assert sr.shape == (batch, 1, height * model.upsampling, width * model.upsampling)
        assert np.abs(sr - expected).max() <= 1e-5
        assert np.abs(expected - 0.5).max() > 0.01
    proto = onnx.load_from_string(written)
    assert [dimension.dim_param for dimension in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", "", "height", "width",
    ]  # fmt: skip
    assert str(Path(__file__).parents[2]).encode() not in written, "says nothing about where it was made"
    assert b"torch/nn" not in written


def test_the_same_student_gives_the_same_file() -> None:
    assert to_onnx(network("vdsr")) == to_onnx(network("vdsr"))


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_and_eight_bits_cost_little(images: EvaluationImages, name: str) -> None:
    model = network(name)
    sizes, costs = {}, {}
    ranges = images.inputs(model.upsampling)
    for variant in ("fp32", "fp16", "int8"):
        written = to_onnx(model, variant, calibration=ranges)  # type: ignore[arg-type]
        proto = onnx.load_from_string(written)
        kinds = {tensor.data_type for tensor in proto.graph.initializer if np.prod(tensor.dims) > 12}
        assert kinds == {{"fp32": 1, "fp16": 10, "int8": 3}[variant]}, "weights of that type"
        assert proto.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        difference = compare(model, written, images)
        sizes[variant], costs[variant] = len(written), difference
    assert costs["fp32"].largest <= 1e-5
    assert 1e-6 < costs["fp16"].largest < 2e-3
    assert 1e-4 < costs["int8"].largest < 0.05
    for difference in costs.values():
        assert difference.torch_psnr - difference.onnx_psnr < 0.1
    assert sizes["fp16"] < sizes["fp32"]


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_eight_bit_luma_in_and_out(images: EvaluationImages, variant: Variant) -> None:
    model = network("vdsr")
    written = to_onnx(model, variant, eight_bit=True, calibration=images.bicubic)
    inputs = np.random.default_rng(0).integers(0, 256, (2, 1, 30, 41), np.uint8)
    sr = run(written, inputs)
    assert (sr.dtype, sr.shape) == (np.uint8, inputs.shape)
    with torch.no_grad():
        expected = to_uint8(model(torch.from_numpy(inputs) / 255).numpy()).astype(int)
    assert expected.min() == 0, "some are clipped"
    assert expected.max() == 255
    if variant == "fp32":
        assert np.abs(sr - expected).max() <= 1
        assert (sr != expected).mean() < 1e-3, "but for a tie that float32 rounds otherwise"
    else:
        assert np.abs(sr - expected).mean() < 4


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


def test_export_says_what_it_costs_and_replaces_nothing(tmp_path: Path) -> None:
    model = network("vdsr")
    line = export(model, tmp_path, "int8", 2, eight_bit=True, calibration="sample")
    path = tmp_path / "vdsr-f4-x2-int8-bytes.onnx"
    assert line.startswith(f"{path}: ")
    assert "from torch" in line
    assert line.endswith("dB (sample-val ×2)")
    before = path.read_bytes()
    assert run(before, np.zeros((1, 1, 3, 4), np.uint8)).shape == (1, 1, 3, 4)
    with pytest.raises(ConfigError) as refused:
        export(network("drrn"), tmp_path / "none", "int8", 2, eight_bit=False, calibration="nowhere")
    assert refused.value.problems[0].startswith("calibration: unknown image set 'nowhere'")
    with pytest.raises(ConfigError) as refused:
        export(model, tmp_path, "int8", 2, eight_bit=True, calibration="nowhere")
    assert [line.split(":")[0] for line in refused.value.problems] == ["export", "calibration"]
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="int8 needs calibration images"):
        to_onnx(model, "int8")
