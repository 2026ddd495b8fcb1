"""The formats that devices run: what converts a student to each, what runs it here, and what has to be installed.

A converter that does not fit beside this project runs in an environment of its own (`apart.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec

import numpy as np
import onnx

from ail_ray.delivery import apart
from ail_ray.delivery.onnx import Variant, session_of, to_onnx
from ail_ray.delivery.picture import OURS
from ail_ray.imaging.metrics import to_uint8
from ail_ray.networks.architectures import Network

Files = Mapping[str, bytes]
"""What a converter makes: contents by what the names of the files end with."""
Runner = Callable[[np.ndarray], np.ndarray]
"""From what the graph reads to what it writes."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A student as it is to be written, in any arithmetic."""

    model: Network
    scale: int
    picture: bool  # uint8 RGB (1, H, W, 3) in and out, else luma (N, 1, H, W) float32
    eight_bit: bool = False  # luma as uint8
    shape: tuple[int, int] | None  # height and width of the one input; None where any will do
    luma: Sequence[np.ndarray] = field(default_factory=tuple)  # (H, W) as the network reads them, for ranges
    pictures: Sequence[np.ndarray] = field(default_factory=tuple)  # (H, W, 3) uint8, for ranges
    about: Mapping[str, str] = field(default_factory=dict)

    def onnx(self, variant: Variant = "fp32", *, planes: bool = False, wide: bool = False) -> onnx.ModelProto:
        """The graph in ONNX; `planes` as `to_onnx` has it, if it is one of pictures."""
        return onnx.load_from_string(self.written(variant, planes=planes, wide=wide))

    def written(self, variant: Variant = "fp32", *, planes: bool = False, wide: bool = False) -> bytes:
        """As `onnx`, in the bytes of a file."""
        return to_onnx(
            self.model, variant, eight_bit=self.eight_bit, picture=self.scale if self.picture else 0, planes=planes,
            shape=self.shape, wide=wide, calibration=self.luma, about=self.about,
        )  # fmt: skip

    @cached_property
    def examples(self) -> list[np.ndarray]:
        """Inputs of the graph, for ranges: of its shape where it is fixed."""
        if self.picture:
            return [fitted(picture, self.shape)[None] for picture in self.pictures]
        luma = [fitted(y, self.shape)[None, None] for y in self.luma]
        return [to_uint8(y) for y in luma] if self.eight_bit else [y.astype(np.float32) for y in luma]

    @property
    def own(self) -> list[str]:
        """The names of the nodes that do not belong to the network, and stay in floating point."""
        return [node.name for node in self.onnx().graph.node if node.output[0].startswith(OURS)]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format."""

    name: str
    needs: Mapping[str, str]  # modules that have to be there, each with the extra of this project that brings it
    convert: Callable[[Graph, Variant], Files]
    runner: Callable[[Files, int], Runner] | None  # None: nothing here runs it
    unrun: str = ""  # why
    precisions: Sequence[Variant] = ("fp32", "fp16", "int8")
    free: bool = True  # whether a graph may take any size
    eight_bit: bool = False  # whether luma may be integers
    environment: str = ""  # of the converter, if it has one of its own

    @property
    def missing(self) -> list[str]:
        """A line for each thing that has to be installed first, with the command that does it."""
        lines = [
            f"target: {self.name} needs {module}: pip install 'ail-ray[{extra}]'"
            for module, extra in self.needs.items()
            if find_spec(module) is None
        ]
        if self.environment and not apart.exists(self.environment):
            converter = apart.PACKAGES[self.environment][0].partition("=")[0]
            lines.append(f"target: {self.name} needs {converter} in an environment of its own: add --make-environment")
        return lines


def fitted(image: np.ndarray, shape: tuple[int, int] | None) -> np.ndarray:
    """The top left part of an (H, W, ...) image in a shape, its last rows and columns repeated where it is smaller."""
    if shape is None:
        return image
    image = image[: shape[0], : shape[1]]
    more = [(0, side - there) for side, there in zip(shape, image.shape, strict=False)]
    return np.pad(image, [*more, *[(0, 0)] * (image.ndim - 2)], mode="edge")


def _run_onnx(files: Files, threads: int) -> Runner:
    session = session_of(files[".onnx"], threads)
    given = session.get_inputs()[0].name
    return lambda inputs: np.asarray(session.run(None, {given: inputs})[0])


def _targets() -> dict[str, Target]:
    from ail_ray.delivery import coreml, litert, ncnn, openvino

    found = [
        Target(
            name="onnx", needs={}, runner=_run_onnx, eight_bit=True, precisions=("fp32", "fp16", "int8", "int8-w7"),
            convert=lambda graph, variant: {".onnx": graph.written(variant, wide=True)},
        ),
        Target(
            name="openvino", needs={"openvino": "openvino", "nncf": "openvino"}, convert=openvino.convert,
            runner=openvino.runner, eight_bit=True, precisions=("fp32", "fp16", "int8", "int8-w7"),
        ),
        Target(name="ncnn", needs={"ncnn": "ncnn", "pnnx": "ncnn"}, convert=ncnn.convert, runner=ncnn.runner),
        Target(
            name="litert", needs={"ai_edge_litert": "litert"}, convert=litert.convert, runner=litert.runner, free=False,
            environment="litert",
        ),
        Target(
            name="coreml", needs={}, convert=coreml.convert, runner=None, unrun="macOS only", free=False,
            environment="coreml",
        ),
    ]  # fmt: skip
    return {target.name: target for target in found}


TARGETS = _targets()
