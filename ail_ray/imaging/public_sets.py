"""The public image sets: which files they have, whether those are there and whole, and fetching those that are not.

`registry.tsv` names every file with its SHA-256 and its address. Nothing is fetched unless asked for. A file is
whole or absent: pooch writes it under a temporary name and renames it once its bytes are the registry's. A fetch that
was interrupted goes on file by file; the largest has 2.4 MB, so half a file is fetched anew and not continued. A kill
leaves at most eight temporary files beside the images, without the suffix of one.
"""

import csv
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from upath import UPath

from ail_ray.entry import called
from ail_ray.errors import ConfigError
from ail_ray.files import AnyPath, as_path

REGISTRY = Path(__file__).with_name("registry.tsv")
CACHE = "~/.cache/ail_ray/data"
"""Where image sets are looked for after AIL_DATA_DIR, and where they are fetched to if that is not set."""

AT_ONCE = 8
RETRIES = 2
HOPELESS = 16
"""After so many failures in a row the rest of a set is not tried: a network that is down is not asked 200 times."""
TIMEOUT = (10, 60)
"""How many seconds a connection may take, and how many may pass between two pieces of an answer."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a set: its names, what it must be, and where it comes from."""

    dataset: str
    file: str
    sha256: str
    bytes: int
    url: str

    def __post_init__(self) -> None:
        problems = [
            f"{REGISTRY.name}: {name!r} is not a plain file name"
            for name in (self.dataset, self.file)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name
        ]
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            problems.append(f"{REGISTRY.name}: {self.file}: {self.sha256!r} is not a SHA-256")
        if self.bytes <= 0:
            problems.append(f"{REGISTRY.name}: {self.file}: must have bytes, got {self.bytes}")
        if not _is_http(self.url):
            problems.append(f"{REGISTRY.name}: {self.file}: {self.url!r} is not an http address")
        if problems:
            raise ConfigError(problems)

    @property
    def place(self) -> str:
        """The path of the file below a folder of sets, or below the address of a mirror."""
        return f"{self.dataset}/{self.file}"


def registered() -> dict[str, tuple[Entry, ...]]:
    """The files of every set, by its name.

    Raises:
        ConfigError: with a line for each name that is not a plain one, bad checksum, size or address.
    """
    return _registered(REGISTRY)


@cache
def _registered(registry: Path) -> dict[str, tuple[Entry, ...]]:
    sets: dict[str, tuple[Entry, ...]] = {}
    problems: list[str] = []
    lines = [line for line in registry.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines, delimiter="\t"):
        try:
            size = int(row.pop("bytes"))
            entry = Entry(bytes=size, **row)
        except ConfigError as error:
            problems += error.problems
            continue
        sets[entry.dataset] = (*sets.get(entry.dataset, ()), entry)
    if problems:
        raise ConfigError(problems)
    return sets


def default_folder() -> str:
    """The folder that sets are fetched to by default: AIL_DATA_DIR, or without it the cache in the home folder."""
    return os.environ.get("AIL_DATA_DIR") or CACHE


def fetch_command(names: Sequence[str], folder: AnyPath, base: str | None = None) -> str:
    """The command that fetches or completes sets, as a user types it; an object store has to be filled by copying."""
    flags = ["--sets", *names, *(["--base", base] if base else []), "--to"]
    command = called("fetch", *flags)
    if _is_address(folder):
        return f"`{command} FOLDER`, then copy FOLDER to {folder}"
    return f"`{command} {shlex.quote(str(as_path(folder)))}`"


def check(names: Sequence[str], folder: AnyPath) -> list[str]:
    """A line for every file of the sets that is missing or damaged in `<folder>/<set>`, empty if all are whole.

    Raises:
        ConfigError: a set that the registry does not have, or a folder that is not on this machine.
    """
    sets = _chosen(names, folder)
    lacking = [found for entries in sets for found in _lacking(entries, as_path(folder)).items()]
    return [f"{as_path(folder) / entry.place}: {state}" for entry, state in lacking]


def table(folder: AnyPath) -> list[str]:
    """A line for every set: name, images, MB, how whole it is in the folder, source; ConfigError as `check`."""
    lines = []
    for entries in _chosen(list(registered()), folder):
        states = list(_lacking(entries, as_path(folder)).values())
        missing, damaged = states.count("missing"), states.count("damaged")
        state = "not there" if missing == len(entries) else f"{missing} missing, {damaged} damaged"
        size = f"{len(entries):4d} images {_megabytes(entries):6.1f} MB"
        source = entries[0].url.rpartition("/")[0]
        lines.append(f"{entries[0].dataset:8s} {size}   {state if states else 'whole':24s} {source}")
    return lines


def _bounded(size: int) -> Callable[[str, str, object], None]:
    """A downloader for pooch that takes no more bytes than there should be, since an answer need never end."""
    import requests

    def download(url: str, output_file: str, _: object) -> None:
        left = size
        with requests.get(url, timeout=TIMEOUT, stream=True) as answer, open(output_file, "wb") as file:
            answer.raise_for_status()
            for piece in answer.iter_content(2**16):
                left -= len(piece)
                if left < 0:
                    raise ValueError(f"the answer is longer than the {size:,} bytes that the file has")
                file.write(piece)

    return download


def fetch(
    names: Sequence[str], folder: AnyPath, *, base: str | None = None, say: Callable[[str], None] = print
) -> list[str]:
    """Fetch what is not whole of the named sets into `<folder>/<set>/<file>`, eight files at once.

    A damaged file is replaced, a whole one is left alone and not asked for. On a terminal a bar shows the progress.

    Args:
        base: address of a mirror that has `<set>/<file>`, instead of the registry's addresses.
        say: is called with a line before and after each set.

    Returns:
        A line for every file that could not be had: why, its address, where to put it by hand. Empty if all are whole.

    Raises:
        ConfigError: a set that the registry does not have, a folder that is not on this machine, a mirror's address
            that is not http or https. Nothing was fetched then.
    """
    problems: list[str] = []
    for entries in _chosen(names, folder, base):
        name, wanted = entries[0].dataset, list(_lacking(entries, as_path(folder)))
        if wanted:
            say(f"{name}: fetching {len(wanted)} of {len(entries)} images, {_megabytes(wanted):.1f} MB")
        failed = _fetch_files(wanted, as_path(folder), base) if wanted else []
        problems += failed
        say(f"{name}: {len(entries) - len(failed)} of {len(entries)} images are whole in {as_path(folder) / name}")
    return problems


def _fetch_files(wanted: Sequence[Entry], folder: UPath, base: str | None) -> list[str]:
    """Fetch the files; a line for each that failed, in their order."""
    import pooch  # here, as requests below: they take a second to load, and are needed by nobody else
    from tqdm import tqdm

    pooch.get_logger().setLevel("ERROR")  # its line for each file would go through the bar
    addresses = {entry.place: f"{base.rstrip('/')}/{entry.place}" if base else entry.url for entry in wanted}
    store = pooch.create(
        path=str(folder), base_url="", retry_if_failed=RETRIES,
        registry={entry.place: f"sha256:{entry.sha256}" for entry in wanted}, urls=addresses,
    )  # fmt: skip
    bar = tqdm(total=sum(entry.bytes for entry in wanted), unit="B", unit_scale=True, leave=False, disable=None)
    failures_in_a_row = 0

    def problem(entry: Entry) -> str | None:
        nonlocal failures_in_a_row
        if failures_in_a_row >= HOPELESS:
            return f"not tried, as {HOPELESS} files in a row had failed"
        try:
            # pooch makes it too, and fails when another thread is faster
            (folder / entry.dataset).mkdir(parents=True, exist_ok=True)
            # pooch leaves its temporary file's mode, which shuts out everybody else who shares the folder
            Path(store.fetch(entry.place, downloader=_bounded(entry.bytes))).chmod(0o644)
        except (OSError, ValueError) as error:
            failures_in_a_row += 1
            return _reason(error)
        failures_in_a_row = 0
        bar.update(entry.bytes)
        return None

    with bar, ThreadPoolExecutor(AT_ONCE) as pool:
        return [
            f"{folder / entry.place}: {reason}; by hand: save {addresses[entry.place]} there (sha256 {entry.sha256})"
            for entry, reason in zip(wanted, pool.map(problem, wanted), strict=True)
            if reason
        ]


def _chosen(names: Sequence[str], folder: AnyPath, base: str | None = None) -> list[tuple[Entry, ...]]:
    """The files of the named sets, each set once; ConfigError for all that is wrong with the arguments."""
    sets = registered()
    unknown = [name for name in names if name not in sets]
    problems = [f"sets: {name!r} is not in the registry; there are {', '.join(sets)}" for name in unknown]
    if not names:
        problems.append(f"sets: name at least one of {', '.join(sets)}")
    if _is_address(folder):
        problems.append(f"to: must be a folder on this machine, got {folder}")
    elif as_path(folder).exists() and not as_path(folder).is_dir():
        problems.append(f"to: {folder} is a file, not a folder")
    if base is not None and not _is_http(base):
        problems.append(f"base: must be an http or https address without a password, got {base!r}")
    if problems:
        raise ConfigError(problems)
    return [sets[name] for name in dict.fromkeys(names)]


def _lacking(entries: Sequence[Entry], folder: UPath) -> dict[Entry, str]:
    """The files that are not whole, and for each whether it is `missing` or `damaged`."""
    lacking = {}
    for entry in entries:
        path = folder / entry.place
        if not path.is_file():
            lacking[entry] = "missing"
        elif path.stat().st_size != entry.bytes or hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            lacking[entry] = "damaged"
    return lacking


def _reason(error: OSError | ValueError) -> str:
    """Why a file could not be had, in words; the libraries' own messages take a screenful."""
    import requests

    match error:
        case requests.HTTPError(response=requests.Response() as answer):
            return f"its address answers {answer.status_code} {answer.reason}"
        case requests.Timeout():
            return "its address does not answer in time"
        case requests.exceptions.ChunkedEncodingError():
            return "the connection broke off"
        case requests.RequestException():
            return "its address cannot be reached"
        case OSError():
            return f"cannot be written ({error.strerror or error})"
        case _:
            return "its address gives other bytes than the registry's"


def _megabytes(entries: Sequence[Entry]) -> float:
    return sum(entry.bytes for entry in entries) / 1e6


def _is_http(address: str) -> bool:
    return bool(re.fullmatch(r"https?://[^\s/?#@]+(/\S*)?", address))  # an @ would be a password, shown in every line


def _is_address(folder: AnyPath) -> bool:
    return "://" in str(folder)
