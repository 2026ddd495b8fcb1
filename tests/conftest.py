"""What every test shares: quiet libraries, data and teacher, one local Ray, a count of skips."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports ray or mlflow, and inherited by the processes they start.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    RAY_USAGE_STATS_ENABLED="0",
    GIT_PYTHON_REFRESH="quiet",
)

# A busy machine is slow, not wrong; what hangs meets the limit of pytest-timeout.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

MARKER_OF_FIXTURE = {"data_dir": "data", "teacher_path": "teacher", "local_ray": "ray"}
MUST_NOT_SKIP = ("data", "teacher")
Report = Generator[None, pytest.TestReport, pytest.TestReport]
MARKERS = pytest.StashKey[dict[str, set[str]]]()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the image sets: `AIL_DATA_DIR`."""
    return _path_from("AIL_DATA_DIR")


@pytest.fixture(scope="session")
def teacher_path() -> Path:
    """Weights of the public VDSR teacher: `AIL_TEACHER_DIR/vdsr_291.safetensors`."""
    return _path_from("AIL_TEACHER_DIR", "vdsr_291.safetensors")


def _path_from(variable: str, name: str = "") -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set")
    path = Path(folder, name)
    if not path.exists():
        pytest.skip(f"{variable}: {path} does not exist")
    return path


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of its own in this process: 4 CPUs in the books whatever the machine has, closed to others."""
    import ray

    from ail_ray.orchestration.cluster import start_own

    start_own(num_cpus=4, object_store_memory=512 * 2**20)
    yield
    ray.shutdown()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKER_OF_FIXTURE:
                item.add_marker(MARKER_OF_FIXTURE[fixture])
    config.stash[MARKERS] = {item.nodeid: {mark.name for mark in item.iter_markers()} for item in items}
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Report:
    """With AIL_REQUIRE_DATA=1 a test that needs data or a teacher fails where it would skip."""
    report = yield
    if (
        os.environ.get("AIL_REQUIRE_DATA") == "1"
        and report.skipped
        and not hasattr(report, "wasxfail")
        and any(item.get_closest_marker(marker) for marker in MUST_NOT_SKIP)
    ):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{reason} (AIL_REQUIRE_DATA=1 forbids skipping)"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    markers = config.stash.get(MARKERS, {})

    def count(*outcomes: str, marker: str) -> int:
        reports = (report for outcome in outcomes for report in terminalreporter.stats.get(outcome, ()))
        return len({report.nodeid for report in reports if marker in markers.get(report.nodeid, ())})

    for marker in MUST_NOT_SKIP:
        ran = count("passed", "failed", "xfailed", "xpassed", marker=marker)
        skipped = count("skipped", marker=marker)
        terminalreporter.write_line(f"tests that need {marker}: {ran} ran, {skipped} skipped")
