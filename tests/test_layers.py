"""The storeys of the package: an import goes down, never up, and the mathematics knows no cluster."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ail_ray"
BELOW = {"ground": set[str]()}
"""The storeys, and those that each of them sees."""
for _storey, _nearest in {
    "imaging": ["ground"],
    "networks": ["imaging"],
    "learning": ["networks"],
    "delivery": ["learning"],
    "runs": ["delivery"],
    "sweeps": ["runs"],
    "tracking": ["sweeps"],
    "reporting": ["sweeps"],
    "orchestration": ["sweeps"],
    "paper": ["tracking", "reporting", "orchestration"],
    "benchmarks": ["paper"],
    "commands": ["benchmarks"],
}.items():
    BELOW[_storey] = set(_nearest).union(*(BELOW[each] for each in _nearest))
GROUND = {"__init__.py", "addresses.py", "entry.py", "errors.py", "files.py", "home.py", "machine.py", "tensors.py"}
TOP = {"__main__.py", "api.py"}
ALONE = {"ray": {"orchestration", "benchmarks"}, "mlflow": {"tracking"}}
"""What only some storeys may import."""
LONGEST = 350  # lines
FILES = sorted(PACKAGE.rglob("*.py"))


def storey(parts: tuple[str, ...]) -> str:
    """Of a module by its path below the package: `("learning", "theta")` is on `learning`."""
    return "commands" if {*parts} & TOP else parts[0] if parts and parts[0] in BELOW else "ground"


def imported(path: Path) -> set[tuple[int, str]]:
    """Line and full name of everything a file imports, inside functions and `TYPE_CHECKING` too."""
    package = ["ail_ray", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from ail_ray import learning` names a storey only in its list
            names |= {(node.lineno, f"{origin}.{alias.name}") for alias in node.names}
    return names


def test_every_file_is_on_a_known_storey() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == GROUND | TOP
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders == BELOW.keys() - {"ground"}
    assert all(len(path.relative_to(PACKAGE).parts) <= 2 for path in FILES), "a folder within a storey"


def test_imports_only_go_down() -> None:
    upward = []
    for path in FILES:
        here = storey(path.relative_to(PACKAGE).parts)
        for line, name in imported(path):
            root, *parts = name.split(".")
            if root == "ail_ray" and storey(tuple(parts)) not in BELOW[here] | {here}:
                upward.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}")
    assert upward == []


@pytest.mark.parametrize("library", ALONE)
def test_few_storeys_know_the_cluster_or_mlflow(library: str) -> None:
    reach = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"
        for path in FILES
        if storey(path.relative_to(PACKAGE).parts) not in ALONE[library]
        for line, name in imported(path)
        if name.split(".")[0] == library
    ]
    assert reach == []


def test_the_check_sees_imports_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    module = tmp_path / "imaging" / "a.py"
    module.parent.mkdir()
    module.write_text(
        "import ray.train as train\n"
        "from ail_ray import learning\n"
        "from .. import reporting\n"
        "from ..learning.theta import TrainState\n"
        "def later():\n    from . import bank\n"
    )
    assert imported(module) == {
        (1, "ray.train"),
        (2, "ail_ray.learning"),
        (3, "ail_ray.reporting"),
        (4, "ail_ray.learning.theta.TrainState"),
        (6, "ail_ray.imaging.bank"),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "module", ["ail_ray.learning.algorithm", "ail_ray.learning.inference", "ail_ray.commands.parsing"]
)
def test_importing_the_mathematics_loads_no_cluster(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'ray', 'mlflow'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_a_sweep_in_this_process_needs_no_ray() -> None:
    code = "import sys, ail_ray.sweeps.sweep, ail_ray.tracking.listener; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.long
def test_a_trial_loads_nothing_that_only_the_driver_needs() -> None:
    names = "{'mlflow', 'onnx', 'matplotlib'}"
    code = f"import sys, ail_ray.orchestration.tune; print(sorted({names} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def without_encoding(path: Path) -> list[int]:
    """Lines of calls that read or write text in whatever encoding the locale happens to have."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        if getattr(getattr(call.func, "value", None), "id", "") == "av":
            continue  # its films are no text
        given = [*(each.value for each in call.args if isinstance(each, ast.Constant)), words.get("mode")]
        modes = [mode for mode in given if isinstance(mode, str)]
        binary = any("b" in mode for mode in modes if len(mode) <= 3)
        builtin = name == "open" and isinstance(call.func, ast.Name)
        method = name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile") and any(
            mode[:1] in "rwax" for mode in modes
        )
        text = name in ("read_text", "write_text") or words.get("text") or ((builtin or method) and not binary)
        if text and "encoding" not in words:
            lines.append(call.lineno)
    return lines


def test_the_locale_decides_on_no_encoding(tmp_path: Path) -> None:
    found = {str(path): without_encoding(path) for path in (*FILES, *sorted((PACKAGE.parent / "jobs").glob("*.py")))}
    assert {path: lines for path, lines in found.items() if lines} == {}
    example = tmp_path / "example.py"
    example.write_text(
        "p.read_text()\np.write_text('x')\nopen('f')\np.open('w')\nrun(text=True)\nopen('f', 'rb')\n"
        "p.open('rb')\nopen('f', encoding='utf-8')\np.read_text(encoding='utf-8')\nplan.open(directory)\n"
    )
    assert without_encoding(example) == [1, 2, 3, 4, 5]


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert len(lengths) >= 20
