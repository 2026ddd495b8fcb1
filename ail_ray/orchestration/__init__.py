"""Where Algorithm 1 runs and what is written down: Ray actors, workers, trials, sweeps and MLflow.

Both libraries read the settings below when they are imported. Those that the user has set stay as they are.
"""

import logging
import os

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is away is noticed within a minute
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # of every run that ends; the job says where to look
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
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

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "creating tables" on first use
# An interruption in the middle of a transaction is no failure of the pool, which would log its traceback.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # "token authentication is enabled"
logging.getLogger("ray.tune").setLevel(logging.ERROR)  # "took 0.7 s, which may be a performance bottleneck"
