"""What a sweep was asked and what it found, in sentences that claim no more than the numbers do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ail_ray.errors import counted
from ail_ray.reporting.findings import Condition, Findings
from ail_ray.sweeps.controls import Estimate

SIGNED, PLAIN = "{:+.2f}", "{:.2f}"


def number(value: float, form: str = PLAIN) -> str:
    """A number in words, with a typographic minus, and without a minus before zero."""
    text = form.format(value)
    if not any(digit in text for digit in "123456789"):
        text = text.replace("-", "±" if "+" in form else "").replace("+", "±")
    return text.replace("-", "−")


def estimate(value: Estimate | None, form: str = PLAIN) -> str:
    """An estimate in words: `31.83 ± 0.12`, or without an interval where there is one seed."""
    if value is None:
        return ""
    half = f" ± {number(value.half, form.replace('+', ''))}" if value.half is not None else ""
    return number(value.mean, form) + half


def date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def state(sweep: Findings) -> str:
    """How far the sweep is, in one line."""
    counts = Counter(trial.status for trial in sweep.trials)
    parts = [
        f"{counts[name]} {name}" for name in ("finished", "working", "stopped", "failed", "unreadable") if counts[name]
    ]
    trials = f"{counted(sweep.asked, 'trial')}: {', '.join(parts) or 'none has begun'}"
    if useless := sum(bool(trial.useless) for trial in sweep.trials):
        trials += f" ({useless} of them of no use: dead, or at or below bicubic)"
    if waiting := max(0, sweep.asked - len(sweep.trials)):
        trials += f", {waiting} not begun" * bool(parts)
    if sweep.state == "finished":
        return trials + "."
    if sweep.state == "stopped":
        return f"Stopped before its end. {trials}. The same command goes on."
    between = "it is between two" if sweep.trials else "it makes teachers ready"
    quiet = "" if counts["working"] else f" Nobody works on a trial just now: {between}, or has been killed."
    return f"Not over yet. {trials}.{quiet}"


def question(sweep: Findings) -> str:
    """The question that the sweep was asked, from its configuration."""
    c = sweep.config
    if not c:
        return "No configuration is left: every run directory is gone."
    manifest = sweep.manifest
    pairs = (
        f" ({counted(manifest.pairs, 'pair')}, {manifest.pixels / 1e6:.1f} M pixels)"
        if manifest and manifest.pairs
        else ""
    )
    crops = "as many crops as cover the corpus"
    if c["crops"]:
        crops = f"{c['crops']:,}" if isinstance(c["crops"], int) else _all(c["crops"])
    return (
        f"{_all(c['network']).upper()} students for ×{_all(c['scales'])}, trained on {_all(c['train'])}{pairs}: "
        f"round 0 and {_counted(c['rounds'], 'more round')}, {_counted(c['epochs'], 'epoch')} each "
        f"of {crops} crops, {_all(c['crop'])} pixels a side. "
        + (f"Compared on {_all(c['validation'])}" if c["validation"] else "Nothing was held out to compare on")
        + (f"; measured on {_all(c['test'])} too." if c["test"] else ".")
    )


def answers(sweep: Findings) -> Iterator[str]:
    """Sentences about what was found, of which the first is the headline."""
    if not sweep.conditions:
        yield "No trial has finished: there is nothing to compare yet."
        return
    best = sweep.conditions[0]
    students = [condition for condition in sweep.conditions if not condition.is_control]
    yield _headline(sweep, students)
    seeds = _seeds(best.psnr.count)
    between = (
        f" (95 % interval {number(best.psnr.low)} to {number(best.psnr.high)} dB)" if best.psnr.half is not None else ""
    )
    yield f"Best: {best.label}, {number(best.psnr.mean)} dB on {where(best)}, {seeds}{between}."
    held = [f"{name} {number(psnr['compared'])} dB" for name, psnr in references(sweep)]
    if held:
        yield f"Held against: {', '.join(held)} on the same images."
    if students:
        yield _against_control(sweep, students[0])
    if not best.on("validation"):
        yield "No validation set was held out, so the best was picked on the test sets themselves."
    told = students[0] if students else best
    if tests := {name: found for name, found in told.on("test").items() if name not in told.on("validation")}:
        gains = sweep.gains(told)
        listed = [
            f"{name} {estimate(psnr)} dB"
            + (f" ({estimate(gains[name], SIGNED)} against the control)" if name in gains else "")
            for name, (psnr, _) in tests.items()
        ]
        nothing = ", which chose nothing" if best.on("validation") else ""
        yield f"{told.label} on the test sets{nothing}: {', '.join(listed)}."
    if len(sweep.conditions) > 2:
        yield (
            f"The best of {len(sweep.conditions)} conditions looks better than it is, since it was picked for its "
            "result; no interval here is corrected for that."
        )


def _headline(sweep: Findings, students: Sequence[Condition]) -> str:
    """What all conditions beside their controls show together; of a single one how large its difference is."""
    if not students:
        return "Only plain training has finished so far."
    what = _what(sweep)[:1].upper() + _what(sweep)[1:]
    gains = [student.gain for student in students if student.gain is not None]
    if not gains:
        return f"{number(students[0].psnr.mean)} dB with {_what(sweep)}, and no control beside it"
    if len(gains) == 1:
        return _alone(what, gains[0])
    better, worse = (sum(g.half is not None and sign * g.mean > g.half for g in gains) for sign in (1, -1))
    low, high = min(g.mean for g in gains), max(g.mean for g in gains)
    span = f"{number(low, SIGNED)} to {number(high, SIGNED)} dB against plain training in {len(gains)} conditions"
    if all(g.half is None for g in gains):
        return f"{what} {span}, in one seed each: only a hint"
    if not better + worse:
        return f"{what} {span}: no difference shown"
    return f"{what} {span}: {better or 'none'} better and {worse or 'none'} worse beyond chance"


def _alone(what: str, gain: Estimate) -> str:
    if gain.half is None:
        return f"{what} {number(gain.mean, SIGNED)} dB against plain training, in one seed: only a hint"
    if gain.low <= 0 <= gain.high:
        return f"{what} {number(gain.mean, SIGNED)} dB: no difference to plain training shown"
    return f"{what} is {number(abs(gain.mean))} dB {'better' if gain.mean > 0 else 'worse'} than plain training"


def references(sweep: Findings) -> list[tuple[str, dict[str, float]]]:
    """Bicubic interpolation and teachers: name, and PSNR in dB by set, with `compared` for what trials go by."""
    return [
        (name, {"compared": rows.psnr} | {row.where: row.psnr for row in rows.all})
        for name, rows in sweep.references.items()
    ]  # fmt: skip


def _what(sweep: Findings) -> str:
    return "distillation" if sweep.config.get("beta") else "importance learning"


def _against_control(sweep: Findings, student: Condition) -> str:
    control, gain = sweep.control(student), student.gain
    if gain is None and sweep.config.get("beta"):
        return (
            "Its control, --rule uniform without --beta, is a sweep of its own: whether distillation helped cannot be "
            "said here."
        )
    if gain is None:
        return (
            f"No finished control (--rule uniform) has the width and a seed of {student.label}: whether importance "
            "helped cannot be said."
        )
    assert control is not None
    amount = f"{number(abs(gain.mean))} dB {'above' if gain.mean >= 0 else 'below'}"
    budget = "a round more, since from zeros round 0 trains nothing" if student.from_zeros else "same budget"
    text = f"{student.label} is {amount} its matched control, {control.label} ({budget}, w = 1)"
    if gain.half is None:
        return (
            f"{text}, with one seed. One seed says nothing about chance: another can turn a difference of this size. "
            "Several (--seed 0 1 2) would give an interval."
        )
    text += (
        f"; 95 % interval of the difference over {gain.count} pairs of the same seed: {number(gain.low, SIGNED)} to "
    )
    text += f"{number(gain.high, SIGNED)} dB. "
    if gain.low <= 0 <= gain.high:
        return text + "Zero lies in it: this sweep does not show that importance changed anything."
    return text + f"Zero lies outside: importance {'helped' if gain.mean > 0 else 'harmed'} here."


def where(condition: Condition) -> str:
    """The images on which the PSNR of a condition was measured, in words."""
    groups = condition.on("validation") or condition.on("test")
    return ("the mean of " if len(groups) > 1 else "") + _all(list(groups))


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"mean of {count} seeds"


def _all(values: Any) -> str:
    """Values in words, or the one value that there is."""
    return ", ".join(map(str, values)) if isinstance(values, list | tuple) else str(values)


def _counted(value: Any, noun: str) -> str:
    """A number of things, or the numbers that a sweep has tried."""
    return counted(value, noun) if isinstance(value, int) else f"{_all(value)} {noun}s"
