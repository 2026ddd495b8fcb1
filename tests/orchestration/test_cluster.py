"""Clusters that do not come, are too small, or grow: what is asked of them, and what is said where none answers."""

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import heads
import pytest
import ray
import torch
from ray.tune.tune import _setup_signal_catching
from tiny_files import TinyFiles, as_options

from ail_ray.commands.sweep import main, run_sweep
from ail_ray.errors import ConfigError
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.orchestration import launch
from ail_ray.orchestration.cluster import cannot_start, cluster, concurrency, start_own
from ail_ray.orchestration.tasks import OnCluster, first_answer
from ail_ray.runs.placement import Placement
from ail_ray.runs.records import Manifest
from ail_ray.runs.run import resolve_precision
from ail_ray.sweeps.sweep import no_gpu
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.tracking import listener
from ail_ray.tracking.connection import connect

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("failures", "message", "refused"),
    [(1, "The current node timed out during startup.", None),
     (2, "The current node timed out during startup.", ConfigError),
     (1, "no such option", RuntimeError)],
)  # fmt: skip
def test_a_start_that_took_too_long_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, failures: int, message: str, refused: type[Exception] | None
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # set anew by each start, put back by the test
    tried = list[dict[str, Any]]()

    def init(**options: Any) -> None:
        tried.append(options)
        if len(tried) <= failures:
            raise RuntimeError(message)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if refused is None:
        start_own(num_cpus=1)
    else:
        with pytest.raises(refused, match=message):
            start_own(num_cpus=1)
    assert len(tried) == (1 if refused is RuntimeError else 2)
    assert all(options["num_cpus"] == 1 for options in tried)


def test_a_signal_stays_with_whoever_had_it_before_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own end the driver before it has recorded anything, and Tune's lets a sweep end as if it were over."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    start_own()
    _setup_signal_catching()
    assert {number: signal.getsignal(number) for number in before} == before


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # of `ray job submit`, not of a driver
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS=http://.*: no cluster to connect to"), cluster():
        pass


def test_a_cluster_that_does_not_answer_is_refused_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the first; at the second somebody does who never says a word, as a head that hangs."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        (free,) = heads.free_ports(1)
        for address in (f"127.0.0.1:{free}", f"127.0.0.1:{mute.getsockname()[1]}", f"ray://127.0.0.1:{free}"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            monkeypatch.setattr("ail_ray.orchestration.cluster.ANSWER", 1.0)
            started = time.monotonic()
            (line,) = cannot_start(Placement(gpu=True))  # where it runs, no GPU is asked of this machine
            assert time.monotonic() - started < 10
            assert line.startswith(f"RAY_ADDRESS={address}: no cluster to connect to from here (no Ray answered at ")
            assert line.endswith("; name the head's HOST:PORT, or unset it for a Ray of this machine's own")


@pytest.mark.parametrize("address", ["", "local"])
@pytest.mark.parametrize("local", [True, False])
def test_a_gpu_that_is_not_here_is_refused_with_all_else_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(listener, "connect", lambda *_: pytest.fail("MLflow was asked"))
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    protocol = SweepConfig.of(train=(str(tmp_path / "none"),), validation=(), test=())
    job = SweepJob(sweep=protocol, placement=Placement(gpu=True), local=local, out=str(tmp_path / "out"))
    with pytest.raises(ConfigError) as refused:
        run_sweep(job, say=lambda line: None)
    assert refused.value.problems == [*no_gpu(Placement(gpu=True)), f"train: {tmp_path / 'none'}: no such folder"]


def test_a_node_whose_gpu_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is asked, wherever it is, and not this machine: Ray calls this function there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^gpu: torch .* on node .* cannot use its GPU$"):
        resolve_precision("fp32", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_precision("fp32", "cuda") == "fp32"


def test_a_cluster_without_gpus_is_refused_unless_it_can_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    with pytest.raises(
        ConfigError, match=r"a trial needs 1 CPU and 1 GPU, the cluster has 8 CPU and 0 GPU: .*--max-wor"
    ):
        concurrency(Placement(gpu=True), None)
    assert concurrency(Placement(gpu=True), 2) == 2


def test_local_means_a_ray_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    started = list[dict[str, Any]]()
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with cluster():
        assert "RAY_ADDRESS" not in os.environ
    assert [(each["address"], each["_node_ip_address"]) for each in started] == [("local", "127.0.0.1")]


@pytest.mark.parametrize(("address", "closed"), [("", "0"), ("local", "0"), ("10.77.0.1:6379", "None")])
def test_a_ray_of_our_own_stays_on_the_loopback(address: str, closed: str) -> None:
    code = "import os, ail_ray.orchestration; print(os.environ.get('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"RAY_ADDRESS": address}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout.strip() == closed


def test_a_run_goes_on_with_what_it_began_with() -> None:
    begun = Manifest(
        format=2, run="r", config=RunConfig(), corpus="c", precision="fp32", threads=8, workers=4, versions={},
        machine={}, created=0.0, last_round=-1,
    )  # fmt: skip
    assert Placement(workers=1, gpu=True).of(begun) == Placement(workers=4, threads=8, gpu=True)
    assert Placement(workers="1..3").of(begun) == Placement(workers="1..3", threads=8)
    assert concurrency(Placement(workers=4), 8) == 2
    with pytest.raises(ConfigError, match="begun with 4 workers, max-workers is 2"):
        concurrency(Placement(workers=4), 2)


class Slow:
    """Ray's tasks, of which `wait` ends the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running, self.most = 0, 0
        monkeypatch.setattr(ray, "remote", lambda **options: lambda function: self)
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "get", self.get)

    def remote(self, value: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        return value

    def wait(self, tasks: list[int], timeout: float | None = None) -> tuple[list[int], list[int]]:
        self.running -= 1
        return tasks[:1], tasks[1:]

    def get(self, task: int, timeout: float | None = None) -> int:
        return task


@pytest.mark.parametrize(("most", "seen"), [(2, 2), (None, 5), (9, 5)])
def test_preparation_asks_for_no_more_nodes_than_it_may(
    monkeypatch: pytest.MonkeyPatch, most: int | None, seen: int
) -> None:
    tasks = Slow(monkeypatch)
    assert list(OnCluster(1, 0, most)(print, [(i,) for i in range(5)])) == [0, 1, 2, 3, 4]
    assert tasks.most == seen


def test_a_node_that_is_busy_or_not_there_yet_is_waited_for_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, asked = Slow(monkeypatch), list[float | None]()

    def wait(tasks: list[int], timeout: float | None = None) -> tuple[list[int], list[int]]:
        asked.append(timeout)
        return ([], tasks) if len(asked) < 3 else slow.wait(tasks)

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 32.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.0})
    said = list[str]()
    assert first_answer(print, (7,), Placement(threads=16, gpu=True, gpus_per_worker=0.5), said.append) == 7
    line = "waiting for a node with 16 CPU and 0.5 GPU free: the cluster has 3 of 32 CPU free, 0 of 0 GPU free"
    assert said == [line, line]
    assert asked == [15, 600, 600], "at once, and then every ten minutes"


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement(gpu=True, gpus_per_worker=0), r"gpus-per-worker must lie in \(0, 1\], got 0"),
        (Placement(gpu=True, gpus_per_worker=2), r"gpus-per-worker must lie in \(0, 1\], got 2"),
        (Placement(gpus_per_worker=0.25), r"gpus-per-worker goes with --gpu"),
        (Placement(gpu=True, workers=2, gpus_per_worker=0.5), r"workers of one run cannot share a GPU \(NCCL\)"),
    ],
)
def test_a_share_of_a_gpu_that_cannot_be_is_refused(placement: Placement, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SweepJob(placement=placement)


def test_trials_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    job = SweepJob(placement=Placement(gpu=True, gpus_per_worker=0.25))
    assert job.placement.worker_resources() == {"CPU": 1, "GPU": 0.25}
    assert concurrency(job.placement, None) == 4
    assert concurrency(Placement(gpu=True), None) == 1


@pytest.fixture
def no_new_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes) -> Iterator[None]:
    """A sweep's record in `out` and a cluster of one CPU, in name only; the test may change neither that nor MLflow."""
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(launch, "cluster", nullcontext)
    monkeypatch.setattr(launch, "check_shared", lambda folder: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text("the record")
    yield
    assert (tmp_path / "out" / "sweep.json").read_text() == "the record"
    client, experiment = connect(uri)
    assert client.search_runs([experiment]) == []


def test_a_refused_sweep_leaves_the_record_of_the_one_before(
    tiny_files: TinyFiles, tmp_path: Path, no_new_record: None
) -> None:
    protocol = SweepConfig.of(**tiny_files.protocol())
    job = SweepJob(sweep=protocol, placement=Placement(workers=2), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="a trial needs 2 CPU, the cluster has 1 CPU"):
        run_sweep(job, say=lambda line: None)


@pytest.mark.parametrize("local", [True, False])
def test_images_that_cannot_be_decoded_are_refused_before_any_record(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_new_record: None,
    capsys: pytest.CaptureFixture[str], local: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: SimpleNamespace(remote=function))
    monkeypatch.setattr(ray, "wait", lambda tasks, timeout=None: (tasks[:1], tasks[1:]))
    monkeypatch.setattr(ray, "get", lambda task, timeout=None: pickle.loads(pickle.dumps(task)))
    shutil.copytree(tiny_files.train, tmp_path / "train")
    broken = [tmp_path / "train" / f"{i}.png" for i in (1, 4)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:200])  # the header is whole
    values = tiny_files.protocol() | {"train": (str(tmp_path / "train"),), "teacher": ("none",), "rule": ("eq7",)}
    words = ["demo", *as_options(values), "--out", str(tmp_path / "out"), *["--local"] * local]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": cannot be read as an image")[0] for line in lines] == [f"error: {p}" for p in broken]
    assert not (tmp_path / "out" / "runs").exists()
