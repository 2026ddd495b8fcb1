"""Addresses of object stores and servers: which may be named, and how they are shown."""

import re

from ail_ray.errors import ConfigError

SCHEMES = ("s3", "gs", "file", "memory")
"""What a folder may be on, besides a mounted file system."""


def without_password(text: str) -> str:
    """An address, or a text with addresses in it, without users, passwords and queries, which may hold either."""
    text = re.sub(r"(?<!sqlite)://\S+@", "://", text)
    return re.sub(r"(\w://[^\s?#]*)[?#]\S*", r"\1", text)


def check_address(address: str) -> None:
    """Refuse what is no folder and no address of an object store. It may have been read from a file.

    Raises:
        ConfigError: it is the address of something else, or has a key in it; the message has no key.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return
    if scheme not in SCHEMES:
        line = "neither a folder nor the address of an object store (s3://… or gs://…)"
        raise ConfigError([f"{without_password(address)}: {line}"])
    if "@" in rest.partition("/")[0]:
        raise ConfigError([f"{without_password(address)}: keys belong into the environment, not into an address"])
