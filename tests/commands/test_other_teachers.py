"""Teachers as commands name them: a folder of pictures, code of one's own, weights of one's own network."""

import importlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_files import TinyFiles, as_options
from upath import UPath

import ail_ray as ail
from ail_ray.runs.directory import RunDirectory
from ail_ray.tensors import checksum, read_tensors

pytestmark = pytest.mark.long

Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command(name, *words)` in a folder of its own: what it prints, and the lines of a refusal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(name: str, *words: str) -> str:
        capsys.readouterr()
        with suppress(SystemExit):  # of a refusal, whose lines are looked at
            importlib.import_module(f"ail_ray.commands.{name}").main([*words])
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def data_of(files: TinyFiles) -> list[str]:
    return as_options({"train": str(files.train), "validation": str(files.validation), "downsizes": 1.0, "crop": 16})


def sweep_of(files: TinyFiles, *words: str) -> list[str]:
    protocol = {name: value for name, value in files.protocol().items() if name != "test"}
    return ["demo", *as_options({**protocol, "rounds": 0, "width": 3, "rule": "fixed"}), "--local", *words]


def nearest(source: Path, to: Path, scale: int) -> None:
    Image.fromarray(np.asarray(Image.open(source)).repeat(scale, 0).repeat(scale, 1)).save(to / source.name)


def test_pictures_go_out_and_come_back_as_a_teacher(command: Command, tiny_files: TinyFiles, tmp_path: Path) -> None:
    said = command("teacher_inputs", "demo", *data_of(tiny_files), "--to", "small")
    assert "8 pictures in small, 8 of them written now." in said
    assert f"ail sweep demo {' '.join(data_of(tiny_files))} --teacher FOLDER/" in said, "with the same data"
    small = sorted((tmp_path / "small").iterdir())
    assert [path.name.partition("-")[0] for path in small] == ["0", "0", "1", "1", "2", "3", "4", "5"]
    assert {Image.open(path).mode for path in small} == {"RGB"}
    small[3].unlink()
    assert "8 pictures in small, 1 of them written now." in command(
        "teacher_inputs", "demo", *data_of(tiny_files), "--to", "small"
    )
    (tmp_path / "large").mkdir()
    for path in small[1:]:
        nearest(path, tmp_path / "large", 2)
    said = command("sweep", *sweep_of(tiny_files, "--teacher", "large/"))
    assert said == f"error: teacher {tmp_path}/large: lacks 1 picture of 8: {small[0].name}\n"
    assert not (tmp_path / "ail_out" / "runs").exists(), "nothing has begun"
    nearest(small[0], tmp_path / "large", 2)
    said = command("sweep", *sweep_of(tiny_files, "--teacher", "large/"))
    assert "shards of teacher errors: 4 to do" in said
    assert "teacher=large" in said
    again = command("sweep", *sweep_of(tiny_files, "--teacher", "large/"))
    assert "to do" not in again, "it is known by its content"


OWN = "def nearest(small, scale):\n    return small.repeat(scale, 0).repeat(scale, 1)\n"


def test_code_is_the_same_teacher_as_its_pictures(command: Command, tiny_files: TinyFiles, tmp_path: Path) -> None:
    command("teacher_inputs", *data_of(tiny_files), "--to", "small")
    (tmp_path / "large").mkdir()
    for path in (tmp_path / "small").iterdir():
        nearest(path, tmp_path / "large", 2)
    (tmp_path / "own.py").write_text(OWN)
    said = command("sweep", *sweep_of(tiny_files, "--teacher", "large/", "own.py:nearest"))
    assert said.count("teacher=own.py:nearest@") >= 2, "the student's and its own row"
    maps = sorted((tmp_path / "ail_out" / "errors").iterdir())
    assert len(maps) == 2
    for one, other in zip(*(sorted(folder.glob("shard-*")) for folder in maps), strict=True):
        np.testing.assert_array_equal(*(read_tensors(path)[0]["error"] for path in (one, other)))
    students = [read_tensors(UPath(path))[0] for path in (tmp_path / "ail_out").glob("runs/*/student.safetensors")]
    assert len(students) == 2
    assert len({checksum(student) for student in students}) == 1, "of equal bits"
    (tmp_path / "own.py").write_text(OWN.replace("small.repeat", "(small // 2).repeat"))
    command("sweep", *sweep_of(tiny_files, "--teacher", "own.py:nearest"))
    assert len([*(tmp_path / "ail_out" / "errors").iterdir()]) == 3, "other code is another teacher"
    for run in (tmp_path / "ail_out" / "runs").iterdir():
        assert RunDirectory(run).manifest().config.teacher.partition("@")[0] in ("large/", "own.py:nearest")
    assert "own.py:nearest" in command("runs", "--storage", "ail_out")
    assert "report.html" in command("report", "--out", "ail_out")


def test_code_that_fails_ends_the_sweep_with_a_line(command: Command, tiny_files: TinyFiles, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def fails(small, scale):\n    if small.shape[0] == 40:\n        raise RuntimeError('out of order')\n"
        "    return small.repeat(scale, 0).repeat(scale, 1)\n"
    )
    said = command("sweep", *sweep_of(tiny_files, "--teacher", "own.py:fails"))
    assert "error: teacher own.py:fails@" in said.splitlines()[-1]
    assert said.endswith("RuntimeError: out of order\n")
    assert said.count("out of order") == 1, "two shards fail for one reason"


NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(width, 1, 3, padding=1)
        )
    def forward(self, x):
        return x + self.layers(x)
"""


def test_weights_of_ones_own_network_teach_a_smaller_one(
    command: Command, tiny_files: TinyFiles, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(NET)
    values = {name: value for name, value in tiny_files.protocol().items() if name != "depth"} | {"rounds": 0}
    quiet = {"say": lambda line: None}
    large = ail.train(network="net.py:Net", width=8, rule="uniform", out="large", **values, **quiet)
    teacher = str(large.weights)
    small = ail.train(network="net.py:Net", width=3, rule="fixed", teacher=teacher, out="small", **values, **quiet)
    assert small.status == "finished"
    (row,) = small.references[f"teacher={Path(teacher).name}"].validation
    assert row.psnr == pytest.approx(large.validation[0].psnr, abs=1e-4), "as its own run has measured it"
    other = [name for name in sweep_of(tiny_files, "--teacher", teacher) if name]
    said = command("sweep", *other)
    assert "whose code no file brings: name it, --network net.py:Net" in said


def test_a_function_of_a_notebook_teaches(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teaching.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    teaching = importlib.import_module("teaching")
    values = tiny_files.protocol() | {"rounds": 0, "width": 3, "rule": "fixed"}
    trial = ail.train(teacher=teaching.nearest, out="out", say=lambda line: None, **values)
    assert trial.status == "finished"
    assert trial.parameters["teacher"].startswith("teaching:nearest@")
