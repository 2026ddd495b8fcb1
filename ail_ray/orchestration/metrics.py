"""What operators watch of trials: the numbers of every run, which each node of Ray offers to Prometheus.

Ray itself collects and serves them, on a port that is there anyway. In Prometheus their names begin with `ray_`, and
that of a counter ends in `_total`. `cluster/grafana.json` draws them.
"""

from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge

from ail_ray.networks.code import label
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.run import TrialPlan

TAGS = ("sweep", "run", "network", "rule")
"""Of every number: digests of the sweep and of the run, and what the run trains by which rule."""
GAUGES = {
    "ail_crops_per_second": "Crops that the last epoch has trained on in a second; 0 when the trial is over",
    "ail_round": "The last round that is committed",
    "ail_psnr_db": "Mean PSNR on the validation images after the last round, in dB",
    "ail_part_seconds": "Seconds of a part of the last round: theta (training), importance (error pass and update of "
    "W) or evaluation",
}
PART = "ail_part_seconds"  # the one gauge with a tag more, `part`
RETRIES = "ail_retries"


@cache
def _gauge(name: str) -> Any:
    return Gauge(name, GAUGES[name], (*TAGS, "part") if name == PART else TAGS)


@cache
def _retries() -> Any:
    return Counter(RETRIES, "Times that a trial had to go on after it had lost a process", TAGS)


class Meter:
    """The numbers of one trial, to be told of by the process that follows it, or by the driver."""

    def __init__(self, sweep: str, plan: TrialPlan) -> None:
        config = plan.config
        self.tags = {
            "sweep": sweep, "run": plan.directory.name, "network": label(config.network), "rule": label(config.rule),
        }  # fmt: skip

    def heard(self, record: RoundRecord) -> None:
        """A round is committed; one that was committed before says how far the run is."""
        self._set("ail_round", record.round)
        if record.patches_per_second is not None:
            self._set("ail_crops_per_second", record.patches_per_second)
        if record.validation:
            self._set("ail_psnr_db", record.psnr)
        for part, seconds in record.seconds.items():
            self._set(PART, seconds, part=part)

    def retried(self) -> None:
        """Workers, or the process that follows them, were lost, and the trial goes on."""
        _retries().inc(1, tags=self.tags)

    def ended(self) -> None:
        """The trial is over, and its process may serve another: it trains on nothing any more."""
        self._set("ail_crops_per_second", 0.0)

    def _set(self, name: str, value: float, **more: str) -> None:
        _gauge(name).set(value, tags=self.tags | more)
