"""The paper's tables: what it prints, which runs they share, our numbers beside its own, and one study run for real."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_sweep import record
from upath import UPath

from ail_ray.commands import paper as paper_tables
from ail_ray.commands import teacher as train_teacher
from ail_ray.commands.sweep import run_sweeps
from ail_ray.delivery.evaluate import benchmark
from ail_ray.errors import ConfigError
from ail_ray.files import read_record
from ail_ray.learning.config import RunConfig
from ail_ray.learning.importance import initial_importance
from ail_ray.learning.records import Row
from ail_ray.learning.weights import save_model
from ail_ray.networks.architectures import VDSR
from ail_ray.paper import study as paper
from ail_ray.paper import tables
from ail_ray.paper.figures import curves_figure, initialisation_figure, penalty_figure, pictured, students_picture
from ail_ray.paper.methods import FIGURES, METHODS, SETS, TABLES, printed
from ail_ray.paper.study import Results, Study, run
from ail_ray.paper.tables import RunTable, comparison, comparison_markdown, complexity
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import Trial

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDED = REPOSITORY / "docs" / "results" / "mini" / "runs"


def test_the_papers_numbers_are_all_there() -> None:
    there = printed()
    students = [name for table in (4, 5, 6, 7, 8) for name in TABLES[table].methods[:2]]
    for name in (*TABLES[1].methods[:4], "VDSR-f13+Distil", "VDSR", "DRRN", *students):
        for which in SETS:
            for scale in (2, 3, 4):
                decibels, similarity = there[name, which, scale]
                assert 24 < decibels < 38
                assert 0.7 < similarity < 0.97
    # PAPER_NOTES' own copy of Tables 1 and 2
    assert [there["VDSR-f13", "Set5", s][0] for s in (2, 3, 4)] == [37.18, 33.07, 30.74]
    assert [there["VDSR-f13+AIL", "Urban100", s][0] for s in (2, 3, 4)] == [30.42, 26.76, 24.87]
    assert [there["VDSR-f13+Distil", "BSD100", s][0] for s in (2, 3, 4)] == [31.65, 28.56, 27.01]
    assert len(there) == 17 * 12


def test_every_run_is_planned_once_and_has_a_matched_control() -> None:
    study = Study(tables=(1, 2, 3), scales=(2, 3), budget="mini", figures=(3, 4))
    wanted = study.experiments()
    assert len({json.dumps(e.sweep.plain) for e in wanted}) == len(wanted) == 1 + 8 * 2
    assert {name for e in wanted for name in e.sweep.axes} == {"seed"}
    by_name = {(e.method.name, e.sweep.base.scales): e.sweep for e in wanted}
    assert {scales for _, scales in by_name} == {(2, 3, 4), (2,), (3,)}, "the baseline is the paper's: all scales"
    baseline, control_of_one = by_name["VDSR-f13", (2, 3, 4)].base, by_name["VDSR-f13, w = 1", (2,)].base
    assert baseline.rounds == 0
    assert baseline.crops == 3 * (control_of_one.crops or 0) > 0, "as many of each scale"
    for (name, scales), sweep in by_name.items():
        control = METHODS[name].control
        if control is None:
            continue
        ours, theirs = sweep.base, by_name[control, scales].base
        assert (theirs.rule, theirs.restart, theirs.beta) == ("uniform", "round", 0.0)
        for field in ("epochs", "crops", "batch", "optimizer", "learning_rate", "width", "network", "start"):
            assert getattr(theirs, field) == getattr(ours, field), (name, field)
        assert ours.trained_rounds == theirs.trained_rounds, name
    seeds = {name: sweep.values["seed"] for (name, scales), sweep in by_name.items() if scales == (2,)}
    assert seeds["VDSR-f13+AIL"] == seeds["VDSR-f13, w = 1"] == (0, 1, 2)
    assert seeds["VDSR-f13+AIL, reference rule"] == (0, 1, 2)
    assert seeds["VDSR-f13+Distil"] == 0
    assert {name for methods in FIGURES.values() for name in methods} <= METHODS.keys()


def test_fsrcnn_gets_crops_of_its_scale() -> None:
    runs = [e.sweep.base for e in Study(tables=(8,), scales=(2, 3, 4)).experiments()]
    assert len(runs) == 9
    assert {(run.scales, run.crop) for run in runs} == {((2,), 42), ((3,), 42), ((4,), 44)}


def test_a_study_that_cannot_be_is_refused_with_all_problems() -> None:
    with pytest.raises(ConfigError) as refused:
        Study(tables=(9,), scales=(5, 5), seeds=(), budget="huge", teacher="none")
    names = [line.split()[0] for line in refused.value.problems]
    assert names == ["tables", "scales", "seeds", "scales", "teacher", "budget"]


def test_the_smoke_budget_lacks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path / "none"))
    study = Study()
    assert len({study.checked(e.sweep)[0].out for e in study.experiments()}) == len(study.experiments())


@pytest.mark.parametrize("job", [paper_tables.main, train_teacher.main])
def test_the_commands_refuse_and_help(job: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        job(["--scales", "7"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: scales must be")
    with pytest.raises(SystemExit) as left:
        job(["--workers", "4", "--max-workers", "2"])  # of a cluster that grows
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: max-workers is 2, but one trial needs 4")
    with pytest.raises(SystemExit) as left:
        job(["--help"])
    assert left.value.code == 0


@pytest.mark.parametrize("more", [[], ["--collect"]])
def test_where_tables_cannot_go_is_refused_before_any_run(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper_tables.paper, "run", lambda *arguments: pytest.fail("it has begun"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        paper_tables.main(["--out", str(tmp_path / "file"), "--storage", str(tmp_path / "runs"), *more])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: out: {tmp_path}/file/smoke: cannot be created (Not a directory)\n"
    assert not (tmp_path / "runs").exists()


def test_planning_makes_no_folder_for_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_tables, "plan", lambda *arguments: None)
    assert paper_tables.main(["--out", str(tmp_path / "tables"), "--plan"]) == 0
    assert not (tmp_path / "tables").exists()


@pytest.mark.long
def test_a_study_in_a_submitted_job_wants_absolute_paths() -> None:
    code = (
        "from ail_ray.paper.study import Study; from ail_ray.paper.teacher_card import Teacher\n"
        "print(Study().out_path, Teacher().to_path)\n"
        "for make in (lambda: Study(out='here'), lambda: Teacher(to='there')):\n"
        "    try: make()\n"
        "    except Exception as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    home = Path.home()
    assert run.stdout.splitlines() == [
        f"{home}/ail_out/smoke {home}/ail_out/teacher.safetensors",
        "out must be an absolute path in a submitted job, got here",
        "to must be an absolute path in a submitted job, got there",
    ]


def on_set5(psnr: float) -> tuple[Row]:
    return (Row(set="Set5", scale=2, psnr=psnr, ssim=psnr / 40),)


def trial(psnr: float) -> Trial:
    return Trial(name="", directory="", parameters={}, status="finished", test=on_set5(psnr))


def test_means_intervals_and_gains_are_over_the_seeds() -> None:
    study = Study(tables=(1,), scales=(2,))
    results: Results = {
        ("VDSR-f13+AIL", 2): {s: trial(value) for s, value in ((0, 37.0), (1, 37.1), (2, 37.2))},
        ("VDSR-f13, w = 1", 2): {s: trial(value) for s, value in ((0, 36.9), (1, 37.05), (3, 30.0))},
        ("VDSR-f13", 2): {0: trial(36.5)},
    }
    rows, missing = comparison(1, study, results)
    by_name = {row.method: row for row in rows}
    ours = by_name["VDSR-f13+AIL"]
    assert ours.psnr == pytest.approx(37.1)
    assert ours.psnr_interval == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # Student's t, 2 degrees
    assert ours.gain == pytest.approx(0.075), "over the seeds that both have"
    assert (ours.seeds, ours.gain_seeds) == ((0, 1, 2), (0, 1))
    assert ours.gain_interval == pytest.approx(12.7062 * np.std([0.1, 0.05], ddof=1) / 2**0.5, rel=1e-4)
    assert (ours.paper_psnr, ours.paper_ssim) == (37.43, 0.9591)
    assert ours.difference == pytest.approx(37.1 - 37.43)
    baseline = by_name["VDSR-f13"]
    assert (baseline.control, baseline.gain, baseline.gain_seeds, baseline.psnr_interval) == (None, None, (), None)
    for name in ("VDSR-f13+AIL+init_0", "VDSR-f13+AIL+init_r"):
        assert f"{name} ×2: no run has finished" in missing
    text = comparison_markdown(1, rows, missing, "a note")
    (line,) = (line for line in text.splitlines() if line.startswith("| VDSR-f13+AIL |"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "VDSR-f13+AIL", "Set5 ×2", "37.10 ± 0.25", "37.43", "-0.33", "+0.08 ± 0.32 (2 seeds)", "0.9275 ± 0.0062",
        "0.9591", "3",
    ]  # fmt: skip
    assert f"Missing: {missing[0]}." in text


@pytest.mark.long
def test_table_3_is_counted_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: tables.COMPLEXITY[name] for name in ("VDSR-f22", "VDSR-f13", "FSRCNN")}
    monkeypatch.setattr(tables, "COMPLEXITY", small)  # a DRRN takes minutes
    rows = {row.method: row for row in complexity(lambda line: None)}
    counts = {name: row.parameters for name, row in rows.items()}
    assert counts == {"VDSR-f22": 78_804, "VDSR-f13": 27_612, "FSRCNN": 12_809}
    for name, count in counts.items():
        paper_says = rows[name].paper_parameters
        assert paper_says == "-" or f"{count / 1000:.0f}K" == paper_says
    assert rows["VDSR-f22"].seconds > rows["FSRCNN"].seconds > 0
    assert "| 1,810 M | 115M |" in tables.complexity_markdown(list(rows.values()), "a note")


@pytest.fixture
def tiny_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The budget `smoke`, but of seconds, and no image sets but those bundled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path / "none"))
    smaller = {"downsizes": (0.25,), "crops": 8, "batch": 4, "shards": 2, "weight_decay": 1e-4, "depth": 6}
    monkeypatch.setattr(paper, "BUDGETS", {"smoke": paper.SMOKE | smaller})
    return tmp_path


@pytest.mark.long
def test_a_study_is_run_once_and_written(tiny_budget: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(tiny_budget / "teacher.safetensors")
    save_model(teacher, VDSR(width=3, depth=3))
    words = ["--tables", "2", "8", "--figures", "1", "2", "3", "4", "9", "--scales", "2", "--seeds", "1", "0"]
    words += ["--teacher", teacher, "--local", "--storage", "runs"]
    assert paper_tables.main(words) == 0
    assert capsys.readouterr().out.count("] started") == 1 + 1 + 2 + 2 + 1 + 1 + 1 + 2 + 2
    folder = tiny_budget / "docs" / "results" / "smoke"
    assert {path.name for path in folder.iterdir()} == {
        *(f"table_{number}.{kind}" for number in (2, 8) for kind in ("json", "md")),
        *(f"figure_{number}.png" for number in (1, 2, 3, 4, 9)),
    }
    table = json.loads((folder / "table_8.json").read_text())
    assert [row["method"] for row in table["rows"]] == ["FSRCNN", "FSRCNN+AIL", "FSRCNN, w = 1"]
    assert {row["set"] for row in table["rows"]} == {"sample-val"}
    assert table["missing"] == ["Set5, Set14, BSD100, Urban100: not measured at this budget"]
    assert "4 runs" in table["note"], "two seeds of AIL and of its control, whose round 0 is the baseline"
    study = Study(tables=(2, 8), figures=(1, 2, 3, 4, 9), scales=(2,), seeds=(1, 0), teacher=teacher, local=True,
                  storage="runs")  # fmt: skip
    said: list[str] = []
    results = run(study, "a command", said.append, run_sweeps)
    assert sum(line.endswith(": there") for line in said) == len(said) == 9
    for (name, scale), trials in results.items():
        assert sorted(trials) == ([0, 1] if METHODS[name].every_seed else [1])
        if scale == 2:
            for trial in trials.values():
                (row,) = (row for row in trial.test if row.scale == 2)
                (measured,) = benchmark(
                    trial.weights, ["sample-val"], [2], precision="fp32", device="cpu", say=said.append
                )
                assert row.psnr == pytest.approx(measured.psnr, abs=1e-6), name
    for name, methods in (("figure_4", FIGURES[4]), ("figure_9", FIGURES[9])):
        expected = {f"teacher {teacher}": teacher}
        expected |= {method: results[method, 2][1].weights for method in methods}  # the first seed given, not the best
        assert (folder / f"{name}.png").read_bytes() == students_picture(expected, pictured(2))
    # Manifest, records and last student are all of a run that a table needs: what docs/results keeps.
    for (_, _), trials in results.items():
        for trial in trials.values():
            source = Path(trial.directory)
            kept = [source / "manifest.json", max(source.glob("manifests/*")), *source.glob("rounds/*.json"),
                    max(source.glob("students/*"))]  # fmt: skip
            for file in kept:
                to = tiny_budget / "kept" / "runs" / source.name / file.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(file.read_bytes())
    kept_study = replace(study, storage="kept", tables=(8,), figures=())
    kept_results = run(kept_study, "a command", said.append, run_sweeps)
    assert comparison(8, study, kept_results) == comparison(8, study, results)
    assert not any("started" in line for line in said)
    shutil.rmtree(kept_results["FSRCNN+AIL", 2][0].directory)  # the other run of that sweep is not trained again
    completed = run(kept_study, "a command", said.append, run_sweeps)
    assert completed["FSRCNN+AIL", 2][0].test == results["FSRCNN+AIL", 2][0].test
    assert [line.count("seed=1") for line in said if "is finished already" in line] == [1]
    assert sum("crops/s" in line for line in said) == 2, "rounds 0 and 1 of seed 0"
    assert not any("damaged" in line or "not whole" in line for line in said)
    # Nothing to collect: what is written stays as it is.
    tables_before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert paper_tables.main([*words[:-1], "nowhere", "--collect"]) == 0
    assert capsys.readouterr().out.count("not written, no run has finished") == 2
    assert list((tiny_budget / "nowhere").iterdir()) == []
    assert {path: path.read_bytes() for path in folder.glob("*.[jm]*")} == {
        path: data for path, data in tables_before.items() if path.suffix != ".png"
    }
    # Killed in the middle: one run has not ended, the summary of its sweep does not know; of another a record is bad.
    lost = RunDirectory(UPath(results["FSRCNN+AIL", 2][0].directory))
    lost.manifests.write(replace(lost.manifest(), last_round=0))
    other = RunDirectory(UPath(results["FSRCNN, w = 1", 2][0].directory))
    other.manifests.write(replace(other.manifest(), record=None))  # as in runs of the older format
    other.record_path(1).write_bytes(other.record_path(1).read_bytes()[:100])
    so_far: list[str] = []
    partial = run(replace(study, collect=True), "a command", so_far.append, run_sweeps)
    assert "FSRCNN+AIL ×2, seeds 1 0: there for 1" in so_far
    assert sum(line.endswith(": there") for line in so_far) == 7 == len(so_far) - 2, "nothing is run"
    damaged = ("FSRCNN+AIL", "FSRCNN, w = 1")
    assert partial == results | {(name, 2): {1: results[name, 2][1]} for name in damaged}
    assert "FSRCNN+AIL ×2: not finished with seed 0" in comparison(8, study, partial)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "costs", lambda job: [f"cost of seed {job.sweep.values['seed']}"])
        planned: list[str] = []
        paper.plan(study, planned.append)
    assert sum(line == "cost of seed 0" for line in planned) == 2 == len(planned) - 9, "of what is missing"
    again: list[str] = []
    whole = run(study, "a command", again.append, run_sweeps)
    assert whole.keys() == results.keys()
    trained = [((name, 2), 0) for name in damaged]  # again, so their times are others
    for where, trials in whole.items():
        assert {s: t for s, t in trials.items() if (where, s) not in trained} == {
            s: t for s, t in results[where].items() if (where, s) not in trained
        }
    assert all(whole[where][0].test == results[where][0].test for where, _ in trained)
    assert sum(line.endswith(": there") for line in again) == 7
    assert sum("] started" in line or "] is finished already" in line for line in again) == 4, (
        "of the sweeps that are not whole"
    )
    firsts = [found[where][0].records[0] for found in (results, whole) for where, _ in trained]
    assert firsts[:2] == firsts[2:], "only what is missing is trained"
    assert sum("round 1:" in line and "crops/s" in line for line in again) == 2
    assert sum("round 1 is not whole; going on after round 0" in line for line in again) == 1
    before = {e.method.name: study.checked(e.sweep)[0].out for e in study.experiments()}
    save_model(teacher, VDSR(width=3, depth=4))  # another teacher in the same file: other runs of what reads it
    changed = {e.method.name for e in study.experiments() if study.checked(e.sweep)[0].out != before[e.method.name]}
    assert changed == {"VDSR-f13+AIL", "VDSR-f13+Distil", "FSRCNN+AIL"}


def test_the_penaltys_minimum_is_eq_7() -> None:
    (axes,) = penalty_figure(d=0.1, lam=0.1).axes
    for penalty, objective, best in zip(axes.lines[0::3], axes.lines[1::3], axes.lines[2::3], strict=True):
        w, value = np.asarray(objective.get_xdata()), np.asarray(objective.get_ydata())
        assert best.get_xdata()[0] == pytest.approx(w[value.argmin()], abs=2e-3)  # type: ignore[index]
        assert best.get_ydata()[0] == pytest.approx(value.min(), abs=1e-5)  # type: ignore[index]
        np.testing.assert_allclose(value - 0.1 * w, penalty.get_ydata())


def test_the_curves_are_the_records_means() -> None:
    def records(*psnrs: float) -> list[RoundRecord]:
        return [replace(record(RunConfig(), t, psnr), test=on_set5(psnr)) for t, psnr in enumerate(psnrs)]

    figure = curves_figure({"a": [records(30, 31, 32), records(32, 33, 36)], "a+init_0": [records(8, 30, 31)]})
    axes, similarity = figure.axes
    a, zero = axes.lines
    assert (list(a.get_xdata()), list(a.get_ydata())) == ([0, 1, 2], [31, 32, 34])
    assert (list(zero.get_xdata()), list(zero.get_ydata())) == ([1, 2], [30, 31]), "round 0 trains nothing"
    assert [line.get_label() for line in axes.lines] == ["a, mean of 2", "a+init_0"]
    assert axes.get_title() == similarity.get_title() == "Set5 ×2"
    assert list(similarity.lines[0].get_ydata()) == pytest.approx([31 / 40, 32 / 40, 34 / 40])


def test_figure_2_shows_the_importance_that_runs_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIL_DATA_DIR", raising=False)
    teacher, images = VDSR(2, 2), pictured(2)
    curves, image, error, importance = initialisation_figure(teacher, images).axes
    with torch.no_grad():
        sr = teacher(torch.from_numpy(images.bicubic[0])[None, None])[0, 0].numpy()
    expected = np.abs(images.hr[0] / 255.0 - sr)
    np.testing.assert_array_equal(image.images[0].get_array(), images.hr[0])
    np.testing.assert_allclose(error.images[0].get_array(), expected, atol=1e-6)
    np.testing.assert_allclose(importance.images[0].get_array(), initial_importance(expected), atol=1e-4)
    assert len(curves.lines) == 4


@pytest.mark.parametrize("number", [1, 2, 8])
def test_a_table_of_the_docs_comes_from_the_runs_beside_it(
    number: int, data_dir: Path, teacher_path: Path, tmp_path: Path
) -> None:
    folder = REPOSITORY / "docs" / "results" / "mini"
    shutil.copytree(folder / "runs", tmp_path / "runs")
    study = Study(tables=(number,), scales=(2,), budget="mini", teacher=teacher_path.stem, local=True, collect=True,
                  storage=str(tmp_path))  # fmt: skip
    rows, missing = comparison(number, study, run(study, "a command", lambda line: None, run_sweeps))
    written = read_record(UPath(folder / f"table_{number}.json"), RunTable)
    assert rows
    assert (written.rows, written.missing) == (tuple(rows), tuple(missing))


def test_a_budget_states_every_value_itself() -> None:
    """Whatever becomes of presets and defaults: a study finds its runs again."""
    stated_elsewhere = {"teacher", "seed", "arguments"} | {"width", "rho"}  # every student is given by its width
    for budget in paper.BUDGETS.values():
        assert budget.keys() == {field.name for field in fields(RunConfig)} - stated_elsewhere
    assert all(method.student["width"] for method in METHODS.values())


def test_the_recorded_runs_are_found(
    data_dir: Path, teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIL_DATA_DIR", str(data_dir))
    recorded = {path.name for path in RECORDED.iterdir()}
    found = set()
    for numbers, seeds in (((1, 2), (0, 1, 2)), ((8,), (0,))):
        study = Study(
            tables=numbers, budget="mini", scales=(2,), seeds=seeds, teacher=str(teacher_path), collect=True,
            storage=str(tmp_path),
        )  # fmt: skip
        found |= {run.path.name for each in study.experiments() for run in study.checked(each.sweep)[1].values()}
    assert recorded - found == {"d203623dec2b3e80", "a8865e6175dcfca4"}, "the longest run, which no table has"
