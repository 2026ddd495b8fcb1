"""Where Algorithm 1 runs and what is written down: Ray actors, workers, trials, sweeps and MLflow."""

import os

if "RAY_ADDRESS" not in os.environ:
    # A Ray of our own stays on the loopback: this is Ray's switch for it, on Linux too, and Ray reads it when it is
    # imported. Without it a local Ray listens on every address of the machine.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
