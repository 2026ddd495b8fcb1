"""Adaptive importance learning for lightweight super-resolution, as a job for a Ray cluster and as a library.

`import ail_ray as ail` loads nothing else; what ail_ray/api.py defines is loaded when it is asked for.
"""

from importlib import import_module
from typing import Any

from ail_ray.home import settle

__version__ = "0.1.0"
__all__ = ["ConfigError", "Measurements", "Summary", "Trial", "evaluate", "load", "sweep", "train", "upscale"]

settle()  # changes nothing where there is a home and a name, as everywhere but in some containers


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("ail_ray.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
