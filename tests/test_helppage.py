"""The pages of `--help`: examples as they are written, flags in groups, at any width and in any encoding."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ail_ray.commands import help_page
from ail_ray.commands.ail import COMMANDS
from ail_ray.commands.parsing import _leaves
from ail_ray.entry import JOBS

ROOT = Path(__file__).parents[1]
GROUPED = {"sweep", "paper", "teacher"}


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def job(name: str) -> Any:
    return importlib.import_module(f"ail_ray.commands.{name.replace('-', '_')}")


def shown(job: Any, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        job.main(["--help"])
    assert left.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("from_jobs", [False, True])
def test_a_page_keeps_examples_and_fits_the_terminal(
    name: str, job: Any, width: int, from_jobs: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "argv", ["jobs/any.py" if from_jobs else "bin/ail"])
    page = shown(job, capsys)
    command = f"python jobs/{JOBS.get(name, name)}.py" if from_jobs else f"ail {name}"
    assert page.startswith(f"usage: {command} ")
    examples = re.findall(r"^    .*$", job.__doc__, flags=re.MULTILINE)
    if from_jobs:
        pattern = rf"ail ({'|'.join(sorted(COMMANDS, reverse=True))})\b"
        examples = [re.sub(pattern, lambda m: f"python jobs/{JOBS.get(m[1], m[1])}.py", line) for line in examples]
    assert any(f"    {command}" in line for line in examples)
    lines = page.splitlines()
    assert [line for line in lines if line in examples] == examples
    assert max(map(len, lines)) <= width
    assert page.isascii(), "a terminal that is not UTF-8 shows it too"


def test_every_command_has_a_file_in_jobs() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "jobs").glob("*.py")}
    assert {name: JOBS.get(name, name) for name in COMMANDS} == {
        text.split('start("')[1].split('"')[0]: stem for stem, text in files.items()
    }


def test_a_page_has_every_flag_once_and_with_help(
    name: str, job: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = list[tuple[type, Any]]()
    parse = job.parse

    def seen(kind: type, *words: Any, **named: Any) -> object:
        asked.append((kind, named["default"]))
        return parse(kind, *words, **named)

    monkeypatch.setattr(job, "parse", seen)
    page = shown(job, capsys)
    ((kind, default),) = asked
    flags = re.findall(r"^  (--[a-z0-9-]+)", page, flags=re.MULTILINE)
    assert all(flag.text for flag in help_page._flags(kind, default))
    assert sorted([*flags, *(["--images"] if "IMAGE ..." in page else [])]) == sorted(_leaves(kind))
    titles = re.findall(r"^(\w.*):$", page, flags=re.MULTILINE)
    if name in GROUPED:
        assert titles == [title for title in help_page.GROUPS if title in titles], "a flag is in no group"
        assert {"data", "importance", "where it runs", "results"} <= set(titles)
    else:
        assert titles == ["options"]


def test_defaults_have_their_units(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = shown(importlib.import_module("ail_ray.commands.sweep"), capsys)
    for line in (
        "  --crop PIXELS ...     Side of a training crop in pixels. (default: 41 pixels)",
        "  --epochs EPOCHS ...   Epochs in every round. (default: 2 epochs)",
        "  --gpu                 Give every worker a GPU.",
    ):
        assert line in page.splitlines()
    assert "(default: 1 worker)" in page
    assert "None" not in page


def test_defaults_are_those_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    job = importlib.import_module("ail_ray.commands.sweep")
    for preset, crops in (("demo", "2048 crops"), ("mini", "18000 crops")):
        with pytest.raises(SystemExit):
            job.main([preset, "--help"])
        page = " ".join(capsys.readouterr().out.split())
        assert f"The defaults below are those of the preset {preset}." in page
        assert f"(default: {crops})" in page


def test_help_speaks_to_any_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "jobs/ail_sweep.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=120,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "search:" in done.stdout
