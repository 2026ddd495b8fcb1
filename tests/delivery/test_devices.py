"""Students in the runtimes of devices; skipped where one is not installed. `make devices` installs all."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from test_export import network

from ail_ray.delivery import apart
from ail_ray.delivery.onnx import Variant
from ail_ray.delivery.targets import TARGETS, Graph, fitted
from ail_ray.delivery.upscale import upscale

RUN = ("openvino", "ncnn", "litert")
SHAPE = (40, 48)


@pytest.fixture(params=[*RUN, "coreml"])
def target(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    environment = TARGETS[name].environment
    if os.environ.get("AIL_REQUIRE_DEVICES") and environment and not apart.exists(environment):
        apart.make(environment)
    if TARGETS[name].missing:
        assert not os.environ.get("AIL_REQUIRE_DEVICES"), TARGETS[name].missing
        pytest.skip(TARGETS[name].missing[0])
    return name


def pictures() -> list[np.ndarray]:
    """Twenty of odd sizes; the last are red, green and blue."""
    whole = data.astronaut()
    cut = [whole[20 * i : 20 * i + 11 + 2 * i, 15 * i : 15 * i + 47 - i] for i in range(17)]
    return [*cut, *(np.full((9, 7, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))]


@pytest.mark.parametrize("name", ["vdsr", "fsrcnn"])
@pytest.mark.parametrize(("variant", "most", "mean"), [("fp32", 1, 0.01), ("fp16", 2, 0.5), ("int8", 40, 2.0)])
def test_a_picture_is_that_of_upscale(target: str, name: str, variant: Variant, most: int, mean: float) -> None:
    model, examples = network(name), pictures()
    free = TARGETS[target].free
    graph = Graph(
        model=model, scale=3, picture=True, shape=None if free else SHAPE, about={"scale": "3"},
        pictures=[data.astronaut(), examples[-1]], luma=[data.camera()[:64, :64].astype(np.float32) / 255],
    )  # fmt: skip
    files = TARGETS[target].convert(graph, variant)
    assert all(files.values())
    if (runner := TARGETS[target].runner) is None:
        assert sys.platform != "darwin", "there it can be run, and should be"
        return
    run = runner(files, 1)
    for picture in examples:
        given = picture if free else fitted(picture, SHAPE)
        expected = np.asarray(upscale(model, Image.fromarray(given), 3)).astype(int)
        made = run(given[None])[0]
        assert (made.dtype, made.shape) == (np.uint8, expected.shape)
        difference = np.abs(made - expected)
        assert difference.max() <= most
        assert difference.mean() <= mean


@pytest.mark.parametrize("name", ["vdsr", "fsrcnn"])
def test_luma_is_that_of_torch(target: str, name: str) -> None:
    model, rng = network(name), np.random.default_rng(0)
    files = TARGETS[target].convert(Graph(model=model, scale=3, picture=False, shape=SHAPE), "fp32")
    runner = TARGETS[target].runner
    if runner is not None:
        import torch

        inputs = rng.random((1, 1, *SHAPE), np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(inputs)).numpy()
        assert np.abs(runner(files, 2)(inputs) - expected).max() < 1e-4


def test_nothing_of_openvino_can_report_home() -> None:
    if TARGETS["openvino"].missing:
        pytest.skip("openvino is not installed")
    from nncf.telemetry import telemetry
    from openvino.tools.ovc import telemetry_utils

    assert "stub" in telemetry_utils.tm.__name__
    assert "openvino_telemetry" not in type(telemetry).__module__
    assert not Path.home().joinpath("intel", "openvino_telemetry").exists()
