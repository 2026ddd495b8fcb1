"""What trials share: shards, evaluation images, weights and teachers' errors, each built once and found by digest.

corpora/<digest>/shard-0000.safetensors              training pairs
evaluation/<digest>.safetensors                      one set at one scale
weights/<digest>.safetensors                         what students start from
errors/<teacher>-<corpus>-<precision>/shard-0000...  |teacher - y| of every pixel
outputs/<teacher>-<corpus>-<precision>/shard-0000... what the teacher makes of it, for distillation
.../teacher.safetensors                              beside either, the teacher
runs/<digest>/                                       the run directories
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
import torch
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import FileError, as_path, digest_of, is_local, slug, write_bytes, write_tensors
from ail_ray.imaging import datasets
from ail_ray.imaging.bank import Corpus, Shard, plan_corpus, write_shard
from ail_ray.imaging.evaluation import write_evaluation
from ail_ray.imaging.images import each_read, image_size
from ail_ray.imaging.metrics import measurable
from ail_ray.learning.config import Protocol, RunConfig
from ail_ray.learning.inference import error_map, output_map
from ail_ray.learning.models import Network
from ail_ray.learning.named import find_weights
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.weights import load_model, weights_digest

T = TypeVar("T")
Everywhere = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each of several argument lists, here or as tasks on a cluster; yields each result."""


def here(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call the function with each list of arguments in this process, one after the other."""
    for arguments in calls:
        yield function(*arguments)


@dataclass(frozen=True)
class OnCluster:
    """Calls the function as Ray tasks with so many CPUs (and GPUs) each, and so many at once."""

    cpus: float = 1
    gpus: float = 0
    most: int | None = None  # by default all, whatever nodes an autoscaler brings for them

    def __call__(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        task, left = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(function), iter(calls)
        waiting = [task.remote(*arguments) for arguments in itertools.islice(left, self.most)]
        while waiting:
            done, waiting = ray.wait(waiting)
            waiting += [task.remote(*arguments) for arguments in itertools.islice(left, 1)]
            yield ray.get(done[0])


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


@dataclass(frozen=True)
class EvaluationFile:
    """The file in which the images of one set at one scale are, or will be."""

    path: UPath
    images: datasets.ImageSet
    scale: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data of a protocol on the storage path, as plain paths and numbers that can be sent to any process."""

    storage: UPath
    corpus: Corpus
    validation: tuple[EvaluationFile, ...]
    test: tuple[EvaluationFile, ...]
    passed_over: str = ""
    """A line about what is in the folders of the images and is no image."""

    @property
    def shard_paths(self) -> list[UPath]:
        return [self.folder / f"shard-{s:04d}.safetensors" for s in range(len(self.corpus.shards))]

    @property
    def folder(self) -> UPath:
        return self.storage / "corpora" / self.corpus.digest

    @property
    def shard_pixels(self) -> list[int]:
        return [sum(pair.pixels for pair in self.corpus.shard_pairs(s)) for s in range(len(self.corpus.shards))]

    def crops_per_epoch(self, protocol: Protocol) -> int:
        """How many crops an epoch has: as configured, or as many as have the pixels of the corpus."""
        return protocol.crops or -(-self.corpus.pixels // protocol.crop**2)


def plan_data(protocol: Protocol, storage: UPath) -> Prepared:
    """Find all images and decide on pairs and shards, without writing anything.

    Raises:
        ConfigError: with a line for every set or image that cannot be used.
    """
    problems: list[str] = []
    sets: dict[str, list[datasets.ImageSet]] = {"train": [], "validation": [], "test": []}
    for role, found in sets.items():
        for name in getattr(protocol, role):
            try:
                found.append(datasets.find(name))
            except datasets.DatasetError as error:
                problems.append(f"{role}: {error}")
    problems += _twins([*sets["validation"], *sets["test"]])
    if problems:
        raise ConfigError(problems)
    try:
        corpus = plan_corpus(
            [path for found in sets["train"] for path in found.paths],
            downsizes=protocol.downsizes, scales=protocol.scales, crop=protocol.crop, shards=protocol.shards,
            exclude=[path for found in sets["validation"] for path in found.paths],
        )  # fmt: skip
    except (ValueError, OSError) as error:
        problems += str(error).splitlines()
    evaluation: dict[str, list[EvaluationFile]] = {"validation": [], "test": []}
    for role, files in evaluation.items():
        for images, scale in itertools.product(sets[role], protocol.scales):
            try:
                files.append(_evaluation_file(images, scale, storage))
            except (ValueError, OSError) as error:
                problems += str(error).splitlines()
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return Prepared(
        storage=storage, corpus=corpus, validation=tuple(evaluation["validation"]), test=tuple(evaluation["test"]),
        passed_over=datasets.passed_over(images for found in sets.values() for images in found),
    )  # fmt: skip


def _twins(measured: Iterable[datasets.ImageSet]) -> list[str]:
    """A line for each set whose numbers would overwrite those of another, since both folders have the same name."""
    found, problems = dict[str, datasets.ImageSet](), list[str]()
    for images in measured:
        first = found.setdefault(slug(images.name), images)
        if [*map(_resolved, first.paths)] != [*map(_resolved, images.paths)]:
            places = " and ".join(str(each.paths[0].parent) for each in (first, images))
            problems.append(f"{places}: results go by the name {slug(images.name)} for both; rename or link one folder")
    return list(dict.fromkeys(problems))


def _resolved(path: UPath) -> UPath:
    return path.resolve() if is_local(path) else path


def _evaluation_file(images: datasets.ImageSet, scale: int, storage: UPath) -> EvaluationFile:
    sizes, problems = each_read(image_size, images.paths)
    if problems:
        raise ValueError("\n".join(problems))
    small = [path for path, size in zip(images.paths, sizes, strict=True) if not measurable(*size, scale)]
    if small:
        raise ValueError("\n".join(f"{path}: too small to measure at scale {scale}" for path in small))
    contents = [datasets.content_digest(path) for path in images.paths]
    path = storage / "evaluation" / f"{digest_of([images.name, scale, contents])}.safetensors"
    return EvaluationFile(path, images, scale)


def build_data(prepared: Prepared, everywhere: Everywhere = here, say: Callable[[str], None] = print) -> None:
    """Write the shards and evaluation files that are not there yet.

    Raises:
        ConfigError: with a line for every image whose header could be read, and whose pixels cannot.
    """
    shards = [
        (path, prepared.corpus.shard_pairs(s)) for s, path in enumerate(prepared.shard_paths) if not path.exists()
    ]
    unreadable = said(everywhere(write_shard, shards), "shards of training pairs", len(shards), say)
    evaluation = [
        (file.path, file.images.name, file.images.paths, file.scale)
        for file in dict.fromkeys((*prepared.validation, *prepared.test))
        if not file.path.exists()
    ]
    unreadable += said(everywhere(write_evaluation, evaluation), "evaluation sets", len(evaluation), say)
    if problems := sorted({line for lines in unreadable for line in lines}):  # tasks end in any order
        raise ConfigError(problems)


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
        problems = load_model(path).problems(scales)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        raise ConfigError([f"teacher {name}: {problem}" for problem in problems])
    return path


def find_start(start: str | None, configs: Iterable[RunConfig]) -> tuple[str, UPath] | None:
    """Digest and path of the weights that the students of some runs start from; None if those are random.

    Raises:
        ConfigError: they are not there, or are not the student's, with a line for each size of student.
    """
    if start is None:
        return None
    path = as_path(start)
    try:
        given = _size(load_model(path))
        digest = weights_digest(path)
    except ValueError as error:
        raise ConfigError([f"start {start}: {error}"]) from None
    problems = dict.fromkeys(
        f"start {start}: weights of {given}, the student is {_size(config.student())}"
        for config in configs
        if _size(config.student()) != given
    )
    if problems:
        raise ConfigError(list(problems))
    return digest, path


def _size(model: Network) -> str:
    scale = f", scale {model.upsampling}" if model.upsampling > 1 else ""
    return f"a {model.name} of width {model.width}, depth {model.depth}{scale}"


def shared_weights(path: UPath, storage: UPath) -> UPath:
    """Copy weights to the storage path, where every worker can read them, and return the copy's path."""
    copy = storage / "weights" / f"{weights_digest(path)}.safetensors"
    if not copy.exists():
        write_bytes(copy, path.read_bytes())
    return copy


def run_path(config: RunConfig, prepared: Prepared, teacher: str | None, start: tuple[str, UPath] | None) -> UPath:
    """The directory of a run, begun or not; `teacher` is a digest, and `start` what `find_start` returned."""
    digest = config.digest(
        corpus=prepared.corpus.digest,
        evaluation=[file.path.stem for file in (*prepared.validation, *prepared.test)],
        teacher=teacher,
        start=start[0] if start else None,
    )
    return prepared.storage / "runs" / digest


Kind = Literal["errors", "outputs"]
MAPS = {"errors": ("error", error_map), "outputs": ("output", output_map)}  # by folder: tensor, and what computes it
TEACHER = "teacher.safetensors"


def map_kind(protocol: Protocol) -> Kind:
    """What a run reads of its teacher: `outputs` for distillation, and `errors` otherwise."""
    return "outputs" if protocol.beta > 0 else "errors"


def map_paths(kind: Kind, digest: str, prepared: Prepared, precision: Precision) -> list[UPath]:
    """The files in which the maps of a teacher are, or will be, one for each shard."""
    folder = prepared.storage / kind / f"{digest}-{prepared.corpus.digest}-{precision}"
    return [folder / shard.name for shard in prepared.shard_paths]


def teacher_maps(
    kind: Kind,
    teacher: UPath,
    prepared: Prepared,
    precision: Precision,
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> tuple[str, UPath]:
    """The digest of a teacher, and the folder with its errors `|T(x) - y|`, or its outputs `T(x)`, for every shard.

    They are computed where they are missing, from a copy of the teacher beside them, which every worker can read.
    """
    digest = weights_digest(teacher)
    paths = map_paths(kind, digest, prepared, precision)
    folder = paths[0].parent
    copy = folder / TEACHER
    if not copy.exists():
        write_bytes(copy, teacher.read_bytes())
    missing = [
        (path, kind, shard, copy, precision, device, threads)
        for path, shard in zip(paths, prepared.shard_paths, strict=True)
        if not path.exists()
    ]
    said(everywhere(write_map, missing), f"shards of teacher {kind}", len(missing), say)
    return digest, folder


def write_map(
    path: UPath, kind: Kind, shard: UPath, teacher: UPath, precision: Precision, device: str, threads: int
) -> None:
    """Write the teacher's `error` or `output` at every pixel of one shard: (pixels,) float16."""
    torch.set_num_threads(threads)
    target = torch.device(device)
    model = placed(load_model(teacher), precision, target)
    name, compute = MAPS[kind]
    write_tensors(path, {name: compute(model, Shard(shard, target, model.upsampling), precision)})
