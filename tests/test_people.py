"""The jobs as people use them: each on a terminal of 80 columns, and one stop of each kind. `make people` does more."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from people import SWEEP, Person, commands, stop_is_right, stopped

pytestmark = pytest.mark.long

LOCAL = [*SWEEP, "--out", "out", "--local"]
JOBS = sorted(path.stem for path in (Path(__file__).parents[1] / "jobs").glob("[!_]*.py"))


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody who has just run a sweep at a terminal, as its own test looks at."""
    person = Person(tmp_path_factory.mktemp("person"), {"AIL_DATA_DIR": "", "AIL_TEACHER_DIR": ""})
    seen = person.at_terminal("ail_sweep", *LOCAL)
    assert (seen.code, seen.problems) == (0, []), seen.lines
    assert any("round 1:" in line for line in seen.lines)
    assert any("bicubic  " in line for line in seen.lines)
    return person


@pytest.mark.parametrize("job", JOBS)
def test_every_job_works_at_a_terminal(person: Person, job: str) -> None:
    words, code = commands(person)[job]
    seen = person.at_terminal(job, *words)
    assert (seen.code, seen.problems, seen.cursor) == (code, [], True), seen.lines
    assert any(seen.lines)


@pytest.mark.parametrize("job", ["ail_sweep", "fetch_data", "upscale"])
def test_a_job_whose_reader_has_gone_ends_without_a_word(person: Person, job: str) -> None:
    """Not even as a picture, or a folder, that could not be read."""
    words, _ = commands(person)[job]
    shutil.rmtree(person.folder / "enlarged", ignore_errors=True)  # or there is nothing to do
    seen = person.into_closed_pipe(job, *words)
    assert (seen.code, seen.lines) == (141, [])


@pytest.mark.ray
def test_ctrl_c_stops_a_sweep_on_ray_and_is_recorded(tmp_path: Path) -> None:
    seen, recorded = stopped(Person(tmp_path), "first round", signal.SIGINT, local=False)
    assert stop_is_right(seen, recorded, "first round", signal.SIGINT) == [], (seen.lines, recorded)


def test_sigterm_stops_a_sweep_without_ray_and_is_recorded(tmp_path: Path) -> None:
    seen, recorded = stopped(Person(tmp_path), "between trials", signal.SIGTERM, local=True)
    assert stop_is_right(seen, recorded, "between trials", signal.SIGTERM) == [], (seen.lines, recorded)
