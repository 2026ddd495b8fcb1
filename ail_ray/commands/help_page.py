"""The page that every command prints for `--help`: what it does, examples as they are written, flags in groups.

The fields of the job's dataclass are the flags, and the text below each field is its help; argparse lays the page out.
A flag means the same in every job, so that one table here has the group of each and the word that stands for its value.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from tyro.conf import Positional

from ail_ray.commands.ail import COMMANDS
from ail_ray.entry import called

GROUPS = {
    "tables and figures": "tables figures budget seeds",
    "data": "train validation test train_lr validation_lr test_lr scales downsizes degrade copies degrade_seed shards",
    "network": "network depth rho width init init_noise start",
    "importance": "teacher rule lam mu0 alpha0 error_unit error_factor beta",
    "training": "rounds epochs crops crop batch loss optimizer learning_rate schedule restart weight_decay clip "
    "precision",
    "search": "seed search samples asha",
    "where it runs": "workers threads gpu gpus_per_worker max_workers local",
    "results": "out storage to plan price head_price collect",
}
"""The fields of each group, for jobs with more than `FEW` flags."""
FEW = 12

VALUES = {
    "SET": "train validation test train_lr validation_lr test_lr sets sets_lr calibration on",
    "FACTOR": "scales scale downsizes error_factor",
    "STEPS": "degrade",
    "COPIES": "copies",
    "NAME": "network teacher run show only",
    "FOLDER": "out storage",
    "FILE": "start json",
    "PATH": "to",
    "MODEL": "model",
    "DEVICE": "device",
    "ADDRESS": "base",
    "IMAGE": "images",
    "SHARE": "rho init_noise gpus_per_worker",
    "RULE": "rule",
    "LOSS": "loss",
    "RATE": "learning_rate",
    "WEIGHT": "weight_decay beta",
    "AMOUNT": "price head_price",
    "LAYERS": "depth",
    "MAPS": "width",
    "ROUNDS": "rounds",
    "EPOCHS": "epochs",
    "CROPS": "crops batch",
    "PIXELS": "crop",
    "PARTS": "shards",
    "DRAWS": "samples",
    "WORKERS": "workers max_workers",
    "THREADS": "threads",
    "DAYS": "older",
    "MINUTES": "race",
}
"""The word that stands for the value of these fields; all others are named by their type."""
UNITS = {"LAYERS", "ROUNDS", "EPOCHS", "CROPS", "PIXELS", "PARTS", "DRAWS", "WORKERS", "THREADS", "DAYS", "MINUTES"}
"""Words that are units, in which a default is given too."""


class Flag(NamedTuple):
    """A field of a job's dataclass as its help page needs it."""

    name: str
    kind: Any
    default: Any
    text: str


def flag_of(name: str) -> str:
    """The flag of a field: `--learning-rate`, and `--rule.gamma` for `rule__gamma`."""
    return "--" + name.replace("__", ".").replace("_", "-")


def help_page(kind: type, default: Any, *, prog: str, description: str) -> str:
    """The page for a job, as wide as the terminal (80 columns in a pipe), in plain text.

    Args:
        kind: the dataclass of the job, whose fields may be dataclasses.
        default: an instance, whose values are shown as the defaults.
        prog: the command as `ail` has it, with words that come before all others.
        description: paragraphs, which are filled, and indented lines, which are kept as they are.
    """
    flags = {flag.name: flag for flag in _flags(kind, default)}
    positional = [f"[{_value(flag)}]" for flag in flags.values() if _is_positional(flag)]
    page = argparse.ArgumentParser(
        usage=_as_called(" ".join([prog, *positional, "[options]"])), add_help=False,
        description=_filled(_as_called(description)), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    grouped = GROUPS if len(flags) > FEW else {}
    names = {title: [name for name in several.split() if name in flags] for title, several in grouped.items()}
    for title, prefix in (("importance", "rule__"), ("training", "loss__")):  # parameters of their own
        names.get(title, []).extend(name for name in flags if name.startswith(prefix))
    names["options"] = [name for name in flags if name not in itertools.chain(*names.values())]
    for title, several in names.items():
        group = page.add_argument_group(title)
        for name in several:
            _add(group, flags[name])
    return page.format_help()


def _flags(kind: Any, default: Any) -> Iterator[Flag]:
    said = kind.texts if hasattr(kind, "texts") else texts(kind)
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(field.type):
            yield from _flags(field.type, value)
        else:
            yield Flag(field.name, field.type, value, said.get(field.name, ""))


def texts(kind: type) -> dict[str, str]:
    """The string below each field in the source of a class and of those that it derives from."""
    found = dict[str, str]()
    for each in reversed(kind.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, below in itertools.pairwise(definition.body):
            match statement, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _add(group: Any, flag: Flag) -> None:
    """Add a flag to a group of argparse, which only shows it and never reads any."""
    default = _shown(flag)
    text = _as_called(f"{flag.text} (default: {default})" if default else flag.text)
    form: dict[str, Any] = {"help": text.replace("%", "%%")}
    form |= {"action": "store_true"} if flag.kind is bool else {"metavar": _value(flag)}
    group.add_argument(flag.name if _is_positional(flag) else flag_of(flag.name), **form)


def _is_positional(flag: Flag) -> bool:
    return get_origin(flag.kind) is Annotated and get_args(Positional[str])[1] in get_args(flag.kind)


def _word(flag: Flag) -> str | None:
    return next((word for word, names in VALUES.items() if flag.name in names.split()), None)


def _value(flag: Flag) -> str:
    """What stands for the flag's value: `PIXELS`, `SET ...` where it takes several, `{sgd,adam}`."""
    parts = list(_parts(flag.kind))
    choices = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    by_type = (word for kind, word in ((int, "N"), (float, "NUMBER"), (str, "TEXT")) if kind in parts)
    word = _word(flag) or ("{" + ",".join(choices) + "}" if choices else next(by_type))
    return f"{word} ..." if tuple in parts else word


def _shown(flag: Flag) -> str:
    """A default in words; nothing where the help itself says what happens without the flag."""
    value = flag.default
    if value is None or value is False:
        return ""
    values = " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
    word = _word(flag)
    unit = f" {word.lower()}" if word in UNITS else ""
    return values + (unit.removesuffix("s") if values == "1" else unit)


def _parts(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of, at any depth; a Literal stays whole."""
    if get_origin(kind) is Literal:
        yield kind
    else:
        yield get_origin(kind) or kind
        for each in get_args(kind):
            yield from _parts(each)


def _as_called(text: str) -> str:
    """Text with each command that it names, such as `ail runs`, written as the running one was begun."""
    names = "|".join(sorted(COMMANDS, reverse=True))  # `teacher-inputs` before `teacher`
    return re.sub(rf"\bail ({names})\b", lambda found: called(found[1]), text)


def _filled(text: str) -> str:
    """Text with its paragraphs filled to the width of the terminal and its indented lines as they are."""
    width = max(shutil.get_terminal_size().columns - 2, 20)
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(block if block.startswith(" ") else textwrap.fill(block, width) for block in blocks)
