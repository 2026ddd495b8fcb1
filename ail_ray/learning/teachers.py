"""Teachers: whatever enlarges the small side of a pair, so that its errors tell how hard each pixel is.

A run reads nothing of a teacher but maps, which are made before it begins: its errors for Eq. 8, its outputs for
distillation. So a teacher may be weights of this program, public weights that `spandrel` knows, pictures that a model
has made already, or code of one's own.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from upath import UPath

from ail_ray.errors import ConfigError, counted, one_line
from ail_ray.files import FileError, as_path, digest_of, inside, write_bytes
from ail_ray.imaging.image_sets import SUFFIXES
from ail_ray.imaging.images import content_digest, each_read, image_size, luma_of, read_image, unchanged
from ail_ray.imaging.pairs import Pair, Sides
from ail_ray.learning.inference import super_resolve
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.weights import WeightsError, bundled, load_model, weights_digest
from ail_ray.networks.architectures import Network, unserved
from ail_ray.networks.code import Code, is_reference, label, obtain
from ail_ray.networks.notebooks import CodeError
from ail_ray.tensors import as_tensor, read_tensors

Luma = Callable[[Sides], torch.Tensor]
"""What a teacher makes of the small side of a pair: luma on about [0, 1], (height, width) of the large side, float32;
float64 of a network of ours in a run in fp64."""

WITHOUT_FILE = ("none", "random")


class TeacherError(ValueError):
    """A teacher that cannot be used, or that made of a picture what no map can be made of."""


class Teacher(ABC):
    """Something that enlarges pictures, known by its content."""

    digest: str
    """What it goes by in the names of runs and of maps: hexadecimal digits."""

    @abstractmethod
    def ready(self, precision: Precision, device: torch.device) -> Luma:
        """Make it ready to enlarge, in this process; FileError, TeacherError or CodeError if that cannot be."""

    def problems(self, scales: Iterable[int]) -> list[str]:
        """A line for all that keeps it from enlarging at these scales."""
        return []

    def lacks(self, pairs: Sequence[Pair]) -> list[str]:
        """A line for all that keeps it from enlarging these pairs."""
        return []

    def copied(self, folder: UPath) -> "Teacher":
        """The same teacher, whose files, if it has any, are in a folder that every worker can read."""
        return self


@dataclass(frozen=True)
class Weights(Teacher):
    """A teacher that is a file of weights."""

    path: UPath

    def copied(self, folder: UPath) -> "Teacher":
        copy = folder / "teacher.safetensors"
        if not copy.exists():
            write_bytes(copy, self.path.read_bytes())
        return replace(self, path=copy)


@dataclass(frozen=True)
class OurWeights(Weights):
    """Weights of a network of this program, or of a network of one's own that it has trained.

    They read luma, as students do: as shards hold it, rounded to float16, for maps.
    """

    network: str = ""  # the `Code` of one's own

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        digest, said = weights_digest(self.path), read_tensors(self.path)[1].get("network", "")
        return digest if self.network in ("", said) else digest_of([digest, str(self.network)])  # its code has changed

    def model(self) -> Network:
        """The network, as it is loaded."""
        return load_model(self.path, self.network)

    def problems(self, scales: Iterable[int]) -> list[str]:
        return unserved(self.model(), scales)

    def ready(self, precision: Precision, device: torch.device) -> Luma:
        model = placed(self.model(), precision, device).eval()

        def luma(sides: Sides) -> torch.Tensor:
            return super_resolve(model, as_tensor(sides.inputs(model.traits.upsampling)).to(device), precision)

        return luma


@dataclass(frozen=True)
class PublicWeights(Weights):
    """Weights of somebody else, of an architecture that `spandrel` knows. They read colour pictures, or luma."""

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return digest_of(["public weights 1", content_digest(self.path.read_bytes())])

    def problems(self, scales: Iterable[int]) -> list[str]:
        from ail_ray.learning.public_weights import problems_of

        return problems_of(self.path, scales)

    def ready(self, precision: Precision, device: torch.device) -> Luma:
        from ail_ray.learning.public_weights import enlarger  # here, since spandrel need not be installed

        enlarge, colour = enlarger(self.path, precision, device)

        def luma(sides: Sides) -> torch.Tensor:
            picture = sides.small_rgb / np.float32(255) if colour else sides.small[..., None]
            made = _called(str(self.path), enlarge, as_tensor(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            return _as_luma(made if colour else made[..., 0], sides, str(self.path))

        return luma


@dataclass(frozen=True)
class PictureFolder(Teacher):
    """Pictures that a model has made already of what `ail teacher-inputs` has written, under the same names."""

    folder: UPath
    known: dict[str, tuple[UPath, str]] | None = field(default=None, compare=False)

    @cached_property
    def files(self) -> dict[str, tuple[UPath, str]]:
        """The pictures by their names, each with the SHA-256 of its file; FileError if one cannot be read."""
        if self.known is not None:
            return self.known
        try:
            found = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
            return {path.stem: (path, content_digest(path.read_bytes())) for path in found}
        except Exception as error:  # whatever a file system or an object store's library raises
            raise FileError(f"{self.folder}: cannot be read ({one_line(error)})") from error

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return digest_of([[name, content] for name, (_, content) in sorted(self.files.items())])

    def copied(self, folder: UPath) -> Teacher:
        pictures = folder / "teacher"
        there = {path.name for path in pictures.iterdir()} if pictures.exists() else set()
        for path, content in self.files.values():
            if path.name not in there:
                write_bytes(inside(pictures, path.name), unchanged(path, content))
        return PictureFolder(pictures, {key: (inside(pictures, p.name), d) for key, (p, d) in self.files.items()})

    def lacks(self, pairs: Sequence[Pair]) -> list[str]:
        missing = [pair.name for pair in pairs if pair.name not in self.files]
        there = [pair for pair in pairs if pair.name in self.files]
        sizes, problems = each_read(lambda pair: image_size(self.files[pair.name][0]), there)
        for pair, (height, width) in zip(there, sizes, strict=True) if not problems else ():
            if (height, width) != (pair.height, pair.width):
                expected = f"{pair.width}×{pair.height}"
                problems.append(f"{self.files[pair.name][0]}: is {width}×{height} pixels, expected {expected}")
        if missing:
            which = ", ".join(f"{name}.png" for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
            problems.append(f"{self.folder}: lacks {counted(len(missing), 'picture')} of {len(pairs)}: {which}")
        return problems

    def ready(self, precision: Precision, device: torch.device) -> Luma:
        def luma(sides: Sides) -> torch.Tensor:
            path, content = self.files[sides.name]
            picture = read_image(path, content)  # refuses what has been written anew since
            grey = picture.ndim == 2  # as some programs save what has no colour; all that was written was in colour
            return _as_luma(np.stack([picture] * 3, axis=-1) if grey else picture, sides, str(path))

        return luma


@dataclass(frozen=True)
class OwnTeacher(Teacher):
    """Code of one's own: a function of a small picture and a scale, or a class that makes such a function.

    It gets (h, w, 3) uint8 RGB and the scale, and returns the picture, `scale` times as large, as an array or a tensor:
    (H, W, 3) RGB or (H, W) luma, uint8 or floats on [0, 1].
    """

    code: Code

    @property
    def digest(self) -> str:  # type: ignore[override]
        return digest_of(["own teacher", str(self.code)])

    def problems(self, scales: Iterable[int]) -> list[str]:
        """What it makes of a small picture of noise tells."""
        image = np.random.default_rng(0).integers(0, 256, (144, 144, 3), np.uint8)
        try:
            luma = self.ready("fp32", torch.device("cpu"))
            for scale in scales:
                luma(Sides("noise", image, 1.0, scale))
        except (TeacherError, CodeError) as error:
            return [str(error)]
        return []

    def ready(self, precision: Precision, device: torch.device) -> Luma:
        function, who = obtain(self.code), label(self.code)
        if isinstance(function, type):
            function = _called(who, function)

        def luma(sides: Sides) -> torch.Tensor:
            with torch.inference_mode():
                made = _called(who, function, sides.small_rgb, sides.scale)
            return _as_luma(made, sides, f"{who} of {sides.name}")

        return luma


def _called(who: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        raise TeacherError(f"{who}: {type(error).__name__}: {one_line(error)}") from error


def _as_luma(made: Any, sides: Sides, who: str) -> torch.Tensor:
    """The luma of what somebody's model has made of a pair: (H, W, 3) RGB or (H, W) luma, uint8 or floats on [0, 1].

    A grey picture is its own luma, so that of a colour picture which was made of it is undone.

    Raises:
        TeacherError: it is no such picture, of another size than the pair, or not finite.
    """
    try:
        if isinstance(made, torch.Tensor):
            made = (made.float() if made.dtype == torch.bfloat16 else made).detach().cpu().numpy()
        picture = np.asarray(made)
    except Exception as error:  # of a sparse tensor, a list of rows that are not equally long
        raise TeacherError(f"{who}: made no picture ({one_line(error)})") from error
    height, width = sides.hr.shape
    if picture.shape not in ((height, width), (height, width, 3)) or picture.dtype.kind not in "uf":
        expected = f"uint8 or floats, ({height}, {width}, 3) or ({height}, {width})"
        raise TeacherError(f"{who}: made {picture.dtype} {picture.shape}, expected {expected}")
    if picture.dtype.kind == "u" and picture.dtype != np.uint8:
        raise TeacherError(f"{who}: made {picture.dtype}, expected uint8 or floats on [0, 1]")
    values = picture / 255 if picture.dtype == np.uint8 else picture.astype(np.float64)
    if not np.isfinite(values).all():
        raise TeacherError(f"{who}: made values that are not finite")
    if values.ndim == 3:
        values = luma_of(values)
        if sides.small_is_grey:
            values = (values - 16 / 255) * (255 / 219)
    return as_tensor(values.astype(np.float32))


def find_weights(word: str, *, others: Sequence[str]) -> UPath:
    """The file that a word names: that of a bundled teacher, of one in $AIL_TEACHER_DIR, or any path.

    Raises:
        FileError: there is no teacher of that name (the line has `others` too, which need no file), or no access.
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


def find_teacher(name: str, scales: Sequence[int] = (), networks: Iterable[str] = ()) -> Teacher | None:
    """Find a teacher: weights by name or path, a folder of pictures, or the `Code` of one's own.

    None for `none` and `random`, which make no maps.

    Args:
        networks: the networks of the students; weights of one's own network can be loaded if it is among them.

    Raises:
        ConfigError: it is not there, is not known here, or does not serve all of these scales.
    """
    if name in WITHOUT_FILE:
        return None
    try:
        teacher = _found(name, networks)
        problems = teacher.problems(scales)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        raise ConfigError([f"teacher {label(name)}: {problem}" for problem in problems])
    return teacher


def find_our_weights(name: str, scales: Sequence[int] = ()) -> OurWeights | None:
    """As `find_teacher`, where only weights of this program's own networks will do."""
    teacher = find_teacher(name, scales)
    if teacher is None or isinstance(teacher, OurWeights):
        return teacher
    raise ConfigError([f"teacher {label(name)}: needs weights of a network of this program here"])


def _found(name: str, networks: Iterable[str]) -> Teacher:
    if isinstance(name, Code):
        return OwnTeacher(name)
    if is_reference(name):
        raise TeacherError(f"is somebody's own, whose code no file brings: name it, {label(name, 0)}")
    try:
        path = find_weights(name, others=WITHOUT_FILE)
    except FileError as error:
        raise TeacherError(str(error).removeprefix(f"{name}: ")) from None
    try:
        is_folder = path.is_dir()
    except Exception as error:  # whatever an object store's library raises
        raise FileError(f"{path}: cannot be read ({one_line(error)})") from error
    if is_folder:
        folder = PictureFolder(path)
        if not folder.files:
            raise TeacherError(f"{path}: no pictures in this folder; `ail teacher-inputs` says what belongs there")
        return folder
    said = read_tensors(path)[1].get("network", "")
    if is_reference(said):  # of one's own network, which a student's may be too
        same = (each for each in networks if isinstance(each, Code) and label(each, 0) == label(said, 0))
        return _loadable(OurWeights(path, next(same, "")))
    try:
        return _loadable(OurWeights(path))
    except WeightsError as error:
        from ail_ray.learning.public_weights import problems_of

        if problems := problems_of(path, ()):
            raise TeacherError(f"{one_line(error)}; {'; '.join(problems)}") from None
        return PublicWeights(path)


def _loadable(weights: OurWeights) -> OurWeights:
    """The same weights; FileError if they cannot be loaded."""
    weights.model()
    return weights
