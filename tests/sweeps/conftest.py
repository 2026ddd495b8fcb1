"""The tiny images and runs that these tests share."""

from tiny_files import bench, empty_database, make_plan, tiny_files  # noqa: F401
