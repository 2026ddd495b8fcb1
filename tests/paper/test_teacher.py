"""A teacher from its command's configuration to the file and the card that others get."""

from pathlib import Path

import pytest
import torch

from ail_ray.commands.sweep import run_sweep
from ail_ray.delivery.evaluate import benchmark
from ail_ray.errors import ConfigError
from ail_ray.learning.weights import bundled, load_model, save_model
from ail_ray.networks.architectures import VDSR
from ail_ray.paper.teacher_card import Teacher, publish
from ail_ray.tensors import read_tensors

pytestmark = pytest.mark.long


def test_a_teacher_is_trained_and_published_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIL_DATA_DIR", raising=False)
    teacher = Teacher(
        width=3, train=("sample",), scales=(2, 3), epochs=1, crops=8, local=True, to="new/small.safetensors"
    )
    (trial,) = run_sweep(teacher.job(), command="a command").trials
    card = publish(trial, teacher.to, "a command")
    assert (tmp_path / "new" / "small.md").read_text() == card
    tensors, metadata = read_tensors(tmp_path / "new" / "small.safetensors")  # type: ignore[arg-type]
    assert {array.dtype.name for array in tensors.values()} == {"float16"}
    assert metadata["run"] == Path(trial.directory).name
    trained, published = load_model(trial.weights or ""), load_model(teacher.to)
    for ours, theirs in zip(trained.parameters(), published.parameters(), strict=True):
        assert torch.equal(ours.half().float(), theirs)
    assert "A vdsr of width 3 and depth 20, trained plainly (w = 1) on scales 2, 3 of sample, seed 0" in card
    (row,) = benchmark(teacher.to, ["sample-val"], [3], precision="fp32", device="cpu", say=lambda line: None)
    assert f"| sample-val ×3 | {row.psnr:.2f} | {row.ssim:.4f} |" in card
    assert card.count("| sample-val ×") == 2


def test_a_teacher_goes_on_from_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "earlier.safetensors", VDSR(width=3, depth=20))
    teacher = Teacher(
        width=3, train=("sample",), scales=(2,), epochs=1, crops=8, learning_rate=1e-9, local=True,
        start="earlier.safetensors",
    )  # fmt: skip
    (trial,) = run_sweep(teacher.job(), command="a command").trials
    for ours, theirs in zip(
        load_model(trial.weights or "").parameters(), load_model("earlier.safetensors").parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-7)
    assert "seed 0, going on from earlier.safetensors: 1 epoch of" in publish(trial, "new.safetensors", "a command")


def test_the_errors_of_an_earlier_teacher_weigh_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    earlier = str(bundled()["vdsr"])
    cards, students = [], []
    for out, options in {"plain": {}, "weighed": {"teacher": "vdsr", "mu0": 0.02, "alpha0": 200.0}}.items():
        teacher = Teacher(
            width=24, train=("sample",), scales=(2,), epochs=1, crops=16, start=earlier, local=True, out=out, **options
        )
        (trial,) = run_sweep(teacher.job(), command="a command").trials
        cards.append(publish(trial, tmp_path / out / "new.safetensors", "a command"))
        students.append(load_model(trial.weights or ""))
    assert "trained plainly (w = 1) on scales 2 of sample" in cards[0]
    assert "trained with the importance of vdsr's errors (Eq. 8, μ0 = 0.02, α0 = 200) on scales 2 of" in cards[1]
    plain, weighed = (torch.cat([p.flatten() for p in student.parameters()]) for student in students)
    assert not torch.equal(plain, weighed)


def test_the_teacher_that_comes_along_is_as_its_card_says(data_dir: Path) -> None:
    path = bundled()["vdsr"]
    assert path.stat().st_size <= 1_400_000
    card = path.with_suffix(".md").read_text()
    rows = benchmark(path, ["Set5"], [2, 3, 4], precision="fp32", device="cpu", say=lambda line: None)
    for row in rows:
        assert f"| Set5 ×{row.scale} | {row.psnr:.2f} | {row.ssim:.4f} |" in card


def test_a_teacher_that_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="one for fsrcnn"):
        Teacher(network="fsrcnn")
    with pytest.raises(ConfigError, match="width must be at least 1"):
        Teacher(width=0)
    with pytest.raises(ConfigError, match="mu0 and alpha0 go with --teacher"):
        Teacher(mu0=0.5)
    with pytest.raises(ConfigError, match="teacher must have weights, got random"):
        Teacher(teacher="random")
    ours = str(bundled()["vdsr"])
    for option, name in {"start": ours, "teacher": "vdsr"}.items():
        with pytest.raises(ConfigError, match=f"which {option} is read from: name another with --to"):
            Teacher(to=ours, **{option: name})
