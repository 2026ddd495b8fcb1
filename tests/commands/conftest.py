"""The tiny images that these tests share."""

from tiny_files import tiny_files  # noqa: F401
