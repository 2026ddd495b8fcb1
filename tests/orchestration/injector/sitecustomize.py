"""Halts a process of the program under test at a named point, so that a test can kill it there.

Python imports this module by itself when its folder is on PYTHONPATH; without AIL_FAULT it does nothing. AIL_FAULT is
JSON: `{"folder": ..., "points": {name: call}}`. The first process that reaches the given call of a point (counted in
each process, from 1) writes its number to `folder/name` and sleeps until it is killed; later ones pass.
"""

import dataclasses
import functools
import importlib.abc
import importlib.util
import json
import os
import sys
import time

# name: module, attribute (of a class: Class.attribute), whether to halt before or after the call, and which calls count
POINTS = {
    "θ": ("ail_ray.learning.theta", "weighted_loss", "before", None),
    "error pass": ("ail_ray.learning.algorithm", "error_map", "before", None),
    "between epochs": ("ail_ray.orchestration.slots", "heed", "before", None),
    "checkpoint": ("ail_ray.files", "os.replace", "before", lambda old, new: "/state/" in new),
    "before an update": ("ail_ray.runs.importance_store", "ImportanceStore.update", "before", None),
    "in an update": ("ail_ray.runs.importance_store", "next_importance", "before", None),
    "after an update": ("ail_ray.runs.importance_store", "ImportanceStore.update", "after", None),
    # These do not halt.
    "slow": ("ail_ray.learning.theta", "weighted_loss", "slow", None),
    "slow summary": ("ail_ray.tracking.mirror", "Tracker._send", "slow", None),
    "disk full": ("ail_ray.files", "os.replace", "full", lambda old, new: "/state/" in new),
    "count": ("ail_ray.learning.importance", "RULES", "count", None),
}
FAULT = json.loads(os.environ.get("AIL_FAULT", "{}"))


def halt(name):
    """Sleep for ever, if no other process has halted here before."""
    try:
        with open(os.path.join(FAULT["folder"], name), "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    time.sleep(3600)


def full(name, calls):
    """From the given call on the disk is full, for every process."""
    flag = os.path.join(FAULT["folder"], name)
    if calls >= FAULT["points"][name]:
        open(flag, "w").close()
    return os.path.exists(flag)


def halting(function, name, when, counts):
    calls = 0

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        nonlocal calls
        calls += counts is None or counts(*arguments)
        due = calls == FAULT["points"][name]
        if when == "slow":
            time.sleep(FAULT["points"][name])
        if when == "full" and (counts is None or counts(*arguments)) and full(name, calls):
            raise OSError(28, "No space left on device")
        if due and when == "before":
            halt(name)
        result = function(*arguments, **options)
        if due and when == "after":
            halt(name)
        return result

    return wrapped


def patch(module):
    for name in FAULT["points"]:
        target, path, when, counts = POINTS[name]
        if target != module.__name__:
            continue
        if when == "count":  # every update adds one sixteenth, exact in half precision
            recipe = module.RULES["eq7"]
            module.RULES["eq7"] = dataclasses.replace(
                recipe, solve=lambda p: p.importance + p.importance.dtype.type(1 / 16)
            )
            continue
        *owners, attribute = path.split(".")
        owner = functools.reduce(getattr, owners, module)
        setattr(owner, attribute, halting(getattr(owner, attribute), name, when, counts))


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in {POINTS[point][0] for point in FAULT["points"]}:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


if FAULT:
    sys.meta_path.insert(0, Finder())
