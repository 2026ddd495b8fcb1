"""The exceptions that all parts of the program share, and how messages word what they have in common."""

from collections.abc import Sequence


def one_line(error: BaseException) -> str:
    """The message of an exception, without line breaks."""
    return " ".join(str(error).split())


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
