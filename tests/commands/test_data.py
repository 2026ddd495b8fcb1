"""A look at pictures before training: what was planted in a folder is found, and nothing else."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from upath import UPath

from ail_ray.commands.data import main as data
from ail_ray.imaging.image_sets import find
from ail_ray.imaging.survey import Picture, alike, copies, detail, fingerprint, look, survey

SAMPLE = Path(skimage.__file__).parent / "data"


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Four photographs, and a duplicate, a near-duplicate, an enlarged, a doubled, a compressed and a broken one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("camera.png", "chelsea.png", "coffee.png", "brick.png"):
        shutil.copy(SAMPLE / name, folder / name)
    shutil.copy(SAMPLE / "coffee.png", folder / "again.png")
    cat = Image.open(SAMPLE / "chelsea.png")
    cat.resize((cat.width * 3 // 4, cat.height * 3 // 4)).save(folder / "smaller cat.jpg", quality=90)
    rocket = Image.open(SAMPLE / "rocket.jpg")
    rocket.resize((rocket.width // 2, rocket.height // 2)).resize(rocket.size).save(folder / "soft.png")
    text = np.asarray(Image.open(SAMPLE / "text.png").convert("L"))
    Image.fromarray(text.repeat(2, 0).repeat(2, 1)).save(folder / "doubled.png")
    Image.open(SAMPLE / "coins.png").save(folder / "blocks.jpg", quality=15)
    (folder / "truncated.jpg").write_bytes((folder / "blocks.jpg").read_bytes()[:3000])
    (folder / "notes.txt").touch()
    return folder


def test_what_was_planted_is_found_and_nothing_else(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert data([str(planted), "--held-back", "sample-val", "--to", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.rstrip(":"): lines[i + 1].strip() for i, line in enumerate(lines) if line.endswith(":")}
    unreadable = found.pop("1 picture cannot be read")
    assert unreadable.startswith(f"{planted}/truncated.jpg: cannot be read as an image (image file is truncated")
    assert found == {
        "1 picture there more than once": f"{planted}/again.png = {planted}/coffee.png",
        "3 pairs that look alike": f"{planted}/chelsea.png ~ {planted}/smaller cat.jpg",
        "2 pictures perhaps enlarged before": f"{planted}/doubled.png: every pixel is there twice in each direction",
        "1 picture heavily compressed": f"{planted}/blocks.jpg: JPEG quality about 15",
    }
    assert f"  {planted}/soft.png: finest details -" in "\n".join(lines)
    assert f"  {planted}/blocks.jpg ~ {SAMPLE}/coins.png" in lines, "one of these is measured on"
    assert f"  {planted}/doubled.png ~ {SAMPLE}/text.png" in lines
    assert "passed over: 1 .txt" in lines
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 1 + 2 * 3 + 2 + 1
    assert "default-src 'none'" in text


def test_photographs_are_not_called_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert data(["sample", "sample-val", "--to", str(tmp_path / "page.html")]) == 0
    assert "10 pictures: nothing wrong" in capsys.readouterr().out


def test_training_pictures_that_are_held_back_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(SAMPLE / "text.png", tmp_path / "in" / "mine.png")
    assert data([str(tmp_path / "in"), "--held-back", "sample-val", "--to", str(tmp_path / "page.html")]) == 0
    assert "1 picture in a set that is held back, too:" in capsys.readouterr().out.splitlines()


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        data(["nowhere/", "--held-back", "unknown", "--to", str(tmp_path)])
    assert refused.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["images", "held-back", "to"]


@pytest.mark.parametrize("quality", [15, 40, 75, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_table(tmp_path: Path, quality: int) -> None:
    Image.open(SAMPLE / "camera.png").save(tmp_path / "a.jpg", quality=quality)
    found = look(UPath(tmp_path / "a.jpg")).quality
    assert found == pytest.approx(quality, abs=3)


def test_fingerprints_outlast_compression_and_size_and_tell_scenes_apart() -> None:
    images = [Image.open(path).convert("L") for path in find("sample").paths]
    prints = [fingerprint(np.asarray(image)) for image in images]
    for image, own in zip(images, prints, strict=True):
        buffer = io.BytesIO()
        image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(buffer, "jpeg", quality=60)
        assert (fingerprint(np.asarray(Image.open(buffer))) ^ own).bit_count() <= 8
        others = [(other ^ own).bit_count() for other in prints if other is not own]
        assert min(others) > 12
    assert fingerprint(np.full((50, 60), 9, np.uint8)) == 0


def test_a_flat_picture_and_a_tiny_one_are_nothing_special(tmp_path: Path) -> None:
    Image.new("L", (60, 50), 9).save(tmp_path / "flat.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    pictures = survey([UPath(tmp_path / "flat.png"), UPath(tmp_path / "one.png")])
    assert [picture.problem or picture.enlarged for picture in pictures] == [False, False]
    assert list(alike(pictures)) == copies(pictures) == []
    assert detail(np.zeros((40, 40), np.uint8)) == 0
    assert Picture(path=UPath("x")).enlarged is False


def test_the_page_is_shown_by_a_browser(planted: Path, tmp_path: Path, browser: Chrome) -> None:
    name = planted / "<script>document.title='x'</script>.png"
    shutil.copy(SAMPLE / "coffee.png", planted / name.name.replace("/", "_"))
    assert data([str(planted), "--to", str(tmp_path / "page.html")]) == 0
    browser.get(f"file://{tmp_path}/page.html")
    assert browser.title == "Pictures"
    assert "perhaps enlarged before" in browser.find_element(By.TAG_NAME, "body").text
    widths = [image.get_property("naturalWidth") for image in browser.find_elements(By.TAG_NAME, "img")]
    assert widths
    assert all(width > 0 for width in widths)
    assert browser.get_log("browser") == []
