"""What tests of enlarging share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ail_ray.commands.upscale import main

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(*words)`: enlarge bicubically into `out`, in a folder of one's own; the exit code and the lines."""
    monkeypatch.chdir(tmp_path)

    def enlarge(*words: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        try:
            code = main([*map(str, words), "--model", "bicubic", "--out", "out"])
        except SystemExit as refused:
            code = int(refused.code or 0)
        printed = capsys.readouterr()
        return code, (printed.out + printed.err).splitlines()

    return enlarge
