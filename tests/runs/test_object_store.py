"""Images, shards, run directories and results in an object store, over a real S3 protocol on the loopback."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from made_run import CONFIG, RESOLVED, log, slept, state, whole_round
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from upath import UPath

from ail_ray.commands.sweep import run_sweep
from ail_ray.files import as_path, unwritable
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.runs import manifests
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import LeaseLostError
from ail_ray.runs.preparation import plan_data
from ail_ray.sweeps.sweep_job import SweepJob

pytestmark = pytest.mark.long


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    """An empty bucket of a server that ends with the test."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"))  # of what a server before it held
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # which know the address of the server before
    path = UPath("s3://ail", skip_instance_cache=True)
    path.mkdir()
    yield path
    server.stop()


def test_a_run_on_s3_gives_the_bits_of_a_run_on_disk(
    bucket: UPath, tiny_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same images, same student; the second call finds the finished run in the bucket and trains nothing."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for image in tiny_files.train.iterdir():
        (bucket / "images" / image.name).write_bytes(image.read_bytes())

    def sweep(train: str, storage: str) -> tuple[dict[str, Any], list[str]]:
        values = {**tiny_files.protocol(), "train": (train,), "teacher": (str(tiny_files.teacher),), "width": (3,)}
        said: list[str] = []
        job = SweepJob(sweep=SweepConfig.of(**values), local=True, out=str(tmp_path / "out"), storage=storage)
        return run_sweep(job, say=said.append), said

    on_disk, _ = sweep(str(tiny_files.train), str(tmp_path / "storage"))
    on_s3, _ = sweep("s3://ail/images", "s3://ail/storage")
    again, said = sweep("s3://ail/images", "s3://ail/storage")

    weights = [summary.trials[0].weights for summary in (on_disk, on_s3, again)]
    assert weights[1].startswith("s3://ail/storage/runs/")
    assert len({hashlib.sha256(_arrays(path)).hexdigest() for path in weights}) == 1
    assert not any("to do" in line or "round" in line.split("]")[-1][:7] for line in said)
    kept = {path.name for path in (bucket / "storage" / "runs").glob("*/importance/*")}
    assert kept | {"round-001"} == {"round-000", "round-001", "round-002", "round-003"}  # 1 only if it is the best


def test_a_bucket_takes_a_commit_from_one_job_only(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its answers are slow, and whoever was overtaken had asked already."""
    path = as_path("s3://ail/storage/runs/0123abcd")
    overtaken, winner = RunDirectory(path, "overtaken"), RunDirectory(path, "winner")
    overtaken.create(CONFIG, **RESOLVED)
    whole_round(overtaken, 0)
    put, asked, answered = manifests.create, threading.Event(), threading.Event()

    def slow(path: UPath, data: bytes) -> bool:
        if threading.current_thread() is sleeper:
            asked.set()
            assert answered.wait(60)
        return put(path, data)

    refused = list[BaseException]()

    def commit() -> None:
        try:
            overtaken.commit_epoch(log(1, 0), state(1).tensors())
        except LeaseLostError as error:
            refused.append(error)

    monkeypatch.setattr(manifests, "create", slow)
    sleeper = threading.Thread(target=commit)
    sleeper.start()
    assert asked.wait(60)
    winner.create(CONFIG)
    whole_round(winner, 1)
    before = winner.manifest()
    answered.set()
    sleeper.join(60)
    assert len(refused) == 1
    assert winner.manifest() == before
    assert [found.round for found in RunDirectory(path).follow()] == [0, 1]


@pytest.mark.parametrize("kind", ["epoch", "round"])
def test_a_job_that_slept_at_any_point_of_a_commit_leaves_the_winner_as_it_is_there_too(
    bucket: UPath, kind: str
) -> None:
    lines = slept(UPath("s3://ail/storage/whole"), kind, 1, 0)
    for point in np.random.default_rng(0).choice(lines, 2, replace=False):
        slept(UPath(f"s3://ail/storage/{point}"), kind, 1, int(point) + 1)


def test_what_another_process_writes_is_seen_at_once(bucket: UPath) -> None:
    folder = as_path("s3://ail/storage/runs/0123abcd/importance")
    (folder / "round-000").mkdir(parents=True, exist_ok=True)
    for t in range(3):
        (UPath(str(folder), skip_instance_cache=True) / f"round-{t:03d}" / "shard-0000.safetensors").write_bytes(b"w")
        assert [path.name for path in folder.iterdir()] == [f"round-{s:03d}" for s in range(t + 1)]
        assert (folder / f"round-{t:03d}" / "shard-0000.safetensors").exists()
        assert not (folder / f"round-{t + 1:03d}" / "shard-0000.safetensors").exists()


def test_a_store_without_conditional_writes_is_named(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    place = as_path("s3://ail/storage")
    assert unwritable(place) == []

    plain = S3FileSystem._pipe_file

    async def careless(self: S3FileSystem, path: str, data: bytes, mode: str = "", **options: Any) -> None:
        await plain(self, path, data, **options)

    monkeypatch.setattr(S3FileSystem, "_pipe_file", careless)
    S3FileSystem.clear_instance_cache()
    (line,) = unwritable(as_path("s3://ail/storage"))
    assert line.startswith("s3://ail/storage: this store replaces files that it must not")


def _arrays(path: str) -> bytes:
    """The tensors of a safetensors file, without the header that names the run."""
    data = UPath(path, skip_instance_cache=True).read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_an_image_takes_one_request_and_its_folder_two_listings(
    bucket: UPath, tiny_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, each image took two requests and the folder three listings, of a thousand files a request."""
    names = [image.name for image in tiny_files.train.iterdir()]
    for name in names:
        (bucket / "images" / name).write_bytes((tiny_files.train / name).read_bytes())
    asked, ask = Counter[str](), S3FileSystem._call_s3

    async def counted(self: S3FileSystem, method: str, *arguments: Any, **options: Any) -> Any:
        asked[method] += 1
        return await ask(self, method, *arguments, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    config = RunConfig(
        train=("s3://ail/images",), validation=(), test=(), downsizes=(1.0,), crop=16, shards=1, rule="uniform"
    )
    assert len(plan_data(config, UPath(tmp_path)).corpus.pairs) == len(names)
    assert asked == {"get_object": len(names), "list_objects_v2": 2}
