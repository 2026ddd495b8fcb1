"""What every test shares: quiet libraries, data and teacher, one local Ray, one browser, a count of skips."""

import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

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

MARKER_OF_FIXTURE = {"data_dir": "data", "teacher_path": "teacher", "local_ray": "ray", "browser": "browser"}
MUST_NOT_SKIP = {"data": "AIL_REQUIRE_DATA", "teacher": "AIL_REQUIRE_DATA", "browser": "AIL_REQUIRE_BROWSER"}
Report = Generator[None, pytest.TestReport, pytest.TestReport]


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


@pytest.fixture(scope="module")
def local_ray() -> None:
    """One Ray for all tests of this process: 4 CPUs in the books whatever the machine has, closed to others.

    It ends before the first test that does without (`pytest_runtest_setup`), or with the process.
    """
    import ray

    from ail_ray.orchestration.cluster import start_own

    if not ray.is_initialized():
        start_own(num_cpus=4, object_store_memory=512 * 2**20)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium for all tests, which writes down every request (`get_log("performance")`)."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", "no-proxy-server",
        "force-prefers-reduced-motion", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    # Both are named, so that selenium does not look for them on the network.
    browser = Chrome(options, ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Chrome) -> Chrome:
    """The Chromium on an empty page of 1280×900 pixels, with nothing emulated, no cookies and empty logs."""
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.set_window_size(1280, 900)
    for log in ("performance", "browser"):
        chromium.get_log(log)
    return chromium


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKER_OF_FIXTURE:
                item.add_marker(MARKER_OF_FIXTURE[fixture])
        item.user_properties += [("needs", marker) for marker in MUST_NOT_SKIP if item.get_closest_marker(marker)]
    # In one process the fast ones first. Of several processes one begins with all that start a Ray, since two Rays on a
    # few cores take longer beside each other than in turn; the others take file after file.
    several = hasattr(config, "workerinput")
    items.sort(key=lambda item: _needs_ray(item) if several else -_needs_ray(item))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else item.path.name))


def _needs_ray(item: pytest.Item) -> int:
    """0 for a test that uses the Ray of this process, 1 for one that starts another, 2 for one that needs none."""
    if "local_ray" in getattr(item, "fixturenames", ()):
        return 0
    return 1 if item.get_closest_marker("ray") else 2


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _needs_ray(item) and "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Report:
    """With AIL_REQUIRE_DATA=1 a test that needs data or a teacher fails where it would skip; a browser has its own."""
    report = yield
    forbidden = [
        variable
        for marker, variable in MUST_NOT_SKIP.items()
        if item.get_closest_marker(marker) and os.environ.get(variable) == "1"
    ]
    if forbidden and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{reason} ({forbidden[0]}=1 forbids skipping)"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    def count(*outcomes: str, marker: str) -> int:
        reports = (report for outcome in outcomes for report in terminalreporter.stats.get(outcome, ()))
        return len({report.nodeid for report in reports if ("needs", marker) in report.user_properties})

    for marker in MUST_NOT_SKIP:
        ran = count("passed", "failed", "xfailed", "xpassed", marker=marker)
        skipped = count("skipped", marker=marker)
        terminalreporter.write_line(f"tests that need {marker}: {ran} ran, {skipped} skipped")
