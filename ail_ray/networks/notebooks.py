"""The source of what a notebook or a script defines, as a module of its own."""

import ast
import linecache
import math
import sys
import textwrap
from types import FunctionType, ModuleType
from typing import Any


class CodeError(RuntimeError):
    """Code that cannot be loaded here; the message names it and says why."""


class Notebook:
    """Writes a module that defines what a notebook or a script defines, with all that it uses of it."""

    def __init__(self) -> None:
        self.lines, self.done = list[str](), set[str]()

    def written(self, thing: Any) -> str:
        """The module in which a class or function is defined; CodeError if some of it has no source."""
        self._define(thing)
        return "\n".join(self.lines) + "\n"

    def _define(self, thing: Any) -> None:
        self.done.add(thing.__name__)
        text = _text_of(thing)
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        there = vars(sys.modules["__main__"])
        for name in sorted(names & there.keys() - self.done):
            self._use(thing, name, there[name])
        self.lines.append(text)

    def _use(self, thing: Any, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            self.lines.append(f"import {value.__name__} as {name}")
        elif getattr(value, "__module__", None) == "__main__" and callable(value) and hasattr(value, "__qualname__"):
            if value.__name__ != name:
                raise CodeError(f"{thing.__name__}: uses {name}, which is another name of {value.__name__}")
            return self._define(value)
        elif (own := getattr(value, "__name__", "")) and getattr(sys.modules.get(value.__module__), own, None) is value:
            self.lines.append(f"from {value.__module__} import {own} as {name}")
        elif _is_plain(value) or (type(value) is tuple and all(map(_is_plain, value))):
            self.lines.append(f"{name} = {value!r}")
        else:
            raise CodeError(f"{thing.__name__}: uses {name}, which is neither code nor a number; define it in a file")
        self.done.add(name)
        return None


def _is_plain(value: Any) -> bool:
    """Whether what `repr` writes of it is it again."""
    return type(value) in (bool, int, str, type(None)) or (type(value) is float and math.isfinite(value))


def _text_of(thing: Any) -> str:
    """The source of a class or function that a notebook or a script has defined."""
    files = _files_of(thing) or [file for each in vars(sys.modules["__main__"]).values() for file in _files_of(each)]
    texts = ["".join(linecache.getlines(file)) for file in dict.fromkeys(files)]
    text = next((text for text in texts if f" {thing.__name__}" in text), "")
    tree = ast.parse(text) if text else ast.Module([], [])
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = [node for node in tree.body if isinstance(node, kinds) and node.name == thing.__name__]
    if not found:
        raise CodeError(f"{thing.__name__}: has no source that a run could be known by; define it in a file")
    first = min([found[-1].lineno, *(each.lineno for each in found[-1].decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : found[-1].end_lineno]))


def _files_of(thing: Any) -> list[str]:
    """The files, or cells, that the functions of a class, or a function, were read from."""
    functions = [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]
    return [each.__code__.co_filename for each in functions if isinstance(each, FunctionType)]
