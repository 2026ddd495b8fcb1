"""Ray, and nothing else: store actors, workers, trials, Tune, the cluster, parallel tasks.

Ray reads the settings below when it is imported. Those that the user has set stay as they are.
"""

import logging
import os

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune stays silent: the monitor speaks
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would end `fit` as if all trials were over
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # a busy machine needs more than Ray's 60
}
NO_CLUSTER = ("", "local")
"""Values of RAY_ADDRESS that name no cluster: a sweep starts a Ray of its own then."""
if os.environ.get("RAY_ADDRESS", "") in NO_CLUSTER:
    # Keeps a Ray of our own on the loopback, on Linux too; without it, it listens on every address of the machine.
    SETTINGS["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # "token authentication is enabled"
logging.getLogger("ray.tune").setLevel(logging.ERROR)  # "took 0.7 s, which may be a performance bottleneck"
