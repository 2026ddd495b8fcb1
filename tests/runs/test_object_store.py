"""Images, shards, run directories and results in an object store, over a real S3 protocol on the loopback."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from upath import UPath

from ail_ray.commands.sweep import run_sweep
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.sweeps.sweep_job import SweepJob

pytestmark = pytest.mark.long


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    """An empty bucket of a server that ends with the test."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
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


def _arrays(path: str) -> bytes:
    """The tensors of a safetensors file, without the header that names the run."""
    data = UPath(path, skip_instance_cache=True).read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]
