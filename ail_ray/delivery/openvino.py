"""Students for OpenVINO: an .xml and a .bin each. What it reports home by itself is switched off."""

import contextlib
import io
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ail_ray.delivery.onnx import Variant
from ail_ray.delivery.targets import Files, Graph, Runner

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
"""Whoever wants to report home finds that the package for it is not there, and does without."""


def convert(graph: Graph, variant: Variant) -> Files:
    """A graph as OpenVINO's intermediate representation.

    fp16 is weights of that type; what is computed in it the device decides. int8 is NNCF's quantisation after
    training, with 8 bits of weight, or 7 for CPUs whose sums of products saturate.
    """
    import openvino

    model = openvino.convert_model(io.BytesIO(graph.written()))
    if variant.startswith("int8"):
        model = _quantised(model, graph, half_range=variant == "int8-w7")
    for name, value in graph.about.items():
        model.set_rt_info(value, ["ail_ray", name])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.xml")
        openvino.save_model(model, path, compress_to_fp16=variant == "fp16")
        return {".xml": path.read_bytes(), ".bin": path.with_suffix(".bin").read_bytes()}


def runner(files: Files, threads: int) -> Runner:
    """What OpenVINO computes on this CPU, in float32 where the file is: by itself it would take bfloat16."""
    import openvino

    model = openvino.Core().read_model(files[".xml"], openvino.Tensor(np.frombuffer(files[".bin"], np.uint8)))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda inputs: np.array(compiled(inputs)[0])


def _quantised(model: Any, graph: Graph, half_range: bool) -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)  # it sets its own when it is imported

    # A convolution with a bias becomes two operators, of which the first is named NAME/WithoutBiases.
    kept = set(graph.own)
    own = [name for node in model.get_ops() if (name := node.get_friendly_name()).partition("/")[0] in kept]
    fix = OverflowFix.ENABLE if half_range else OverflowFix.DISABLE
    # The whole range, since NNCF by itself takes a mean over pictures, which cuts strong edges off; and no sums in
    # integers, such as that of luma and what a network adds to it.
    advanced = AdvancedQuantizationParameters(
        overflow_fix=fix, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )
    with contextlib.redirect_stdout(io.StringIO()):  # its bars of progress
        return nncf.quantize(
            model,
            nncf.Dataset(graph.examples),
            subset_size=len(graph.examples),
            fast_bias_correction=False,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=advanced,
            ignored_scope=nncf.IgnoredScope(names=own, types=["Add"]),
        )
