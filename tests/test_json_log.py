"""Logs in JSON, where AIL_LOG asks for them: an object a line, with the names that Ray's own logs have."""

import io
import json
import logging
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray._common.formatters import JSONFormatter
from upath import UPath

from ail_ray import entry
from ail_ray.commands.parsing import deliver, progress, refuse
from ail_ray.entry import about, say
from ail_ray.learning.group import Group
from ail_ray.orchestration import cluster, slots


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIL_LOG", "json")


def test_a_line_is_an_object_under_the_names_of_rays_own(asked: None, capsys: pytest.CaptureFixture[str]) -> None:
    say("a table\nof two lines, and \x1b[2K, λ")
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert said["message"] == "a table\nof two lines, and \x1b[2K, λ"
    assert line.isascii(), "a control character moves no cursor"
    record = logging.makeLogRecord({"msg": "a", "levelname": "INFO"})
    record.created = said["timestamp_ns"] / 1e9
    record.msecs = said["timestamp_ns"] // 10**6 % 1000
    rays = json.loads(JSONFormatter().format(record))
    assert said.keys() - {"timestamp_ns"} <= rays.keys()
    assert (said["asctime"], said["levelname"]) == (rays["asctime"], "INFO")


def test_a_line_bears_what_it_is_about_and_no_other_does(asked: None, capsys: pytest.CaptureFixture[str]) -> None:
    with about(sweep="5ee9"):
        with about(run="a"):
            say("both")
        with suppress(KeyError), about(run="b", levelname="ERROR"):
            say("graver")
            raise KeyError
        say("one")
    say("none")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    known = [{key: each[key] for key in each.keys() - {"asctime", "timestamp_ns"}} for each in lines]
    assert known == [
        {"message": "both", "levelname": "INFO", "sweep": "5ee9", "run": "a"},
        {"message": "graver", "levelname": "ERROR", "sweep": "5ee9", "run": "b"},
        {"message": "one", "levelname": "INFO", "sweep": "5ee9"},
        {"message": "none", "levelname": "INFO"},
    ]


def test_without_being_asked_lines_are_as_people_read_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("", "text"):
        monkeypatch.setenv("AIL_LOG", value)
        with about(run="a"):
            say("a \x1b[2K")
        assert capsys.readouterr().out == "a \\x1b[2K\n"


def test_a_result_that_is_asked_for_as_json_stays_itself(asked: None, capsys: pytest.CaptureFixture[str]) -> None:
    deliver({"psnr": 30.5}, "-")
    assert json.loads(capsys.readouterr().out) == {"psnr": 30.5}


def test_a_refusal_is_an_error(asked: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        refuse(["scale must be 2", "rho must be less"])
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    expected = [("ERROR", "error: scale must be 2"), ("ERROR", "error: rho must be less")]
    assert [(each["levelname"], each["message"]) for each in said] == expected


def test_no_bar_is_drawn_between_the_lines_of_a_terminal(asked: None) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with progress(2.0, file := Terminal()) as (tell, advance):
        tell("enlarged")
        advance(1.0)
    assert json.loads(file.getvalue())["message"] == "enlarged"


def left(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit code of a command that fails."""

    def load() -> Any:
        raise error

    monkeypatch.setattr(entry, "listen", lambda handler: None)
    with pytest.raises(SystemExit) as leaving:
        entry.run(load)
    return int(str(leaving.value.code))


def test_an_error_of_the_program_is_a_line_too(
    asked: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert left(monkeypatch, ValueError("what nobody thought of")) == 1
    said = json.loads(capfd.readouterr().err)
    assert said["levelname"] == "ERROR"
    assert said["message"].startswith("Traceback")
    assert "ValueError: what nobody thought of" in said["message"]


def test_the_last_word_is_a_line_too(
    asked: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert left(monkeypatch, entry.Interrupted(15)) == 143
    assert json.loads(capfd.readouterr().err)["message"] == "stopped; the same command starts again"


def test_another_kind_of_log_is_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AIL_LOG", "yaml")
    assert left(monkeypatch, AssertionError("loaded")) == 2
    assert capfd.readouterr().err == "error: AIL_LOG must be text or json, got yaml\n"


@pytest.mark.parametrize("value", ["json", "text"])
def test_ray_is_asked_for_the_same(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict[str, Any]()
    monkeypatch.setenv("AIL_LOG", value)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    cluster._init()
    assert (given["logging_config"].encoding == "JSON") if value == "json" else "logging_config" not in given


def test_a_worker_says_which_run_has_failed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(slots, "work", work)
    assignment: Any = SimpleNamespace(directory=UPath("/runs/4d74"), holder=None, config=None, maps=None)
    monkeypatch.setattr(slots, "ActorStore", lambda *_: None)
    failure = slots._attempt(assignment, None, Group(), torch.device("cpu"), lambda: None)
    assert failure == "MemoryError: no room"
    (record,) = caplog.records
    said = json.loads(JSONFormatter().format(record))
    assert (said["run"], said["levelname"]) == ("4d74", "ERROR")
    assert "MemoryError: no room" in said["exc_text"]
