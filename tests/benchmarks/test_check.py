"""The self-check: right here, and wrong where something is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from upath import UPath

from ail_ray.benchmarks import self_check
from ail_ray.benchmarks.self_check import _agreement, _plan, _precision, _values
from ail_ray.runs.run import run_local

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> self_check.RunDirectory:
    return run_local(_plan(UPath(tmp_path_factory.mktemp("check"))), 1, torch.device("cpu"), lambda record: None)


def test_a_round_has_the_stored_values_here(run: self_check.RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _values(run)[1]
    monkeypatch.setattr(self_check, "PSNR", self_check.PSNR + 0.001)
    assert not _values(run)[1]


def test_another_student_is_noticed(
    run: self_check.RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _agreement(run, run, 1)[1]
    changed = replace(self_check.CONFIG, learning_rate=2.9e-3)
    monkeypatch.setattr(self_check, "CONFIG", changed)
    other = run_local(_plan(UPath(tmp_path)), 1, torch.device("cpu"), lambda record: None)
    assert not _agreement(run, other, 2)[1]


def test_the_precision_is_named_and_close() -> None:
    _, right, found = _precision(torch.device("cpu"))
    assert right
    assert found.startswith("auto is ")
