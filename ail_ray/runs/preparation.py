"""What trials share: shards, evaluation images, weights and teachers' errors, each built once and found by digest.

images/<digest>.json                                 what is known of the image files of a folder
corpora/<digest>/shard-0000.safetensors              training pairs
evaluation/<digest>.safetensors                      one set at one scale
weights/<digest>.safetensors                         what students start from
errors/<teacher>-<corpus>-<precision>/shard-0000...  |teacher - y| of every pixel
outputs/<teacher>-<corpus>-<precision>/shard-0000... what the teacher makes of it, for distillation
.../teacher.safetensors                              beside either, the teacher, if it has weights
runs/<digest>/                                       the run directories
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import as_path, digest_of, is_local, resolved, slug, write_bytes
from ail_ray.imaging import image_sets, own_pairs
from ail_ray.imaging.catalogue import Catalogue, Look
from ail_ray.imaging.evaluation import write_evaluation
from ail_ray.imaging.pairs import Corpus, Pair, evaluation_pairs, plan_corpus
from ail_ray.imaging.shards import write_shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.weights import load_model, weights_digest
from ail_ray.networks.code import Code
from ail_ray.runs.records import Weights

T = TypeVar("T")
Everywhere = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each of several argument lists, here or as tasks on a cluster; yields each result."""


def here(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call the function with each list of arguments in this process, one after the other."""
    for arguments in calls:
        yield function(*arguments)


def said(work: Iterator[T], what: str, count: int, say: Callable[[str], None]) -> list[T]:
    """Do the work, and say how far it is at the start and then every ten seconds at most."""
    spoken, results = time.monotonic(), list[T]()
    if count:
        say(f"{what}: {count} to do")
    for result in work:
        results.append(result)
        if time.monotonic() - spoken > 10:
            spoken = time.monotonic()
            say(f"{what}: {len(results)} of {count}")
    return results


DataKey = tuple[Any, ...]


def data_key(config: RunConfig) -> DataKey:
    """What decides on the data of a run: runs with the same key share shards and evaluation files."""
    c = config
    drawn = (c.degrade, c.degrade_seed, c.copies, c.train_lr, c.validation_lr, c.test_lr)
    return c.train, c.validation, c.test, c.scales, c.downsizes, c.crop, c.shards, *drawn


@dataclass(frozen=True)
class EvaluationFile:
    """The file in which the images of one set at one scale are, or will be."""

    path: UPath
    images: image_sets.ImageSet
    scale: int
    pairs: tuple[Pair, ...] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a trial reads, as a few paths and numbers, however many images there are."""

    storage: UPath
    corpus: str  # digest
    pairs: int
    pixels: int
    shards: int
    validation: tuple[UPath, ...]  # files of evaluation images
    test: tuple[UPath, ...]

    @property
    def shard_paths(self) -> list[UPath]:
        return [self.storage / "corpora" / self.corpus / f"shard-{s:04d}.safetensors" for s in range(self.shards)]

    def crops_per_epoch(self, config: RunConfig) -> int:
        """How many crops an epoch has: as configured, or as many as have the pixels of the corpus."""
        return config.crops or -(-self.pixels // config.crop**2)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data of a protocol on the storage path: all training pairs, and all sets that are measured."""

    storage: UPath
    corpus: Corpus
    validation: tuple[EvaluationFile, ...]
    test: tuple[EvaluationFile, ...]
    passed_over: str = ""
    """A line about what is in the folders of the images and is no image."""
    catalogue: Catalogue | None = None
    """What was learned of the images, to be kept for the next time."""

    def mistrust(self) -> None:
        """Drop what is known of images, since one was not what it was when it was looked at."""
        if self.catalogue:
            self.catalogue.forget()

    @cached_property
    def data(self) -> Data:
        """What the trials read of it."""
        return Data(
            storage=self.storage, corpus=self.corpus.digest, pairs=len(self.corpus.pairs), pixels=self.corpus.pixels,
            shards=len(self.corpus.shards), validation=tuple(file.path for file in self.validation),
            test=tuple(file.path for file in self.test),
        )  # fmt: skip

    @property
    def evaluation(self) -> list[EvaluationFile]:
        """The files of both kinds, each once."""
        return list(dict.fromkeys((*self.validation, *self.test)))

    @property
    def pairs(self) -> list[Pair]:
        """All pairs, those of the images that are measured included."""
        return [*self.corpus.pairs, *(pair for file in self.evaluation for pair in file.pairs)]

    @property
    def shard_pixels(self) -> list[int]:
        return [sum(pair.pixels for pair in self.corpus.shard_pairs(s)) for s in range(len(self.corpus.shards))]


def plan_data(config: RunConfig, storage: UPath) -> Prepared:
    """Find all images and decide on pairs and shards, without writing anything.

    Raises:
        ConfigError: with a line for every set or image that cannot be used.
    """
    problems: list[str] = []
    sets: dict[str, list[image_sets.ImageSet]] = {"train": [], "validation": [], "test": []}
    for role, found in sets.items():
        for name in getattr(config, role):
            try:
                found.append(image_sets.find(name))
            except image_sets.DatasetError as error:
                problems.append(f"{role}: {error}")
    problems += _twins([*sets["validation"], *sets["test"]])
    small, said = {role: dict[UPath, UPath]() for role in sets}, list[str]()
    for role, found in sets.items():
        for images, folder in zip(found, getattr(config, f"{role}_lr"), strict=False):
            try:
                pairs, lines = own_pairs.beside(images.paths, folder, config.scales[0])
                twice = [path for path, given in pairs.items() if small[role].get(path, given) != given]
                problems += [f"{role}-lr: {path}: has two small pictures, in two folders" for path in twice]
                small[role] |= pairs
                said += [f"{role}-lr: {line}" for line in lines]
            except ValueError as error:
                problems += [f"{role}-lr: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError(problems)
    known = Catalogue(storage)
    try:
        corpus = plan_corpus(
            [path for found in sets["train"] for path in found.paths],
            downsizes=config.downsizes, scales=config.scales, crop=config.crop, shards=config.shards,
            exclude=[path for role in ("validation", "test") for found in sets[role] for path in found.paths],
            recipe=config.degrade, seed=config.degrade_seed, copies=config.copies, small=small["train"],
            look=known.look,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        problems += str(error).splitlines()
    evaluation: dict[str, list[EvaluationFile]] = {"validation": [], "test": []}
    for role, files in evaluation.items():
        for images, scale in itertools.product(sets[role], config.scales):
            try:
                files.append(_evaluation_file(images, scale, storage, config, small[role], known.look))
            except (ValueError, OSError) as error:
                problems += str(error).splitlines()
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    every = [images for found in sets.values() for images in found]
    return Prepared(
        storage=storage, corpus=corpus, validation=tuple(evaluation["validation"]), test=tuple(evaluation["test"]),
        passed_over="; ".join(filter(None, [image_sets.passed_over(every), image_sets.newly_read(every), *said])),
        catalogue=known,
    )  # fmt: skip


def _twins(measured: Iterable[image_sets.ImageSet]) -> list[str]:
    """A line for each set whose numbers would overwrite those of another, since both folders have the same name."""
    found, problems = dict[str, image_sets.ImageSet](), list[str]()
    for images in measured:
        first = found.setdefault(slug(images.name), images)
        if [*map(resolved, first.paths)] != [*map(resolved, images.paths)]:
            places = " and ".join(str(each.paths[0].parent) for each in (first, images))
            problems.append(f"{places}: results go by the name {slug(images.name)} for both; rename or link one folder")
    return list(dict.fromkeys(problems))


def _evaluation_file(
    images: image_sets.ImageSet, scale: int, storage: UPath, config: RunConfig, small: Mapping[UPath, UPath], look: Look
) -> EvaluationFile:
    recipe, seed = config.degrade, config.degrade_seed
    pairs, digests = evaluation_pairs(images.paths, scale, recipe, seed, small, look)
    drawn = [[recipe, seed]] if recipe else []
    file = storage / "evaluation" / f"{digest_of([images.name, scale, digests, *drawn])}.safetensors"
    return EvaluationFile(file, images, scale, tuple(pairs))


def build_data(prepared: Prepared, everywhere: Everywhere = here, say: Callable[[str], None] = print) -> None:
    """Write the shards and evaluation files that are not there yet.

    Raises:
        ConfigError: with a line for every image whose header could be read, and whose pixels cannot.
    """
    if prepared.catalogue:
        prepared.catalogue.save()
    paths = prepared.data.shard_paths
    used(paths[0].parent)
    shards = [(path, prepared.corpus.shard_pairs(s)) for s, path in enumerate(paths) if not path.exists()]
    unreadable = said(everywhere(write_shard, shards), "shards of training pairs", len(shards), say)
    evaluation = [
        (file.path, file.images.name, file.scale, file.pairs) for file in prepared.evaluation if not file.path.exists()
    ]
    unreadable += said(everywhere(write_evaluation, evaluation), "evaluation sets", len(evaluation), say)
    if problems := sorted({line for lines in unreadable for line in lines}):  # tasks end in any order
        prepared.mistrust()
        raise ConfigError(problems)


def used(folder: UPath) -> None:
    """Mark a folder that several runs share as used now, before it is relied on, so that it is not pruned."""
    if not is_local(folder):
        write_bytes(folder / "used", b"")
    elif folder.exists():
        os.utime(str(folder))


def find_start(start: str | None, configs: Sequence[RunConfig]) -> Weights | None:
    """The weights that the students of some runs start from; None if those are random.

    Raises:
        ConfigError: they are not there, or are not the student's, with a line for each size of student.
    """
    if start is None:
        return None
    path = as_path(start)
    try:
        network = next((config.network for config in configs if isinstance(config.network, Code)), "")
        given, digest = load_model(path, network).made, weights_digest(path)
    except ValueError as error:
        raise ConfigError([f"start {start}: {error}"]) from None
    students = dict.fromkeys(config.student().made for config in configs)
    problems = [f"start {start}: weights of {given}, the student is {size}" for size in students if size != given]
    if problems:
        raise ConfigError(problems)
    return Weights(digest=digest, path=path)


def shared_weights(weights: Weights, storage: UPath) -> Weights:
    """Copy weights to the storage path, where every worker can read them."""
    copy = storage / "weights" / f"{weights.digest}.safetensors"
    if not copy.exists():
        write_bytes(copy, weights.path.read_bytes())
    return replace(weights, path=copy)


def run_path(config: RunConfig, data: Data, teacher: str | None, start: str | None) -> UPath:
    """The directory of a run, begun or not; `teacher` and `start` are digests of weights."""
    digest = config.digest(
        corpus=data.corpus, evaluation=[path.stem for path in (*data.validation, *data.test)],
        teacher=teacher, start=start,
    )  # fmt: skip
    return data.storage / "runs" / digest
