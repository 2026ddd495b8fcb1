"""`ray job submit` against a head of its own: the job's status, its results, and a relative folder refused."""

import hashlib
import textwrap
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import heads
import pytest
from heads import Head
from tiny_files import TinyFiles, as_options
from upath import UPath

from ail_ray.commands.sweep import run_sweep
from ail_ray.files import read_record
from ail_ray.learning.presets import preset
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with heads.head() as made:
        yield made


def students(summary: Summary) -> dict[str, str]:
    """SHA-256 of each trial's student."""
    return {trial.name: hashlib.sha256(Path(trial.weights or "").read_bytes()).hexdigest() for trial in summary.trials}


def test_a_submitted_sweep_ends_as_a_local_one(
    head: Head, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
        head.ask("/api/jobs/", token="another")
    values = {
        **tiny_files.protocol(), "rounds": 1, "epochs": 1, "crops": 16, "width": (2,), "lam": (0.05,), "rule": ("eq7",),
        "teacher": (str(tiny_files.teacher), "none"),
    }  # fmt: skip
    out = tmp_path / "submitted"
    head.submit("sweep", ["demo", *as_options(values), "--out", str(out)])
    job = head.result("sweep")
    assert job["status"] == "SUCCEEDED", job["logs"]
    summary = read_record(UPath(out / "summary.json"), Summary)
    assert [trial.status for trial in summary.trials] == ["finished", "finished"]
    assert summary.tracking_uri == f"sqlite:///{out / 'mlflow.db'}"
    assert str(out / "summary.json") in job["logs"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = run_sweep(SweepJob(sweep=SweepConfig.of(**values), out=str(tmp_path / "local"), local=True))
    assert students(local) == students(summary)
    assert len(set(students(summary).values())) == 2


OWN = {
    "net.py": """
        from torch import nn
        from parts.skip import Skip

        class Net(nn.Module):
            def __init__(self, width=3, scale=2):
                super().__init__()
                self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), Skip(width), Skip(width))
                self.tail = nn.Conv2d(width, scale**2, 3, padding=1)
                self.grow, self.coarse = nn.PixelShuffle(scale), nn.Upsample(scale_factor=scale, mode="bicubic")

            def forward(self, x):
                return self.coarse(x) + self.grow(self.tail(self.body(x)))
        """,
    "parts/skip.py": """
        from torch import nn

        class Skip(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.layer = nn.Conv2d(width, width, 3, padding=1)

            def forward(self, x):
                return x + self.layer(x).relu()
        """,
    "mine.py": """
        import numpy as np
        import torch

        def rule(p, *, gamma: float = 0.3, power: float = 1.0):
            return np.clip(p.importance + gamma * p.lam * np.exp(-p.loss) ** power, 0, 1)

        def loss(residual, *, sharp: float = 20.0):
            return torch.log(torch.cosh(sharp * residual)) / sharp
        """,
}
"""A network of scale 3 with pixel shuffle, biases, several layers and a skip, whose module lies beside it; a rule with
two parameters; a loss."""


def test_code_of_ones_own_goes_along_from_another_folder(
    head: Head, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    for name, text in OWN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    values = {
        **tiny_files.protocol(), "scales": (3,), "crop": 15, "rounds": 1, "epochs": 1, "crops": 16, "lam": (0.05,),
        "network": "net.py:Net", "rule": ("mine.py:rule",), "loss": "mine.py:loss", "teacher": ("vdsr",),
    }  # fmt: skip
    del values["depth"]
    own = {"rule.gamma": (0.3, 0.5), "rule.power": 2.0}
    flags = ["--rule.gamma", "0.3", "0.5", "--rule.power", "2"]
    made = dict[str, dict[str, str]]()
    for workers in (1, 2):
        out = tmp_path / f"submitted-{workers}"
        words = ["demo", *as_options(values), *flags, "--workers", str(workers), "--out", str(out)]
        head.submit(f"own-{workers}", words, folder=folder)
        job = head.result(f"own-{workers}")
        assert job["status"] == "SUCCEEDED", job["logs"]
        summary = read_record(UPath(out / "summary.json"), Summary)
        assert [trial.status for trial in summary.trials] == ["finished", "finished"]
        assert {trial.cost.weights for trial in summary.trials if trial.cost} == {30 + 2 * 84 + 252}
        made[str(workers)] = students(summary)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job = SweepJob(sweep=preset("demo").where(**values, **own), out=str(tmp_path / "local"), local=True)
    local = run_sweep(job)
    assert students(local) == made["1"]
    assert made["2"].keys() == made["1"].keys()
    assert len({*made["1"].values()}) == 2
    before = {trial.run for trial in local.trials}
    for name in ("net.py", "parts/skip.py"):
        (folder / name).write_text((folder / name).read_text() + "#")
        edited = {plan.digest(corpus="", evaluation=[], teacher="") for plan in preset("demo").where(**values).grid()}
        assert not edited & before
        before |= edited


def test_a_submitted_job_refuses_a_relative_folder(head: Head) -> None:
    head.submit("relative", ["demo", "--out", "results", "--storage", "runs"])
    job = head.result("relative")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    lines = [line for line in job["logs"].splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: out must be an absolute path in a submitted job, got results",
        "error: storage must be an absolute path in a submitted job, got runs",
    ]
    assert "Traceback" not in job["logs"]
