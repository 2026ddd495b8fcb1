"""Files that are whole or absent: atomic writes, tensors and their checksum, and what is said of damaged ones."""

import errno
import json
import os
import pickle
import resource
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import FileError, WriteError, as_path, create, digest_of, read_json, slug, write_bytes, write_json
from ail_ray.tensors import KINDS, as_tensor, checksum, read_tensors, write_tensors

DTYPES = (np.float16, np.float32, np.float64, np.uint8, np.int64, np.bool_)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) if request.param == "disk" else UPath(f"memory://test_files/{uuid.uuid4().hex}")


def bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


@pytest.mark.parametrize("read", [read_json, read_tensors])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    tmp_path: Path, read: Callable[[UPath], object]
) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(FileError, match=r"manifest\.json: not a file"):
        read(UPath(tmp_path / "manifest.json"))


def test_bytes_round_trip_and_are_replaced(folder: UPath) -> None:
    path = folder / "new" / "folder" / "a.bin"
    for data in (b"first", b"", b"the second, longer"):
        write_bytes(path, data)
        assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may become longer than 1000 bytes, which the kernel says as it does of full disks."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path, full_disk: None) -> None:
    path = UPath(tmp_path / "a.bin")
    write_bytes(path, b"before")
    for write in (write_bytes, lambda path, data: create(path.with_name("b.bin"), data)):
        with pytest.raises(WriteError, match=rf"^{tmp_path}/[ab]\.bin: cannot be written \(File too large\)$"):
            write(path, bytes(2000))
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    line = f"{tmp_path}/a.json: cannot be written (No space left on device); make room, then the same command goes on"
    with pytest.raises(WriteError) as refused:
        write_json(UPath(tmp_path / "a.json"), {})
    assert (refused.value.problems, str(refused.value)) == ([line], line)
    again = pickle.loads(pickle.dumps(refused.value))  # from a worker to the driver
    assert (type(again), again.problems) == (WriteError, [line])
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = UPath(tmp_path / ("写" * 85))  # 255 bytes
    assert create(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert not create(path, b"three")
    assert len(list(tmp_path.iterdir())) == 1


def test_an_object_store_that_does_not_answer_is_a_line() -> None:
    with pytest.raises(FileError, match=r"^gs://nowhere/a.safetensors: cannot be read \("):
        read_tensors(UPath("gs://nowhere/a.safetensors"))  # its library is not installed


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = UPath(tmp_path / "a.bin")
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"], "the temporary file stays behind"


def test_a_reader_sees_the_old_file_until_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen, replace = UPath(tmp_path / "a.bin"), [], os.replace
    write_bytes(path, b"old")

    def watched(source: str, target: str) -> None:
        seen.append((path.read_bytes(), Path(source).read_bytes(), Path(source).parent == Path(target).parent))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_bytes(path, b"new")
    assert seen == [(b"old", b"new", True)]
    assert path.read_bytes() == b"new"


def test_json_round_trips_and_refuses_what_json_lacks(folder: UPath) -> None:
    content = {"b": [1, 2.5, None, True], "a": {"ρ": "×"}}
    write_json(folder / "a.json", content)
    assert read_json(folder / "a.json") == content
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(folder / "a.json", {"psnr": value})
    assert read_json(folder / "a.json") == content
    (folder / "bad.json").write_bytes(b'{"a": 1')
    with pytest.raises(FileError, match=r"bad\.json: not valid JSON"):
        read_json(folder / "bad.json")
    with pytest.raises(FileError, match=r"none\.json: no such file"):
        read_json(folder / "none.json")


def test_tensors_of_every_type_and_shape_round_trip(folder: UPath) -> None:
    generator = np.random.default_rng(0)
    tensors = {f"{np.dtype(d).name}": generator.integers(0, 2, (3, 5)).astype(d) for d in DTYPES}
    tensors |= {f"empty {np.dtype(d).name}": np.empty((0, 4), d) for d in DTYPES}
    tensors |= {
        "scalar": np.array(2.5, np.float16),
        "strided": np.arange(24, dtype=np.int64).reshape(4, 6)[::2, ::-1],
        "odd": np.array([np.nan, -0.0, np.inf, 6e-8, 65504], np.float16),
    }
    write_tensors(folder / "a.safetensors", tensors, {"set": "Set5", "scale": "2"})
    read, metadata = read_tensors(folder / "a.safetensors")
    assert {name: bits(array) for name, array in read.items()} == {name: bits(array) for name, array in tensors.items()}
    assert {"set": "Set5", "scale": "2"}.items() <= metadata.items()


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3).filter(lambda name: name != "__metadata__"),
        arrays(st.sampled_from([np.dtype(kind) for kind in KINDS]), array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=5,
    ),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), st.text(max_size=3), max_size=2),
)
def test_the_bytes_are_those_of_the_library(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    def parts(data: bytes) -> tuple[dict[str, object], bytes]:
        end = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:end]), data[end:]

    path = UPath(f"memory://test_files/{uuid.uuid4().hex}")
    write_tensors(path, tensors, metadata)
    expected = safetensors.numpy.save(tensors, metadata | {"sha256": checksum(tensors)})
    written = path.read_bytes()
    assert parts(written) == parts(expected)
    assert int.from_bytes(written[:8], "little") % 8 == 0, "arrays are aligned in the mapped file"
    write_tensors(path, dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert path.read_bytes() == written


def test_a_flipped_bit_anywhere_in_the_body_is_noticed(folder: UPath) -> None:
    path = folder / "a.safetensors"
    write_tensors(path, {"a": np.arange(9, dtype=np.uint8), "b": np.ones(5, np.float16)})
    whole = path.read_bytes()
    for offset in range(1, 9 + 10 + 1):
        damaged = bytearray(whole)
        damaged[-offset] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(FileError, match=r"a\.safetensors: damaged, its content differs from its checksum"):
            read_tensors(path)


def test_a_truncated_file_is_refused(folder: UPath) -> None:
    path = folder / "a.safetensors"
    write_tensors(path, {"a": np.arange(100)})
    whole = path.read_bytes()
    for length in (0, 4, 8, 60, len(whole) - 800, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match=r"a\.safetensors: not a readable safetensors file"):
            read_tensors(path)
    with pytest.raises(FileError, match=r"none\.safetensors: no such file"):
        read_tensors(folder / "none.safetensors")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_run(folder: UPath, tmp_path: Path, kind: str) -> None:
    trap, local = tmp_path / "sprung", tmp_path / "source.pt"
    if kind == "torch":
        torch.save({"a": torch.ones(2), "trap": Trap(trap)}, local)
    else:
        local.write_bytes(pickle.dumps({"trap": Trap(trap)}))
    write_bytes(folder / "a.safetensors", local.read_bytes())
    with pytest.raises(FileError, match=r"a\.safetensors: .*pickles are never loaded"):
        read_tensors(folder / "a.safetensors")
    assert not trap.exists()


def test_a_foreign_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.arange(3, dtype=np.float32)}, tmp_path / "a.safetensors")
    tensors, metadata = read_tensors(UPath(tmp_path / "a.safetensors"))
    assert tensors["a"].tolist() == [0, 1, 2]
    assert metadata == {}


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), min_size=1))
def test_digest_does_not_depend_on_the_order_of_keys(content: dict[str, object]) -> None:
    backwards = dict(reversed(content.items()))
    assert digest_of(content) == digest_of(backwards)
    assert digest_of([content, 1]) != digest_of([content, 2])


def test_digest_is_the_same_in_every_version() -> None:
    assert digest_of({"b": 1, "a": [1.5, None, "ρ"]}) == "1cb1f72c387fd12d"
    assert len(digest_of(1, length=40)) == 40
    with pytest.raises(ValueError, match="JSON"):
        digest_of(float("nan"))


def test_paths_become_absolute_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(as_path("a/b")) == str(tmp_path / "a" / "b")
    assert str(as_path("~/b")) == str(tmp_path / "home" / "b")
    assert str(as_path("memory://bucket/a")) == "memory://bucket/a"


def test_as_tensor_shares_memory_and_takes_read_only_arrays(recwarn: pytest.WarningsRecorder) -> None:
    array = np.arange(4)
    tensor = as_tensor(array)
    array[0] = 7
    assert tensor[0] == 7
    array.flags.writeable = False
    assert as_tensor(array).tolist() == [7, 1, 2, 3]
    assert not recwarn.list


@pytest.mark.parametrize(("name", "expected"), [("a b/c:d", "a-b-c-d"), ("../..", "unnamed"), ("ρ=0.8", "0.8")])
def test_slug_is_fit_for_a_file(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_a_file_system_without_hard_links_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: str) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert create(UPath(tmp_path / "a"), b"first")
    assert not create(UPath(tmp_path / "a"), b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


@pytest.mark.parametrize(
    "address", ["ftp://u:s3cret@host/x", "http://host/x?token=s3cret", "foo://x", "s3://k:s3cret@b/x"]
)
def test_an_address_of_something_else_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(ConfigError, match=r"neither a folder|belong into the environment") as refused:
        as_path(address)
    assert "s3cret" not in str(refused.value)
