"""What operators watch: the numbers of a trial as Prometheus gets them, and the dashboard that draws them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder
from upath import UPath

from ail_ray.learning.records import Row, Spread
from ail_ray.orchestration import metrics, slots, tune
from ail_ray.orchestration.metrics import GAUGES, PART, RETRIES, TAGS, Meter
from ail_ray.orchestration.trials import run_on_ray
from ail_ray.runs.placement import Placement
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.run import RunError, TrialPlan
from ail_ray.runs.work import Assignment

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = json.loads((REPOSITORY / "cluster" / "grafana.json").read_text(encoding="utf-8"))
Planned = Callable[..., TrialPlan]
Point = tuple[str, tuple[str, ...]]


class Recorded:
    """In place of Ray's gauges and counters: what was recorded, by name and values of the tags."""

    points: dict[Point, float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), "a name that Prometheus takes"
        assert description[0].isupper()
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == {*self.tag_keys}, "Ray refuses a tag too many or too few"
        assert all(isinstance(each, str) for each in tags.values())
        self.points[self.name, tuple(tags[key] for key in self.tag_keys)] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        point = self.name, tuple(tags[key] for key in self.tag_keys)
        self.set(self.points.get(point, 0) + value, tags)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> dict[Point, float]:
    """What is recorded during the test."""
    found = dict[Point, float]()
    monkeypatch.setattr(Recorded, "points", found, raising=False)
    for name in ("Gauge", "Counter"):
        monkeypatch.setattr(metrics, name, Recorded)
    metrics._gauge.cache_clear()
    metrics._retries.cache_clear()
    yield found
    metrics._gauge.cache_clear()
    metrics._retries.cache_clear()


def record(round: int, psnr: float | None = 30.5, **changes: Any) -> RoundRecord:
    rows = (Row(set="val", scale=2, psnr=psnr, ssim=0.9),) if psnr else ()
    spread = Spread(mean=0.5, saturated=0.0, p05=0.1, p25=0.2, p50=0.5, p75=0.7, p95=0.9)
    known = {"seconds": {"theta": 12.5, "importance": 1.5, "evaluation": 0.25}, "patches_per_second": 640.0, **changes}
    return RoundRecord(
        round=round, importance=spread, validation=rows, time=0.0, epochs=(), loss=None, squared_error=None, **known
    )


def test_a_round_is_told_as_numbers_that_bear_its_sweep_run_network_and_rule(
    make_plan: Planned, tmp_path: Path, points: dict[Point, float]
) -> None:
    plan = make_plan(tmp_path, rule="eq7")
    meter, tags = Meter("5ee9", plan), ("5ee9", plan.directory.name, "vdsr", "eq7")
    meter.heard(record(0, 29.0, seconds={"theta": 0.5}, patches_per_second=None))
    assert points == {("ail_round", tags): 0, ("ail_psnr_db", tags): 29.0, (PART, (*tags, "theta")): 0.5}
    meter.heard(record(1))
    whole = {
        ("ail_round", tags): 1, ("ail_psnr_db", tags): 30.5, ("ail_crops_per_second", tags): 640.0,
        (PART, (*tags, "theta")): 12.5, (PART, (*tags, "importance")): 1.5, (PART, (*tags, "evaluation")): 0.25,
    }  # fmt: skip
    assert points == whole
    assert {name for name, _ in points} == {*GAUGES}
    meter.heard(record(2, psnr=None))
    assert points == {**whole, ("ail_round", tags): 2}, "nothing was measured; it is not 0 dB"
    meter.retried()
    Meter("5ee9", plan).retried()
    assert points[RETRIES, tags] == 2
    meter.ended()
    assert points[("ail_crops_per_second", tags)] == 0, "or a sum over trials would count one that is over"
    assert points[("ail_psnr_db", tags)] == 30.5


def test_workers_that_replace_lost_ones_are_a_retry_each(
    make_plan: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, retried = list[Assignment](), list[int]()
    slot = SimpleNamespace(follow=lambda number, tell: "the workers were killed")

    def give(assignment: Assignment, placement: Placement, storage: UPath) -> tuple[Any, int]:
        given.append(assignment)
        return slot, len(given)

    monkeypatch.setattr(slots, "give", give)
    with pytest.raises(RunError, match="the workers were killed"):
        run_on_ray(make_plan(tmp_path), Placement(), print, retried=lambda: retried.append(len(given)))
    assert (retried, len(given)) == ([1, 2], 3), "the third is given up and not taken up again"


def test_a_trial_of_tune_is_told_of_by_the_process_that_follows_it(
    make_plan: Planned, tmp_path: Path, points: dict[Point, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, reported = make_plan(tmp_path), list[float]()
    job = SimpleNamespace(placement=Placement())
    plans: Any = SimpleNamespace(name="5ee9", of=lambda tuned: (0, plan), sweeps=[SimpleNamespace(job=job)])

    def follow(plan: TrialPlan, placement: Placement, report: Any, complete: Any, look: Any, retried: Any) -> None:
        report(record(0))
        retried()
        report(record(1))
        raise RunError("it cannot go on")

    monkeypatch.setattr(tune, "run_on_ray", follow)
    monkeypatch.setattr(tune.tune, "report", lambda values: reported.append(values["round"]))
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "")
    tune._trial({}, plans)
    tags = Meter("5ee9", plan).tags
    found = {name: value for (name, values), value in points.items() if values == tuple(tags.values())}
    assert reported == [0, 1]
    assert found == {"ail_round": 1, "ail_psnr_db": 30.5, "ail_crops_per_second": 0, RETRIES: 1}
    trial = SimpleNamespace(trial_id="t", config={})
    monitors: Any = [None]
    tune._Callback(plans, monitors, UPath(tmp_path / "none"), lambda number: None).on_trial_recover(0, [trial], trial)
    assert points[RETRIES, tuple(tags.values())] == 2, "its own process was lost"


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def exported() -> set[str]:
    """The names of all numbers in Prometheus, as Ray's own exporter makes them, in this process."""
    exporter = OpenTelemetryMetricRecorder()
    for name in GAUGES:
        exporter.register_gauge_metric(name, "")
        exporter.set_metric_value(name, {}, 1.0)
    exporter.register_counter_metric(RETRIES, "")
    exporter.set_metric_value(RETRIES, {}, 1.0)
    return {name for name in re.findall(r"^(ray_ail_\w+)\{", generate_latest().decode(), flags=re.MULTILINE)}


def test_the_dashboard_draws_what_is_told_and_nothing_else() -> None:
    told = exported()
    assert len(told) == len(GAUGES) + 1
    page = (REPOSITORY / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(ray_ail_\w+)`", page, flags=re.MULTILINE)) == told, "as the page says"
    assert {name for line in expressions() for name in re.findall(r"\bray_\w+", line)} == told
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"ray_\w+", json.dumps(variables))) <= told
    for line in expressions():
        for selector in re.findall(r"\{(.*?)\}", line):
            used = re.findall(r'(\w+)=~?"(.*?)"', selector)
            assert {label for label, _ in used} <= {*TAGS, "part"}
            assert {value[1:] for _, value in used if value.startswith("$")} <= variables.keys()
        for grouped in re.findall(r"by \((.*?)\)", line):
            assert {*grouped.split(", ")} <= {*TAGS, "part"}
        assert line.count("(") == line.count(")")


def test_every_panel_has_a_place_of_its_own_and_says_its_unit() -> None:
    units = {"dB": "dB", "s": "Seconds", "percentunit": "%", "short": "number", "suffix: crops/s": "Crops per second"}
    places = set[tuple[int, int]]()
    for panel in DASHBOARD["panels"]:
        assert units[panel["fieldConfig"]["defaults"]["unit"]] in panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in covered) < 24
        assert not covered & places
        places |= covered
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) >= 6
