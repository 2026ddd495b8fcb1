"""What a sweep found: intervals as worked out by hand, each student beside its own control, sentences that fit."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from made_sweep import AIL, CONTROL, MadeSweep, rows
from upath import UPath

from ail_ray.commands import report
from ail_ray.files import read_json, write_json
from ail_ray.networks.architectures import VDSR
from ail_ray.networks.counts import parameter_count
from ail_ray.reporting import sentences
from ail_ray.reporting.findings import findings
from ail_ray.reporting.sweep_page import sweep_page
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.controls import Estimate
from ail_ray.sweeps.sweep_file import Summary, write_summary

T2 = 4.302653  # Student's t, 97.5 %, 2 degrees of freedom


def said(sweep: MadeSweep) -> str:
    return "\n".join(sentences.answers(findings(sweep.out)))


def test_intervals_are_students_and_differences_go_seed_by_seed(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.seeds([30.0, 30.2, 30.1], **AIL)
    sweep.seeds([29.9, 30.0, 30.1], **CONTROL)
    ours, control = findings(sweep.out).conditions
    assert (ours.label, control.label) == ("vdsr-f13 ×2 λ=0.15 teacher=tiny", "vdsr-f13 ×2 w=1 (control)")
    assert (ours.psnr.mean, ours.psnr.count) == (pytest.approx(30.1), 3)
    assert ours.psnr.half == pytest.approx(T2 * 0.1 / 3**0.5, rel=1e-5)  # 0.2484
    assert ours.gain is not None
    assert ours.gain.mean == pytest.approx(0.1)
    assert ours.gain.half == pytest.approx(T2 * 0.1 / 3**0.5, rel=1e-5)  # of 0.1, 0.2 and 0.0
    assert control.gain is None
    assert ours.size == parameter_count(VDSR(13, 4))
    assert ours.on("test")["Set5 ×2"][0].mean == pytest.approx(33.1)
    assert findings(sweep.out).gains(ours)["Set5 ×2"].half == pytest.approx(ours.gain.half)
    assert findings(sweep.out).gains(control) == {}
    text = said(sweep)
    assert text.startswith("Importance learning +0.10 dB: no difference to plain training shown\n")
    assert "30.10 dB on val ×2, mean of 3 seeds (95 % interval 29.85 to 30.35 dB)" in text
    on_test = "λ=0.15 teacher=tiny on the test sets, which chose nothing: Set5 ×2 33.10 ± 0.25 dB"
    assert f"{on_test} (+0.10 ± 0.25 against the control)." in text
    assert "over 3 pairs of the same seed: −0.15 to +0.35 dB. Zero lies in it" in text


@pytest.mark.parametrize(
    ("sign", "headline", "effect"), [(1, "0.11 dB better", "helped"), (-1, "0.11 dB worse", "harmed")]
)
def test_a_difference_beyond_its_interval_is_called_one(tmp_path: Path, sign: int, headline: str, effect: str) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.seeds([30 + sign * 0.10, 29 + sign * 0.11, 31 + sign * 0.12], **AIL)
    sweep.seeds([30.0, 29.0, 31.0], **CONTROL)  # seeds differ by far more than conditions do
    assert f"is {headline} than plain training" in said(sweep)
    assert f"importance {effect} here" in said(sweep)


@pytest.mark.parametrize(
    ("teacher", "budget"),
    [("tiny", "same budget, w = 1"), ("none", "a round more, since from zeros round 0 trains nothing, w = 1")],
)
def test_what_the_control_had_is_said(tmp_path: Path, teacher: str, budget: str) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.seeds([31.0], rule="eq7", teacher=teacher)
    sweep.seeds([30.0], **CONTROL)
    assert f"its matched control, vdsr-f13 ×2 w=1 (control) ({budget})" in said(sweep)


def test_distillation_has_its_control_elsewhere(tmp_path: Path) -> None:
    distillation = {"rule": "uniform", "beta": 0.1}  # of which RunConfig lets no other rule be
    sweep = MadeSweep(tmp_path, **distillation)
    sweep.seeds([31.0], teacher="vdsr")
    assert "with distillation, and no control beside it" in said(sweep)
    assert "is a sweep of its own: whether distillation helped cannot be said here" in said(sweep)
    assert "importance" not in said(sweep)


def test_one_seed_is_no_evidence(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.seeds([31.0], **AIL)
    sweep.seeds([30.0], **CONTROL)
    ours = findings(sweep.out).conditions[0]
    assert (ours.psnr.half, ours.gain) == (None, Estimate(mean=1.0, half=None, count=1))
    assert "in one seed: only a hint" in said(sweep)
    assert "One seed says nothing about chance" in said(sweep)
    assert "interval 3" not in said(sweep)


def test_a_control_is_matched_by_width_and_seed(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.seeds([30.0], width=8, **AIL)
    sweep.seeds([29.0], width=13, **CONTROL)
    sweep.trial(1, 2, 28.0, width=8, seed=7, **CONTROL)
    sweep.trial(1, 2, width=8, seed=0, **CONTROL)  # stopped: another budget
    found = findings(sweep.out)
    assert [condition.gain for condition in found.conditions] == [None] * 3
    assert "whether importance helped cannot be said" in said(sweep)


def test_what_only_plain_training_found_is_no_result(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    assert said(sweep) == "No trial has finished: there is nothing to compare yet."
    assert sentences.state(findings(sweep.out)) == (
        "Not over yet. 6 trials: none has begun. Nobody works on a trial just now: it makes teachers ready, or "
        "has been killed."
    )
    sweep.seeds([29.0], **CONTROL)
    assert said(sweep).startswith("Only plain training has finished so far.")
    sweep.ledger.close("stopped")
    assert sentences.state(findings(sweep.out)).startswith("Stopped before its end. 6 trials: 1 finished, 5 not begun.")


def test_without_validation_images_it_says_what_chose(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path, validation=())
    sweep.seeds([30.0, 31.0], **AIL)
    assert findings(sweep.out).conditions[0].psnr.mean == pytest.approx(33.5)  # the test set's
    assert "picked on the test sets themselves" in said(sweep)


def test_a_set_that_chose_is_no_test_set(tmp_path: Path) -> None:
    both, same = MadeSweep(tmp_path / "both", test=("val", "Set5")), MadeSweep(tmp_path / "same", test=("val",))
    for sweep in (both, same):
        sweep.seeds([30.0, 31.0], **AIL)
    (line,) = (line for line in said(both).splitlines() if "chose nothing" in line)
    assert "on the test sets, which chose nothing: Set5 ×2 33.50 ± " in line
    assert "val" not in line
    assert "chose nothing" not in said(same)


def test_every_trial_has_its_state(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.trial(28, 29, 30, seed=0, **AIL)
    sweep.trial(28, 29, seed=1, **AIL)
    failed, damaged, gone = (sweep.trial(28, 29, seed=seed, **AIL) for seed in (2, 3, 4))
    sweep.ledger.failed(str(failed.path), "the loss is nan")
    write_json(damaged.record_path(1), {"round": 1})
    shutil.rmtree(str(gone.path))
    found = findings(sweep.out)
    trials = {trial.seed: trial for trial in found.trials}
    assert {seed: trial.status for seed, trial in trials.items()} == {
        0: "finished", 1: "stopped", 2: "failed", 3: "unreadable", 4: "unreadable",
    }  # fmt: skip
    assert trials[2].reason == "the loss is nan"
    assert "round-001.json: damaged" in trials[3].reason
    assert found.gone == {trials[4].directory}


def test_runs_that_are_gone_leave_the_numbers_of_the_summary(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    run = sweep.trial(28, 29, 30, **AIL)
    entry = msgspec.to_builtins(sweep.ledger.content.trials[0])  # as versions before this one wrote it
    del entry["reason"]
    entry |= {"status": "finished", "validation": [{"set": "val", "scale": 2, "psnr": 30.0, "ssim": 0.9}], "test": []}
    write_json(sweep.out / "summary.json", {"trials": [entry]})
    shutil.rmtree(str(run.path))
    found = findings(sweep.out)
    (condition,) = found.conditions
    assert condition.psnr.mean == 30.0
    assert condition.trials[0].directory in found.gone


def test_a_folder_may_be_looked_at_elsewhere_and_runs_may_have_gone_further(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path / "there", rounds=1)
    sweep.trial(28, 29, 35, **AIL)  # a later sweep asked for more rounds of the same run
    (tmp_path / "there").rename(tmp_path / "here")
    (trial,) = findings(UPath(tmp_path / "here")).trials
    assert (trial.status, trial.psnr, len(trial.records)) == ("finished", 29.0, 2)


@pytest.mark.parametrize(("value", "form", "text"), [
    (-0.123, sentences.SIGNED, "−0.12"), (0.004, sentences.SIGNED, "±0.00"), (-0.004, sentences.SIGNED, "±0.00"),
    (-0.004, sentences.PLAIN, "0.00"), (31.005, sentences.PLAIN, "31.00"), (2.5, sentences.SIGNED, "+2.50"),
])  # fmt: skip
def test_numbers_have_a_real_minus_and_zero_no_sign(value: float, form: str, text: str) -> None:
    assert sentences.number(value, form) == text


def test_the_headline_speaks_of_all_conditions(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.seeds([30.5, 30.6, 30.55], **AIL)
    sweep.seeds([29.0, 29.1, 29.05], **AIL | {"lam": 0.3})
    sweep.seeds([30.0, 30.1, 30.05], **CONTROL)
    both = "−1.00 to +0.50 dB against plain training in 2 conditions: 1 better and 1 worse beyond chance"
    assert said(sweep).splitlines()[0] == f"Importance learning {both}"


def test_bicubic_and_teacher_stand_beside_the_students(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    run = sweep.trial(28.0, 29.0, 30.0, seed=0, **AIL)
    assert findings(sweep.out).references == {}, "as in a sweep of before"
    held = rows(30.0, 33.66)
    run.manifests.write(replace(run.manifest(), references={"bicubic": held, "teacher": held}))
    found = findings(sweep.out)
    assert found.references == {"bicubic": held, "teacher=tiny": held}
    assert found.trials[0].useless == "it ends at or below bicubic interpolation"
    assert "Held against: bicubic 30.00 dB, teacher=tiny 30.00 dB on the same images." in said(sweep)


def test_runs_that_are_gone_keep_what_the_summary_says_of_them(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    run = sweep.trial(28, 29, 30, **AIL)
    (begun,) = sweep.ledger.content.trials
    entry = Trial(
        name=begun.name, directory=begun.directory, parameters=begun.parameters, status="finished",
        validation=rows(30.0).validation, dead=("layers.3",), below_bicubic=True,
    )  # fmt: skip
    write_summary(sweep.out / "summary.json", Summary(trials=(entry,), references={"bicubic": rows(30.0)}))
    shutil.rmtree(str(run.path))
    found = findings(sweep.out)
    assert found.references == {"bicubic": rows(30.0)}
    useless = "layers.3 lets nothing through: the student is dead; it ends at or below bicubic interpolation"
    assert found.trials[0].useless == useless
    assert "1 finished (1 of them of no use: dead, or at or below bicubic)" in sentences.state(found)


def test_every_set_that_was_measured_has_its_difference_with_an_interval(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path, validation=("val", "other"), test=("Set5", "Set14"))
    sweep.seeds([30.0, 30.2, 30.1], **AIL)
    sweep.seeds([29.9, 30.0, 30.1], **CONTROL)
    found = findings(sweep.out)
    gains = found.gains(found.conditions[0])
    assert set(gains) == {"val ×2", "other ×2", "Set5 ×2", "Set14 ×2"}
    assert {round(gain.half or 0, 4) for gain in gains.values()} == {round(T2 * 0.1 / 3**0.5, 4)}


def test_a_sweep_over_any_field_can_be_told(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    several = {"network": ["vdsr", "drrn"], "rounds": [1, 2], "epochs": [1, 2], "crops": [64, 128], "crop": [41, 48]}
    several |= {"validation": [["val"], ["other"]], "test": [["Set5"], ["Set14"]]}
    sweep.ledger._write(config=sweep.ledger.content.config | several)
    sweep.trial(28, 29, 30, **AIL)
    question = sentences.question(findings(sweep.out))
    assert "VDSR, DRRN students" in question
    assert "round 0 and 1, 2 more rounds, 1, 2 epochs each of 64, 128 crops, 41, 48 pixels a side" in question
    page = sweep_page(sweep.out)
    assert page["trials"][0].rounds == 2
    assert (page["asked"]["Epochs"], page["asked"]["Crop"]) == ("1, 2", "41, 48")


@pytest.mark.parametrize("address", ["http://host/runs/0", "sftp://u:s3cret@host/runs/0"])
def test_a_run_is_not_looked_for_wherever_a_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    sweep = MadeSweep(tmp_path)
    sweep.trial(29.0, 30.0)
    written = read_json(sweep.out / "sweep.json")
    written["trials"][0]["directory"] = address
    write_json(sweep.out / "sweep.json", written)
    with pytest.raises(SystemExit) as left:
        report.main(["--out", str(sweep.out)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "neither a folder nor the address of an object store" in said
    assert "s3cret" not in said
