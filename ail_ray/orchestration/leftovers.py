"""What a run may leave behind in a process that serves the next one too: settings, modules, memory."""

import gc
import os
import random
import sys
from contextlib import suppress

import numpy as np
import torch

from ail_ray.learning.losses import bound
from ail_ray.learning.rules import recipe_of
from ail_ray.networks.code import PREFIX, obtain


class Found:
    """The settings of this process as they are now, to which `restore` brings it back."""

    def __init__(self) -> None:
        self._environment, self._folder = dict(os.environ), os.getcwd()
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._threads, self._kind = torch.get_num_threads(), torch.get_default_dtype()
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._matmul = torch.get_float32_matmul_precision()

    def restore(self) -> None:
        """Undo whatever somebody's code has done to generators, torch's modes, environment and working directory."""
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        os.environ.update(self._environment)
        with suppress(FileNotFoundError):
            os.chdir(self._folder)
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        torch.set_num_threads(self._threads)
        torch.set_default_dtype(self._kind)
        torch.use_deterministic_algorithms(self._deterministic)
        torch.set_float32_matmul_precision(self._matmul)
        torch.set_grad_enabled(True)


def forget() -> None:
    """Drop the modules of somebody's code, and whatever memory nobody refers to.

    An installed package stays imported, since many cannot be imported twice.
    """
    for remembered in (obtain, recipe_of, bound):
        remembered.cache_clear()
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.zeros(1, device="cuda").item()  # raises if an error has left the device unusable
