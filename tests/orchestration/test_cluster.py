"""A Ray of our own on a machine that is too busy to start it in time."""

from typing import Any

import pytest
import ray

from ail_ray.errors import ConfigError
from ail_ray.orchestration.cluster import start_own


@pytest.mark.parametrize(
    ("failures", "message", "refused"),
    [(1, "The current node timed out during startup.", None),
     (2, "The current node timed out during startup.", ConfigError),
     (1, "no such option", RuntimeError)],
)  # fmt: skip
def test_a_start_that_took_too_long_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, failures: int, message: str, refused: type[Exception] | None
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # set anew by each start, put back by the test
    tried = list[dict[str, Any]]()

    def init(**options: Any) -> None:
        tried.append(options)
        if len(tried) <= failures:
            raise RuntimeError(message)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if refused is None:
        start_own(num_cpus=1)
    else:
        with pytest.raises(refused, match=message):
            start_own(num_cpus=1)
    assert len(tried) == (1 if refused is RuntimeError else 2)
    assert all(options["num_cpus"] == 1 for options in tried)
