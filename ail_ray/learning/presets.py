"""The presets, each a function: `demo` takes minutes, `mini` takes hours on CPUs, `paper` is the paper's protocol."""

from dataclasses import replace

from ail_ray.learning.sweep_config import SweepConfig


def demo() -> SweepConfig:
    """Bundled photographs, no downloads, minutes on a laptop: with a teacher, without one, and the control."""
    return SweepConfig.of(
        train=("sample",), validation=("sample-val",), test=(), depth=8, downsizes=(1.0, 0.5), shards=8,
        rounds=3, epochs=2, crops=2048, batch=16, optimizer="adam", learning_rate=3e-3, schedule="cosine",
        weight_decay=0.0, init="identity", teacher=("vdsr", "none"), rule=("eq7", "uniform"),
    )  # fmt: skip


def mini() -> SweepConfig:
    """The 291 images less ten, in hours on a CPU: the paper's networks and rounds, a schedule for a small budget."""
    return SweepConfig.of(
        rounds=10, epochs=2, crops=18_000, batch=16, optimizer="adam", learning_rate=3e-3, schedule="cosine",
        weight_decay=0.0, init="identity", rule=("eq7", "uniform"),
    )  # fmt: skip


def paper() -> SweepConfig:
    """The paper's protocol for a cluster with GPUs: all 291 images, no validation, 10 rounds of 50 epochs of SGD."""
    return SweepConfig.of(validation=(), rule=("eq7", "uniform"))


PRESETS = {"demo": demo, "mini": mini, "paper": paper}


def preset(name: str) -> SweepConfig:
    """A preset by name: what it has is not given, so that a network or a loss may have other defaults."""
    return replace(PRESETS[name](), given=frozenset())
