"""The commands in the docs: each is understood by the program it names; the tutorial's are run, in its order."""

import importlib
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from PIL import Image
from skimage import data
from upath import UPath

from ail_ray.imaging.recipes import Recipe
from ail_ray.learning import losses, rules
from ail_ray.networks.code import resolve
from ail_ray.runs.trial import Trial, trials_in

REPOSITORY = Path(__file__).parents[1]
DOCS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("cluster/*.md")])
ELSEWHERE = {"cp", "mkdir", "docker", "aws", "gcloud", "kubectl", "$EDITOR", "source", "export", "ls", "bash"}
"""Programs of others, or of the shell: of these only the files they name are looked for."""
SMALL = "--depth 4 --downsizes 0.5 --shards 2 --rounds 1 --epochs 1 --crops 256 --local"
"""What the test adds to a sweep of the tutorial."""


class ParsedError(Exception):
    """A job has understood its command line and would start now."""


def commands(path: Path) -> Iterator[str]:
    """The lines of a page's blocks marked `sh`, continued ones joined, without remarks."""
    for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if words := re.sub(r"(^|\s)# .*|\s# .*", "", line).strip():
                yield words


ALL = [pytest.param(path, line, id=f"{path.name}: {line[:70]}") for path in DOCS for line in commands(path)]


def test_every_block_says_what_it_is() -> None:
    for path in DOCS:
        fences = re.findall(r"^```(.*)$", path.read_text(), flags=re.MULTILINE)
        assert set(fences[0::2]) <= {"sh", "text", "python", "yaml"}, path
        assert set(fences[1::2]) <= {""}, path
    assert len(ALL) > 40


def test_what_is_written_in_yaml_is_a_recipe(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "REAL_PICTURES.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "recipe.yaml").write_text(block)
    assert len(Recipe.of(str(tmp_path / "recipe.yaml")).steps) == 4


def test_the_readme_has_a_line_for_every_file() -> None:
    tree = re.findall(
        r"^ *(\S+\.(?:py|tsv|html|css|js)) {2,}\w",
        (REPOSITORY / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    there = [path for folder in ("ail_ray", "jobs") for path in (REPOSITORY / folder).rglob("*.*")]
    names = [path.name for path in there if path.suffix in (".py", ".tsv", ".html", ".css", ".js")]
    assert sorted(tree) == sorted(name for name in names if name != "__init__.py")


@pytest.mark.parametrize(("path", "line"), ALL)
def test_a_command_is_understood(path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    match words:
        case ["python", job, *options] if job.startswith("jobs/"):
            understood_by_job(job, options, monkeypatch)
        case ["python", script, *_]:
            assert Path(script).exists()
        case ["ray", *options]:
            from ray.scripts.scripts import cli

            understood_by_click(cli, options)
            if "--" in options:
                test_a_command_is_understood(path, shlex.join(options[options.index("--") + 1 :]), monkeypatch)
        case ["mlflow", *options]:
            from mlflow.cli import cli

            understood_by_click(cli, options)
        case ["make", *targets]:
            assert subprocess.run(["make", "-n", *targets], capture_output=True, check=False).returncode == 0
        case [program, *options]:
            assert program in ELSEWHERE
            assert all(Path(word).exists() for word in options if word.startswith(("cluster/", ".ci/", "docs/")))


def understood_by_job(job: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of the job's command takes the words; nothing is started."""
    started = re.findall(r'start\("([\w-]+)"\)', (REPOSITORY / job).read_text(encoding="utf-8"))
    module = importlib.import_module(f"ail_ray.commands.{started[0].replace('-', '_')}")
    parse = module.parse

    def parse_only(*arguments: Any, **named: Any) -> NoReturn:
        parse(*arguments, **named)
        raise ParsedError

    monkeypatch.setattr(module, "parse", parse_only)
    with pytest.raises(ParsedError):
        module.main(options)


def understood_by_click(command: click.Command, words: list[str]) -> None:
    """Subcommands exist and take these options; nothing is started."""
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_parser(context).parse_args(words)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with some photographs, as the tutorial's reader has."""
    for folder, names in (("photos", ("astronaut", "coffee")), ("photos-held-back", ("chelsea",))):
        (tmp_path / folder).mkdir()
        for name in names:
            picture = Image.fromarray(getattr(data, name)()[60:220, 60:260])  # small, for speed
            picture.save(tmp_path / folder / f"{name}.png")
    (tmp_path / "jobs").symlink_to(REPOSITORY / "jobs")
    return tmp_path


@pytest.mark.long
def test_the_tutorial_can_be_followed(home: Path) -> None:
    environment = os.environ | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = 0
    for line in commands(REPOSITORY / "docs" / "TUTORIAL.md"):
        if line.startswith(("make", "source", "mlflow")):
            continue
        small = f"{line} {SMALL}" if "ail_sweep.py" in line else line
        ran = subprocess.run(
            ["bash", "-c", small], cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{small}\n{ran.stdout}\n{ran.stderr}"
        done += 1
    assert done == 9
    assert (home / "ail_out" / "report.html").stat().st_size > 10_000
    assert [path.suffix for path in (home / "enlarged").iterdir()] == [".png"]
    assert sum(path.suffix == ".onnx" for path in (home / "phone").iterdir()) == 3


def test_what_the_commands_of_the_docs_write_is_neither_committed_nor_uploaded() -> None:
    written = {folder for path in DOCS for line in commands(path) for folder in _outputs(line)}
    assert {"ail_out", "enlarged", "phone"} <= written
    for name in (".gitignore", ".rayignore"):
        ignored = {line.strip("/") for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines()}
        assert written <= ignored, name


def _outputs(line: str) -> Iterator[str]:
    """The folders of the checkout that a command writes into."""
    words = shlex.split(line)
    if words[0] == "python":
        for flag, value in itertools.pairwise(words):
            if flag == "--out" and not value.startswith(("/", "~", "docs/")) and "://" not in value:
                yield value.split("/")[0]


def test_the_code_in_the_docs_is_a_rule_and_a_loss(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "OWN_CODE.md").read_text(encoding="utf-8")
    rule, loss = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "own.py").write_text(rule + loss)
    assert rules.problems_of(resolve(f"{tmp_path}/own.py:slower", "rule"), (), 0.01, 0.15) == []
    assert losses.problems_of(resolve(f"{tmp_path}/own.py:log_cosh", "loss"), ()) == []


def test_the_table_of_losses_is_that_of_its_records() -> None:
    page = (REPOSITORY / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    table = page.split("## A robust loss in place of a teacher")[1]
    rows = re.findall(
        r"^\| (he|identity) \| ([\d.]+) \| (.+?) \| ([\d ]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE
    )
    assert len(rows) >= 12
    found: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials_in(UPath(REPOSITORY / "docs" / "results" / "losses")):
        assert trial.manifest
        c = trial.manifest.config
        teacher = "" if c.rule == "uniform" else f" with `{c.teacher}`"
        found.setdefault((c.init, f"{c.learning_rate:g}", f"{c.loss}, `{c.rule}`{teacher}"), []).append(trial)
    assert {(start, rate, name) for start, rate, name, *_ in rows} == found.keys()
    for start, rate, name, seeds, validation, test in rows:
        trials = sorted(found[start, rate, name], key=lambda trial: trial.parameters["seed"])  # type: ignore[arg-type, return-value]
        assert seeds == " ".join(str(trial.parameters["seed"]) for trial in trials)
        for printed, row in (
            (validation, [t.validation[0].psnr for t in trials]),
            (test, [t.test[0].psnr for t in trials]),
        ):
            assert f"{sum(row) / len(row):.2f}" == printed
    pairs = re.findall(r"^\| (he|identity), ([\d.]+) \| (.+?) \| (.+? ± .+?) \| (.+? ± .+?) \|$", table, re.MULTILINE)
    whole = [key for key, trials in found.items() if len(trials) == 3 and key[2] != "squared, `uniform`"]
    named = {f"{loss}, `uniform`": loss for loss in ("absolute", "huber")}
    assert {pair[:3] for pair in pairs} == {(*key[:2], named.get(key[2], key[2][9:])) for key in whole}
    for key in whole:
        (printed,) = (pair[3:] for pair in pairs if pair[:3] == (*key[:2], named.get(key[2], key[2][9:])))
        ours, control = (
            sorted(found[each], key=lambda trial: trial.seed) for each in (key, (*key[:2], "squared, `uniform`"))
        )
        for said, kind in zip(printed, ("validation", "test"), strict=True):
            gains = [getattr(a, kind)[0].psnr - getattr(b, kind)[0].psnr for a, b in zip(ours, control, strict=True)]
            mean, half = statistics.mean(gains), 4.3027 * statistics.stdev(gains) / 3**0.5
            assert [float(word) for word in said.split(" ± ")] == pytest.approx([mean, half], abs=0.0051)


def test_the_tables_of_a_network_for_phones_are_those_of_their_records() -> None:
    page = (REPOSITORY / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    text = page.split("## A network made for phones")[1].split("\n## ")[0]
    rates, found = (0.001, 0.003, 0.01), dict[tuple[str, float, int], Trial]()
    for folder in ("losses", "init", "phone"):  # VDSR's are older; those of `init` have Set14 too
        for trial in trials_in(UPath(REPOSITORY / "docs" / "results" / folder)):
            assert trial.manifest
            c = trial.manifest.config
            if (c.init, c.rule, c.loss) == ("identity", "uniform", "squared"):
                assert (c.crops, c.epochs, c.scales) == (3273, 2, (2,))
                found[c.network, c.learning_rate, c.seed] = trial

    def after(trial: Trial, crops: str) -> list[float]:
        """PSNR on BSDS200-val and on the test sets after the round by which there were so many crops."""
        (record,) = [row for row in trial.records if f"{(row.round + 1) * 6.546:.0f},000" == crops]
        return [row.psnr for row in (*record.validation, *record.test)]

    cell = r" \| ([\d.]+)"
    grid = re.findall(r"^\| `(\w+)` \| ([\d,]+)" + 3 * cell + r" \|$", text, re.MULTILINE)
    assert [name for name, *_ in grid] == ["vdsr", "fsrcnn", "abpn"]
    for name, crops, *printed in grid:
        assert printed == [f"{after(found[name, rate, 0], crops)[0]:.2f}" for rate in rates]
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d,]+) \| ([\d ]+)" + 3 * cell + r" \|$", text, re.MULTILINE)
    assert {name for name, *_ in rows} == {"vdsr", "fsrcnn", "abpn"}
    for name, rate, crops, seeds, *printed in rows:
        columns = zip(*(after(found[name, float(rate), int(seed)], crops) for seed in seeds.split()), strict=True)
        assert printed == [f"{statistics.mean(column):.2f}" for column in columns]


def test_the_filters_are_measured_on_noise_of_this_sigma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs" / "examples"))
    Image.fromarray(data.camera()[200:296, 200:296]).save(tmp_path / "camera.png")
    importlib.import_module("filters").main(25, [str(tmp_path)])
    found = {line.split(": ")[1]: float(line.split(": ")[2][:-3]) for line in capsys.readouterr().out.splitlines()}
    assert 20 < found["noisy"] < 22, "of 8 bits, so that some noise is clipped"
    assert found["median 3×3"] > found["noisy"] + 2
    assert max(value for name, value in found.items() if name.startswith("non-local")) > found["noisy"] + 4


def test_the_tables_of_restoration_are_those_of_their_records() -> None:
    page = (REPOSITORY / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    text = page.split("## Pictures that are worse than small")[1]
    folder, found = REPOSITORY / "docs" / "results" / "restoration", dict[str, list[Trial]]()
    for trial in trials_in(UPath(folder)):
        assert trial.manifest
        assert trial.status in ("finished", "stopped")
        c = trial.manifest.config
        assert trial.rounds == c.rounds
        found.setdefault(f"{c.degrade} {c.width} {c.rule}", []).append(trial)
    noise, recipe = "luma,noise=25..25", "blur=0.2..1.5,noise=0..10,jpeg=60..95"
    rows = {
        "VDSR-f32, 297,000 crops, 49 minutes of two cores": found.pop(f"{noise} 32 uniform"),
        "VDSR-f13, 72,000 crops, `uniform`": found.pop(f"{noise} None uniform"),
        "VDSR-f13, 72,000 crops, `eq7` with that VDSR-f32": found.pop(f"{noise} None eq7"),
        "the recipe": found.pop(f"{recipe} None uniform"),
    }
    compressed = found.pop("luma,jpeg=20..20 None uniform")
    assert not found

    def mean(trials: list[Trial], name: str) -> float:
        return statistics.mean(row.psnr for trial in trials for row in trial.all if row.set == name)

    def spoilt(trials: list[Trial], name: str) -> float:
        (psnr,) = {row.psnr for row in trials[0].references["bicubic"].all if row.set == name}
        return psnr

    def line(name: str, seeds: str, values: list[float]) -> str:
        return f"| {name} | {seeds} | {' | '.join(f'{value:.2f}' for value in values)} |"

    for name, trials in rows.items():
        sets = ["BSDS200-val", "Set5", "Set14"] if name == "the recipe" else ["BSDS200-val", "Set14"]
        seeds = " ".join(sorted(str(trial.seed) for trial in trials))
        assert line(name, seeds, [mean(trials, each) for each in sets]) in text
    noisy = [spoilt(rows["VDSR-f13, 72,000 crops, `uniform`"], n) for n in ("BSDS200-val", "Set14")]
    assert line("the noisy picture", "", noisy).replace("  ", " ") in text
    others = json.loads((folder / "bicubic-under-recipe.json").read_text())
    for n, gain in zip(("BSDS200-val", "Set5", "Set14"), re.findall(r"[+-][\d.]+ ± [\d.]+", text)[2:5], strict=True):
        before = {row["seed"]: row["psnr"] for row in others if row["set"] == n}
        assert f"{statistics.mean(before.values()):.2f}" in text
        gains = [row.psnr - before[t.seed] for t in rows["the recipe"] for row in t.all if row.set == n]
        half = 4.3027 * statistics.stdev(gains) / 3**0.5
        assert [float(word) for word in gain.split(" ± ")] == pytest.approx([statistics.mean(gains), half], abs=0.0051)
    for n in ("BSDS200-val", "Set14"):
        assert f"{spoilt(compressed, n):.2f}" in text
        assert f"{mean(compressed, n):.2f}" in text
    eq7, control = (sorted(rows[name], key=lambda t: t.seed) for name in (list(rows)[2], list(rows)[1]))
    for n, gain in zip(("BSDS200-val", "Set14"), re.findall(r"[+-][\d.]+ ± [\d.]+", text)[:2], strict=True):
        gains = [mean([x], n) - mean([y], n) for x, y in zip(eq7, control, strict=True)]
        half = 4.3027 * statistics.stdev(gains) / 3**0.5
        assert [float(word) for word in gain.split(" ± ")] == pytest.approx([statistics.mean(gains), half], abs=0.0051)
