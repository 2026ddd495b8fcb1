"""The command line of every job: a dataclass becomes flags and help, and all that is wrong is said at once."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any, NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.progress import Progress

from ail_ray.errors import ConfigError
from ail_ray.files import as_path, unwritable_file, write_json

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], *, default: T, prog: str, description: str) -> T:
    """Read flags into a dataclass whose construction may raise ConfigError.

    A command with three mistakes is refused once and not three times: every flag is tried alone, then all together,
    and again without those to blame. One that is wrong alone may be right beside another (`--workers 32 --shards 32`).
    Exits with 0 after `--help`, and with 2, a line for each problem on standard error, if anything is wrong.
    """

    def read(words: Sequence[str]) -> tuple[T, list[str]]:
        return tyro.cli(
            kind, args=list(words), default=default, prog=prog, description=description,
            return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,),
        )  # fmt: skip

    if {"-h", "--help"} & set(arguments):
        read(["--help"])
    problems: dict[str, None] = {}  # in order, each once
    accepted: list[tuple[list[str], set[str]]] = []  # flags, and what is wrong with each alone
    for words in _by_flag(arguments):
        alone: set[str] = set()
        try:
            with redirect_stderr(StringIO()):  # tyro's own message is a screenful
                _, unknown = read(words)
            if unknown:
                problems[f"{unknown[0]}: no such option{_suggestion(unknown[0], kind)}"] = None
                continue
        except SystemExit:
            problems[f"{words[0]}: cannot read {' '.join(words[1:]) or 'nothing'!r}; see --help"] = None
            continue
        except ConfigError as error:
            alone = set(error.problems)
        accepted.append((words, alone))
    while accepted:
        try:
            result, left = read([word for words, _ in accepted for word in words])
            problems |= {f"{word}: stands apart from others like it; name them in one place": None for word in left}
            break
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
            before = len(accepted)
            accepted = [(words, alone) for words, alone in accepted if not alone & set(error.problems)]
            if len(accepted) == before:
                break
    else:
        result = default
    if problems:
        refuse(list(problems))
    return result


def deliver(result: Any, path: str | None) -> None:
    """Write plain data as JSON to a file, to standard output for `-`, or not at all."""
    if path == "-":
        print(json.dumps(result, indent=1))
    elif path:
        write_json(as_path(path), result)


def undeliverable(path: str | None) -> list[str]:
    """Why `deliver` could not write there; to be asked before the work is done."""
    return [f"json: {line}" for line in unwritable_file(as_path(path))] if path and path != "-" else []


@contextmanager
def progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Something to say lines with, and something to tell how much of the total is done.

    On a terminal there is a bar below the lines; where there is none, only the lines, without colours.
    """
    with Progress(console=Console(emoji=False), disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield (
            lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True),
            lambda done: bar.advance(task, done),
        )


def refuse(problems: Sequence[str]) -> NoReturn:
    """Print a line for each problem on standard error and exit with 2."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(2)


def _by_flag(arguments: Sequence[str]) -> list[list[str]]:
    """The words of each flag together: `--rho 0.75 0.8 --gpu` becomes two groups."""
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _suggestion(flag: str, kind: type) -> str:
    names = [f"--{name.replace('_', '-')}" for name in _leaf_names(kind)]
    close = difflib.get_close_matches(flag, names, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _leaf_names(kind: type) -> list[str]:
    names = []
    for field in dataclasses.fields(kind):
        nested = isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
        names += _leaf_names(field.type) if nested else [field.name]  # type: ignore[arg-type]
    return names
