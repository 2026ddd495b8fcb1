"""How every command begins, speaks and ends: at a terminal, in a pipe that is closed, and when it is told to stop.

This file imports nothing slow, so that from the first moment on Ctrl-C ends a command without a traceback.
"""

import atexit
import contextlib
import errno
import json
import os
import select
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from ail_ray.errors import Interrupted, printable

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR, CLEAR_LINE = b"\x1b[?25h", b"\r\x1b[2K"
GOES_ON = "the same command goes on from there"
STARTS_AGAIN = "the same command starts again"
JOBS = {"sweep": "ail_sweep", "fetch": "fetch_data", "paper": "paper_tables", "teacher": "train_teacher",
        "teacher-inputs": "teacher_inputs"}  # fmt: skip
"""The files in jobs/ of those commands whose file has another name than the command."""


def called(command: str, *words: str) -> str:
    """A command as it is to be typed: `ail runs --failed`, or in a job `python jobs/runs.py --failed`."""
    from_jobs = Path(sys.argv[0]).absolute().parent.name == "jobs"
    begin = ["python", f"jobs/{JOBS.get(command, command)}.py"] if from_jobs else ["ail", command]
    return shlex.join([*begin, *words])


def say(line: str, file: IO[str] | None = None, *, level: str = "INFO") -> None:
    """Print a line at once, since a job's log is read while it runs; on standard output by default.

    Args:
        level: how grave it is, for logs in JSON: INFO, WARNING or ERROR.

    Raises:
        Interrupted: nobody reads on, which ends the job as a signal would and is no failure of what it was doing.
    """
    put(_as_json(line, level) if logs_json() else "\n".join(map(printable, line.split("\n"))), file)


def put(text: str, file: IO[str] | None = None) -> None:
    """Print what a program may read, as it is; otherwise like `say`."""
    try:
        print(f"{text}\n", end="", file=file, flush=True)  # in one piece: threads may speak at once
    except OSError as error:
        if number := _number(error):
            raise Interrupted(number) from None
        raise


LOG = "AIL_LOG"
LOGS = ("text", "json")
_fields: ContextVar[dict[str, str]] = ContextVar("fields")


@contextlib.contextmanager
def about(**fields: str) -> Iterator[None]:
    """Let what is said within this block bear more in logs in JSON, such as the id of a run, or a graver level."""
    token = _fields.set(_fields.get({}) | fields)
    try:
        yield
    finally:
        _fields.reset(token)


def logs_json() -> bool:
    """Whether AIL_LOG asks for a log of one JSON object a line."""
    return os.environ.get(LOG) == "json"


def _as_json(line: str, level: str) -> str:
    """A line under the names that Ray's own logs in JSON have, so that whoever collects both needs one rule."""
    now = time.time_ns()
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now // 10**9))
    return json.dumps({
        "asctime": f"{clock},{now // 10**6 % 1000:03d}", "levelname": level, "message": line, "timestamp_ns": now,
        **_fields.get({}),
    })  # fmt: skip


class _Stop:
    """Remembers which signal has asked the job to stop (0 while none has), and lets a second one end it at once."""

    number = 0
    leaves_threads = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            _leave(number, frame)
        self.number = number
        raise Interrupted(number)


_stop = _Stop()


def heed_stop() -> None:
    """Raise Interrupted if a signal has asked the job to stop; to be called by whoever has caught a library's error.

    Some libraries make another error of an interruption: a C extension that is being imported then says no more than
    "initialization failed".
    """
    if _stop.number:
        raise Interrupted(_stop.number)


def leave_threads_behind() -> None:
    """Let the job end without waiting for threads of libraries, which Python would otherwise do.

    To be called by whoever has given up something that they do.
    """
    _stop.leaves_threads = True


def run(load: Callable[[], Callable[[list[str]], int]], *, again: str = STARTS_AGAIN) -> NoReturn:
    """Load a command's main function, call it with the words of the command line, and exit with the code it returns.

    While it loads there is nothing to record, and Ctrl-C ends the process at once. Later Ctrl-C, SIGTERM and a closed
    terminal raise KeyboardInterrupt in the function. What it then has to record it records; afterwards the cursor is
    back, one line says how to go on, and the exit code is 130, 143 or 129. Whoever sends a second signal does not wait
    for that. Where the reader of a pipe has gone, the command ends without a word, with 141 as a shell would say. A
    character that standard output cannot show is replaced. What AIL_LOG must not be is refused with exit code 2.

    Args:
        load: imports what the command needs, which may take seconds, and returns its main function.
        again: what the same command does after an interruption.
    """
    listen(_leave)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the job
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)
        getattr(sys, name).reconfigure(errors="replace")
    if (log := os.environ.get(LOG) or LOGS[0]) not in LOGS:
        print(f"error: {LOG} must be {' or '.join(LOGS)}, got {printable(log)}", file=sys.stderr)
        sys.exit(2)
    code: int | str | None
    try:
        try:
            main = load()
            listen(_stop)
            code = main(sys.argv[1:])
        except SystemExit as leaving:  # after --help, or a refusal; Ray makes one of an interruption
            code = leaving.code
        heed_stop()
        sys.stdout.flush()
    except BaseException as error:
        number = _stop.number or (error.number if isinstance(error, Interrupted) else _number(error))
        if not number and not logs_json():
            raise
        code = 128 + number if number else 1
        if not number:
            say(traceback.format_exc(), sys.stderr, level="ERROR")
        elif number in STOPS:
            _last_word(f"stopped; {again}")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            if _abandoned(stream):  # or Python, as it ends, would write what is left and complain
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if _stop.leaves_threads:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
    sys.exit(code)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End this process here and now; whatever it started sees that it has gone."""
    _last_word("stopped at once")
    os._exit(128 + number)


def listen(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let a handler hear the signals, except for those that whoever started the job wants ignored, as `nohup` does."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _number(error: BaseException) -> int:
    """The signal that an error of somebody else stands for; 0 for any other error."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    of_streams = {errno.EPIPE: signal.SIGPIPE, errno.EIO: signal.SIGHUP}
    if isinstance(error, OSError) and any(map(_abandoned, (sys.stdout, sys.stderr))):
        return of_streams.get(error.errno or 0, 0)
    return 0


def _abandoned(stream: IO[str]) -> bool:
    """Whether a stream is a pipe whose reader has gone, or a terminal that was closed."""
    look = select.poll()
    look.register(stream.fileno(), 0)  # errors are always looked for
    return bool(look.poll(0))


def _last_word(line: str) -> None:
    """Show the cursor and print a line of its own: a terminal has just shown `^C`, perhaps below a table."""
    if logs_json():
        line = _as_json(line, "WARNING")
    with contextlib.suppress(OSError):
        if os.isatty(1) and _moves_cursor():
            os.write(1, SHOW_CURSOR)
        os.write(2, (CLEAR_LINE if os.isatty(2) and _moves_cursor() else b"") + f"{line}\n".encode())


def _moves_cursor() -> bool:
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
