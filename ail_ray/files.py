"""Files that are whole or absent, on a file system or an object store.

A local file is written under a temporary name, flushed and renamed, and its folder is flushed; an object is one put.
Tensors are kept as safetensors with the SHA-256 of their bytes in the header, so a damaged file is noticed when it is
read. No pickle is ever written or loaded.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import safetensors
import torch
from upath import UPath

from ail_ray.addresses import check_address
from ail_ray.errors import ConfigError, one_line

T = TypeVar("T")
AnyPath = str | os.PathLike[str] | UPath
Buffer = bytes | memoryview

KINDS = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16", "<f2": "F16", "<i4": "I32", "<u4": "U32",
    "<f4": "F32", "<f8": "F64", "<i8": "I64", "<u8": "U64",
}  # fmt: skip
"""Names of numpy's types in safetensors, in its order."""


TEMPORARY = ".tmp"  # ends the name of a file that is being written


class FileError(ValueError):
    """A file that is missing, damaged or of another kind; the message names it and what is wrong."""


class WriteError(ConfigError, OSError):
    """A file that cannot be written, as on a full disk; its one problem names it and says what to do."""


def as_path(path: AnyPath) -> UPath:
    """A local path made absolute (`~` expanded), or the address of an object store; ConfigError: `check_address`."""
    check_address(str(path))
    path = UPath(path)
    if is_local(path):
        return UPath(Path(os.path.expanduser(str(path))).absolute())
    return UPath(path, use_listings_cache=False)  # whoever writes there is another process


def is_local(path: UPath) -> bool:
    """Whether the path lies on a mounted file system (a local disk or NFS)."""
    return isinstance(path, Path)


def write_bytes(path: UPath, *pieces: Buffer) -> None:
    """Write a file so that a reader, or a restart, sees the whole of it or nothing.

    Raises:
        WriteError: the file system has no room for it, or does not take it.
    """
    if not is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(pieces))
        return
    temporary = _temporary(path)
    with _refusals(path):
        try:
            _write(temporary, *pieces)
            os.replace(str(temporary), str(path))
        finally:
            temporary.unlink(missing_ok=True)
        _settle(path.parent)


def unwritable(folder: UPath) -> list[str]:
    """What keeps a folder, or a place in an object store, from being written to."""
    try:
        if is_local(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return [] if os.access(str(folder), os.W_OK) else [f"{folder}: not writable"]
        probe = folder / f".writable-{uuid.uuid4().hex}"
        exclusive = create(probe, b"") and not create(probe, b"")
        probe.unlink()
        if not exclusive:
            return [f"{folder}: this store replaces files that it must not: two jobs could spoil each other's run"]
    except OSError as error:
        return [f"{folder}: cannot be created ({error.strerror or error})"]
    except Exception as error:  # whatever an object store's library raises, or that it is not installed
        return [f"{folder}: cannot be written ({one_line(error)})"]
    return []


def unwritable_file(path: UPath) -> list[str]:
    """What keeps a file from being written, by its name and its folder."""
    if is_local(path) and path.exists():
        if path.is_dir():
            return [f"{path}: a folder, not a file"]
        if not os.access(str(path), os.W_OK):
            return [f"{path}: not writable"]
    return unwritable(path.parent)


def create(path: UPath, data: bytes) -> bool:
    """Write a file only if there is none of that name, which the storage decides; returns whether it did."""
    if not is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.fs.pipe_file(path.path, data, mode="create")  # S3: If-None-Match
            return True
        return False
    temporary = _temporary(path)
    with _refusals(path):
        try:
            _write(temporary, data)
            try:
                os.link(str(temporary), str(path))
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links, a memory stick's
                return _created(path, data)
        finally:
            temporary.unlink(missing_ok=True)
        _settle(path.parent)
    return True


def _created(path: UPath, data: bytes) -> bool:
    """As `create`; a reader who comes in between sees a part of the file."""
    with suppress(FileExistsError), path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return True
    return False


def write_json(path: UPath, content: Any) -> None:
    """Write plain data as indented JSON; NaN and infinity are refused, since JSON has neither."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: UPath) -> Any:
    """Read a JSON file.

    Raises:
        FileError: the file is missing or not JSON.
    """
    _regular(path)
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:  # no ValueError before its version 0.20
        raise FileError(f"{path}: not valid JSON ({error})") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None


def _regular(path: UPath) -> None:
    """Refuse what is there and no file: whoever opens a pipe waits for somebody to write."""
    if is_local(path) and path.exists() and not path.is_file():
        raise FileError(f"{path}: not a file")


def write_record(path: UPath, record: object) -> None:
    """Write a frozen dataclass as indented JSON."""
    write_json(path, msgspec.to_builtins(record))


def read_record(path: UPath, kind: type[T]) -> T:
    """Read a JSON file as a frozen dataclass, all of whose values are checked.

    Raises:
        FileError: as `read_json`, or it is JSON and no such record; the message names the value that is wrong.
    """
    return as_record(read_json(path), kind, path)


def as_record(content: Any, kind: type[T], path: UPath) -> T:
    """Plain data from a file as a frozen dataclass; FileError as `read_record`."""
    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, ConfigError) as error:
        raise FileError(f"{path}: damaged, or written by another version ({one_line(error)})") from None


def write_tensors(path: UPath, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays (any shape; float, integer or bool) as safetensors with their checksum."""
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # a scalar stays one
    metadata = dict(metadata or {}, sha256=checksum(tensors))
    write_bytes(path, *_pieces(tensors, metadata))


def read_tensors(path: UPath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file, memory-mapped and not copied: treat them as read-only.

    Arrays that are never used take no memory, since the checksum is computed by reading the file, not its mapping.

    Raises:
        FileError: missing, not safetensors (a pickle is refused here), or its bytes differ from its checksum.
    """
    _regular(path)
    try:
        tensors, metadata, found = _mapped(path)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise FileError(f"{path}: not a readable safetensors file ({error}); pickles are never loaded") from None
    except Exception as error:
        if is_local(path):
            raise
        # Whatever an object store's library raises, or that it is not installed.
        raise FileError(f"{path}: cannot be read ({one_line(error)})") from error
    if metadata.get("sha256") not in (None, found):
        raise FileError(f"{path}: damaged, its content differs from its checksum")
    return tensors, metadata


def remove_tree(folder: UPath) -> None:
    """Remove a folder and all in it."""
    if is_local(folder):
        shutil.rmtree(str(folder), ignore_errors=True)
    else:
        folder.fs.rm(folder.path, recursive=True)


def checksum(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(_title(name, array))
        digest.update(_content(np.ascontiguousarray(array)))
    return digest.hexdigest()


def digest_of(content: Any, length: int = 16) -> str:
    """Hexadecimal digest of plain data, the same in every process and for every order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory, read-only arrays included (nobody here writes into one)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def slug(name: str) -> str:
    """A name fit for a file: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


@contextmanager
def _refusals(path: UPath) -> Iterator[None]:
    """What the file system refuses as a line that names the file, and not the one beside it that is written first."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room, then the same command goes on" if full else ""
        raise WriteError([f"{path}: cannot be written ({error.strerror or error}){remedy}"]) from error


def _write(path: UPath, *pieces: Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _settle(folder: UPath) -> None:
    """Make the names in a folder last, as the contents of its files do."""
    handle = os.open(str(folder), os.O_RDONLY)
    with suppress(OSError):  # a file system that has no such thing
        os.fsync(handle)
    os.close(handle)


def _temporary(path: UPath) -> UPath:
    """A temporary name in the same folder, no longer than the file's own, which may be as long as names can be."""
    return path.with_name(f".{uuid.uuid4().hex}{TEMPORARY}")


def _pieces(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> list[Buffer]:
    """The pieces of a safetensors file, to be written one by one; the library would copy all of it several times.

    The same content is the same bytes, those of the library, which has the metadata in a new order every time.
    """
    order, end = list(KINDS), 0
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    names = sorted(tensors, key=lambda name: (-order.index(tensors[name].dtype.str), name))  # the widest first
    for name in names:
        array, start = tensors[name], end
        end += array.nbytes
        header[name] = {"dtype": KINDS[array.dtype.str], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(_content(tensors[name]) for name in names)]


def _content(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _mapped(path: UPath) -> tuple[dict[str, np.ndarray], dict[str, str], str | None]:
    """Arrays, metadata and, if the metadata names a checksum, the checksum that the arrays really have."""
    if not is_local(path):
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as copy:  # the mapping outlives the name
            copy.write(path.read_bytes())
            copy.flush()
            return _mapped(UPath(copy.name))
    with safetensors.safe_open(str(path), framework="pt") as file:  # maps the file, where "np" would copy it
        tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    return tensors, metadata, _checksum_on_disk(path, tensors) if "sha256" in metadata else None


def _checksum_on_disk(path: UPath, tensors: dict[str, np.ndarray]) -> str:
    """What `checksum` returns, computed from the file without touching the mapped pages."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(str(path), "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        for name in sorted(tensors):
            array, left = tensors[name], tensors[name].nbytes
            digest.update(_title(name, array))
            file.seek(start + header[name]["data_offsets"][0])
            while left and (read := file.readinto(buffer[: min(left, len(buffer))])):
                digest.update(buffer[:read])
                left -= read
    return digest.hexdigest()


def _title(name: str, array: np.ndarray) -> bytes:
    return f"{name} {array.dtype.str} {array.shape};".encode()
