"""`sweep.json`: what a sweep was asked, the trials it began and what stopped them, for whoever reads before it ends."""

import time
from functools import cache
from typing import Any

import torch
from upath import UPath

from ail_ray.files import write_json
from ail_ray.learning.config import RunConfig, parameters
from ail_ray.learning.networks import multiply_accumulates, parameter_count


class Ledger:
    """Writes the whole file at every event. How far a trial is, and what it measured, is in its run directory."""

    def __init__(self, path: UPath, *, name: str, command: str, config: dict[str, Any], asked: int) -> None:
        """
        Args:
            config: the configuration of the sweep, as plain data.
            asked: how many trials the sweep has.
        """
        self.path = path
        self.content: dict[str, Any] = {
            "name": name, "command": command, "config": config, "asked": asked,
            "state": "running", "started": time.time(), "trials": [],
        }  # fmt: skip
        self._write()

    def began(self, name: str, directory: UPath, config: RunConfig) -> None:
        """Record that a trial begins or goes on."""
        trials, place = self.content["trials"], str(directory)
        trials[:] = [trial for trial in trials if trial["directory"] != place]
        trials.append({"name": name, "directory": place, "parameters": parameters(config), "reason": None})
        self._write()

    def failed(self, directory: UPath, reason: str) -> None:
        """Record that a trial that began cannot go on."""
        for trial in self.content["trials"]:
            if trial["directory"] == str(directory):
                trial["reason"] = reason
        self._write()

    def close(self, state: str) -> None:
        """Record that the sweep is over: `finished` or `stopped`."""
        self.content["state"] = state
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.content)


@cache
def student_cost(config: RunConfig) -> dict[str, int]:
    """Number of weights of the student, and its multiply-accumulates for 256×256 pixels."""
    with torch.device("meta"):  # draws nothing
        student = config.student()
    return {"weights": parameter_count(student), "multiply_accumulates": multiply_accumulates(student)}
