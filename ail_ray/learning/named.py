"""The one place that decides what a word for a model names: `bicubic`, a teacher, or a safetensors or ONNX file."""

import os
from collections.abc import Sequence

from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import FileError, as_path
from ail_ray.learning.models import Bicubic, Network
from ail_ray.learning.weights import bundled, load_model

BICUBIC, CHAMPION = "bicubic", "champion"


def find_network(word: str) -> Network:
    """A network by a word for it: `bicubic`, the name of a teacher, or the path of its safetensors or ONNX file.

    `champion` is a word of MLflow's, which is not known here.

    Raises:
        FileError: there is nothing of that name (the message lists what there is), or the file is missing or holds no
            network that can be run.
    """
    if word == BICUBIC:
        return Bicubic()
    path = find_weights(word, others=(BICUBIC, CHAMPION))
    if path.suffix.lower() != ".onnx":
        return load_model(path)
    from ail_ray.learning.onnx_file import OnnxFile  # here, since other models need not wait for onnxruntime

    return OnnxFile(path)


def find_weights(word: str, *, others: Sequence[str]) -> UPath:
    """The file that a word names: that of a bundled teacher, of one in $AIL_TEACHER_DIR, or any path.

    Args:
        others: words that name no file; the refusal lists them with the teachers there are.

    Raises:
        FileError: there is no teacher of that name, or its folder cannot be listed.
    """
    path = bundled().get(word, as_path(word))
    if path.suffix or "/" in word:
        return path
    folder = os.environ.get("AIL_TEACHER_DIR")
    try:
        there = {path.stem: path for path in as_path(folder).glob("*.safetensors")} if folder else {}
    except Exception as error:  # whatever the object store's library raises
        raise FileError(f"{word}: {folder} cannot be listed ({one_line(error)})") from error
    if word not in there:
        where = "" if folder else "; more in the folder that AIL_TEACHER_DIR names, which is not set"
        known = ", ".join([*others, *sorted({*there, *bundled()})])
        raise FileError(f"{word}: no such model; there are {known}, and any path with a slash or a suffix{where}")
    return there[word]
