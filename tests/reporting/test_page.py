"""The page: its numbers are the records', nothing in it can act or ask for anything, and a browser can work it."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from made_sweep import AIL, CONTROL, MadeSweep, rows
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from upath import UPath

from ail_ray.commands.report import main
from ail_ray.files import write_bytes, write_json, write_record
from ail_ray.imaging.panels import as_png
from ail_ray.reporting import films, sweep_page

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7919*7907 }}"


class Page(HTMLParser):
    """Elements with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if not self.elements or self.elements[-1][0] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def sweep(tmp_path: Path) -> MadeSweep:
    """Two widths, two seeds, a control each, pictures, a failure, and a run that is gone."""
    made = MadeSweep(tmp_path / "out")
    for width, gain in ((8, 0.05), (13, 0.25)):
        for seed in (0, 1):
            for condition, psnr in ((AIL, 30 + gain + seed / 10), (CONTROL, 30 + seed / 5)):
                made.trial(psnr - 2, psnr - 1, psnr, width=width, seed=seed, pictures=True, **condition)
    made.ledger.failed(str(made.trial(28, width=8, seed=2, **AIL).path), "round 1, epoch 0: the loss is nan")
    shutil.rmtree(str(made.trial(width=8, seed=3, **AIL).path))
    made.ledger.close("finished")
    return made


def text_of(sweep: MadeSweep) -> str:
    return (Path(str(sweep.out)) / "report.html").read_text()


def page_of(out: UPath | Path) -> Page:
    assert main(["--out", str(out)]) == 0
    return Page((Path(str(out)) / "report.html").read_text())


def test_the_numbers_are_the_records(sweep: MadeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(sweep.out)
    printed = capsys.readouterr().out.splitlines()
    conditions = "±0.00 to +0.20 dB against plain training in 2 conditions"
    assert printed[0] == f"Importance learning {conditions}: no difference shown"
    assert re.fullmatch(r".*report\.html, 0\.\d MB", printed[1])
    assert printed[0] in page.text
    half = 12.7062 * np.std([0.25, 0.15], ddof=1) / 2**0.5  # Student's t, 1 degree
    assert f"+0.20 ± {half:.2f}" in page.text
    row = "30.30 ± 0.64 +0.20 ± 0.64 2 33.30 ± 0.64 (+0.20 ± 0.64)"
    assert f"A vdsr-f13 ×2 λ=0.15 teacher=tiny {row}" in page.text
    assert "val ×2 30.35 dB 0.9000" in page.text
    assert "Set5 ×2 33.35 dB 0.9000" in page.text
    assert "6 trials: 8 finished, 1 failed, 1 unreadable." in page.text
    assert "trained on sample (14 pairs, 2.0 M pixels): round 0 and 2 more rounds" in page.text
    assert "On the Pareto front, no smaller student is as good:" in page.text
    assert "python jobs/ail_sweep.py demo" in page.text
    assert f"ail report --out {sweep.out}" in page.text
    titles = re.findall(r"<title>([^<]*)</title>", (Path(str(sweep.out)) / "report.html").read_text())
    assert "vdsr-f13 ×2 λ=0.15 teacher=tiny: round 2, 30.3 dB" in titles  # a point of the curve: the mean of both seeds


def test_failures_and_missing_runs_are_said(sweep: MadeSweep) -> None:
    page = page_of(sweep.out)
    assert "vdsr-f8 ×2 λ=0.15 teacher=tiny seed=2 failed round 1, epoch 0: the loss is nan" in page.text
    assert "teacher=tiny seed=3 unreadable Its run directory is gone" in page.text
    shutil.rmtree(str(sweep.out / "runs"))
    page = page_of(sweep.out)
    assert "No trial has finished" in page.text
    assert page.text.count("Its run directory is gone") == 10


def test_a_student_of_no_use_is_a_failure(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path)
    run = sweep.trial(28.0, 29.0, 30.0, seed=0, **AIL)
    assert "Failures None." in page_of(sweep.out).text
    run.manifests.write(replace(run.manifest(), references={"bicubic": rows(30.0)}))
    page = page_of(sweep.out)
    assert "Failures vdsr-f13 ×2 λ=0.15 teacher=tiny seed=0 finished it ends at or below bicubic" in page.text
    assert "finished, of no use" in page.text


def test_every_control_is_drawn_in_its_own_way_and_as_what_it_is(tmp_path: Path, sweep: MadeSweep) -> None:
    once = MadeSweep(tmp_path / "once", restart="never")
    once.seeds([30.0, 30.1], **CONTROL)
    styles = []
    for made in (sweep, once):
        page_of(made.out)
        drawn = r'<svg class="key"[^>]*><polyline class="line (control[^"]*)"'
        styles.append(set(re.findall(drawn, text_of(made))))
    assert styles == [{"control k0", "control k1"}, {"control k0 once"}]


def test_a_line_that_is_flat_is_said_to_be_one(sweep: MadeSweep) -> None:
    page_of(sweep.out)
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", text_of(sweep))
    (importance,) = (line for line in captions if line.startswith("Mean importance"))
    assert re.fullmatch(r"Mean importance; [B-D] is flat at 1; [B-D] is flat at 1", importance)
    assert not any("flat" in line for line in captions if line.startswith("PSNR"))


def test_a_running_sweep_and_one_of_an_older_version_have_pages(sweep: MadeSweep) -> None:
    write_record(sweep.out / "sweep.json", replace(sweep.ledger.content, state="running"))
    assert "Not over yet. 6 trials: 8 finished" in page_of(sweep.out).text
    entries = [msgspec.to_builtins(begun) for begun in sweep.ledger.content.trials[:8]]
    for entry in entries:
        del entry["reason"]
        entry |= {"status": "finished", "validation": [], "test": []}
    write_json(sweep.out / "summary.json", {"trials": entries})
    (sweep.out / "sweep.json").unlink()
    page = page_of(sweep.out)
    assert "8 trials: 8 finished." in page.text
    assert "Width 8, 13" in page.text
    assert "+0.20 ± 0.64" in page.text


def test_nothing_hostile_acts(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path, command=HOSTILE, validation=(HOSTILE,), test=("<b>",))
    sweep.seeds([30.0, 31.0], **AIL | {"teacher": HOSTILE})
    first, *others = sweep.ledger.content.trials
    trials = (replace(first, name=HOSTILE), *others)
    sweep.ledger.content = replace(sweep.ledger.content, name=HOSTILE, trials=trials)
    sweep.ledger.failed(str(sweep.trial(20, seed=5, **CONTROL).path), HOSTILE)
    page = page_of(tmp_path)
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not [a for _, a in page.elements if any(name.startswith("on") or name == "style" for name in a)]
    assert {"b", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements} == set()
    assert page.text.count(HOSTILE) >= 4
    assert str(7919 * 7907) not in page.text  # not a template within the template


def test_it_asks_for_nothing_and_allows_nothing(sweep: MadeSweep) -> None:
    page = page_of(sweep.out)
    text = (Path(str(sweep.out)) / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.", text)
    links = [a[name] for _, a in page.elements for name in ("src", "href", "srcset", "action", "data") if name in a]
    assert len(links) == 1 + 4 + 5  # no icon; an image and three rounds; crops
    assert all(link.startswith("data:") for link in links)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        inner = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode() in policy
    assert all(image.get("alt") is not None for image in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("svg"))


def test_pictures_are_whole_bounded_and_in_order(tmp_path: Path) -> None:
    sweep = MadeSweep(tmp_path, rounds=19)
    run = sweep.trial(*range(10, 30), pictures=True, **AIL)
    noise = np.random.default_rng(0).integers(0, 255, (900, 700), np.uint8)
    for t in range(20):
        write_bytes(run.record_path(t).with_suffix("") / "error-0.png", as_png(noise))
    write_bytes(run.record_path(7).with_suffix("") / "importance-0.png", b"damaged")
    page = page_of(tmp_path)
    rounds = [int(t) for t in re.findall(r"shard 0 in round (\d+)", " ".join(a["alt"] for a in page.all("img")))]
    assert rounds == [t for t in (0, 2, 3, 5, 7, 9, 10, 12, 14, 16, 17, 19) if t != 7]
    images = [Image.open(io.BytesIO(base64.b64decode(a["src"].partition(",")[2]))) for a in page.all("img") if a["alt"]]
    assert {image.format for image in images} == {"WEBP"}
    assert max(max(image.size) for image in images) == films.LONGEST
    assert (tmp_path / "report.html").stat().st_size < 5e6
    assert "Round 19: importance, mean 1.900" in page.text
    assert "student 29.00 dB" in page.text


def test_many_trials_are_cut_short_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_page, "ROWS", 5)
    sweep = MadeSweep(tmp_path, rounds=0)
    for lam in np.linspace(0.1, 0.3, 12):
        sweep.trial(30 + float(lam), lam=float(lam), **AIL)
    page = page_of(tmp_path)
    assert "7 more are in sweep.json" in page.text
    marks = re.findall(r'<span class="mark c\d">([A-Z])</span>', (tmp_path / "report.html").read_text())
    assert sorted(set(marks)) == list("ABCDEFGH")


def test_a_table_run_has_its_rows_intervals_and_figures(tmp_path: Path) -> None:
    out = tmp_path / "mini"
    pairs = {"control": "w = 1", "gain_seeds": [0, 1, 2]}
    base = {"set": "Set5", "scale": 2, "ssim": 0.95, "ssim_interval": None, "seeds": [0, 1, 2, 3]} | pairs
    rows = [
        base | {"method": "VDSR-f13+AIL", "psnr": 37.1, "psnr_interval": 0.05, "gain": 0.2, "gain_interval": 0.1,
                "paper_psnr": 37.4, "paper_ssim": 0.959, "difference": -0.3},
        base | {"method": "<b>", "psnr": 36.9, "psnr_interval": 0.1, "gain": -0.1, "gain_interval": 0.2},
        base | {"method": "one seed", "psnr": 36.0, "psnr_interval": None, "gain": 0.4, "gain_interval": None,
                "seeds": [0]},
    ]  # fmt: skip
    note = "`python jobs/paper_tables.py --budget mini --tables 1`, 9 runs, teacher vdsr."
    write_json(UPath(out / "table_1.json"), {"note": note, "rows": rows, "missing": ["BSD100: not measured"]})
    sizes = [{"method": "VDSR-f13", "parameters": 28_000, "paper_parameters": "28K", "paper_complexity": "115M",
              "multiply_accumulates": 1_800_000_000, "seconds": 0.5, "paper_seconds": None,
              "set": "Set5"}]  # fmt: skip
    write_json(UPath(out / "table_3.json"), {"note": "`x`, one thread.", "rows": sizes, "missing": []})
    write_bytes(UPath(out / "figure_3.png"), as_png(np.zeros((30, 40), np.uint8)))
    write_bytes(UPath(out / "figure_4.png"), b"damaged")
    page = page_of(out)
    assert "Of 2 comparisons with a matched control over several seeds, 1 is better and 0 worse" in page.text
    assert "Better: VDSR-f13+AIL on Set5 ×2 by +0.20 ± 0.10 dB (3 seeds)." in page.text
    assert "VDSR-f13+AIL Set5 ×2 37.10 ± 0.05 37.40 +0.20 ± 0.10 (3 seeds) 0.9500 0.9590 4" in page.text
    assert "<b> Set5 ×2 36.90 ± 0.10" in page.text
    assert "VDSR-f13 28,000 28K 1,800 M 115M 0.500" in page.text
    assert "1 more has one seed" in page.text
    assert "Missing: BSD100: not measured." in page.text
    assert [a["alt"] for a in page.all("img")] == ["Figure 3 of the study"]
    assert page.text.count("python jobs/paper_tables.py --budget mini --tables 1") == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda out: shutil.rmtree(out), "neither a sweep (sweep.json, summary.json) nor a table run"),
        (lambda out: (out / "sweep.json").write_text("{"), "not valid JSON"),
        (lambda out: (out / "sweep.json").write_text("[]"), "damaged, or written by another version"),
        (lambda out: (out / "sweep.json").write_text('{"trials": [{"name": 1, "directory": {}}]}'), "damaged"),
        (lambda out: [(out / "sweep.json").unlink(), (out / "table_1.json").write_text('{"rows": [{}]}')], "damaged"),
    ],
)
def test_what_is_no_sweep_is_refused(
    spoil: Callable[[Path], Any], reason: str, sweep: MadeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(Path(str(sweep.out)))
    with pytest.raises(SystemExit) as refused:
        main(["--out", str(sweep.out)])
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert not (Path(str(sweep.out)) / "report.html").exists()


def test_a_browser_works_it_and_no_request_leaves_the_page(sweep: MadeSweep, browser: Chrome) -> None:
    main(["--out", str(sweep.out)])
    address = (Path(str(sweep.out)) / "report.html").as_uri()
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    browser.get(address)
    film, comparison = (browser.find_element(By.CLASS_NAME, name) for name in ("film", "comparison"))

    def visible() -> list[str]:
        return [f.text for f in film.find_elements(By.CSS_SELECTOR, ".frames figure") if f.is_displayed()]

    slider = film.find_element(By.CSS_SELECTOR, "input")
    assert visible() == ["Round 2: importance, mean 0.200"]
    slider.send_keys(Keys.ARROW_LEFT)
    assert visible() == ["Round 1: importance, mean 0.100"]
    slider.send_keys(Keys.HOME)
    assert visible() == ["Round 0: importance, mean 0.000"]
    assert slider.get_attribute("aria-valuetext") == visible()[0]

    left, right = (Select(element) for element in comparison.find_elements(By.TAG_NAME, "select"))
    names = ["bicubic 25.00 dB", "plain training 30.20 dB", "student 30.35 dB", "original", "student's error"]
    assert [option.text for option in left.options] == names
    assert [select.first_selected_option.text for select in (left, right)] == [names[0], names[2]]
    split = comparison.find_element(By.CSS_SELECTOR, "input")
    over = comparison.find_element(By.CLASS_NAME, "over")
    assert over.value_of_css_property("clip-path") == "inset(0px 50% 0px 0px)"
    split.send_keys(Keys.ARROW_RIGHT * 10)
    assert over.value_of_css_property("clip-path") == "inset(0px 40% 0px 0px)"
    comparison.find_element(By.CLASS_NAME, "right").send_keys("original")
    assert comparison.find_element(By.CLASS_NAME, "under").get_attribute("alt").endswith("crop: original")

    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    cut = (
        "return [...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.parentElement.clientWidth).length"
    )
    assert browser.execute_script(cut) == 0, "no column is cut off"
    scale = "return [...document.images].every(image => image.complete && (image.naturalWidth > 0 || !image.src))"
    assert browser.execute_script(scale)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert (light, browser.execute_script(ground)) == ("rgb(251, 250, 248)", "rgb(20, 22, 26)")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert len(visible()) == 3
    assert not slider.is_displayed()

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert address in asked
    assert [url for url in asked - {address} if not url.startswith("data:")] == []
    assert browser.get_log("browser") == []  # nothing was forbidden, nothing went wrong
