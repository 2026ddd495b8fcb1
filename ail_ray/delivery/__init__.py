"""A trained student at work: sets measured, pictures enlarged, files for devices. Nothing here trains."""

import os

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # onnxruntime reads it when it is imported, which is only done below
