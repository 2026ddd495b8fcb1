"""Fetching image sets from a server on the loopback that cuts, lies, hangs and counts; and the registry itself."""

import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ail_ray.errors import ConfigError
from ail_ray.imaging import public_sets
from ail_ray.imaging.image_sets import DatasetError, find
from ail_ray.imaging.public_sets import (
    HOPELESS,
    RETRIES,
    Entry,
    check,
    default_folder,
    fetch,
    fetch_command,
    registered,
    table,
)

ROOT = Path(__file__).parents[2]
FILES = {
    **{f"Few/{i}.png": bytes([i]) * 150_000 for i in range(12)},
    **{f"Many/{i:02d}.png": bytes([i]) * (100 + i) for i in range(40)},
}
Faults = dict[str, str]


class Server(ThreadingHTTPServer):
    """Serves FILES; `faults` says which are `cut` in the middle, `wrong`, `endless`, hang, or are a status."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: Faults = {}
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed is no error here
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        place = self.path.removeprefix("/mirror").removeprefix("/")
        self.server.asked[place] += 1
        content, fault = FILES[place], self.server.faults.get(place, "")
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if fault == "cut once" and self.server.asked[place] > 1:
            fault = ""
        self.send_response(200)
        if fault != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        while fault == "endless":
            self.wfile.write(bytes(2**20))
        self.wfile.write(content[::-1][:-1] + b"!" if fault == "wrong" else content[: len(content) // 2])
        if fault == "hang":
            self.server.let_go.wait(60)
        if not fault:
            self.wfile.write(content[len(content) // 2 :])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.let_go.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def small_registry(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of FILES at the server's address, in place of the real one; no waiting between two tries."""
    lines = ["# a remark", "dataset\tfile\tsha256\tbytes\turl"]
    for place, content in FILES.items():
        digest = hashlib.sha256(content).hexdigest()
        lines.append("\t".join([*place.split("/"), digest, str(len(content)), f"{server.address}/{place}"]))
    path = tmp_path / "registry.tsv"
    path.write_text("\n".join(lines))
    monkeypatch.setattr(public_sets, "REGISTRY", path)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIL_DATA_DIR", raising=False)
    return path


@pytest.fixture
def real_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Entry, ...]]:
    monkeypatch.setattr(public_sets, "REGISTRY", Path(public_sets.__file__).with_name("registry.tsv"))
    return registered()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of(name: str) -> dict[str, bytes]:
    return {place: content for place, content in FILES.items() if place.startswith(f"{name}/")}


def job(small_registry: Path, *arguments: str) -> subprocess.Popen[str]:
    """The job in a process of its own, with the small registry."""
    code = (
        "import runpy, sys; from pathlib import Path; from ail_ray.imaging import public_sets\n"
        "public_sets.REGISTRY = Path(sys.argv.pop(1)); runpy.run_path('jobs/fetch_data.py', run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(small_registry), *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_sets_come_whole_and_readable_by_all_and_are_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    assert fetch(["Few", "Many", "Few"], tmp_path / "data", say=said.append) == []
    assert contents(tmp_path / "data") == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("data/*/*")} == {0o644}
    assert server.asked == dict.fromkeys(FILES, 1)
    assert said == [
        "Few: fetching 12 of 12 images, 1.8 MB", f"Few: 12 of 12 images are whole in {tmp_path}/data/Few",
        "Many: fetching 40 of 40 images, 0.0 MB", f"Many: 40 of 40 images are whole in {tmp_path}/data/Many",
    ]  # fmt: skip
    assert fetch(["Few", "Many"], tmp_path / "data") == check(["Few", "Many"], tmp_path / "data") == []
    assert server.asked == dict.fromkeys(FILES, 1)


def test_a_mirror_replaces_the_addresses(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = public_sets.REGISTRY.read_text().replace(server.address, "http://127.0.0.1:1")
    public_sets.REGISTRY.write_text(text)
    assert fetch(["Few"], tmp_path, base=f"{server.address}/mirror/") == []
    assert server.asked == dict.fromkeys(of("Few"), 1)


def test_a_connection_that_is_cut_once_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.faults = {"Few/3.png": "cut once"}
    assert fetch(["Few"], tmp_path / "data") == []
    assert contents(tmp_path / "data") == of("Few")
    assert server.asked == {**dict.fromkeys(of("Few"), 1), "Few/3.png": 2}


def test_what_fails_is_named_with_what_to_do_and_the_rest_stays(server: Server, tmp_path: Path) -> None:
    server.faults = {"Few/2.png": "404", "Few/5.png": "wrong", "Few/7.png": "cut"}
    problems = fetch(["Few"], tmp_path / "data")
    reasons = [
        (2, "its address answers 404 Not Found"),
        (5, "its address gives other bytes than the registry's"),
        (7, "the connection broke off"),
    ]
    assert problems == [
        f"{tmp_path}/data/Few/{i}.png: {reason}; by hand: save {server.address}/Few/{i}.png there "
        f"(sha256 {hashlib.sha256(FILES[f'Few/{i}.png']).hexdigest()})"
        for i, reason in reasons
    ]
    good = {place: content for place, content in of("Few").items() if place not in server.faults}
    assert contents(tmp_path / "data") == good  # and no temporary file
    assert [server.asked[place] for place in server.faults] == [1 + RETRIES] * 3

    server.faults, server.asked = {}, Counter()
    assert fetch(["Few"], tmp_path / "data") == []
    assert contents(tmp_path / "data") == of("Few")
    assert server.asked == {"Few/2.png": 1, "Few/5.png": 1, "Few/7.png": 1}


def test_an_answer_that_never_ends_is_left_when_it_is_too_long(server: Server, tmp_path: Path) -> None:
    server.faults["Few/3.png"] = "endless"
    (line,) = fetch(["Few"], tmp_path, say=lambda line: None)
    assert "Few/3.png: its address gives other bytes than the registry's; by hand:" in line
    assert sum(path.stat().st_size for path in (tmp_path / "Few").iterdir()) == 11 * 150_000


def test_a_damaged_file_is_found_and_replaced(server: Server, tmp_path: Path) -> None:
    fetch(["Few"], tmp_path)
    (tmp_path / "Few" / "1.png").write_bytes(FILES["Few/1.png"][:-1])
    (tmp_path / "Few" / "2.png").write_bytes(FILES["Few/2.png"][:-1] + b"?")
    (tmp_path / "Few" / "3.png").unlink()
    assert check(["Few"], tmp_path) == [
        f"{tmp_path}/Few/1.png: damaged", f"{tmp_path}/Few/2.png: damaged", f"{tmp_path}/Few/3.png: missing",
    ]  # fmt: skip
    server.asked.clear()
    assert fetch(["Few"], tmp_path) == []
    assert server.asked == {"Few/1.png": 1, "Few/2.png": 1, "Few/3.png": 1}


def test_an_address_that_nobody_answers_is_given_up_soon(server: Server, tmp_path: Path) -> None:
    problems = fetch(["Many"], tmp_path, base="http://127.0.0.1:1")
    assert len(problems) == 40
    assert f"{tmp_path}/Many/00.png: its address cannot be reached; by hand: save http://127.0.0.1:1" in problems[0]
    assert HOPELESS <= sum("cannot be reached" in problem for problem in problems) < HOPELESS + 8
    assert f"not tried, as {HOPELESS} files in a row had failed; by hand" in problems[-1]
    assert fetch(["Many"], tmp_path) == []


def test_a_folder_that_cannot_be_written_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Few").write_text("a file where the folder should be")
    problems = fetch(["Few"], tmp_path)
    assert len(problems) == 12
    assert all("cannot be written (" in problem for problem in problems)


@pytest.mark.long
def test_a_job_killed_in_the_middle_goes_on_with_what_is_missing(
    server: Server, small_registry: Path, tmp_path: Path
) -> None:
    slow = [f"Few/{i}.png" for i in range(5, 12)]
    server.faults = dict.fromkeys(slow, "hang")
    command = ("--sets", "Few", "--to", str(tmp_path / "data"))
    first = job(small_registry, *command)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("data/Few/*.png"))) < 5 or server.asked.total() < 12:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    named = {path.name: path.read_bytes() for path in tmp_path.glob("data/Few/*.png")}
    assert named == {f"{i}.png": FILES[f"Few/{i}.png"] for i in range(5)}

    server.faults, server.asked = {}, Counter()
    server.let_go.set()
    second = job(small_registry, *command)
    output, errors = second.communicate(timeout=120)
    assert (second.returncode, errors) == (0, "")
    assert output.splitlines()[0] == "Few: fetching 7 of 12 images, 1.1 MB"
    assert output.splitlines()[-1] == "All files are whole."
    assert server.asked == dict.fromkeys(slow, 1)
    assert of("Few").items() <= contents(tmp_path / "data").items()
    assert len(find(str(tmp_path / "data" / "Few")).paths) == 12  # what the kill left has no suffix of an image


@pytest.mark.long
def test_the_job_says_what_is_missing_and_exits_with_one(server: Server, small_registry: Path, tmp_path: Path) -> None:
    server.faults = {"Few/2.png": "404"}
    command = ("--sets", "Few", "--to", str(tmp_path / "my data"))
    fetching = job(small_registry, *command)
    output, errors = fetching.communicate(timeout=120)
    assert fetching.returncode == 1
    assert errors.startswith(f"{tmp_path}/my data/Few/2.png: its address answers 404")
    again = f"python jobs/fetch_data.py --sets Few --to '{tmp_path}/my data'"
    assert output.splitlines()[-1] == f"Files that are not there: 1; again: `{again}`"
    asked = server.asked.total()
    checking = job(small_registry, *command, "--check")
    assert checking.communicate(timeout=120)[1] == f"{tmp_path}/my data/Few/2.png: missing\n"
    assert checking.returncode == 1
    assert server.asked.total() == asked


def test_the_command_that_fetches_asks_where_the_first_did(tmp_path: Path) -> None:
    expected = f"`ail fetch --sets Few Many --base 'http://mirror/a b' --to {tmp_path}`"
    assert fetch_command(["Few", "Many"], tmp_path, "http://mirror/a b") == expected


@pytest.mark.long
def test_the_job_refuses_all_bad_arguments_at_once(server: Server, small_registry: Path) -> None:
    refused = job(small_registry, "--sets", "Few", "../Few", "--to", "s3://bucket/data", "--base", "file:///etc")
    _, errors = refused.communicate(timeout=120)
    assert refused.returncode == 2
    assert errors.splitlines() == [
        "error: sets: '../Few' is not in the registry; there are Few, Many",
        "error: to: must be a folder on this machine, got s3://bucket/data",
        "error: base: must be an http or https address without a password, got 'file:///etc'",
    ]
    assert not server.asked


@pytest.mark.parametrize("base", ["ftp://host/a", "127.0.0.1:80", "http://", "https://user:secret@host/", "http://a b"])
def test_bad_mirrors_are_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigError, match="base: must be an http or https address"):
        fetch(["Few"], tmp_path, base=base)


def test_bad_folders_and_no_sets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"sets: name at least one of Few, Many\nto: .*file is a file, not a folder"):
        fetch([], tmp_path / "file")


def test_table_tells_how_whole_each_set_is(tmp_path: Path, server: Server) -> None:
    fetch(["Few"], tmp_path)
    few, many = table(tmp_path)
    assert re.fullmatch(rf"Few +12 images +1\.8 MB +whole +{server.address}/Few", few)
    assert re.fullmatch(rf"Many +40 images +0\.0 MB +not there +{server.address}/Many", many)
    (tmp_path / "Few" / "1.png").unlink()
    (tmp_path / "Few" / "2.png").write_bytes(b"")
    assert "1 missing, 1 damaged" in table(tmp_path)[0]


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ("Few\t", "../Few\t", "'../Few' is not a plain file name"),
        ("Few\t", "..\t", "'..' is not a plain file name"),
        ("\t0.png", "\t/etc/0.png", "'/etc/0.png' is not a plain file name"),
        ("\t0.png", "\ta\\0.png", r"'a\\0.png' is not a plain file name"),
        ("\t0.png", "\t.0.png", "'.0.png' is not a plain file name"),
        ("\t150000", "\t0", "0.png: must have bytes, got 0"),
        ("http:", "file:", "is not an http address"),
        (hashlib.sha256(FILES["Few/0.png"]).hexdigest(), "../x", "'../x' is not a SHA-256"),
    ],
)
def test_a_registry_that_leads_elsewhere_is_refused(small_registry: Path, good: str, bad: str, problem: str) -> None:
    small_registry.write_text(small_registry.read_text().replace(good, bad, 1))
    with pytest.raises(ConfigError) as refusal:
        registered()
    assert len(refusal.value.problems) == 1
    assert problem in refusal.value.problems[0]


def test_find_says_how_to_fetch_and_fetches_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home/.cache/ail_ray/data"
    with pytest.raises(DatasetError) as refusal:
        find("Few")
    command = "ail fetch --sets Few --to"
    assert (
        str(refusal.value) == f"image set Few is not here (AIL_DATA_DIR is not set); fetch it with `{command} {home}`"
    )
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(DatasetError, match=f"data: no such folder.; fetch it with `{command} {tmp_path}/data`"):
        find("Few")
    with pytest.raises(DatasetError, match=f"`{command} FOLDER`, then copy FOLDER to memory://nowhere$"):
        find("Few", "memory://nowhere")
    assert not server.asked


def test_find_refuses_a_set_that_is_not_all_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path / "data"))
    server.faults = {"Few/2.png": "404"}
    fetch(["Few"], default_folder())
    command = f"`ail fetch --sets Few --to {tmp_path}/data`"
    with pytest.raises(DatasetError, match=f"has 11 images, the set has 12; complete it with {command}"):
        find("Few")
    assert len(find(str(tmp_path / "data" / "Few")).paths) == 11  # a path is taken as it is
    server.faults = {}
    fetch(["Few"], default_folder())
    assert len(find("Few").paths) == 12
    (tmp_path / "data" / "Few" / "stray.png").touch()
    with pytest.raises(DatasetError, match="has 13 images, the set has 12; remove what is not its own"):
        find("Few")


def test_find_looks_into_the_cache_after_the_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_folder() == "~/.cache/ail_ray/data"
    fetch(["Few", "Many"], default_folder())
    cache = tmp_path / "home/.cache/ail_ray/data"
    assert find("Few").paths[0].parent == cache / "Few"
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path / "data"))
    fetch(["Few"], default_folder())
    assert find("Few").paths[0].parent == tmp_path / "data" / "Few"
    assert find("Many").paths[0].parent == cache / "Many"
    with pytest.raises(DatasetError, match="image set Many is not here"):
        find("Many", tmp_path / "data")  # a folder that is named alone is looked at alone


def test_the_real_registry_is_sane(real_registry: dict[str, tuple[Entry, ...]]) -> None:
    counts = {name: len(entries) for name, entries in real_registry.items()}
    assert counts == {"T91": 91, "BSDS200": 200, "Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100}
    entries = [entry for entries in real_registry.values() for entry in entries]
    for entry in entries:
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert 0 < entry.bytes < 2_500_000
        assert re.fullmatch(r"\w+\.(png|bmp)", entry.file)
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/\w+/[\w-]+/[0-9a-f]{40}/data/[\w/]+\.\w+", entry.url)
    assert len({entry.place.lower() for entry in entries}) == len({entry.url for entry in entries}) == 510
    assert sum(entry.bytes for entry in real_registry["T91"]) == 16_102_570


def test_the_real_registry_agrees_with_the_files(real_registry: dict[str, tuple[Entry, ...]], data_dir: Path) -> None:
    there = [name for name in real_registry if (data_dir / name).is_dir()]
    assert {"T91", "BSDS200", "Set5", "Set14"} <= set(there)
    assert check(there, data_dir) == []
    assert fetch(there, data_dir, base="http://127.0.0.1:1") == []  # whole, so nobody is asked
