"""Three of the faults of `make faults`: a worker killed, a spot machine's notice, the same run submitted twice."""

from pathlib import Path

import pytest
from faults import Case, attempt, killed_in_a_worker, terminated, two_at_once, uninterrupted
from tiny_files import TinyFiles

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def whole(tiny_files: TinyFiles, tmp_path_factory: pytest.TempPathFactory) -> str:
    return uninterrupted(tmp_path_factory.mktemp("whole"), tiny_files, local=True)


def test_a_notice_to_leave_is_obeyed_and_costs_nothing(whole: str, tiny_files: TinyFiles, tmp_path: Path) -> None:
    assert attempt(Case(tmp_path, tiny_files, local=True), terminated, whole)[1]


def test_a_second_submission_waits_for_the_first(whole: str, tiny_files: TinyFiles, tmp_path: Path) -> None:
    assert attempt(Case(tmp_path, tiny_files, local=True), two_at_once, whole)[1]


@pytest.mark.ray
def test_a_worker_killed_in_the_middle_of_a_step_costs_nothing(
    whole: str, tiny_files: TinyFiles, tmp_path: Path
) -> None:
    """One worker on Ray and one process without it give the same bits."""
    case = Case(tmp_path, tiny_files, options={"workers": 1})
    assert attempt(case, lambda case: killed_in_a_worker(case, "θ"), whole)[1]
    assert len(case.hits) == 1
    assert len(case.recoveries) == 1
