"""Adaptive importance learning for lightweight super-resolution, as a job for a Ray cluster."""

from ail_ray.home import settle

__version__ = "0.1.0"

settle()  # before anything imports a library that asks for it
