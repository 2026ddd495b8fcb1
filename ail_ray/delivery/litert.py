"""Students for LiteRT (TFLite): one .tflite each, by litert-torch, which runs in an environment of its own."""

import io
import json

import numpy as np

from ail_ray.delivery import apart
from ail_ray.delivery.onnx import Variant
from ail_ray.delivery.targets import Files, Graph, Runner


def convert(graph: Graph, variant: Variant) -> Files:
    """A graph of fixed shape as a flatbuffer, with a JSON file of what is known of it beside.

    Raises:
        ConfigError: the converter does not know an operator, or fails.
    """
    given = {"graph.onnx": graph.written(), "own.json": json.dumps(graph.own).encode()}
    if variant == "int8":
        given |= {f"{i:03d}.npy": saved(example) for i, example in enumerate(graph.examples)}
    made = apart.run("litert", "litert_convert.py", given, variant)
    return {".tflite": made["graph.tflite"], ".tflite.json": json.dumps(dict(graph.about), indent=1).encode()}


def runner(files: Files, threads: int) -> Runner:
    """What LiteRT computes on this CPU, with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=files[".tflite"], num_threads=threads)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(inputs: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given, inputs)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(made))

    return run


def saved(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
