"""The one place that decides what a word for a model names: `bicubic`, a teacher, or a safetensors or ONNX file."""

from ail_ray.learning.teachers import find_weights
from ail_ray.learning.weights import load_model
from ail_ray.networks.architectures import Bicubic, Network

BICUBIC, CHAMPION = "bicubic", "champion"


def find_network(word: str, network: str = "") -> Network:
    """A network by a word for it: `bicubic`, the name of a teacher, or the path of its safetensors or ONNX file.

    `champion` is a word of MLflow's, which is not known here.

    Args:
        network: the `Code` of the network, if it is from outside.

    Raises:
        FileError: there is nothing of that name (the message lists what there is), or the file is missing or holds no
            network that can be run.
    """
    if word == BICUBIC:
        return Bicubic()
    path = find_weights(word, others=(BICUBIC, CHAMPION))
    if path.suffix.lower() != ".onnx":
        return load_model(path, network)
    from ail_ray.delivery.onnx_file import OnnxFile

    return OnnxFile(path)
