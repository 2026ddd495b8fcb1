"""Break the code in known ways and see that the tests notice: `make mutants`.

Every mutant is a patch in tests/mutants/ with the test that must fail under it. In a copy of the tree the test has to
pass before the patch and to fail an assertion after it. Exit code 1: a mutant lives, or a patch no longer applies.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "tests" / "mutants"

MUTANTS = {
    "eq7-without-clip": "tests/learning/test_importance.py::test_importance_never_exceeds_one",
    "weight-not-squared": "tests/learning/test_theta.py::test_weight_acts_squared",
    "border-not-shaved": "tests/imaging/test_metrics.py::test_only_the_border_does_not_count",
    "rounds-without-restart": "tests/learning/test_theta.py::test_every_round_starts_with_a_fresh_optimizer",
}


def main() -> int:
    """Try every mutant, print a table; returns the exit code."""
    print(f"{'mutant':24}{'verdict':34}{'seconds':>8}  test")
    living = 0
    for mutant, test in MUTANTS.items():
        started = time.perf_counter()
        verdict = try_mutant(mutant, test)
        living += verdict != "killed"
        print(f"{mutant:24}{verdict:34}{time.perf_counter() - started:8.1f}  {test}", flush=True)
    print(f"{len(MUTANTS) - living} of {len(MUTANTS)} mutants killed")
    return int(living > 0)


def try_mutant(mutant: str, test: str) -> str:
    """`killed`, or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = copy_tree(Path(name))
        if not imports_the_copy(folder):
            return "another ail_ray was imported"
        before = run_test(folder, test)
        if before.returncode != 0:
            return f"fails unpatched (exit {before.returncode})"
        applied = apply_patch(folder, mutant)
        if applied.returncode != 0:
            return "the patch does not apply"
        after = run_test(folder, test)
        if after.returncode == 0:
            return "LIVES"
        # 1: tests ran and failed; and not because the patched code cannot be imported or run.
        failures = re.findall(r"^FAILED .* - (.*)$", after.stdout, re.MULTILINE)
        if (
            after.returncode != 1
            or not failures
            or not all(f.startswith(("assert", "AssertionError")) for f in failures)
        ):
            return f"no assertion failed (exit {after.returncode})"
        return "killed"


def copy_tree(folder: Path) -> Path:
    """Copy what git tracks or would track into a folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return folder


def apply_patch(folder: Path, mutant: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `git apply` in a copy, which is no repository and must not be taken for a part of one."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(
        ["git", "apply", *options, str(PATCHES / f"{mutant}.patch")],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def imports_the_copy(folder: Path) -> bool:
    """Whether tests in the copy see the copy's package and not an installed one."""
    code = "import ail_ray; print(ail_ray.__file__)"
    done = python(folder, "-c", code)
    return done.returncode == 0 and Path(done.stdout.strip()).resolve().is_relative_to(folder.resolve())


def run_test(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """One test of the copy, without the cache of the tests that failed before."""
    return python(folder, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", test)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter in a copy; a wide terminal, so that pytest does not cut its summary."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "400"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
