"""The script of `make gpu`, where there is no GPU: it says so, and does all its parts on the processor."""

import json
from pathlib import Path

import gpu
import pytest
import torch


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gpu: torch sees none here; --device cpu --quick tries the script on the processor"
    ]


def test_its_parts_work_on_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, cpu = gpu.Sample(str(tmp_path), gpu.QUICK), torch.device("cpu")
    monkeypatch.setattr(gpu, "Sample", lambda folder, size: sample)
    assert gpu.main(["--device", "cpu", "--quick", "--json", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["agreement"]["relative"] == found["agreement"]["largest_difference"] == 0
    assert found["golden"]["eq7"] < 1e-6 > found["golden"]["eq8"]
    assert found["fp32"]["steps_per_second"] > 0
    assert 20 < found["quality"]["bicubic"] < 40
    said: list[str] = []
    gpu.trial(sample, cpu, 0, said.append, lambda: said.append("go"))
    assert said[:2] == ["warm", "go"]
    assert float(said[2]) > 0
