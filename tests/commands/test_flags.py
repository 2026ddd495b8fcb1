"""Parameters of rules and losses as flags."""

from pathlib import Path

import pytest

from ail_ray.commands.flags import flags_for, flags_of, job_of
from ail_ray.commands.parsing import parse
from ail_ray.errors import ConfigError
from ail_ray.learning.presets import demo
from ail_ray.sweeps.sweep_job import SweepJob

RULES = """
def one(p, *, gamma: float = 0.3, hard: bool = False):
    return p.importance
def two(p, *, gamma: int = 2):
    return p.importance
def three(p, *, gamma: str = "a"):
    return p.importance
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "rules.py").write_text(RULES)
    return f"{tmp_path}/rules.py"


def asked(*words: str) -> SweepJob:
    kind = flags_for(words)
    default = flags_of(kind, SweepJob(sweep=demo()))
    return job_of(parse(kind, [*words, "--local"], default=default, prog="ail sweep", description=""))


def test_two_rules_share_a_flag_in_whatever_order_they_come(rules: str) -> None:
    found = []
    for order in ((f"{rules}:one", f"{rules}:two"), (f"{rules}:two", f"{rules}:one")):
        job = asked("--rule", *order, "--rule.gamma", "4", "--teacher", "none")
        found.append({run.rule.partition("@")[0]: dict(run.of("rule"))["gamma"] for run in job.sweep.grid()})
    assert found == [{"rules.py:one": 4.0, "rules.py:two": 4}] * 2
    with pytest.raises(ConfigError, match=r"rule\.gamma: is of type float and of type str; sweep over them apart"):
        flags_for(["--rule", f"{rules}:one", f"{rules}:three"])


@pytest.mark.parametrize("flag", ["--rule.gamma", "--rule.hard"])
def test_a_parameter_without_a_value_is_refused(rules: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        asked("--rule", f"{rules}:one", flag)
    assert refused.value.code == 2
    assert f"error: {flag.removeprefix('--')}: a value is missing" in capsys.readouterr().err
