"""Which code a record names: the commit of this package's own checkout, and of no repository that lies around it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ail_ray import __version__, machine

PROJECT = Path(__file__).parents[1]


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, encoding="utf-8", check=True
    ).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package in a repository of its own, with nothing committed yet."""
    folder = tmp_path / "repository" / "ail_ray"
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", "ail_ray/machine.py"):
        shutil.copy(PROJECT / name, folder.parent / name)
    git(folder.parent, "init")
    monkeypatch.setattr(machine, "PACKAGE", folder)
    return folder


def committed(folder: Path) -> str:
    """Commit all; the name of the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "Begin")
    return git(folder, "rev-parse", "--short=12", "HEAD")


def test_a_checkout_names_its_commit(package: Path) -> None:
    assert machine.machine()["commit"] == f"version {__version__}", "there is no commit yet"
    commit = committed(package.parent)
    assert machine.machine()["commit"] == commit
    assert machine.checkout() == package.parent


def test_an_installed_package_does_not_name_the_repository_that_it_lies_in(package: Path) -> None:
    (package.parent / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    committed(package.parent)
    assert machine.machine()["commit"] == f"version {__version__}"
    assert machine.checkout() is None


@pytest.mark.parametrize("ignored", [False, True])
def test_a_copy_inside_another_repository_has_no_commit(package: Path, tmp_path: Path, ignored: bool) -> None:
    """Whether that repository tracks the copy or not."""
    shutil.rmtree(package.parent / ".git")
    (tmp_path / ".gitignore").write_text("repository/\n" if ignored else "")
    git(tmp_path, "init")
    committed(tmp_path)
    assert machine.machine()["commit"] == f"version {__version__}"
    assert machine.checkout() == package.parent
