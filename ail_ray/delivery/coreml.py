"""Students for Core ML: an .mlpackage each, by coremltools, which runs in an environment of its own.

Only macOS and iOS run it: what is written here has been converted and checked, and not been run.
"""

import json

from ail_ray.delivery import apart
from ail_ray.delivery.onnx import Variant
from ail_ray.delivery.targets import Files, Graph


def convert(graph: Graph, variant: Variant) -> Files:
    """A graph of fixed shape as a package: a folder of several files.

    Pictures go in and out as images, not as arrays. fp16 computes in that type; int8 is weights of that type.

    Raises:
        ConfigError: the converter does not know an operator, or fails.
    """
    given = {"graph.onnx": graph.written(planes=graph.picture), "about.json": json.dumps(dict(graph.about)).encode()}
    made = apart.run("coreml", "coreml_convert.py", given, variant)
    return {f".mlpackage/{path.partition('/')[2]}": content for path, content in made.items()}
