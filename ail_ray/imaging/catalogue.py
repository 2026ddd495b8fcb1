"""What is known of image files without reading them again: a table by name, size and time of change.

The contents and sizes of all images name a corpus, and reading a million files for them takes hours on an object store.
A listing says of a thousand files at once which have changed since; only those are read.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import AT_ONCE, Entry, digest_of, entries, is_local, read_at_once, read_record, write_bytes
from ail_ray.imaging.images import ImageError, content_digest, image_size, reading
from ail_ray.machine import cores

VERSION = 1  # raise it whenever `image_size` or `reading` tells something else of a file
FRESH = 2.0  # seconds: a file that has just been written may change again without another time of change


@dataclass(frozen=True)
class Seen:
    """An image file as its header tells."""

    content: str  # SHA-256 of the file
    height: int  # of the upright image, pixels
    width: int
    mark: str = ""  # for one that is read in another way than it once was, as `reading` has it


Look = Callable[[Iterable[UPath]], Mapping[UPath, "Seen | ImageError"]]
"""Looks at image files; what cannot be read has its error instead."""


def look_at(path: UPath) -> Seen | ImageError:
    """Read one image file."""
    try:
        content = read_at_once(path)
        return Seen(content_digest(content), *image_size(path, content), reading(path, content))
    except ImageError as error:
        return error
    except Exception as error:  # whatever a file system or an object store's library raises
        return ImageError(f"{path}: cannot be read ({one_line(error)})")


def look_at_each(paths: Iterable[UPath]) -> dict[UPath, Seen | ImageError]:
    """Read image files, many at once."""
    asked = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(cores() if all(map(is_local, asked)) else AT_ONCE) as threads:
        return dict(zip(asked, threads.map(look_at, asked), strict=True))


@dataclass(frozen=True)
class Row:
    """A file of a folder when it was read."""

    stamp: str  # size and time of change, or what an object store has instead
    seen: Seen


@dataclass(frozen=True)
class Table:
    """What was read of one folder, by the names of the files."""

    folder: str
    version: int
    rows: dict[str, Row]


class Catalogue:
    """Tables of the folders that were looked at, in `images/` on a storage path."""

    def __init__(self, storage: UPath) -> None:
        self.storage, self._unsaved = storage, dict[UPath, Table]()

    def look(self, paths: Iterable[UPath]) -> dict[UPath, Seen | ImageError]:
        """Look at image files, and read only those that are new or have changed."""
        by_folder = dict[str, dict[str, UPath]]()
        for path in dict.fromkeys(paths):  # as text: to ask an object store's path takes longer
            folder, _, name = str(path).rpartition("/")
            by_folder.setdefault(folder, {})[name] = path
        found = dict[UPath, Seen | ImageError]()
        for files in by_folder.values():
            found |= self._look(next(iter(files.values())).parent, files)
        return found

    def save(self) -> None:
        """Write the tables that have changed."""
        for folder, table in self._unsaved.items():
            write_bytes(self._path(folder), msgspec.json.encode(table))  # by far faster than text for people
        self._unsaved.clear()

    def forget(self) -> None:
        """Drop all tables, where a file was not what its table said."""
        for table in (self.storage / "images").glob("*.json"):
            table.unlink(missing_ok=True)

    def _look(self, folder: UPath, files: dict[str, UPath]) -> dict[UPath, Seen | ImageError]:
        known, now = self._known(folder), time.time()
        there = list[Entry]()
        with suppress(Exception):  # a folder that cannot be listed: its files are read
            there = [entry for entry in entries(folder) if _is_text(entry.name)]
        stamps = {entry.name: entry.stamp for entry in there if entry.stamp and entry.changed < now - FRESH}
        same = {name: row.seen for name in files
                if (row := known.get(name)) is not None and row.stamp == stamps.get(name)}  # fmt: skip
        read = look_at_each(path for name, path in files.items() if name not in same)
        new = {name: Row(stamps[name], seen) for name, path in files.items()
               if name in stamps and isinstance(seen := read.get(path), Seen)}  # fmt: skip
        if new:
            left = {entry.name: known[entry.name] for entry in there if entry.name in known}
            self._unsaved[folder] = Table(str(folder), VERSION, left | new)
        return {path: same.get(name) or read[path] for name, path in files.items()}

    def _path(self, folder: UPath) -> UPath:
        return self.storage / "images" / f"{digest_of(str(folder))}.json"

    def _known(self, folder: UPath) -> dict[str, Row]:
        if folder in self._unsaved:
            return self._unsaved[folder].rows
        try:
            content = read_record(self._path(folder), Table)
        except Exception:  # there is none, it is damaged, or the storage cannot be read, which others will say
            return {}
        return content.rows if (content.folder, content.version) == (str(folder), VERSION) else {}


def _is_text(name: str) -> bool:
    """Whether a table can hold a name; a file system may have others."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False
