"""What can be read of a sweep before it ends."""

from pathlib import Path
from typing import Any

from upath import UPath

from ail_ray.files import read_json
from ail_ray.learning.config import RunConfig
from ail_ray.learning.told import parameters
from ail_ray.sweeps.sweep_file import Begun, Ledger


def begun(seed: int, **changes: Any) -> Begun:
    values = parameters(RunConfig(seed=seed, **changes))
    return Begun(name=f"trial {seed}", directory=f"runs/{seed}", parameters=values)


def test_every_event_is_there_at_once(tmp_path: Path) -> None:
    path = UPath(tmp_path / "sweep.json")
    ledger = Ledger(path, name="demo", command="the command", config={}, asked=2)
    assert read_json(path) == {
        "name": "demo", "command": "the command", "config": {}, "asked": 2, "state": "running",
        "started": ledger.content.started, "trials": [],
    }  # fmt: skip
    for seed in (0, 1):
        ledger.began(begun(seed, rule="uniform"))
    ledger.failed("runs/0", "the loss is nan")
    assert [(t["name"], t["reason"], t["parameters"]["seed"]) for t in read_json(path)["trials"]] == [
        ("trial 0", "the loss is nan", 0), ("trial 1", None, 1),
    ]  # fmt: skip
    assert read_json(path)["trials"][0]["parameters"]["lam"] is None  # the control reads none
    ledger.began(begun(0))  # once more, after its process was lost
    ledger.close("finished")
    content = read_json(path)
    assert content["state"] == "finished"
    assert [(t["name"], t["reason"]) for t in content["trials"]] == [("trial 1", None), ("trial 0", None)]
