"""Recorded runs as tables."""

from typing import Any


def trials_table(summary: dict[str, Any]) -> str:
    """The trials as a Markdown table, the best first."""
    rows = ["| trial | rounds | status | validation | test |", "|---|---|---|---|---|"]
    for trial in summary["trials"]:
        cells = [
            " / ".join(f"{row['set']} ×{row['scale']} {row['psnr']:.2f} dB {row['ssim']:.4f}" for row in trial[group])
            for group in ("validation", "test")
        ]
        rows.append(f"| {trial['name']} | {trial['rounds']} | {trial['status']} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)
