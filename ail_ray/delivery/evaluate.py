"""A network measured on image sets."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from upath import UPath

from ail_ray.delivery.named import find_network
from ail_ray.errors import ConfigError, counted
from ail_ray.files import FileError
from ail_ray.imaging import image_sets, own_pairs
from ail_ray.imaging.evaluation import EvaluationImages, read_luma
from ail_ray.imaging.images import ImageError, each_read, modcrop
from ail_ray.imaging.metrics import measurable
from ail_ray.imaging.pairs import evaluation_pairs
from ail_ray.imaging.recipes import Recipe, RecipeError
from ail_ray.learning.inference import evaluate
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.records import Row
from ail_ray.networks.architectures import ENLARGING, SCALES, Network, unserved


def benchmark(
    model: str,
    sets: Sequence[str],
    scales: Sequence[int],
    *,
    small: Sequence[str] = (),
    precision: Precision,
    device: str,
    recipe: str = "",
    seed: int = 0,
    say: Callable[[str], None],
    load: Callable[[str, int], Network] = lambda word, scale: find_network(word),
    advance: Callable[[float], None] = lambda share: None,
) -> list[Row]:
    """Measure a model on image sets: a row for each set and scale.

    Args:
        model: a word for a network, as `load` takes it.
        small: for each set the folder of its low-resolution images, if they are not to be made here.
        recipe: how low-resolution images are made, drawn from `seed`; by bicubic interpolation if there is none.
        say: is called with each row as a line.
        load: a network by the word for it, for a scale; raises FileError or ConfigError.
        advance: is called after each image with its share of all images.

    Raises:
        ConfigError: with a line for the model, each set, each scale and each image that cannot be used.
    """
    usable = SCALES if recipe or small else ENLARGING
    problems = [f"scales must be {_either(usable)}, got {scale}" for scale in scales if scale not in usable]
    if small:
        problems += ["sets-lr goes without --degrade"] * bool(recipe)
        problems += ["sets-lr goes with one scale"] * (len(scales) > 1)
        if len(small) != len(sets):
            problems.append(f"sets-lr must name a folder for each set of --sets, got {len(small)} for {len(sets)}")
    try:
        recipe = str(Recipe.of(recipe))
    except RecipeError as error:
        problems.append(f"degrade: {error}")
    problems += [f"{what} must name at least one" for what, given in (("sets", sets), ("scales", scales)) if not given]
    target = torch.device("cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
        if target.type not in ("cpu", "cuda"):
            problems.append(f"device must be cpu or cuda, got {device}")
    except (AssertionError, RuntimeError) as error:  # the first of a torch without CUDA
        problems.append(f"device: {str(error).splitlines()[0]}")
    networks = {}
    for scale in scales:
        try:
            networks[scale] = load(model, scale)
            problems += [f"model: {line}" for line in unserved(networks[scale], [scale])]
        except ConfigError as error:
            problems += [f"model: {line}" for line in error.problems]
        except FileError as error:
            problems.append(f"model: {error}")
    found = []
    for name in sets:
        try:
            found.append(image_sets.find(name))
        except image_sets.DatasetError as error:
            problems.append(f"sets: {error}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    given: list[dict[UPath, UPath]] = [{} for _ in found] if not small else []
    for images, folder in zip(found, small, strict=False):
        try:
            pairs, lines = own_pairs.beside(images.paths, folder, scales[0])
            given.append(pairs)
            for line in lines:
                say(f"sets-lr: {line}")
        except ValueError as error:
            problems += [f"sets-lr: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError(problems)
    networks = {scale: placed(network, precision, target) for scale, network in networks.items()}
    share, rows = 1 / (len(networks) * sum(len(images.paths) for images in found)), []
    for images, beside in zip(found, given, strict=True):
        pictures = [] if recipe or small else _usable(images, max(scales))
        for scale, network in networks.items():
            if recipe or small:
                measured = _paired(images, scale, recipe, seed, beside)
            else:
                measured = EvaluationImages(images.name, scale, [modcrop(picture, scale) for picture in pictures])
            row = evaluate(network, measured, precision=precision, advance=lambda: advance(share))
            rows.append(row)
            say(f"{row.where}: {row.psnr:.3f} dB, SSIM {row.ssim:.4f} ({counted(row.images, 'image')})")
    return rows


def _either(scales: Sequence[int]) -> str:
    return ", ".join(map(str, scales[:-1])) + f" or {scales[-1]}"


def _paired(
    images: image_sets.ImageSet, scale: int, recipe: str, seed: int, small: Mapping[UPath, UPath]
) -> EvaluationImages:
    """The images of a set with small ones that a recipe makes, or that are given.

    Raises:
        ConfigError: with a line for each that cannot be used.
    """
    try:
        pairs = evaluation_pairs(images.paths, scale, recipe, seed, small)[0]
        sides, problems = each_read(lambda pair: (pair.sides().hr, pair.sides().small), pairs)
    except ValueError as error:
        problems = str(error).splitlines()
    if problems:
        raise ConfigError([f"sets: {problem}" for problem in problems])
    return EvaluationImages(images.name, scale, [hr for hr, _ in sides], [small for _, small in sides])


def _usable(images: image_sets.ImageSet, scale: int) -> list[np.ndarray]:
    """The luma of every image; ConfigError with a line for each image that is too small to be measured."""
    pictures, problems = list[np.ndarray](), list[str]()
    for path in images.paths:
        try:
            pictures += read_luma([path])
        except ImageError as error:
            problems.append(f"sets: {error}")
            continue
        height, width = pictures[-1].shape
        if not measurable(height, width, scale):
            problems.append(f"sets: {path}: {height}×{width} pixels are too few to measure scale {scale}")
    if problems:
        raise ConfigError(problems)
    return pictures
