"""Bad commands are refused once, with a line for each mistake; good ones print rows and nothing else on stdout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ail_ray.commands import benchmark, teacher, upscale
from ail_ray.commands import evaluate as evaluate_job
from ail_ray.commands.flags import flags_for, flags_of, job_of
from ail_ray.commands.parsing import parse, refuse
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.runs.trial import Trial, title
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.sweeps.terminal import table, trials_table

ROOT = Path(__file__).parents[1]


def read(*arguments: str) -> SweepJob:
    kind = flags_for(arguments)
    default = flags_of(kind, SweepJob(sweep=SweepConfig.of()))
    return job_of(parse(kind, arguments, default=default, prog="job.py", description="What it does."))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines on standard error of a command that must exit with 2 and print nothing on standard output."""
    with pytest.raises(SystemExit) as exit:
        read(*arguments)
    printed = capsys.readouterr()
    assert exit.value.code == 2
    assert printed.out == ""
    return printed.err.splitlines()


def test_flags_override_leaves_and_keep_the_rest() -> None:
    job = read("--rho", "0.75", "0.8", "--gpu", "--depth", "8", "--validation", "--learning-rate=3e-3", "--crops", "64")
    config = job.sweep.base
    assert job.placement.gpu
    assert dict(job.sweep.axes) == {"rho": (0.75, 0.8)}
    assert (config.depth, config.learning_rate, config.validation) == (8, 3e-3, ())
    assert (config.crops, config.rounds, job.placement.workers) == (64, 10, 1)
    assert read().sweep.plain == SweepConfig.of().plain
    assert replace(read(), sweep=SweepConfig.of()) == SweepJob(sweep=SweepConfig.of())


def test_any_flag_of_a_run_takes_several_values() -> None:
    sweep = read("--learning-rate", "1e-3", "3e-3", "--batch", "16", "32", "--crops", "64", "--scales", "2", "3").sweep
    assert dict(sweep.axes) == {"batch": (16, 32), "learning_rate": (1e-3, 3e-3)}
    assert (sweep.base.crops, sweep.base.scales) == (64, (2, 3))
    assert len(list(sweep.grid())) == 4


def test_all_mistakes_of_a_command_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(
        capsys, "--depth", "1", "--rho", "2", "0.5", "--workrs", "3", "--crop", "x", "--scales", "7", "--rule", "eq9"
    )  # fmt: skip
    assert sorted(lines) == [
        "error: --crop: cannot read 'x'; see --help",
        "error: --workrs: no such option; did you mean --workers?",
        "error: depth must lie in 2..999, got 1",
        "error: rho must be in [0, 1), got 2.0",
        "error: rule must be one of eq7, reference, uniform, fixed, or file.py:Name, got 'eq9'",
        "error: scales must be 1, 2, 3 or 4, got 7",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--learning-rat", "1"), "--learning-rat: no such option; did you mean --learning-rate?"),
        (("--lr", "1"), "--lr: no such option"),
        (("Set5", "--gpu"), "Set5: no option takes this value"),
        (("--gpu", "5"), "5: no option takes this value"),
        (("--workers",), "--workers: a value is missing; see --help"),
        (("--lam", "-1"), "lam must be positive, got -1.0"),
        (("--workers", "17"), "workers must not exceed the 16 shards, got 17"),
    ],
)
def test_one_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    assert refused(capsys, *arguments) == [f"error: {expected}"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--seed", "0", "--depth", "8", "--seed", "1", "2"),
         ["--seed was given twice: name its values in one place: --seed 0 1 2"]),
        (("--test", "--test=a b", "--test", "c"),
         ["--test was given 3 times: name its values in one place: --test 'a b' c"]),
        (("--workers=1", "--workers", "2"), ["--workers was given twice"]),
        (("--learning_rate", "1", "--learning-rate", "1"),
         ["--learning-rate was given twice: name its values in one place: --learning-rate 1 1"]),
        (("--no_gpu", "--gpu", "--asha", "--asha"), ["--gpu was given twice", "--asha was given twice"]),
        (("--gpu", "--gpu", "--depth", "1"), ["--gpu was given twice", "depth must lie in 2..999, got 1"]),
        (("--lr", "1", "--lr", "1"), ["--lr: no such option"]),
    ],
)  # fmt: skip
def test_a_flag_given_twice_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]
) -> None:
    assert refused(capsys, *arguments) == [f"error: {line}" for line in expected]


def test_what_is_wrong_alone_may_be_right_beside_another_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--workers", "32", "--shards", "32"), ("--shards", "32", "--workers", "32")):
        assert str(read(*arguments).placement.workers) == "32"
    for arguments in (("--workers", "8", "--shards", "4"), ("--shards", "4", "--workers", "8")):
        assert refused(capsys, *arguments) == ["error: workers must not exceed the 4 shards, got 8"]
    assert refused(capsys, "--workers", "32", "--rho", "2", "--shards", "32") == [
        "error: rho must be in [0, 1), got 2.0"
    ]
    assert refused(capsys, "--rho", "2", "--workers", "17", "--crop", "1") == [
        "error: crop must be at least 8 pixels, got 1",
        "error: rho must be in [0, 1), got 2.0",
        "error: workers must not exceed the 16 shards, got 17",
    ]


def test_help_exits_with_zero_and_names_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--help",), ("--workers", "x", "-h")):
        with pytest.raises(SystemExit) as exit:
            read(*arguments)
        assert exit.value.code == 0
        text = capsys.readouterr().out
        for words in (
            "What it does.",
            "--workers",
            "Train workers of every trial",
            "--learning-rate",
            "--rho",
            "--gpu",
        ):
            assert words in text


def evaluate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "AIL_DATA_DIR"}
    return subprocess.run(
        [sys.executable, "jobs/evaluate.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env={**kept, **environment},
    )  # fmt: skip


FORGED = "\x1b[2Jx\nerror: all is lost\r\x9b31m"


def test_a_name_moves_no_cursor_and_forges_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of pictures, of teachers, and of runs and records, as they come to a terminal."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        refuse([f"train: {FORGED}: no such folder"])
    (line,) = capsys.readouterr().err.splitlines()
    (tmp_path / f"{FORGED}.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / f"whole {FORGED}.png")
    for _ in range(2):  # enlarged, and then skipped
        assert upscale.main([".", "--model", "bicubic", "--scale", "2", "--out", "enlarged"]) == 1
    shown = [*capsys.readouterr().out.splitlines(), line]
    name = title(RunConfig(teacher=f"/w/{FORGED}.safetensors", init="identity"))
    trial = Trial(name=name, directory="d", parameters={}, status="failed", reason=FORGED)
    shown += [*table([trial]), *trials_table(Summary(trials=(trial,))).splitlines()]
    assert sum("all is lost" in line for line in shown) >= 6
    for line in shown:
        assert line.isprintable(), line
        assert not line.startswith("error: all")


@pytest.mark.long
def test_evaluate_prints_rows_and_nothing_else_on_stdout() -> None:
    done = evaluate("--model", "bicubic", "--sets", "sample-val", "--scales", "2", "--json", "-")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert list(row) == ["model", "set", "scale", "psnr", "ssim", "images"]
    assert (row["model"], row["set"], row["scale"], row["images"]) == ("bicubic", "sample-val", 2, 3)
    assert row["psnr"] == pytest.approx(30.659, abs=0.005)
    assert row["ssim"] == pytest.approx(0.8977, abs=0.0005)
    assert done.stderr.splitlines() == ["sample-val ×2: 30.659 dB, SSIM 0.8977 (3 images)"]


@pytest.mark.long
def test_evaluate_refuses_all_bad_values_at_once(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    done = evaluate(
        "--model", str(tmp_path / "weights.safetensors"), "--sets", "Set6", "sample-val", "--scales", "2", "5"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0] == "error: scales must be 2, 3 or 4, got 5"
    assert "weights.safetensors: not a readable safetensors file" in lines[1]
    assert "unknown image set 'Set6'" in lines[2]


@pytest.mark.parametrize("job", [evaluate_job.main, benchmark.main, teacher.main])
def test_where_results_cannot_go_is_refused_before_the_work(
    job: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    flag = "to" if job is teacher.main else "json"
    for place, said in (
        (tmp_path, f"{tmp_path}: a folder, not a file"),
        (tmp_path / "file" / "x", f"{tmp_path}/file: cannot be created (File exists)"),
    ):
        with pytest.raises(SystemExit) as left:
            job([f"--{flag}", str(place)])
        assert left.value.code == 2
        assert capsys.readouterr().err == f"error: {flag}: {said}\n"


@pytest.mark.long
def test_evaluate_refuses_images_it_cannot_measure(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((15, 40), np.uint8)).save(tmp_path / "flat.png")  # 14 rows, 10 without the border
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    done = evaluate("--sets", str(tmp_path), "--scales", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: sets: {tmp_path}/broken.png: empty, or not an image of a known format",
        f"error: sets: {tmp_path}/flat.png: 15×40 pixels are too few to measure scale 2",
    ]
