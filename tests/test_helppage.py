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
from ail_ray.commands.parsing import _leaves

ROOT = Path(__file__).parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
GROUPED = {"ail_sweep", "paper_tables", "train_teacher"}


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"jobs.{request.param}")


def shown(job: Any, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        job.main(["--help"])
    assert left.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_page_keeps_examples_and_fits_the_terminal(
    job: Any, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = shown(job, capsys)
    assert page.startswith(f"usage: python jobs/{job.__name__.removeprefix('jobs.')}.py ")
    examples = re.findall(r"^    .*$", job.__doc__, flags=re.MULTILINE)
    assert any("python jobs/" in line for line in examples)
    lines = page.splitlines()
    assert [line for line in lines if line in examples] == examples
    assert max(map(len, lines)) <= width
    assert page.isascii(), "a terminal that is not UTF-8 shows it too"


def test_a_page_has_every_flag_once_and_with_help(
    job: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = list[type]()
    parse = job.parse
    monkeypatch.setattr(job, "parse", lambda kind, *words, **named: (kinds.append(kind), parse(kind, *words, **named)))
    page = shown(job, capsys)
    flags = re.findall(r"^  (--[a-z0-9-]+)", page, flags=re.MULTILINE)
    assert all(flag.text for flag in help_page._flags(kinds[0], kinds[0]()))
    assert sorted([*flags, *(["--images"] if "IMAGE ..." in page else [])]) == sorted(_leaves(kinds[0]))
    titles = re.findall(r"^(\w.*):$", page, flags=re.MULTILINE)
    if job.__name__.removeprefix("jobs.") in GROUPED:
        assert titles == [title for title in help_page.GROUPS if title in titles], "a flag is in no group"
        assert {"data", "importance", "where it runs", "results"} <= set(titles)
    else:
        assert titles == ["options"]


def test_defaults_have_their_units(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = shown(importlib.import_module("jobs.ail_sweep"), capsys)
    for line in (
        "  --crop PIXELS         Side of a training crop in pixels. (default: 41 pixels)",
        "  --epochs EPOCHS       Epochs in every round. (default: 2 epochs)",
        "  --gpu                 Give every worker a GPU.",
    ):
        assert line in page.splitlines()
    assert "(default: 1 worker)" in page
    assert "None" not in page


def test_defaults_are_those_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    job = importlib.import_module("jobs.ail_sweep")
    for preset, crops in (("demo", "2048 crops"), ("mini", "18000 crops")):
        with pytest.raises(SystemExit):
            job.main([preset, "--help"])
        page = " ".join(capsys.readouterr().out.split())
        assert f"The defaults below are those of the preset {preset}." in page
        assert f"(default: {crops})" in page


def test_help_loads_neither_train_nor_mlflow_and_speaks_to_any_terminal() -> None:
    script = (
        "import runpy, sys\nsys.argv = ['jobs/ail_sweep.py', '--help']\n"
        "try:\n    runpy.run_path('jobs/ail_sweep.py', run_name='__main__')\n"
        "finally:\n    print({'ray.train', 'ray.tune', 'mlflow', 'matplotlib'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "search:" in done.stdout
