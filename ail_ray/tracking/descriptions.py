"""What MLflow tells people about a sweep and its trials: names, the question, a few parameters, the data."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from ail_ray.errors import printable
from ail_ray.learning.config import Plain, RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.told import PARAMETERS
from ail_ray.runs.preparation import EvaluationFile, Prepared
from ail_ray.runs.trial import Trial, student_name
from ail_ray.sweeps.controls import CONTROL
from ail_ray.sweeps.trials import is_range

SYMBOLS = {"rho": "ρ", "lam": "λ"}


def sweep_title(name: str, sweep: SweepConfig) -> str:
    """A sweep as a person would name it: `demo: vdsr ×2, λ 0.1 0.15, rule eq7 uniform`."""
    what = [_task(sweep), *_searched(sweep, " ", 60)]
    return printable(f"{name}: {', '.join(what)}")


def sweep_note(sweep: SweepConfig, command: str) -> str:
    """The question that a sweep asks, how it is answered, and the command that asks it again, as Markdown."""
    task, searched, c = _task(sweep), _text(", ".join(_searched(sweep, " or ", 300))), sweep.base
    question = f"What makes the best {task}: {searched}?" if searched else f"How good does this {task} become?"
    lines = [
        f"**Question.** {question}",
        f"**Command.** {_code(clipped(command, 2000))}",
        f"**Protocol.** Trained on {_text(_listed(c.train))}; rounds 0 to {c.rounds}; epochs a round: {c.epochs}; "
        f"compared on {_text(_listed(c.validation)) or 'nothing'}; "
        f"only recorded: {_text(_listed(c.test)) or 'nothing'}.",
    ]
    if CONTROL in sweep.axes.get("rule", (c.rule,)):
        lines.append("**Control.** `w=1` is the same training and budget without importance.")
    return "\n\n".join(lines)


def trial_note(name: str, run: str, note: str) -> str:
    """The note of the sweep, and in it which of its trials this is and where it is kept."""
    return f"{note}\n\n**Trial.** {_text(name)}; run directory `runs/{run}`."


def sweep_params(sweep: SweepConfig) -> Plain:
    """The values that were searched, and those of the protocol on which its numbers depend most; its files have all."""
    names = (*PARAMETERS, "network", "scales", "train", "validation", "test", "epochs", "crops", "learning_rate")
    values = {name: sweep.values[name] for name in dict.fromkeys((*names, *sweep.axes))} | {"search": sweep.search}
    if values["width"] is not None:  # then nothing reads ρ
        del values["rho"]
    shown = {key: some(list(map(str, v)), " ", 500) if isinstance(v, tuple) else v for key, v in values.items()}
    return {key: value for key, value in shown.items() if value not in ("", None)}


def trial_params(trial: Trial, config: RunConfig) -> Plain:
    """The searched values, the student and its size. The UI draws what a run lacks as if it had some value: say so."""
    values = {name: "not read" if value is None else value for name, value in trial.parameters.items()}
    if config.width is not None or config.student_width is None:
        values.pop("rho", None)
    return values | {"student": student_name(config), "student_weights": trial.cost.weights if trial.cost else None}


def datasets(sweep: SweepConfig, several: Sequence[Prepared]) -> list[DatasetInput]:
    """Training, validation and test images by name and by the digest of their contents."""
    config, found = sweep.base, list[DatasetInput]()
    for prepared in several:
        corpus = prepared.corpus
        images = {
            "images": len({pair.content for pair in corpus.pairs}), "pairs": len(corpus.pairs), "pixels": corpus.pixels,
        }  # fmt: skip
        source = {"sets": some(config.train, ", ", 50_000), "downsizes": config.downsizes, "scales": config.scales}
        name = some([Path(folder).name for folder in config.train], "+", 250)
        found += [
            _dataset("training", name, corpus.digest, source, images),
            *_evaluation("validation", prepared.validation),
            *_evaluation("testing", prepared.test),
        ]
    return found


def _evaluation(context: str, files: Iterable[EvaluationFile]) -> list[DatasetInput]:
    return [
        _dataset(
            context, f"{file.images.name} ×{file.scale}", file.path.stem,
            {"set": file.images.name, "scale": file.scale}, {"images": len(file.images.paths)},
        )
        for file in files
    ]  # fmt: skip


def _dataset(context: str, name: str, digest: str, source: Plain, profile: dict[str, int]) -> DatasetInput:
    return DatasetInput(
        Dataset(name, digest, "images", json.dumps(source), profile=json.dumps(profile)),
        [InputTag(MLFLOW_DATASET_CONTEXT, context)],
    )


def some(words: Sequence[str], between: str, longest: int) -> str:
    """Join words; if that takes more than `longest` characters, only the first, and say how many more there are."""
    text = between.join(words)
    for n in range(min(len(words), longest) - 1, 0, -1):
        if len(text) <= longest:
            break
        text = f"{between.join(words[:n])} and {len(words) - n} more"
    return clipped(text, longest)


def clipped(text: str, longest: int) -> str:
    """A text of at most `longest` characters; of a longer one the beginning, and how much is not shown."""
    if len(text) <= longest:
        return text
    kept = longest - 40
    return f"{text[:kept]}… and {len(text) - kept} characters more"


def _text(words: str) -> str:
    """Words that come from outside as Markdown that shows them and does nothing else."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", printable(words))


def _code(words: str) -> str:
    """The same as a piece of code."""
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{printable(words)}{space}{fence}"


def _searched(sweep: SweepConfig, between: str, longest: int) -> list[str]:
    """The values that are searched, such as `λ 0.1 or 0.15`, or the range that they are drawn from: `λ 0.1..0.3`.

    Values that take more than `longest` characters are counted from there on.
    """
    words = []
    for name, values in sweep.axes.items():
        joined = some([Path(str(value)).name for value in values], between, longest)
        drawn = sweep.search != "grid" and is_range(name, values)
        words.append(f"{SYMBOLS.get(name, name)} {f'{min(values)}..{max(values)}' if drawn else joined}")
    return words


def _task(sweep: SweepConfig) -> str:
    return f"{sweep.base.network} ×{','.join(map(str, sweep.base.scales))}"


def _listed(names: Iterable[str]) -> str:
    return some([Path(name).name for name in names], ", ", 500)
