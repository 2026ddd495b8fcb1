"""Students for ncnn: a .param and a .bin each, by way of pnnx.

ncnn has no integers of colour in a graph. A graph of pictures reads and writes planes, (3, H, W) floats on [0, 255], as
ncnn's `Mat::from_pixels` makes them of RGB and `Mat::to_pixels` takes them.
"""

import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ail_ray.delivery import ncnn_int8
from ail_ray.delivery.onnx import Variant
from ail_ray.delivery.picture import OURS
from ail_ray.delivery.targets import Files, Graph, Runner
from ail_ray.errors import ConfigError


def convert(graph: Graph, variant: Variant) -> Files:
    """A graph as pnnx writes it, with a JSON file of what is known of it beside, since ncnn has no place for that.

    fp16 is weights of that type, and arithmetic of that type where the processor has it.

    Raises:
        ConfigError: pnnx does not know an operator.
    """
    param, weights = _converted(graph.onnx(planes=graph.picture), half=variant == "fp16")
    if unknown := sorted({line.split()[0] for line in param.splitlines()[2:] if "." in line.split()[0]}):
        raise ConfigError([f"target: ncnn: pnnx does not know {', '.join(unknown)}"])
    if variant == "int8":
        param, weights = _in_eight_bits(param, weights, graph)
    about = json.dumps(dict(graph.about) | {"input": "in0", "output": "out0"}, indent=1)
    return {".ncnn.param": param.encode(), ".ncnn.bin": weights, ".ncnn.json": about.encode()}


def runner(files: Files, threads: int) -> Runner:
    """What ncnn computes on this CPU."""
    net = _net(files[".ncnn.param"].decode(), files[".ncnn.bin"], threads)

    def run(inputs: np.ndarray) -> np.ndarray:
        result = _extracted(net, _planes(inputs), "out0")["out0"]
        return result.transpose(1, 2, 0)[None].astype(np.uint8) if inputs.dtype == np.uint8 else result[None]

    return run


def _planes(inputs: np.ndarray) -> np.ndarray:
    """What a graph reads as ncnn has it: (C, H, W) float32."""
    return np.ascontiguousarray(inputs[0].transpose(2, 0, 1) if inputs.dtype == np.uint8 else inputs[0], np.float32)


def _extracted(net: Any, planes: np.ndarray, *blobs: str) -> dict[str, np.ndarray]:
    """What some blobs hold."""
    import ncnn

    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(planes).clone())  # its own memory, which layers may work in
    found = {}
    for blob in blobs:
        code, made = extractor.extract(blob)
        if code:
            raise RuntimeError(f"ncnn stopped with {code}")
        found[blob] = np.array(made)
    return found


def _converted(proto: onnx.ModelProto, half: bool) -> tuple[str, bytes]:
    """What pnnx makes of a graph."""
    import pnnx

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "graph.onnx")
        onnx.save(proto, path)
        sides = [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim]
        shapes = [",".join(str(side or size) for side, size in zip(sides, (1, 1, size, size), strict=True))
                  for size in (48, 64)]  # fmt: skip
        free = [f"inputshape2=[{shapes[1]}]f32"] if 0 in sides else []
        words = [str(path), f"inputshape=[{shapes[0]}]f32", *free, f"fp16={int(half)}"]
        done = subprocess.run(
            [str(pnnx.EXEC_PATH), *words], cwd=scratch, capture_output=True, encoding="utf-8", check=False
        )
        made = Path(scratch, "graph.ncnn.param"), Path(scratch, "graph.ncnn.bin")
        if done.returncode or not all(each.exists() for each in made):
            said = (done.stderr + done.stdout).strip().splitlines() or [f"pnnx ended with {done.returncode}"]
            raise ConfigError([f"target: ncnn: {said[-1]}"])
        return made[0].read_text(encoding="utf-8"), made[1].read_bytes()


def _net(param: str, weights: bytes, threads: int, keep: bool = False) -> Any:
    """A network; `keep` keeps what it computes on the way."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute, net.opt.lightmode = False, not keep
    net.load_param_mem(param)
    net.load_model_mem(weights)
    return net


def _in_eight_bits(param: str, weights: bytes, graph: Graph) -> tuple[str, bytes]:
    """The model with the convolutions of the network in integers; ranges are what its blobs hold here."""
    try:
        layers = ncnn_int8.read(param, weights)
    except ValueError as error:
        raise ConfigError([f"target: ncnn: int8: {error}"]) from None
    # At their own sizes, which a network of ncnn takes even where the graph has one shape.
    examples = [_planes(each) for each in replace(graph, shape=None).examples]
    net = _net(param, weights, 1, keep=True)
    blobs = {blob for layer in layers if layer.kind == "Convolution" for blob in layer.inputs}
    found = [_extracted(net, planes, *blobs) for planes in examples]
    held = [each for each in graph.onnx(planes=graph.picture).graph.initializer if not each.name.startswith(OURS)]
    of_network = {onnx.numpy_helper.to_array(each).astype(np.float32).tobytes() for each in held}

    def largest(blob: str) -> float:
        return max(float(np.abs(values[blob]).max()) for values in found)

    ncnn_int8.quantise(layers, of_network.__contains__, largest)
    return ncnn_int8.write(layers)
