"""The command line of every command: a dataclass becomes flags, and all that is wrong with them is said at once."""

import dataclasses
import difflib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from typing import IO, Any, NoReturn, TypeVar, get_args, get_origin

import tyro
from rich.console import Console
from rich.progress import Progress

from ail_ray.commands.help_page import flag_of, help_page
from ail_ray.entry import logs_json, put, say
from ail_ray.errors import ConfigError, printable
from ail_ray.files import as_path, unwritable_file, write_json

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], *, default: T, prog: str, description: str) -> T:
    """Read flags into a dataclass whose construction may raise ConfigError.

    A command with three mistakes is refused once and not three times: where all flags together are not accepted, each
    is tried alone, and then all without those to blame. A flag that is wrong alone may be right with another:
    `--workers 32 --shards 32`. A flag that is given twice is refused too, where the parser would keep the last.
    Exits with 0 after `--help`, and with 2, a line for each problem on standard error, if anything is wrong.
    """

    def read(words: Sequence[str]) -> tuple[T, list[str]]:
        return tyro.cli(
            kind, args=list(words), default=default, return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,)
        )

    if {"-h", "--help"} & set(arguments):
        print(help_page(kind, default, prog=prog, description=description), end="")
        raise SystemExit(0)
    with suppress(SystemExit, ConfigError), redirect_stderr(StringIO()):  # tyro's own message is a screenful
        result, left = read(arguments)
        if not left and not _repeated(list(by_flag(arguments)), kind):
            return result
    problems: dict[str, None] = {}  # in order, each once
    accepted: list[tuple[list[str], set[str]]] = []  # flags, and what is wrong with each alone
    for words in by_flag(arguments):
        alone: set[str] = set()
        try:
            with redirect_stderr(StringIO()):
                _, unknown = read(words)
            if unknown:
                option = unknown[0].startswith("-")
                said = f"no such option{_suggestion(unknown[0], kind)}" if option else "no option takes this value"
                problems[f"{unknown[0]}: {said}"] = None
                continue
        except SystemExit:
            said = f"cannot read {' '.join(words[1:])!r}" if words[1:] else "a value is missing"
            problems[f"{words[0]}: {said}; see --help"] = None
            continue
        except ConfigError as error:
            alone = set(error.problems)
        accepted.append((words, alone))
    problems |= dict.fromkeys(_repeated([words for words, _ in accepted], kind))
    while accepted:
        try:
            result, left = read([word for words, _ in accepted for word in words])
            problems |= {f"{word}: name it in one place with the other values of its kind": None for word in left}
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


def values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    """The values that are given for a flag, on which other flags may depend."""
    groups = (_split(words) for words in by_flag(arguments))
    return [value for name, *values in groups if name == flag for value in values]


def names_in(arguments: Sequence[str]) -> list[str]:
    """The names of the fields, and the parameters such as `rule.gamma`, that flags are given for."""
    flags = (_split(words)[0] for words in by_flag(arguments))
    return [flag[2:].replace("-", "_") for flag in flags if flag.startswith("--")]


def deliver(result: Any, path: str | None) -> None:
    """Write plain data as JSON to a file, to standard output if the path is `-`, or nowhere if there is no path."""
    if path == "-":
        put(json.dumps(result, indent=1))
    elif path:
        write_json(as_path(path), result)


def undeliverable(path: str | None) -> list[str]:
    """Say why `deliver` could not write to a path; this is to be asked before the work is done."""
    return [f"json: {line}" for line in unwritable_file(as_path(path))] if path and path != "-" else []


@contextmanager
def progress(
    total: float, file: IO[str] | None = None
) -> Iterator[tuple[Callable[[str], None], Callable[[float], None]]]:
    """Something to say lines with, and something to tell how much of the total is done.

    On a terminal there is a bar below the lines; where there is none, only the lines, without colours.

    Args:
        file: where both go, by default standard output.
    """
    file = file or sys.stdout
    draws = file.isatty() and not logs_json()
    with Progress(console=Console(file=file, emoji=False), disable=not draws, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield (
            (lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True))
            if draws
            else (lambda line: say(line, file)),
            lambda done: bar.advance(task, done),
        )


@contextmanager
def refusals() -> Iterator[None]:
    """Refuse the command where a ConfigError says that it is wrong; for the main function of a command."""
    try:
        yield
    except ConfigError as error:
        refuse(error.problems)


def refuse(problems: Sequence[str]) -> NoReturn:
    """Print a line for each problem on standard error and exit with 2."""
    for problem in problems:
        say(f"error: {printable(problem)}", sys.stderr, level="ERROR")
    raise SystemExit(2)


def by_flag(arguments: Sequence[str]) -> list[list[str]]:
    """Group the words of a command by flag: `--rho 0.75 0.8 --gpu` becomes two groups."""
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _split(words: list[str]) -> list[str]:
    """The words of one flag, where `--rho=0.8` is two."""
    flag, joined, value = words[0].partition("=")
    return [flag, value, *words[1:]] if joined else words


def _repeated(groups: Sequence[list[str]], kind: type) -> list[str]:
    """A line for each flag that is given more than once; `--gpu` and `--no-gpu` are one flag."""
    leaves, given = _leaves(kind), dict[str, list[str]]()
    for words in groups:
        flag, *values = _split(words)
        if (flag := flag.replace("_", "-").replace("--no-", "--", 1)) in leaves:
            given.setdefault(flag, []).append(shlex.join(values))
    problems = []
    for flag, each in given.items():
        times = "twice" if len(each) == 2 else f"{len(each)} times"
        remedy = f": name its values in one place: {' '.join([flag, *filter(None, each)])}"
        if len(each) > 1:
            problems.append(f"{flag} was given {times}{remedy if _takes_many(leaves[flag]) else ''}")
    return problems


def _takes_many(kind: Any) -> bool:
    return tuple in {get_origin(kind), *map(get_origin, get_args(kind))}


def _suggestion(flag: str, kind: type) -> str:
    close = difflib.get_close_matches(flag, list(_leaves(kind)), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _leaves(kind: type) -> dict[str, Any]:
    """The flags of a dataclass, each with the type of its value."""
    leaves = dict[str, Any]()
    for field in dataclasses.fields(kind):
        nested = isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
        leaves |= _leaves(field.type) if nested else {flag_of(field.name): field.type}  # type: ignore[arg-type]
    return leaves
