"""A student written for devices, and what each file costs: bytes, decibels, milliseconds, measured in its runtime."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
import torch
from PIL import Image

from ail_ray.delivery import apart
from ail_ray.delivery.onnx import Variant
from ail_ray.delivery.targets import TARGETS, Files, Graph, Runner, Target, fitted
from ail_ray.delivery.upscale import upscale
from ail_ray.errors import ConfigError
from ail_ray.files import AnyPath, as_path, inside, slug, write_bytes
from ail_ray.imaging.evaluation import EvaluationImages, middle
from ail_ray.imaging.image_sets import find
from ail_ray.imaging.images import degrade, enlarge, luma, modcrop, read_image
from ail_ray.imaging.metrics import border, psnr, to_uint8
from ail_ray.learning.inference import super_resolve
from ail_ray.machine import cores, machine
from ail_ray.networks.architectures import ENLARGING, NETWORKS, Network, device_of
from ail_ray.networks.code import Code, label
from ail_ray.tensors import as_tensor

CALIBRATION_SIDE = 192
"""Side in pixels of the middle of each calibration image, of which only that is looked at."""
TIMED = (720, 1280)
"""Height and width of the enlarged picture that is timed where the shape is free."""
LARGEST = 16384  # pixels of a side
THREADS = (1, 2, 4)
PLAIN = {"Add", "Clip", "Concat", "Conv", "DepthToSpace", "DequantizeLinear", "Div", "Mul", "Neg", "QuantizeLinear",
         "Relu", "Sub"}  # fmt: skip
"""What delegates to GPUs and NPUs take, with fixed shapes and tensors of rank 4 at most."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be written."""

    targets: Sequence[str]
    precisions: Sequence[Variant]
    scale: int
    picture: bool
    eight_bit: bool
    shape: str  # of the enlarged picture: HxW or dynamic
    calibration: str
    on: str
    folder: AnyPath
    make_environment: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A file and what it costs; `psnr` of luma in dB and milliseconds by threads, None where nothing here runs it."""

    file: str
    target: str
    precision: str
    kilobytes: float
    psnr: float | None = None
    lost: float | None = None  # dB, against the student in torch
    largest: float | None = None  # difference to it, in grey levels
    milliseconds: dict[int, float] | None = None
    unrun: str = ""  # why nothing here runs it
    refused: Sequence[str] = ()  # what a delegate to a GPU or NPU would not take


@dataclass(frozen=True, kw_only=True)
class Report:
    """The files, and what they are compared with: (dB, milliseconds on one thread) of bicubic and of the student."""

    name: str  # of its own file, without a suffix
    rows: Sequence[Row]
    compared: dict[str, tuple[float, float]]
    images: str
    timed: tuple[int, int]


def ship(model: Network, asked: Asked, say: Callable[[str], None] = lambda line: None) -> Report:
    """Write `<network>-f<width>-x<scale>-<precision>[-bytes|-picture][-HxW]` with the suffix of each target.

    Raises:
        ConfigError: with a line for each target that is not installed or does not take what is asked, a shape that the
            network cannot take, images that cannot be read, files that are there already, and an operator that a
            converter does not know; nothing has been written then but what was made before that operator.
    """
    asked = replace(asked, precisions=tuple(dict.fromkeys(asked.precisions)))
    targets, shape, problems = _checked(model, asked)
    stem = _stem(model, asked, shape)
    folder = as_path(asked.folder)
    report = f"{stem('-'.join(asked.precisions))}-{'-'.join(target.name for target in targets)}-report"
    for names in (
        *([f"{stem(variant)}{end}" for end in ENDS[t.name]] for t in targets for variant in asked.precisions),
        [f"{report}.json", f"{report}.svg"],
    ):
        there = [path for path in (inside(folder, name) for name in names) if path.exists()]
        problems += [f"out: {path} is there already; remove it, or name another folder" for path in there[:1]]
    calibration = on = None
    try:
        on = Measured(model, asked, shape)
        len(on.inputs)
    except ValueError as error:
        problems.append(f"on: {error}")
    try:
        if any(variant.startswith("int8") for variant in asked.precisions):
            calibration = Measured(model, replace(asked, on=asked.calibration), None)
            len(calibration.inputs)
    except ValueError as error:
        problems.append(f"calibration: {error}")
    if problems or on is None:
        raise ConfigError(problems)
    for name in dict.fromkeys(target.environment for target in targets if target.environment):
        if not apart.exists(name):
            say(f"making an environment for {name} in {apart.folder(name)}")
            apart.make(name)
    graph = Graph(
        model=model, scale=asked.scale, picture=asked.picture, eight_bit=asked.eight_bit, shape=on.shape,
        luma=calibration.ranges if calibration else (), pictures=calibration.small if calibration else (),
        about=_about(model, asked, on),
    )  # fmt: skip
    refused, rows = refused_by_delegates(graph.onnx()), list[Row]()
    for target in targets:
        for variant in asked.precisions:
            files = target.convert(graph, variant)
            row = _measured(target, variant, files, on)
            for end, content in files.items():
                path = inside(folder, f"{stem(variant)}{end}")
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)
            first = next(iter(files)).partition("/")[0]
            rows.append(replace(row, file=f"{stem(variant)}{first}", refused=refused))
            say(str(inside(folder, rows[-1].file)))
    timed = shape or TIMED
    return Report(name=report, rows=rows, compared=on.compared(timed), images=f"{on.name} ×{asked.scale}", timed=timed)


ENDS = {
    "onnx": (".onnx",), "openvino": (".xml", ".bin"), "ncnn": (".ncnn.param", ".ncnn.bin", ".ncnn.json"),
    "litert": (".tflite", ".tflite.json"),
    "coreml": (".mlpackage",),
}  # fmt: skip
"""How the names of the files of each target end."""


def refused_by_delegates(proto: onnx.ModelProto) -> list[str]:
    """What of a graph a delegate to a GPU or NPU leaves to the CPU: operators, free sizes, ranks above 4."""
    found = sorted({node.op_type for node in proto.graph.node} - PLAIN)
    shapes = [each.type.tensor_type.shape.dim for each in (*proto.graph.value_info, *proto.graph.input)]
    found += ["tensors of a rank above 4"] * any(len(shape) > 4 for shape in shapes)
    return found + ["free sizes"] * any(side.dim_param for shape in shapes for side in shape)


class Measured:
    """Images on which files are compared with the student."""

    def __init__(self, model: Network, asked: Asked, shape: tuple[int, int] | None) -> None:
        self.model, self.scale, self.picture, self.eight_bit = model, asked.scale, asked.picture, asked.eight_bit
        images = find(asked.on)
        self.whole, self.paths, self.name = shape, images.paths, images.name  # no path: it is noted in the files
        grid = 1 if model.traits.upsampling == 1 and not asked.picture else asked.scale
        self.grid = grid  # pixels of the enlarged picture for each that the graph reads, in height and in width
        self.shape = shape and (shape[0] // grid, shape[1] // grid)

    @cached_property
    def _pictures(self) -> list[np.ndarray]:
        images = [modcrop(read_image(path), self.scale) for path in self.paths]
        for path, image in zip(self.paths, images, strict=True):
            if min(image.shape[:2]) <= 2 * border(self.scale):
                raise ValueError(f"{path}: is too small to be compared at scale {self.scale}")
        return [image if image.ndim == 3 else np.stack([image] * 3, -1) for image in images]

    @cached_property
    def small(self) -> list[np.ndarray]:
        """Small RGB pictures, (h, w, 3) uint8."""

        def shrunk(image: np.ndarray) -> np.ndarray:
            planes = [to_uint8(degrade(image[..., i], self.scale)) for i in range(3)]
            return np.stack(planes, -1)

        return [shrunk(image) for image in self._pictures] if self.picture else []

    @cached_property
    def _luma(self) -> EvaluationImages:
        return EvaluationImages(self.name, self.scale, [luma(image) for image in self._pictures])

    @property
    def ranges(self) -> list[np.ndarray]:
        """Luma as the network reads it, of which the middle suffices for ranges."""
        return [middle(image, CALIBRATION_SIDE, 1) for image in self._luma.inputs(self.model.traits.upsampling)]

    @cached_property
    def inputs(self) -> list[np.ndarray]:
        """What the graph reads of each image."""
        if self.picture:
            return [fitted(image, self.shape)[None] for image in self.small]
        images = [fitted(y, self.shape)[None, None] for y in self._luma.inputs(self.model.traits.upsampling)]
        return [to_uint8(y) if self.eight_bit else y.astype(np.float32) for y in images]

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """What the student makes of each, in torch or by `upscale`: in grey levels."""
        return [self.by_student(each) for each in self.inputs]

    def by_student(self, inputs: np.ndarray) -> np.ndarray:
        if self.picture:
            return np.asarray(upscale(self.model, Image.fromarray(inputs[0]), self.scale))[None]
        unit = inputs[0, 0] / np.float32(255) if self.eight_bit else inputs[0, 0]
        sr = super_resolve(self.model, as_tensor(unit).to(device_of(self.model)), "fp32").cpu().numpy()
        return (to_uint8(sr) if self.eight_bit else sr * 255)[None, None]

    def levels(self, made: np.ndarray) -> np.ndarray:
        """What a graph has written, in grey levels."""
        return made if made.dtype == np.uint8 else made.astype(np.float32) * 255

    def psnr(self, made: Sequence[np.ndarray]) -> float:
        """Mean PSNR of luma in dB; what was added to fill the shape does not count."""
        decibels = []
        for levels, hr in zip(made, self._luma.hr, strict=True):
            sr = luma(levels[0]) if self.picture else to_uint8(levels[0, 0] / np.float32(255))
            hr = hr[: sr.shape[0], : sr.shape[1]]
            decibels.append(min(psnr(hr, sr[: hr.shape[0], : hr.shape[1]], border(self.scale)), 100.0))
        return float(np.mean(decibels))

    def compared(self, timed: tuple[int, int]) -> dict[str, tuple[float, float]]:
        """Bicubic interpolation and the student in torch: dB, and milliseconds on one thread at a size."""
        small = np.zeros((timed[0] // self.scale, timed[1] // self.scale), np.float32)
        kept = self.whole and (self.whole[0] // self.scale, self.whole[1] // self.scale)
        bicubic = [to_uint8(enlarge(fitted(y, kept), self.scale)) for y in self._luma.small]
        pairs = [(hr[: y.shape[0], : y.shape[1]], y[: hr.shape[0], : hr.shape[1]])
                 for hr, y in zip(self._luma.hr, bicubic, strict=True)]  # fmt: skip
        plain = float(np.mean([psnr(hr, y, border(self.scale)) for hr, y in pairs]))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            example = self.example(timed)
            seconds = milliseconds(lambda _: self.by_student(example), example)
        finally:
            torch.set_num_threads(threads)
        return {
            "bicubic": (plain, milliseconds(lambda y: enlarge(y, self.scale), small)),
            "student": (self.psnr(self.expected), seconds),
        }

    def example(self, timed: tuple[int, int]) -> np.ndarray:
        """Something for a graph to read that becomes a picture of this size."""
        sides = (timed[0] // self.grid, timed[1] // self.grid)
        values = np.random.default_rng(0).integers(0, 256, (1, *sides, 3) if self.picture else (1, 1, *sides), np.uint8)
        return values if self.picture or self.eight_bit else values / np.float32(255)


def milliseconds(run: Callable[[np.ndarray], object], inputs: np.ndarray) -> float:
    """The median time of a call, after one that does not count: of five calls, or as many as fit into three seconds."""
    run(inputs)
    took, begin = list[float](), time.perf_counter()
    while len(took) < 5 and (not took or time.perf_counter() - begin < 3):
        start = time.perf_counter()
        run(inputs)
        took.append(1000 * (time.perf_counter() - start))
    return statistics.median(took)


def _measured(target: Target, variant: Variant, files: Files, on: Measured) -> Row:
    size = sum(len(content) for end, content in files.items() if not end.endswith(".json")) / 1024
    row = Row(file="", target=target.name, precision=variant, kilobytes=round(size, 1), unrun=target.unrun)
    if target.runner is None:
        return row
    run: Runner = target.runner(files, 1)
    made = [on.levels(run(inputs)) for inputs in on.inputs]
    largest = max(float(np.abs(a.astype(np.float32) - b).max()) for a, b in zip(made, on.expected, strict=True))
    decibels, example = on.psnr(made), on.example(on.whole or TIMED)
    took = {
        threads: round(milliseconds(run if threads == 1 else target.runner(files, threads), example), 2)
        for threads in THREADS
        if threads <= cores()
    }
    return replace(
        row, psnr=round(decibels, 4), lost=round(on.psnr(on.expected) - decibels, 4) + 0.0, largest=round(largest, 4),
        milliseconds=took,
    )  # fmt: skip


def _checked(model: Network, asked: Asked) -> tuple[list[Target], tuple[int, int] | None, list[str]]:
    """The targets, the shape, and a line for all that is wrong with what is asked."""
    made, problems, shape = model.made, list[str](), None
    if made.network not in NETWORKS and not isinstance(made.network, Code):
        raise ConfigError([f"model: only a student or a teacher in safetensors can be written, no {made.network}"])
    if asked.scale not in ENLARGING:
        raise ConfigError([f"scale must be 2, 3 or 4, got {asked.scale}; a network that restores has no file yet"])
    if asked.picture and asked.eight_bit:
        problems.append("bytes goes without --picture, which has integers already")
    step = asked.scale * model.traits.multiple
    if asked.shape != "dynamic":
        found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", asked.shape)
        shape = (int(found[1]), int(found[2])) if found else None
        least = 2 * border(asked.scale) + 1
        if shape is None or not all(least <= side <= LARGEST for side in shape):
            problems.append(
                f"shape must be dynamic, or height and width from {least} to {LARGEST} such as 720x1280, got "
                f"{asked.shape[:40]}"
            )
            shape = None  # nothing of that size is to be made
        elif shape[0] % step or shape[1] % step:
            line = f"shape: {label(made.network)} at scale {asked.scale} makes multiples of {step}, no {asked.shape}"
            problems.append(line)
    elif model.traits.multiple > 1:
        line = f"shape: {label(made.network)} takes no picture of any size; name a multiple of {step}, as in 720x1280"
        problems.append(line)
    targets = [TARGETS[name] for name in dict.fromkeys(asked.targets)]
    for target in targets:
        missing = target.missing
        problems += [line for line in missing if not (asked.make_environment and "--make-environment" in line)]
        problems += [
            f"precision: {target.name} has no {each}, only {', '.join(target.precisions)}"
            for each in asked.precisions if each not in target.precisions
        ]  # fmt: skip
        if asked.shape == "dynamic" and not target.free:
            problems.append(f"shape: {target.name} takes one size only; name that of the enlarged picture: 720x1280")
        if asked.eight_bit and not target.eight_bit:
            problems.append(f"bytes: {target.name} has no integers for luma")
    return targets, shape, problems


def _stem(model: Network, asked: Asked, shape: tuple[int, int] | None) -> Callable[[str], str]:
    made = model.made
    begin = f"{slug(label(made.network))}{'' if made.width is None else f'-f{made.width}'}-x{asked.scale}"
    form = "-picture" if asked.picture else "-bytes" if asked.eight_bit else ""
    size = f"-{shape[0]}x{shape[1]}" if shape else ""
    return lambda variant: f"{begin}-{variant}{form}{size}"


def _about(model: Network, asked: Asked, on: Measured) -> dict[str, str]:
    """What every file says of itself."""
    levels = "0..255" if asked.picture or asked.eight_bit else "0..1, Y / 255"
    return {
        "network": str(model.made), "scale": str(asked.scale), "range": levels,
        "colour": "RGB" if asked.picture else "luma of ITU-R BT.601 in studio range: "
        "Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255",
        "reads": "the small picture" if on.grid > 1 else "the picture after bicubic enlargement",
        "parameters": str(sum(each.numel() for each in model.parameters())),
        "psnr": f"{on.psnr(on.expected):.3f} dB ({on.name} x{asked.scale}, luma, by torch in fp32)",
        "commit": machine()["commit"],
        "licence": "Apache-2.0 for the program that wrote it; the weights have the licence of whoever trained them",
    }  # fmt: skip
