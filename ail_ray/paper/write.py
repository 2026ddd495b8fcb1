"""The tables and figures of a study as files, each of which says where its numbers come from."""

import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ail_ray.errors import counted
from ail_ray.files import as_path, write_bytes, write_record
from ail_ray.learning.teachers import find_our_weights
from ail_ray.machine import machine
from ail_ray.paper.figures import curves_figure, initialisation_figure, penalty_figure, pictured, students_picture
from ail_ray.paper.methods import FIGURES, TABLES
from ail_ray.paper.study import Results, Study
from ail_ray.paper.tables import (
    RunTable,
    SizeTable,
    comparison,
    comparison_markdown,
    complexity,
    complexity_markdown,
)
from ail_ray.runs.records import Manifest


def write(study: Study, results: Results, command: str, say: Callable[[str], None]) -> None:
    """Write `table_N.md` and `.json`, and `figure_N.png`, into the budget's folder."""
    folder, here, today = study.out_path, machine(), f"{datetime.now(UTC):%Y-%m-%d}"
    for number in study.tables:
        if number == 3 and study.collect:
            say("table 3: not timed, others may be training")
            continue
        if number == 3:
            sizes = complexity(say)
            note = f"`{command}`, commit {here['commit']}, {today}, {here['processor']}, one thread."
            table: RunTable | SizeTable = SizeTable(note=note, rows=tuple(sizes))
            text = complexity_markdown(sizes, note)
        else:
            rows, missing = comparison(number, study, results)
            if not any(row.seeds for row in rows):
                say(f"table {number}: not written, no run has finished")
                continue
            note = f"`{command}`, {_origin(TABLES[number].methods, study, results)}."
            table = RunTable(note=note, rows=tuple(rows), missing=tuple(missing))
            text = comparison_markdown(number, rows, missing, note)
        write_record(folder / f"table_{number}.json", table)
        write_bytes(folder / f"table_{number}.md", text.encode())
        say(f"wrote {folder / f'table_{number}.md'}")
    for number in study.figures:
        picture = _picture(number, study, results)
        if isinstance(picture, str):
            say(f"figure {number}: {picture}")
        else:
            write_bytes(folder / f"figure_{number}.png", picture)
            say(f"wrote {folder / f'figure_{number}.png'}")


def _origin(methods: Iterable[str], study: Study, results: Results) -> str:
    """The runs that a table rests on: how many, how long, in which precision, and when, where and by which code."""
    used: dict[tuple[str, int], float] = {}  # seconds of each round of each run
    manifests: dict[str, Manifest] = {}
    for name in methods:
        for scale in study.scales:
            for trial in results.get((name, scale), {}).values():
                used |= {(trial.directory, r.round): sum(r.seconds.values()) for r in trial.records}
                manifests |= {trial.directory: trial.manifest} if trial.manifest else {}

    def each(what: Callable[[Manifest], object]) -> str:
        return ", ".join(sorted({str(what(manifest)) for manifest in manifests.values()}))

    return (
        f"{counted(len(manifests), 'run')}, {sum(used.values()) / 3600:.2f} hours of them together, "
        f"teacher {study.teacher}; students from random weights, trained on {each(_images)}; "
        f"begun {each(lambda m: datetime.fromtimestamp(m.created, UTC).date())}, "
        f"commit {each(lambda m: m.machine['commit'])}, {each(lambda m: m.machine['processor'])}, "
        f"{each(lambda m: m.precision)}, workers {each(lambda m: m.workers)}"
    )


def _images(manifest: Manifest) -> str:
    """The images that a run was trained on, in words."""
    train, held_back = (" and ".join(getattr(manifest.config, role)) for role in ("train", "validation"))
    return train + (f" without {held_back}" if held_back else "")


def _picture(number: int, study: Study, results: Results) -> bytes | str:
    """One figure as PNG, at the first scale and seed of the study; if it cannot be drawn, why."""
    scale, seed = study.scales[0], study.all_seeds[0]
    runs = {name: results.get((name, scale), {}) for name in FIGURES[number]}
    if missing := [name for name, trials in runs.items() if seed not in trials]:
        return f"not drawn: no run of {', '.join(missing)} has finished"
    teacher = find_our_weights(study.teacher)
    assert teacher is not None, "a study refuses teachers without weights"
    if number in (4, 9):
        students = {name: as_path(trials[seed].weights or "") for name, trials in runs.items()}
        return students_picture({f"teacher {study.teacher}": teacher.path, **students}, pictured(scale))
    if number == 2:
        figure = initialisation_figure(teacher.model(), pictured(scale))
    elif number == 3:
        figure = curves_figure({name: [t.records for t in trials.values()] for name, trials in runs.items()})
    else:
        figure = penalty_figure()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    return buffer.getvalue()
