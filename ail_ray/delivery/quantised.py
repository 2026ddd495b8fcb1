"""An ONNX graph in 8-bit integers, so that ONNX Runtime computes each convolution with its activation in one step.

Weights are signed and scaled by channel, activations unsigned. The rounding stands in pairs around a convolution and
the ReLU behind it: the smallest value of a rectified one is 0, and so is the integer that stands for it.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


def quantised(proto: onnx.ModelProto, batches: Sequence[Mapping[str, np.ndarray]], bits: int) -> onnx.ModelProto:
    """A graph whose convolutions compute in integers.

    Args:
        batches: inputs by name, whose activations set the ranges.
        bits: of the weights, 8 or 7.
    """

    class Reader(CalibrationDataReader):
        left = iter(batches)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as scratch:
        given, prepared, path = (Path(scratch, f"{name}.onnx") for name in ("given", "prepared", "int8"))
        onnx.save(proto, given)  # of a graph in memory it would put the weights into a file that it cannot read again
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=bits == 7,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Relu"],
            calibrate_method=CalibrationMethod.MinMax, calibration_providers=["CPUExecutionProvider"],
        )  # fmt: skip
        return onnx.load(path)
