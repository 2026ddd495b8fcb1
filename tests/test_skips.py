"""What is missing skips a test on a laptop and fails it in CI: seen by running pytest on a small suite."""

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent
SUITE = """
import pytest

def test_ray(local_ray): ...
def test_plain(): ...
def test_data(data_dir): assert data_dir.is_dir()
def test_teacher(teacher_path): assert teacher_path.is_file()
def test_browser(browser): assert browser.current_url == "about:blank"
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for variable in ("AIL_DATA_DIR", "AIL_TEACHER_DIR", "AIL_REQUIRE_DATA", "AIL_REQUIRE_BROWSER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(variable, raising=False)
    folder = pytester.mkdir("tests")
    shutil.copy(TESTS.parent / "pyproject.toml", pytester.path)
    shutil.copy(TESTS / "conftest.py", folder)
    (folder / "test_suite.py").write_text(SUITE)
    return pytester


def test_without_data_the_tests_skip_and_say_why(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-m", "not ray and not browser")
    result.assert_outcomes(passed=1, skipped=2, deselected=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["SKIPPED*AIL_DATA_DIR is not set", "SKIPPED*AIL_TEACHER_DIR is not set"])
    result.stdout.fnmatch_lines(["tests that need data: 0 ran, 1 skipped"])


def test_a_missing_file_is_named(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIL_TEACHER_DIR", str(suite.path))
    result = suite.runpytest_subprocess("-m", "teacher")
    result.assert_outcomes(skipped=1, deselected=4)
    result.stdout.fnmatch_lines(["SKIPPED*vdsr_291.safetensors does not exist"])


def test_required_data_that_is_missing_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIL_REQUIRE_DATA", "1")
    result = suite.runpytest_subprocess("-m", "not ray and not browser")
    result.assert_outcomes(passed=1, errors=2, deselected=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*AIL_DATA_DIR is not set (AIL_REQUIRE_DATA=1 forbids skipping)"])


def test_a_data_test_may_not_skip_for_another_reason(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIL_REQUIRE_DATA", "1")
    monkeypatch.setenv("AIL_DATA_DIR", str(suite.path))
    suite.path.joinpath("tests/test_suite.py").write_text(
        "import pytest\n"
        "def test_late(data_dir): pytest.skip('late')\n"
        "@pytest.mark.data\n@pytest.mark.skipif(True, reason='early')\ndef test_early(): ...\n"
        "def test_plain(): pytest.skip('nothing to do with data')\n"
    )
    suite.runpytest_subprocess().assert_outcomes(failed=1, errors=1, skipped=1)


@pytest.mark.parametrize("processes", [(), ("-n", "2", "--dist", "loadfile")], ids=["one process", "two processes"])
def test_with_data_they_run(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, processes: tuple[str, ...]
) -> None:
    suite.path.joinpath("vdsr_291.safetensors").touch()
    monkeypatch.setenv("AIL_DATA_DIR", str(suite.path))
    monkeypatch.setenv("AIL_TEACHER_DIR", str(suite.path))
    result = suite.runpytest_subprocess("-m", "data or teacher", *processes)
    result.assert_outcomes(passed=2, deselected=0 if processes else 3)  # several processes do not say
    result.stdout.fnmatch_lines(["tests that need teacher: 1 ran, 0 skipped"])


@pytest.mark.parametrize("required", [False, True])
def test_without_chromium_the_tests_of_pages_skip_or_fail(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    monkeypatch.setenv("PATH", str(suite.path))
    monkeypatch.setenv("AIL_REQUIRE_BROWSER", str(int(required)))
    result = suite.runpytest_subprocess("-m", "browser")
    result.assert_outcomes(errors=int(required), skipped=1 - int(required), deselected=4)
    forbids = " (AIL_REQUIRE_BROWSER=1 forbids skipping)" if required else ""
    result.stdout.fnmatch_lines([f"*chromium or chromedriver is not installed{forbids}"])
    result.stdout.fnmatch_lines([f"tests that need browser: 0 ran, {1 - int(required)} skipped"])


def test_tests_of_ray_come_last(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("--collect-only", "-q")
    assert [line.split("::")[1] for line in result.outlines if "::" in line] == [
        "test_plain",
        "test_data",
        "test_teacher",
        "test_browser",
        "test_ray",
    ]
