"""Recorded trials as a Markdown table: a row each, in the order given, numbers as they are quoted in papers."""

from typing import Any

from ail_ray.reporting.tables import trials_table


def row(name: str, psnr: float, ssim: float, scale: int = 2) -> dict[str, Any]:
    return {"set": name, "scale": scale, "psnr": psnr, "ssim": ssim}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_every_trial_in_their_order() -> None:
    trials = [
        {
            "name": "vdsr-f13 λ=0.15", "rounds": 10, "status": "finished", "validation": [row("val", 33.456, 0.92345)],
            "test": [row("Set5", 37.005, 0.95), row("Set14", 28.0, 0.7, scale=4)],
        },
        {"name": "vdsr-f13 w=1", "rounds": 3, "status": "stopped", "validation": [row("val", 29.996, 1.0)], "test": []},
        {"name": "broken", "rounds": -1, "status": "failed", "validation": [], "test": []},
    ]  # fmt: skip
    header, rule, *rows = trials_table({"trials": trials}).splitlines()
    assert cells(header) == ["trial", "rounds", "status", "validation", "test"]
    assert rule == "|---|---|---|---|---|"
    assert [cells(line) for line in rows] == [
        [
            "vdsr-f13 λ=0.15", "10", "finished", "val ×2 33.46 dB 0.9234",
            "Set5 ×2 37.01 dB 0.9500 / Set14 ×4 28.00 dB 0.7000",
        ],
        ["vdsr-f13 w=1", "3", "stopped", "val ×2 30.00 dB 1.0000", ""],
        ["broken", "-1", "failed", "", ""],
    ]  # fmt: skip
    assert len({line.count("|") for line in (header, rule, *rows)}) == 1


def test_a_sweep_without_trials_is_an_empty_table() -> None:
    assert trials_table({"trials": []}).splitlines() == [
        "| trial | rounds | status | validation | test |",
        "|---|---|---|---|---|",
    ]
