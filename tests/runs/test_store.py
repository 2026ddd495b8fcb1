"""The importance store: Eq. 7 exactly once per round and shard, whoever asks, however often, whatever was killed."""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from upath import UPath

from ail_ray.files import FileError
from ail_ray.learning.config import RunConfig
from ail_ray.networks.code import resolve
from ail_ray.orchestration.actors import ActorStore, StoreActor, store_actor
from ail_ray.runs.importance_store import ImportanceStore, StoreError
from ail_ray.runs.teacher_maps import TeacherMaps
from ail_ray.tensors import read_tensors, write_tensors

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "rules.py"
PIXELS = [700, 1000, 64, 4096, 1, 513]  # of each shard
ROUNDS = 4
LAM = 0.15


def errors(round: int, shard: int) -> np.ndarray:
    """Errors of a student, most of them small, some up to 1: (pixels,) float16."""
    generator = np.random.default_rng([round, shard])
    return (generator.random(PIXELS[shard]) ** 3).astype(np.float16)


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{"teacher": "random", "lam": LAM, "shards": len(PIXELS), "seed": 3, **changes})


def stored(path: UPath, **changes: Any) -> ImportanceStore:
    store = ImportanceStore(path, config(**changes), None)
    for shard, pixels in enumerate(PIXELS):
        store.initialise(shard, pixels)
    return store


def snapshots(path: UPath) -> dict[str, str]:
    """SHA-256 of every snapshot, by round and shard."""
    files = Path(str(path)).glob("importance/*/*")
    return {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture
def folder(tmp_path: Path) -> UPath:
    return UPath(tmp_path / "run")


def test_rounds_follow_equation_7(folder: UPath) -> None:
    store = stored(folder)
    for t in range(1, ROUNDS + 1):
        for s in range(len(PIXELS)):
            before = store.read(t - 1, s).astype(np.float64)
            store.update(t, s, errors(t, s))
            expected = np.minimum(1, before + LAM * np.exp(-(errors(t, s).astype(np.float64) ** 2)))
            after = store.read(t, s)
            assert after.dtype == np.float16
            np.testing.assert_allclose(after.astype(np.float64), expected, rtol=0, atol=2**-11)


def test_an_update_asked_for_again_stands(folder: UPath) -> None:
    store = stored(folder)
    store.update(1, 0, errors(1, 0))
    path = UPath(folder / "importance" / "round-001" / "shard-0000.safetensors")
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    for asked in (store, ImportanceStore(folder, config(), None)):
        asked.update(1, 0, errors(1, 0))
        asked.update(1, 0, np.zeros(PIXELS[0], np.float16))  # by a student who has changed meanwhile
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, written)
    store.update(2, 0, errors(2, 0))
    store.update(1, 0, errors(1, 0))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, written)


def test_initialising_again_changes_nothing(folder: UPath) -> None:
    stored(folder)
    before = snapshots(folder)
    stored(folder, seed=99)
    assert snapshots(folder) == before
    assert len(before) == len(PIXELS)


@pytest.mark.parametrize("round", [2, 3, 7])
def test_a_round_that_does_not_follow_is_refused(folder: UPath, round: int) -> None:
    store = stored(folder)
    with pytest.raises(StoreError, match=rf"shard 3: .*round {round}\b.*round {round - 1}\b"):
        store.update(round, 3, errors(round, 3))
    assert set(snapshots(folder)) == {f"round-000/shard-{s:04d}.safetensors" for s in range(len(PIXELS))}


@pytest.mark.parametrize("shape", [(4095,), (4097,), (64, 64), (1,)])
def test_an_error_of_another_shape_is_refused(folder: UPath, shape: tuple[int, ...]) -> None:
    store = stored(folder)
    with pytest.raises(StoreError, match=r"shard 3: error of shape .* importance of shape \(4096,\)"):
        store.update(1, 3, np.zeros(shape, np.float16))
    assert not (folder / "importance" / "round-001").exists()


def test_a_new_store_goes_on_from_the_snapshots(folder: UPath, tmp_path: Path) -> None:
    whole, parts = UPath(tmp_path / "whole"), folder
    store = stored(whole)
    stored(parts)
    for t in range(1, ROUNDS + 1):
        for s in range(len(PIXELS)):
            store.update(t, s, errors(t, s))
            ImportanceStore(parts, config(), None).update(t, s, errors(t, s))
    assert snapshots(parts) == snapshots(whole)
    assert len(snapshots(whole)) == (ROUNDS + 1) * len(PIXELS)


def test_first_importance_of_every_kind(folder: UPath, tmp_path: Path) -> None:
    ones, zeros = stored(folder / "1", rule="uniform"), stored(folder / "0", teacher="none")
    assert {float(v) for s in range(len(PIXELS)) for v in ones.read(0, s)} == {1.0}
    assert {float(v) for s in range(len(PIXELS)) for v in zeros.read(0, s)} == {0.0}
    random = np.concatenate([stored(folder / "r").read(0, s) for s in range(len(PIXELS))]).astype(float)
    assert abs(random.mean() - 0.5) < 0.02
    assert 0 <= random.min() < 0.01
    assert 0.99 < random.max() <= 1
    other = np.concatenate([stored(folder / "r2", seed=4).read(0, s) for s in range(len(PIXELS))]).astype(float)
    assert abs(np.corrcoef(random, other)[0, 1]) < 0.1

    error = np.array([0, 0.005, 0.01, 0.02, 0.5, 1], np.float16)
    write_tensors(UPath(tmp_path / "errors" / "shard-0000.safetensors"), {"error": error})
    maps = TeacherMaps(kind="errors", teacher="somebody", folder=UPath(tmp_path / "errors"))
    store = ImportanceStore(folder / "t", config(teacher="somebody"), maps)
    store.initialise(0, len(error))
    expected = (1 + np.exp(-1)) / (1 + np.exp((error.astype(float) - 0.01) * 100))  # Eq. 8 with μ0 0.01, α0 100
    np.testing.assert_allclose(store.read(0, 0).astype(float), expected, rtol=0, atol=1e-3)
    with pytest.raises(StoreError, match="no teacher errors"):
        ImportanceStore(folder / "t2", config(teacher="somebody"), None).initialise(0, 6)


@pytest.mark.parametrize(
    "rule",
    [
        "eq7",
        "uniform",
        "fixed",
        *(resolve(f"{EXAMPLES}:{name}", "rule") for name in ("exact", "hard_first", "hard_examples")),
    ],
)
def test_round_0_is_read_by_the_rule_that_needs_it_alone(folder: UPath, rule: str) -> None:
    store, needing = stored(folder, rule=rule), stored(folder / "reference", rule="reference")
    for s in (store, needing):
        s.update(1, 0, errors(1, 0))
        s.directory.importance_path(0, 0).unlink()
    store.update(2, 0, errors(2, 0))
    with pytest.raises(FileError, match=r"round-000.*no such file"):
        needing.update(2, 0, errors(2, 0))


def test_the_reference_rule_gets_the_importance_of_round_0(folder: UPath) -> None:
    store = stored(folder, rule="reference")
    for t in (1, 2, 3):
        store.update(t, 0, errors(t, 0))
        step = LAM * t * np.exp(-10 * errors(t, 0).astype(np.float64))
        expected = np.minimum(1, store.read(0, 0).astype(np.float64) + step)
        np.testing.assert_allclose(store.read(t, 0).astype(np.float64), expected, rtol=0, atol=2**-11)


def test_snapshots_carry_round_and_shard_and_a_damaged_one_is_noticed(folder: UPath) -> None:
    store = stored(folder)
    store.update(1, 2, errors(1, 2))
    path = folder / "importance" / "round-001" / "shard-0002.safetensors"
    tensors, metadata = read_tensors(path)
    assert (metadata["round"], metadata["shard"]) == ("1", "2")
    assert tensors["importance"].shape == (PIXELS[2],)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(bytes(content))
    restarted = ImportanceStore(folder, config(), None)
    for deed in (lambda: restarted.read(1, 2), lambda: restarted.update(2, 2, errors(2, 2))):
        with pytest.raises(FileError, match=r"shard-0002\.safetensors: damaged"):
            deed()
    with pytest.raises(FileError, match=r"round-005.*no such file"):
        restarted.read(5, 2)


def started(path: UPath, workers: int) -> list[ActorStore]:
    """As many stores as a run with so many workers has, with actors that say in which process they live."""

    class Watched(StoreActor):
        def pid(self) -> int:
            return os.getpid()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ail_ray.orchestration.actors.StoreActor", Watched)
        stores = [ActorStore(store_actor(), path, config(), None) for _ in range(workers)]
    for s, pixels in enumerate(PIXELS):
        stores[s % workers].initialise(s, pixels)
    return stores


def processes(stores: list[ActorStore]) -> list[int]:
    return ray.get([store.actor.pid.remote() for store in stores])


def run_rounds(stores: list[ActorStore], before_round: Callable[[int], None] = lambda t: None) -> np.ndarray:
    """All rounds of all shards, as the workers of a run ask for them; returns the whole of the last `W`."""
    for t in range(1, ROUNDS + 1):
        before_round(t)
        for s in range(len(PIXELS)):
            stores[s % len(stores)].update(t, s, errors(t, s))
        last = [stores[s % len(stores)].read(t, s) for s in range(len(PIXELS))]
    return np.concatenate(last)


def test_actors_agree_with_each_other_and_with_a_plain_store(tmp_path: Path, local_ray: None) -> None:
    plain = stored(UPath(tmp_path / "plain"))
    for t in range(1, ROUNDS + 1):
        for s in range(len(PIXELS)):
            plain.update(t, s, errors(t, s))
    for count in (1, 4):
        path = UPath(tmp_path / f"{count} actors")
        stores = started(path, count)
        below = (run_rounds(stores) < 1).mean()
        assert 0.1 < below < 0.9
        assert len({os.getpid(), *processes(stores)}) == count + 1
        assert snapshots(path) == snapshots(UPath(tmp_path / "plain"))
        for store in stores:
            ray.kill(store.actor)


def test_what_a_worker_reads_is_mapped_and_read_only(folder: UPath, local_ray: None) -> None:
    (store,) = started(folder, 1)
    read = store.read(0, 3)
    assert not read.flags.owndata
    mapped = Path("/proc/self/maps").read_text()
    assert str(folder / "importance" / "round-000" / "shard-0003.safetensors") in mapped
    ray.kill(store.actor)


def test_a_killed_actor_comes_back_and_goes_on_to_the_same_bytes(tmp_path: Path, local_ray: None) -> None:
    undisturbed, killed = UPath(tmp_path / "undisturbed"), UPath(tmp_path / "killed")
    stores = started(undisturbed, 2)
    run_rounds(stores)
    victims = started(killed, 2)
    old = processes(victims)

    def kill_one(t: int) -> None:
        if t == 3:
            os.kill(old[1], signal.SIGKILL)

    run_rounds(victims, kill_one)
    new = processes(victims)
    assert new[0] == old[0]
    assert new[1] != old[1]
    assert snapshots(killed) == snapshots(undisturbed)
    for store in (*stores, *victims):
        ray.kill(store.actor)
