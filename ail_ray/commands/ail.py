"""The command `ail`: it lists the commands that there are, or loads one of them and starts it."""

import difflib
import os
import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

from ail_ray.entry import GOES_ON, STARTS_AGAIN, run, say


class Command(NamedTuple):
    """What a command does, and what the same command does after an interruption."""

    does: str
    again: str = STARTS_AGAIN


COMMANDS = {
    "sweep": Command("train students and compare them", GOES_ON),
    "submit": Command("send a sweep to a Ray cluster"),
    "runs": Command("list runs, show one, remove old ones"),
    "report": Command("write one HTML page about a sweep"),
    "upscale": Command("enlarge pictures with a student", GOES_ON),
    "export": Command("write a student as a file for a device"),
    "evaluate": Command("measure PSNR and SSIM on image sets"),
    "data": Command("look at pictures before training on them"),
    "fetch": Command("fetch public image sets", GOES_ON),
    "paper": Command("make the paper's tables and figures", GOES_ON),
    "teacher": Command("train a teacher", GOES_ON),
    "teacher-inputs": Command("write pictures for a teacher elsewhere", GOES_ON),
    "benchmark": Command("measure speed, and check a machine"),
}


def main() -> NoReturn:
    """Start the command that the first word names; without any word show the list of commands."""
    start(sys.argv.pop(1) if sys.argv[1:] else "--help")


def start(name: str) -> NoReturn:
    """Run a command with the words that are left, and exit with its code; `jobs/` starts the same commands."""
    try:
        os.getcwd()
    except FileNotFoundError:  # torch would end the process without a word
        print("error: the folder that you stand in is gone; change into one that is there", file=sys.stderr)
        raise SystemExit(2) from None
    if name not in COMMANDS:
        run(lambda: lambda _: _list(name))
    run(lambda: import_module(f"ail_ray.commands.{name.replace('-', '_')}").main, again=COMMANDS[name].again)


def _list(word: str) -> int:
    """Show the list of commands if it is asked for, and refuse any other word."""
    if word in ("-h", "--help"):
        lines = [f"  {name:15} {command.does}" for name, command in COMMANDS.items()]
        head = ["usage: ail COMMAND [options]", "", "Train small networks that enlarge images.", "", "commands:"]
        say("\n".join([*head, *lines, "", "`ail COMMAND --help` explains a command, with examples."]))
        return 0
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
    say(f"error: {word}: no such command; {remedy}", sys.stderr, level="ERROR")
    return 2
