"""A command at a terminal of its own, and the screen as a person sees it; as a program: `--columns 80 -- make demo`.

As a program it prints the command's screen, and exits with the command's code, or with 1 if a traceback is to be seen.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pexpect
import pyte

ROWS = 40
PATIENCE = 300  # seconds; a quiet machine needs 30


class Terminal:
    """A terminal on which a command has been started."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            environment: the whole of it; by default this process's, on an ordinary terminal with colours.
        """
        self.screen = pyte.HistoryScreen(columns, ROWS, history=100_000)
        self._stream = pyte.ByteStream(self.screen)
        environment = {"TERM": "xterm-256color", **(os.environ if environment is None else environment)}
        environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = pexpect.spawn(
            command[0], list(command[1:]), cwd=cwd, env=environment, dimensions=(ROWS, columns), timeout=None,
            preexec_fn=_heard,
        )  # fmt: skip

    def until(self, what: Callable[[], object], patience: float = PATIENCE) -> None:
        """Show what the command writes, until something is true."""
        deadline = time.monotonic() + patience
        while not what():
            assert self._goes_on(), f"the command has ended:\n{self.text}"
            assert time.monotonic() < deadline, f"not within {patience:.0f} s:\n{self.text}"

    def shows(self, words: str) -> None:
        """Wait for words on the screen."""
        self.until(lambda: words in self.text)

    def end(self, patience: float = PATIENCE) -> int:
        """Wait for the command's end; its exit code, as a shell would say it."""
        deadline = time.monotonic() + patience
        while self._goes_on():
            assert time.monotonic() < deadline, f"not ended within {patience:.0f} s:\n{self.text}"
        self.process.close()
        return 128 + self.process.signalstatus if self.process.signalstatus else int(self.process.exitstatus or 0)

    def press_ctrl_c(self) -> None:
        """The terminal sends SIGINT to every process that the command has started in its group."""
        self.process.sendintr()

    def close(self) -> None:
        """End the command if it is still there."""
        if self.process.isalive():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.close(force=True)

    @property
    def lines(self) -> list[str]:
        """All that was printed, what has scrolled off included; a line that was too long for the terminal is whole."""
        columns = self.screen.columns
        rows = ["".join(row[i].data for i in range(columns)) for row in self.screen.history.top]
        lines, goes_on = list[str](), False
        for row in [*rows, *self.screen.display]:
            lines[-1:] = [lines[-1] + row] if goes_on else [*lines[-1:], row]
            goes_on = row[-1] != " "
        while lines and not lines[-1].strip():
            lines.pop()
        return [line.rstrip() for line in lines]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def cursor(self) -> bool:
        """Whether there is one to be seen."""
        return not self.screen.cursor.hidden

    def _goes_on(self) -> bool:
        """Show what the command has written since; whether it has not ended."""
        try:
            self._stream.feed(self.process.read_nonblocking(2**16, 0.1))
        except pexpect.TIMEOUT:
            pass
        except pexpect.EOF:
            return False
        return True


def _heard() -> None:
    """Let signals do what they do at a terminal: a shell has its background jobs ignore them, and so all they start."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def main() -> int:
    """Run a command and print its screen; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    terminal = Terminal(options.command, columns=options.columns)
    try:
        code = terminal.end(60 * options.minutes)
    finally:
        terminal.close()
    print(terminal.text)
    print(f"--- {' '.join(options.command)} at {options.columns} columns: exit code {code}")
    return 1 if "Traceback" in terminal.text else code


if __name__ == "__main__":
    sys.exit(main())
