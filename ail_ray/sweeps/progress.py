"""What a person at a terminal sees of running sweeps: a row for every trial that is worked on, kept up to date.

It is read from the run directories, and so is the same with Ray and without. A log has only the plain lines.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from upath import UPath

from ail_ray.entry import logs_json
from ail_ray.errors import counted
from ail_ray.files import is_local
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.sweeps.listeners import Monitor
from ail_ray.sweeps.terminal import in_words

Number = tuple[int, str]
"""A trial: the number of its sweep among the monitors, and its run, which two sweeps may share."""
COLUMNS = ("trial", "round", "epoch", "crops/s", "best", "left")


@contextmanager
def shown(monitors: Sequence[Monitor], *, asked: int, storage: UPath) -> Iterator[None]:
    """Keep the table below whatever is printed within this block, if standard output is a terminal.

    Args:
        asked: how many trials all sweeps have together.
    """
    # Without colours under NO_COLOR; a long line is left to the terminal, from which a path can then be copied whole.
    console = Console(soft_wrap=True, highlight=False)
    if not sys.stdout.isatty() or console.is_dumb_terminal or logs_json():
        yield
        return
    looks = 0.5 if is_local(storage) else 0.05  # a second: an object store bills them
    board = Board(monitors, asked)
    with Live(get_renderable=board.look, console=console, refresh_per_second=looks, transient=True):
        yield


class Board:
    """Draws the table, and remembers how far every trial was when it was first seen."""

    def __init__(self, monitors: Sequence[Monitor], asked: int) -> None:
        self.monitors, self.asked, self.since = monitors, asked, time.monotonic()
        self.before: dict[Number, float] = {}
        self.trials: dict[Number, Trial] = {}  # as they were seen last
        self.over = set[Number]()  # and were over then
        self.shown = Group()

    def look(self) -> Group:
        """The table as it is now; as it was seen last if the look fails, since it must not stop what it looks at."""
        with suppress(Exception):
            self.shown = self.table()
        return self.shown

    def table(self) -> Group:
        """Trials that are worked on, with round, epoch, crops a second, best PSNR and time left; all of them below."""
        shares = dict[Number, float]()
        table = Table(*COLUMNS, box=None, pad_edge=False, header_style="dim")
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        begun = [(i, run, plan) for i, m in enumerate(self.monitors) for run, plan in dict(m.plans).items()]
        for i, run, plan in begun:
            number, over = (i, run), run in self.monitors[i].over
            if number in self.over:
                shares[number] = 1.0
                continue
            with suppress(Exception):  # of one trial; the others have their rows
                before = self.trials.get(number)
                trial = read_trial(plan.directory, plan.config.rounds, before.records if before else ())
                self.trials[number] = trial
                shares[number] = 1.0 if over else (trial.rounds + 1) / (trial.asked + 1)
                self.before.setdefault(number, shares[number])
                if over:
                    self.over.add(number)
                else:
                    table.add_row(*_row(trial))
        done = sum(shares[number] - self.before[number] for number in shares)
        left = (time.monotonic() - self.since) * (self.asked - sum(shares.values())) / done if done > 0 else 0.0
        highest = max((trial.best for trial in self.trials.values()), default=0.0)  # 0: nothing was measured yet
        caption = ", ".join([
            f"{sum(len(m.over) for m in self.monitors)} of {counted(self.asked, 'trial')} over",
            *([f"best {highest:.2f} dB"] if highest else []),
            *([f"{in_words(left)} left"] if left > 0 else []),
        ])  # fmt: skip
        # Below the table and no caption of it, which would be filled up to the table's width: the `^C` that a terminal
        # shows there would begin a line, and a line of the table would be left on the screen.
        return Group(table, Text(caption, style="dim italic", no_wrap=False, overflow="fold"))


def _row(trial: Trial) -> tuple[str | Text, ...]:
    now, manifest = trial.rounds + 1, trial.manifest
    epochs, place = (manifest.config.epochs, manifest.places[-1:]) if manifest else (1, ())
    epoch = place[0].epochs + 1 if place and place[0].round == now else 1
    logs = manifest.epochs[-1:] if manifest else ()
    return (
        Text(trial.name), f"{min(now, trial.asked)} of {trial.asked}", f"{min(epoch, epochs)} of {epochs}",
        f"{logs[0].crops / logs[0].seconds:.0f}" if logs else "", f"{trial.best:.2f} dB" if trial.best else "",
        in_words(trial.seconds_left) if trial.seconds_left else "",
    )  # fmt: skip
