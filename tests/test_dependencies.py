"""What the package imports is what pyproject.toml names, no more and no less."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNSEEN = {
    "optuna": "Ray Tune's searcher imports it",
    "onnxscript": "torch writes ONNX through it",
}
"""Needed packages that nothing here imports itself."""

APART = {"ai_edge_litert", "ai_edge_quantizer", "coremltools", "litert_torch", "ncnn", "nncf", "openvino", "pnnx"}
"""Runtimes and converters of other formats, which `make devices` installs and tries."""


def named(requirements: Iterable[str]) -> set[str]:
    """The names of packages in requirements such as `ray[train]>=2.50`."""
    return {str(canonicalize_name(Requirement(each).name)) for each in requirements}


def imported(folder: Path) -> Iterator[str]:
    """Everything that the files of a folder import, by its first name, inside functions too."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    yield from (each.name.split(".")[0] for each in names)
                case ast.ImportFrom(module=str(module), level=0):
                    yield module.split(".")[0]


def test_every_library_that_is_imported_is_named_and_no_other() -> None:
    packages, dependencies = packages_distributions(), named(PROJECT["dependencies"])
    libraries = {*imported(ROOT / "ail_ray")} - sys.stdlib_module_names - {"ail_ray"}
    assert {"torch", "ray", "mlflow"} <= libraries
    assert libraries >= APART
    libraries -= APART
    origins = {library: {canonicalize_name(name) for name in packages[library]} for library in libraries}
    extras = PROJECT["optional-dependencies"]
    on_request = named(extras["teachers"] + extras["video"] + extras["heic"])
    assert [library for library, names in origins.items() if not names & (dependencies | on_request)] == []
    assert dependencies - set[str]().union(*origins.values()) <= UNSEEN.keys()


def test_every_package_is_pinned_and_explained() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = named(line for line in lines if not line.startswith("#"))
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z][\w, \[\]-]*) \|", page, re.MULTILINE)
    explained = named([name.strip() for row in rows for name in row.split(",")])
    assert named(PROJECT["dependencies"]) <= pinned
    assert named([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]) <= explained


def test_the_lowest_versions_are_those_that_are_tried() -> None:
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    tried = {name: Version(version) for name, version in (line.split("==") for line in lines if "==" in line)}
    needed = map(Requirement, PROJECT["dependencies"])
    assert tried == {
        each.name: Version(bound.version) for each in needed for bound in each.specifier if bound.operator == ">="
    }
