"""Files that are whole or absent, on a file system or an object store.

A local file is written under a temporary name, flushed and renamed, and its folder is flushed; an object is one put.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from upath import UPath

from ail_ray.addresses import check_address
from ail_ray.errors import ConfigError, one_line

T = TypeVar("T")
AnyPath = str | os.PathLike[str] | UPath
Buffer = bytes | memoryview


TEMPORARY = ".tmp"  # ends the name of a file that is being written
AT_ONCE = 32  # requests to an object store


class FileError(ValueError):
    """A file that is missing, damaged or of another kind; the message names it and what is wrong."""


class WriteError(ConfigError, OSError):
    """A file that cannot be written, as on a full disk; its one problem names it and says what to do."""


def as_path(path: AnyPath) -> UPath:
    """A local path made absolute (`~` expanded), or the address of an object store; ConfigError: `check_address`."""
    check_address(str(path))
    # Without "://" it is the name of a file, whatever an address might be made of, such as `clip::01.png`.
    path = UPath(path) if "://" in str(path) else UPath(Path(str(path)))
    if is_local(path):
        return UPath(Path(os.path.expanduser(str(path))).absolute())
    options: dict[str, Any] = {"use_listings_cache": False}  # whoever writes there is another process
    if _is_s3(path):
        options["config_kwargs"] = {"max_pool_connections": AT_ONCE}  # its library has ten, whoever asks
    return UPath(path, **options)


def _is_s3(path: UPath) -> bool:
    return path.protocol in ("s3", "s3a")


def inside(folder: UPath, name: str) -> UPath:
    """A file in a folder, whatever its name: joined as usual, `clip::01.png` would be taken for an address."""
    return UPath(Path(str(folder)) / name) if is_local(folder) else folder / name


def is_local(path: UPath) -> bool:
    """Whether the path lies on a mounted file system (a local disk or NFS)."""
    return isinstance(path, Path)


Kind = Literal["file", "folder", "other"]


@dataclass(frozen=True)
class Entry:
    """What lies in a folder."""

    folder: UPath
    name: str
    kind: Kind
    stamp: str  # size and time of change, or what an object store has instead; empty if it tells neither
    changed: float  # seconds since 1970; 0 where that is not known

    @property
    def path(self) -> UPath:
        """Where it lies; made when it is asked for, since that takes longer than all else of a listing."""
        return inside(self.folder, self.name)


def entries(folder: UPath) -> list[Entry]:
    """What lies in a folder, sorted by name; of an object store one request tells of a thousand files.

    Raises:
        whatever a file system or an object store's library raises.
    """
    if is_local(folder):
        found: Iterable[Entry] = (_entry(folder, name) for name in os.listdir(str(folder)))
    else:
        found = _objects(folder)
    return sorted(found, key=lambda entry: entry.name)


def _entry(folder: UPath, name: str) -> Entry:
    try:
        there = os.stat(os.path.join(str(folder), name))
    except OSError:  # a link to nothing
        return Entry(folder, name, "other", "", 0.0)
    stamp = f"{there.st_size} {there.st_mtime_ns} {there.st_ctime_ns} {there.st_ino}"
    kind: Kind = "file" if stat.S_ISREG(there.st_mode) else "folder" if stat.S_ISDIR(there.st_mode) else "other"
    return Entry(folder, name, kind, stamp, max(there.st_mtime, there.st_ctime))


def _objects(folder: UPath) -> Iterator[Entry]:
    itself = folder.path.strip("/")
    for info in folder.fs.ls(folder.path, detail=True):
        name, changed = info["name"].strip("/"), info.get("mtime")  # a number, or a text as Google's store has it
        if name == itself:  # what marks the folder itself
            continue
        version = next(filter(None, map(info.get, ("ETag", "etag", "LastModified", "updated", "mtime"))), "")
        yield Entry(
            folder, name.rpartition("/")[2], "folder" if info["type"] == "directory" else "file",
            f"{info.get('size')} {version}" if version else "", changed if isinstance(changed, float) else 0.0,
        )  # fmt: skip


def resolved(path: UPath) -> UPath:
    """The path behind all links, by which two names of one folder are told to be one; an address stays what it is."""
    return path.resolve() if is_local(path) else path


def read_at_once(path: UPath) -> bytes:
    """All bytes of a small file; of an object by one request, where `read_bytes` asks for its size before.

    Raises:
        whatever a file system or an object store's library raises.
    """
    if is_local(path):
        return path.read_bytes()
    one = {"max_concurrency": 1} if _is_s3(path) else {}  # in parts, it would ask for the size as well
    content: bytes = path.fs.cat_file(path.path, **one)
    return content


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
    check_regular(path)
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:  # no ValueError before its version 0.20
        raise FileError(f"{path}: not valid JSON ({error})") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None


def check_regular(path: UPath) -> None:
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


def remove_tree(folder: UPath) -> None:
    """Remove a folder and all in it."""
    if is_local(folder):
        shutil.rmtree(str(folder), ignore_errors=True)
    else:
        folder.fs.rm(folder.path, recursive=True)


def digest_of(content: Any, length: int = 16) -> str:
    """Hexadecimal digest of plain data, the same in every process and for every order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


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
