"""A student as ONNX, for devices and servers that know no torch."""

import copy
import logging
import warnings

import onnx
import torch

from ail_ray.learning.models import Network

INPUT, OUTPUT = "luma", "sr"


def to_onnx(model: Network) -> bytes:
    """The network as an ONNX model; the given one is left as it is.

    Input `luma`: (batch, 1, height, width) float32 on [0, 1] as the network reads it: bicubic-upsampled, or the
    low-resolution image where the network upsamples. Output `sr`: (batch, 1, upsampling * height, upsampling * width)
    float32, about [0, 1], not clipped. Batch, height and width are free, 1 included.
    """
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    # It warns that torchvision, which nothing here needs, is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's about torch
        written = torch.onnx.export(
            network, (torch.zeros(2, 1, 8, 9),), dynamo=True, verbose=False, input_names=[INPUT],
            output_names=[OUTPUT], dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        )  # fmt: skip
    assert written is not None
    proto = written.model_proto
    _forget_origin(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop what torch notes about where it was called: stack traces with this machine's paths, a third of the file."""
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
