"""The exceptions that all parts of the program share, and how messages word what they have in common."""

from collections.abc import Sequence

EXTRAS = {"s3fs": "s3", "gcsfs": "gcs"}
"""The packages that only some need, and the extra of this project that brings each."""


def one_line(error: BaseException) -> str:
    """The message of an exception, without line breaks; for a package that is missing, the command that installs it."""
    missing = getattr(error.__cause__, "name", None)  # fsspec's own error has it as its cause
    if missing in EXTRAS:
        return f"needs {missing}: pip install 'ail-ray[{EXTRAS[missing]}]'"
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """A line that moves no cursor and begins no other line: what a terminal would obey is shown as `\\x1b`.

    For names of files, and messages about them, which may hold anything.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(count: int, noun: str) -> str:
    """A number of things in words: `1 worker`, `2 workers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class ConfigError(Exception):
    """One or more bad values; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:  # it crosses process boundaries
        return type(self), (self.problems,)


class Interrupted(KeyboardInterrupt):
    """The process was asked to leave by a signal, `number`, and leaves with everything committed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
