"""Teachers by the words that name them: one that comes along, one of the user's, or a path."""

import os
from collections.abc import Sequence

from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError, as_path
from ail_ray.learning.weights import bundled, load_model
from ail_ray.networks.architectures import unserved


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


def find_teacher(name: str, scales: Sequence[int] = ()) -> UPath | None:
    """Find the weights of a teacher: one that comes with the package, one in $AIL_TEACHER_DIR, or any path.

    None for `none` and `random`, which have no weights.

    Raises:
        ConfigError: it is not there, is not a network we know, or does not serve all of these scales.
    """
    if name in ("none", "random"):
        return None
    try:
        path = find_weights(name, others=("none", "random"))
    except FileError as error:
        raise ConfigError([f"teacher {error}"]) from None
    try:
        problems = unserved(load_model(path), scales)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        raise ConfigError([f"teacher {name}: {problem}" for problem in problems])
    return path
