"""What a person sees of a sweep in MLflow's own pages, and what MLflow's own server makes of the champion.

Both are real servers on the loopback, over what a sweep of four tiny trials has left.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import mlflow
import numpy as np
import pytest
from mlflow_server import PATIENCE, answered, server
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from tiny_files import TinyFiles
from upath import UPath

from ail_ray.commands.sweep import run_sweep
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import predict
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.weights import load_model
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.tracking.champion import fetch_champion

pytestmark = pytest.mark.long

NAMES = [f"vdsr-f{width} ×2 {how} seed=0" for width in (2, 3) for how in ("λ=0.15 teacher=none", "w=1 (control)")]
TITLE = "tiny: vdsr ×2, width 2 3, rule eq7 uniform"


@dataclass(frozen=True)
class Site:
    """A sweep's record, and the address of the server that shows it."""

    folder: Path
    url: str
    summary: Summary

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_files: TinyFiles, empty_database: bytes) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ui")
    (folder / "mlflow.db").write_bytes(empty_database)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with (
        pytest.MonkeyPatch.context() as patch,
        server(folder, "server", "--workers", "1", "--backend-store-uri", uri) as url,
    ):
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        summary = run_sweep(tiny_job(tiny_files), name="tiny", command="the command", say=lambda line: None)
        answered(f"{url}/health")
        yield Site(folder, url, summary)


def tiny_job(files: TinyFiles, **more: Any) -> SweepJob:
    """Four trials, or more, in this process; their results go to where one stands."""
    budget = {  # so long that students are better than bicubic interpolation: none other becomes champion
        "rounds": 2, "epochs": 1, "crops": 1024, "learning_rate": 3e-3, "width": (2, 3), "teacher": ("none",),
        "rule": ("eq7", "uniform"),
    }  # fmt: skip
    return SweepJob(sweep=SweepConfig.of(**{**files.protocol(), **budget, **more}), local=True)


class Page:
    """MLflow's pages, as somebody sees them who does model training and has closed the assistant."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url
        browser.set_window_size(1700, 1400)
        browser.get(f"{url}/version")
        browser.execute_script("localStorage.clear()")  # it remembers how a list was looked at
        for key, value in {
            "mlflow.workflowType_v1": '"machine_learning"',
            "mlflow.assistant.panelOpen_v1": "false",
            "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
        }.items():
            browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)

    def open(self, path: str, *texts: str) -> str:
        """Go to a page and wait until it shows these; all that it shows."""
        self.browser.get(f"{self.url}/#/{path}")
        self.browser.refresh()  # only what is behind the # may have changed
        return self.shows(*texts)

    def shows(self, *texts: str) -> str:
        self.until(lambda: all(text in self.text for text in texts), f"{texts} in {self.browser.current_url}")
        return self.text

    @property
    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))

    def until(self, holds: Callable[[], bool], what: str) -> None:
        WebDriverWait(self.browser, PATIENCE, 0.2, [WebDriverException]).until(lambda _: holds(), what)

    def find(self, path: str) -> WebElement:
        """The first thing at this XPath, once it is there, scrolled to, since MLflow draws only what is in sight."""
        self.until(lambda: bool(self.browser.find_elements(By.XPATH, path)), path)
        found = self.browser.find_element(By.XPATH, path)
        self.browser.execute_script("arguments[0].scrollIntoView()", found)
        return found


@pytest.fixture
def page(browser: Chrome, site: Site) -> Page:
    return Page(browser, site.url)


@pytest.fixture
def experiment(site: Site) -> str:
    return str(mlflow.MlflowClient(site.uri).get_experiment_by_name("ail_ray").experiment_id)


def test_the_printed_address_opens_on_a_chart_of_this_sweep(browser: Chrome, site: Site) -> None:
    """Without a click, in a browser that was never here: a window as a laptop has it, with MLflow's assistant open."""
    browser.get(f"{site.url}/version")
    browser.execute_script("localStorage.clear()")
    browser.get(f"{site.url}{site.summary.mlflow_page}")
    lines = "//*[contains(@class, 'js-plotly-plot')]//*[name()='path' and contains(@class, 'js-line')]"

    def drawn() -> list[WebElement]:
        return [line for line in browser.find_elements(By.XPATH, lines) if line.is_displayed()]

    waiting = WebDriverWait(browser, PATIENCE, 0.3, [WebDriverException])
    waiting.until(lambda _: len(drawn()) >= 5, "a line for each trial and one for the sweep")
    height = browser.execute_script("return window.innerHeight")
    seen = [line for line in drawn() if line.rect["y"] + line.rect["height"] < height and line.rect["width"] > 20]
    assert seen, "no line within the window"
    text = browser.execute_script("return document.body.innerText")
    assert all(name in text for name in [*NAMES, TITLE])
    assert "Model training" in text
    sections = re.findall(r"^(dB|importance|ssim|theta|time|pictures)\n\(\d+\)", text, re.MULTILINE)
    assert sections[0] == "dB"


def test_a_copied_folder_shows_its_pictures_and_its_next_sweep_leaves_the_original_alone(
    site: Site, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(site.folder, copy)
    before = contents(site.folder / "mlartifacts") | contents(site.folder / "ail_out")
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    picture = next((copy / "mlartifacts").rglob("pictures*.png"))
    run = picture.relative_to(copy / "mlartifacts").parts[0]
    picture.write_bytes(b"of the copy")  # as no other is
    with server(copy, "ui", "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db") as url:
        run_sweep(tiny_job(tiny_files, seed=(0, 1)), name="tiny", say=lambda line: None)
        asked = urlencode({"path": f"images/{picture.name}", "run_uuid": run})
        assert answered(f"{url}/get-artifact?{asked}") == b"of the copy"
    assert contents(site.folder / "mlartifacts") | contents(site.folder / "ail_out") == before
    runs = {path.name for path in (copy / "mlartifacts").iterdir()}
    assert len(runs) >= 4 + 1 + 8  # the four of the original; the second sweep's parent, and its eight trials


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was changed, and its length."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def test_the_list_shows_the_sweep_its_trials_and_their_data(page: Page, experiment: str) -> None:
    page.open(f"experiments/{experiment}/runs", TITLE, "Small super-resolution networks", "train (", "Training")
    page.find(f"//a[contains(., '{TITLE}')]/preceding::button[1]").click()  # unfolds it
    page.shows(*NAMES)


def test_four_runs_compare_by_what_was_searched(page: Page, experiment: str, site: Site) -> None:
    runs = json.dumps([trial.mlflow_run_id for trial in site.summary.trials])
    page.open(f'compare-runs?runs={runs}&experiments=["{experiment}"]', "Comparing 4 Runs", *NAMES, "not read")
    page.shows("Parallel Coordinates Plot", "rule", "width", "student_weights", "dB/val_val_x2", "theta/loss")
    page.find("//*[contains(@class, 'js-plotly-plot')]//*[name()='svg']")


def test_a_run_shows_its_question_its_curves_and_its_rounds_under_a_slider(
    page: Page, experiment: str, site: Site
) -> None:
    trial = next(t for t in site.summary.trials if t.name == NAMES[0])
    run = f"experiments/{experiment}/runs/{trial.mlflow_run_id}"
    page.open(run, NAMES[0], "Question.", "width 2 or 3, rule eq7 or uniform?", "the command", "train (", "Datasets")
    page.shows("Parent run", TITLE)  # it is asked for later
    page.open(f"{run}/model-metrics", "dB", "importance", "pictures", "ssim", "theta", "time")
    page.find("//*[text()='pictures']")
    page.shows("importance-0", "val-x2-0")
    slider = page.find("//*[@role='slider']")
    assert [slider.get_attribute(f"aria-value{end}") for end in ("min", "now", "max")] == ["0", "0", "2"]

    def shown(round: int) -> bool:
        image = page.find("//img[contains(@src, 'compressed')]")
        return (
            f"+step+{round}+" in unquote(str(image.get_attribute("src"))) and image.get_property("naturalWidth") > 100
        )

    page.until(lambda: shown(0), "the picture of round 0")
    slider.send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: shown(1), "the picture of round 1")


def test_the_champion_has_a_page_with_its_alias_and_its_signature(page: Page, site: Site) -> None:
    best = site.summary.trials[0]
    page.open("models/ail-ray-x2/versions/1", "champion", best.name, f"{best.psnr:.2f} dB")
    page.shows("Reads the bicubic-upsampled image", "Inputs (1)", "Outputs (1)")


def test_mlflow_serves_the_champion_with_the_pixels_that_we_make(site: Site, tmp_path: Path) -> None:
    weights = fetch_champion(site.uri, 2, tmp_path)
    assert weights.read_bytes() == Path(site.summary.trials[0].weights or "").read_bytes()
    (evaluation,) = (site.folder / "ail_out" / "evaluation").glob("*.safetensors")
    images = EvaluationImages.load(UPath(evaluation))
    model = load_model(weights).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", site.uri)
        command = ("models", "serve", "-m", "models:/ail-ray-x2@champion", "--env-manager", "local")
        with server(site.folder, *command) as url:
            answered(f"{url}/ping")
            for inputs in images.inputs(model.traits.upsampling)[:2]:
                asked = json.dumps({"inputs": {"luma": inputs[None, None].tolist()}}).encode()
                (sr,) = np.array(json.loads(answered(f"{url}/invocations", asked))["predictions"]["sr"], np.float32)
                shown = np.rint(np.clip(sr[0], 0, 1) * 255).astype(np.uint8)
                assert np.array_equal(shown, predict(model, inputs))


def test_a_hostile_name_is_text_on_mlflows_pages(
    page: Page, site: Site, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test here: it adds a sweep to the site's."""
    name = "<img src=x onerror=\"document.title='owned'\"> **bold** [x](javascript:alert(1))"
    shutil.copytree(tiny_files.train, tmp_path / name)
    monkeypatch.chdir(site.folder)
    job = tiny_job(tiny_files, train=(str(tmp_path / name),), rounds=0, width=(2,), rule=("uniform",))
    summary = run_sweep(job, name=name, command=f"ail sweep --train '{name}'", say=lambda line: None)
    (trial,) = summary.trials
    client = mlflow.MlflowClient(site.uri)
    experiment = str(client.get_experiment_by_name("ail_ray").experiment_id)
    shown = "<img src=x onerror=\"document.title='owned'\">"
    for run in (summary.mlflow_run_id, trial.mlflow_run_id):
        page.open(f"experiments/{experiment}/runs/{run}", shown, "**bold**", "[x](javascript:alert(1))", "Datasets")
        assert page.browser.title != "owned"
        assert page.browser.find_elements(By.XPATH, "//img[@src='x']") == []
        assert page.browser.find_elements(By.XPATH, "//a[starts-with(@href, 'javascript')]") == []
        assert page.browser.find_elements(By.XPATH, "//strong[text()='bold']") == []
    page.open(f"experiments/{experiment}/runs", shown)
    assert page.browser.title != "owned"
    assert page.browser.find_elements(By.XPATH, "//img[@src='x']") == []
    page.browser.save_screenshot(str(site.folder / "hostile.png"))
