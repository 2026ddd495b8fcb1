"""The mutants of `make mutants` still fit the code: every patch applies, and every test that must notice exists."""

import ast
from pathlib import Path

import pytest
from mutants import MUTANTS, PATCHES, ROOT, apply_patch, copy_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("tree"))


def test_every_patch_is_a_mutant() -> None:
    assert {path.stem for path in PATCHES.glob("*")} == MUTANTS.keys()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_patches_apply_and_change_the_package(tree: Path, mutant: str) -> None:
    checked = apply_patch(tree, mutant, "--check", "-v")
    assert checked.returncode == 0, checked.stderr
    changed = apply_patch(tree, mutant, "--numstat").stdout.splitlines()
    assert len(changed) == 1
    assert changed[0].split("\t")[2].startswith("ail_ray/")


def test_git_apply_really_checks(tree: Path, tmp_path: Path) -> None:
    assert apply_patch(tmp_path, "eq7-without-clip", "--check").returncode != 0, "nothing to patch here"
    other = copy_tree(tmp_path / "other")
    (other / "ail_ray/learning/importance.py").write_text("nothing of it is left\n")
    assert apply_patch(other, "eq7-without-clip", "--check").returncode != 0


@pytest.mark.parametrize("test", MUTANTS.values())
def test_the_tests_that_must_notice_exist(test: str) -> None:
    file, name = test.split("::")
    functions = [n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.FunctionDef)]
    assert functions.count(name) == 1
