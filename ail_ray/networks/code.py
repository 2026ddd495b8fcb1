"""Code from outside: the networks, rules and losses that a command names, known by their source.

`resolve` turns `file.py:Name`, `package.module:Name` or an object into a `Code`, where it was named; `obtain` makes the
object of it, in any process that a `Code` was sent to. What is read from a file is a plain string, from which nothing
can be obtained: code is loaded because a command names it, and never because a file does.
"""

import ast
import builtins
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import inspect
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import digest_of
from ail_ray.networks.notebooks import CodeError, Notebook

NAMED = re.compile(r"(?P<place>.*\.py|[A-Za-z_][\w.]*):(?P<attribute>[A-Za-z_]\w*)", re.DOTALL)
"""`net.py:Net`, `package.module:Net`."""
PREFIX = "ail_code_"
OURS = "ail_ray"  # is on every machine of a run, whichever folder a file lies in


@dataclass(frozen=True)
class Source:
    """Where code comes from: its own module and those beside it which that one imports, or an installed package."""

    module: str
    attribute: str
    texts: Mapping[str, str] = field(default_factory=dict)  # by dotted name; empty for an installed package
    packages: frozenset[str] = frozenset()  # those of the modules that are packages
    version: str = ""  # of an installed package

    @property
    def digest(self) -> str:
        """What stands for the code in the name of a run: 12 hexadecimal digits, or the version of its package."""
        return self.version or digest_of([self.module, sorted(self.texts.items()), sorted(self.packages)], length=12)


class Code(str):
    """The name of code from outside, such as `net.py:Net@1a2b3c4d5e6f`, which carries the source wherever it is sent.

    It is equal to the plain string that records have in its place.
    """

    source: Source

    @classmethod
    def of(cls, name: str, source: Source) -> "Code":
        code = cls(f"{name}@{source.digest}")
        code.source = source
        return code


def is_reference(name: str) -> bool:
    """Whether a name is that of code from outside, resolved or not."""
    return NAMED.fullmatch(name.rpartition("@")[0] or name) is not None


def label(name: str, digits: int = 6) -> str:
    """A name as people read it: that of code from outside with the first digits of its digest, or without any."""
    before, at, digest = name.rpartition("@")
    if not (at and NAMED.fullmatch(before)):
        return name
    return f"{before}@{digest[:digits]}" if digits else before


def resolve(named: Any, kind: str) -> str:
    """What a command names: a string that is no reference as it is, and code from outside as a `Code`.

    Args:
        named: `path/file.py:Name`, `package.module:Name`, any other string, or a class or function.
        kind: what it is to be, for messages: `network`, `rule`, `loss` or `teacher`.

    Raises:
        ConfigError: there is no such file, module or name, or the object has no source to be known by.
    """
    if isinstance(named, Code):
        return named
    try:
        if not isinstance(named, str):
            return _of_object(named)
        found = NAMED.fullmatch(named)
        if found is None:
            return named
        place, attribute = found["place"], found["attribute"]
        code = _of_file(Path(place).expanduser(), attribute) if place.endswith(".py") else _of_module(place, attribute)
        obtain(code)
    except CodeError as error:
        raise ConfigError([f"{kind} {error}"]) from None
    return code


@cache
def obtain(code: Code) -> Any:
    """The class or function that a `Code` names, in this process.

    Raises:
        CodeError: it cannot be loaded, as where a module is missing that it imports.
    """
    source = code.source
    where = f"{label(code)} on {socket.gethostname()}"
    try:
        if source.version:
            module = importlib.import_module(source.module)
            if (found := _version(source.module, module.__file__)) != source.version:
                raise CodeError(f"{where}: its package is of version {found or 'unknown'}, not {source.version}")
        else:
            module = importlib.import_module(_Finder.known(source, source.module))
        made = getattr(module, source.attribute, None)
    except CodeError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        raise CodeError(f"{where}: cannot be loaded ({type(error).__name__}: {one_line(error)})") from error
    if not callable(made):
        lack = f"has no {source.attribute}" if made is None else f"its {source.attribute} is no class and no function"
        raise CodeError(f"{label(code)}: {lack}")
    return made


def find(name: str, kind: str, ours: Mapping[str, Any]) -> Any:
    """A network, a rule or a loss by its name, which is one of ours or a `Code`.

    ValueError if it is neither, but only a word of a file's; CodeError if its code cannot be loaded here.
    """
    if isinstance(name, Code):
        return obtain(name)
    if name in ours:
        return ours[name]
    if is_reference(name):
        file = label(name, 0)
        raise ValueError(f"{label(name)} is somebody's own {kind}, whose code no file brings: name it, {file}")
    raise ValueError(f"{kind} must be one of {', '.join(ours)}, or file.py:Name, got {name!r}")


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that a rule or a loss has of its own, with their defaults: those that are named only.

    Raises:
        CodeError: one has no default, or one that is neither number, nor text, nor yes or no.
    """
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if not isinstance(parameter.default, bool | int | float | str):
            raise CodeError(f"{function.__name__}: its parameter {parameter.name} needs a number or a text as default")
        found[parameter.name] = parameter.default
    return found


def _of_file(path: Path, attribute: str) -> Code:
    if not path.is_file():
        raise CodeError(f"{path}:{attribute}: no such file")
    module = path.stem.replace(".", "_")
    texts, packages = _gathered(path.absolute().parent, module, path.absolute())
    return Code.of(f"{path.name}:{attribute}", Source(module, attribute, texts, packages))


def _of_module(name: str, attribute: str) -> Code:
    """Code of a module by its name: known by its version if it is installed, else by its source."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception as error:  # whatever a package raises that is imported to look into it
        raise CodeError(f"{name}:{attribute}: no such module ({one_line(error)})") from None
    if spec is None:
        raise CodeError(f"{name}:{attribute}: no such module; a file is named with its suffix, {name}.py:{attribute}")
    if version := _version(name, spec.origin):
        return Code.of(f"{name}:{attribute}", Source(name, attribute, version=version))
    if not spec.origin or not spec.origin.endswith(".py"):
        raise CodeError(f"{name}:{attribute}: has no source that a run could be known by")
    file = Path(spec.origin).absolute()
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    texts, packages = _gathered(root, name, file)
    return Code.of(f"{name}:{attribute}", Source(name, attribute, texts, packages))


def _of_object(thing: Any) -> Code:
    """Code of a class or function: of its module or, for one defined in a notebook or a script, of its own source."""
    name = getattr(thing, "__qualname__", "")
    if not name or not callable(thing):
        raise CodeError(f"{thing!r}: is neither a name nor a class or function")
    if not name.isidentifier():
        raise CodeError(f"{name}: has no name of its own at the top of a module, by which a worker could find it")
    if thing.__module__ != "__main__":
        code = _of_module(thing.__module__, name)
        obtain(code)
        return code
    text = Notebook().written(thing)
    script = getattr(sys.modules["__main__"], "__file__", None)  # a notebook has none
    root = Path(script).absolute().parent if script else Path.cwd()
    texts, packages = _gathered(root, "notebook", None, text)
    code = Code.of(f"notebook:{name}", Source("notebook", name, texts, packages))
    obtain(code)
    return code


def _version(name: str, file: str | None) -> str:
    """The version of the installed package that a module's file belongs to; empty for one that none has installed."""
    top = name.partition(".")[0]
    for package in importlib.metadata.packages_distributions().get(top, ()):
        found = importlib.metadata.distribution(package)
        origins = [file.locate() for file in found.files or () if file.name == "direct_url.json"]
        said = json.loads(Path(str(origins[0])).read_text(encoding="utf-8")) if origins else {}
        owned = not said.get("dir_info", {}).get("editable", False) and any(
            str(each.locate()) == file for each in found.files or () if each.name == Path(file or "").name
        )
        if top == OURS or owned:
            return found.version
    return ""


def _gathered(root: Path, name: str, file: Path | None, text: str = "") -> tuple[dict[str, str], frozenset[str]]:
    """The source of a module and of all below the same folder that it imports, by dotted names; which are packages."""
    texts, packages, left = dict[str, str](), set[str](), [(name, file)]
    while left:
        dotted, path = left.pop()
        if dotted in texts:
            continue
        try:
            if path is not None and path.is_file():
                text = importlib.util.decode_source(path.read_bytes())
            tree = ast.parse(text)
        except (OSError, SyntaxError, UnicodeDecodeError, ValueError) as error:
            raise CodeError(f"{path}: cannot be read as Python ({one_line(error)})") from None
        texts[dotted] = text
        is_package = path is not None and (path.name == "__init__.py" or path.is_dir())
        packages |= {dotted} if is_package else set()
        text = ""
        for wanted in _imported(tree, dotted, is_package):
            if wanted.partition(".")[0] == OURS:
                continue
            left += _files_of(root, wanted)
    return texts, frozenset(packages)


def _files_of(root: Path, wanted: str) -> list[tuple[str, Path]]:
    """The files below a folder that importing a name reads: of its packages and of itself, each with its dotted name.

    A folder without `__init__.py` is a package too, if one of the modules in it is wanted.
    """
    found, folders, parts = list[tuple[str, Path]](), list[tuple[str, Path]](), wanted.split(".")
    for i in range(len(parts)):
        place, dotted = root.joinpath(*parts[: i + 1]), ".".join(parts[: i + 1])
        file = next((p for p in (place / "__init__.py", place.with_suffix(".py")) if p.is_file()), None)
        if file is not None:
            found, folders = [*found, *folders, (dotted, file)], []
        elif place.is_dir():
            folders.append((dotted, place))
        else:
            break
    return found


def _imported(tree: ast.AST, dotted: str, is_package: bool) -> Iterator[str]:
    """The modules that a source may import, and the names that it imports from them, which may be modules too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = dotted.split(".") + [""] * is_package
                if node.level > len(parts) - (len(parts) > 1):
                    raise CodeError(f"{dotted}: imports from outside its folder; name it as package.module:Name")
                base = ".".join([*parts[: len(parts) - node.level], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of code from outside, each under a name made of the digest, so that versions live together."""

    sources: dict[str, Source] = {}  # noqa: RUF012 - of this process

    @classmethod
    def known(cls, source: Source, module: str) -> str:
        """The name under which a module of the source can be imported from now on."""
        if not any(isinstance(each, cls) for each in sys.meta_path):
            sys.meta_path.append(cls())
        cls.sources[PREFIX + source.digest] = source
        return f"{PREFIX}{source.digest}.{module}"

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        prefix, _, name = fullname.partition(".")
        source = self.sources.get(prefix)
        if source is None or (name and name not in source.texts):
            return None
        spec = importlib.util.spec_from_loader(fullname, self, is_package=not name or name in source.packages)
        if spec is not None and name:
            spec.origin = f"{source.digest}/{name.replace('.', '/')}.py"
        return spec

    def get_source(self, fullname: str) -> str:
        """For tracebacks and `inspect`."""
        prefix, _, name = fullname.partition(".")
        return self.sources[prefix].texts[name]

    def exec_module(self, module: ModuleType) -> None:
        prefix, _, name = module.__name__.partition(".")
        if not name:
            return
        source, origin = self.sources[prefix], module.__spec__.origin if module.__spec__ else None
        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": _importer(prefix, source)}
        module.__file__ = origin
        code: CodeType = compile(source.texts[name], origin or name, "exec", dont_inherit=True)
        exec(code, module.__dict__)


@cache
def _installed() -> frozenset[str]:
    """The modules that installed packages have."""
    return frozenset(importlib.metadata.packages_distributions())


def _importer(prefix: str, source: Source) -> Callable[..., ModuleType]:
    """`__import__` of code from outside: modules that came with it are those of its own version."""

    def load(
        name: str, globals: Any = None, locals: Any = None, fromlist: tuple[str, ...] = (), level: int = 0
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or top not in source.texts:
            if not level and top not in sys.stdlib_module_names and top != OURS and top not in _installed():
                raise ModuleNotFoundError(
                    f"No module named {top!r} beside it, nor installed: a run would not know it; a module of a package "
                    f"is named as package.module:Name"
                )
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = importlib.import_module(f"{prefix}.{name}")
        if not fromlist:
            return sys.modules[f"{prefix}.{top}"]
        for each in fromlist:
            if not hasattr(found, each) and f"{name}.{each}" in source.texts:
                importlib.import_module(f"{prefix}.{name}.{each}")
        return found

    return load
