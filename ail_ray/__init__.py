"""Adaptive importance learning for lightweight super-resolution, as a job for a Ray cluster."""

__version__ = "0.1.0"
