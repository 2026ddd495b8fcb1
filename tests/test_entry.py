"""How a command begins, speaks and ends, tried with jobs of a few lines: signals, pipes, encodings."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from people import Seen
from terminal import Terminal

from ail_ray.entry import called

GOES_ON = "stopped; the same command goes on from there"
HEAD = "from ail_ray.entry import GOES_ON, run, say\nimport os, sys, time\n"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Where a job may be written."""
    return tmp_path / "toy.py"


def write(job: Path, *lines: str, before: str = "pass") -> list[str]:
    """A job whose main function has these lines, and which does something before while it loads; its command."""
    body = "".join(f"        {line}\n" for line in lines)
    job.write_text(
        f"{HEAD}def load():\n    {before}\n    def main(words):\n{body}        return 0\n    return main\n"
        "if __name__ == '__main__':\n    run(load, again=GOES_ON)\n",
        encoding="utf-8",
    )
    return [sys.executable, str(job)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **changes}


def stopped(command: list[str], *, number: int = signal.SIGINT, words: tuple[str, ...] = ("begun",)) -> Seen:
    """Stop a command by a signal each time that it has said one of these words."""
    terminal = Terminal(command, environment=environment())
    try:
        for word in words:
            terminal.shows(word)
            terminal.press_ctrl_c() if number == signal.SIGINT else os.kill(terminal.process.pid, number)
        return Seen(terminal.end(30), terminal.lines, terminal.cursor)
    finally:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_job_records_brings_the_cursor_back_and_says_how_to_go_on(
    job: Path, tmp_path: Path, number: int
) -> None:
    command = write(
        job, "try: sys.stdout.write('\\x1b[?25l'); say('begun'); time.sleep(60)",
        f"except BaseException: open({str(tmp_path / 'record')!r}, 'w').write('stopped'); raise",
    )  # fmt: skip
    seen = stopped(command, number=number)
    assert (seen.code, seen.lines, seen.cursor) == (128 + number, ["begun", GOES_ON], True)
    assert (tmp_path / "record").read_text() == "stopped"


def test_a_terminal_that_is_closed_ends_a_job_that_records(job: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    command = write(
        job, "try: say('begun'); time.sleep(60)",
        f"except BaseException as e: open({str(record)!r}, 'w').write(repr(e)); say('nobody reads this')",
    )  # fmt: skip
    terminal = Terminal(command, environment=environment())
    terminal.shows("begun")
    os.close(terminal.process.child_fd)
    _, status = os.waitpid(terminal.process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert "Interrupted" in record.read_text()


def test_a_second_ctrl_c_does_not_wait_for_what_the_first_began(job: Path) -> None:
    command = write(
        job, "try: sys.stdout.write('\\x1b[?25l'); say('begun'); time.sleep(60)",
        "except KeyboardInterrupt: say('hm'); time.sleep(60)",
    )  # fmt: skip
    seen = stopped(command, words=("begun", "hm"))
    assert (seen.code, seen.lines[-1], seen.cursor) == (130, "stopped at once", True)


def test_ctrl_c_among_the_imports_is_quiet(job: Path) -> None:
    seen = stopped(write(job, before="say('begun'); time.sleep(60)"))
    assert (seen.code, seen.lines) == (130, ["begun", "stopped at once"])


def test_what_ray_makes_of_an_interruption_is_one(job: Path) -> None:
    """Its C++ turns whatever a handler raises into a bare KeyboardInterrupt, or into SystemExit(1)."""
    for error in ("KeyboardInterrupt", "SystemExit(1)", "RuntimeError('lost')"):
        command = write(job, "try: say('begun'); time.sleep(60)", f"except KeyboardInterrupt: raise {error} from None")
        assert (seen := stopped(command)).code == 130, error
        assert seen.lines == ["begun", GOES_ON], error


def test_an_ignored_signal_stays_ignored(job: Path, tmp_path: Path) -> None:
    command = write(job, "os.kill(os.getpid(), 2)", "say('still here')")
    done = subprocess.run(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


@pytest.mark.parametrize(
    "lines",
    [
        ["for i in range(100000): say('a line')"],
        ["for i in range(100000): print('a line')"],
        ["print('a line')"],  # seen only when the program ends
        ["print('usage')", "raise SystemExit(0)"],  # as --help ends
        ["for i in range(100000): print('a line', file=sys.stderr, flush=True)"],
    ],
)
def test_a_pipe_that_nobody_reads_ends_a_job_without_a_word(job: Path, lines: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    both = "stderr" in lines[0]
    done = subprocess.run(
        write(job, *lines), env=environment(), stdout=writer, stderr=writer if both else subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert both or done.stderr == b""


def test_a_reader_who_has_gone_is_no_failure_of_what_was_done(job: Path) -> None:
    """A trial's `except Exception` must not take it for one."""
    reader, writer = os.pipe()
    os.close(reader)
    command = write(job, "try: say('a line')", "except Exception: os._exit(7)")
    done = subprocess.run(command, env=environment(), stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 141


def test_a_job_without_standard_output_works(job: Path) -> None:
    command = write(job, "say(f'a line, {sys.stdout.isatty()}')")
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], env=environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_locale_cannot_show_is_replaced(job: Path) -> None:
    command = write(job, "say('×2 λ=0.15')", "print('ρ', file=sys.stderr)")
    plain = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"?2 ?=0.15\n", b"?\n")


def test_an_error_of_the_job_is_still_seen(job: Path) -> None:
    done = subprocess.run(write(job, "1 / 0"), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    refused = write(job, "raise SystemExit(2)")
    assert subprocess.run(refused, env=environment(), check=False).returncode == 2


@pytest.mark.parametrize(
    ("begun", "again"),
    [
        ("/home/me/.venv/bin/ail", "ail paper --tables 1 --out 'my folder'"),
        ("/home/me/ail_ray/__main__.py", "ail paper --tables 1 --out 'my folder'"),
        ("jobs/ail_sweep.py", "python jobs/paper_tables.py --tables 1 --out 'my folder'"),
    ],
)
def test_commands_are_named_as_the_running_one_was_begun(
    begun: str, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [begun, "demo"])
    assert called("paper", "--tables", "1", "--out", "my folder") == again
