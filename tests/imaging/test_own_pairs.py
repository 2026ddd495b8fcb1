"""Pairs that people bring: matched by name, checked for size, looked at for a shift."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_files import picture
from upath import UPath

from ail_ray.commands.evaluate import main as evaluate
from ail_ray.errors import ConfigError
from ail_ray.files import digest_of
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.images import luma
from ail_ray.imaging.metrics import psnr
from ail_ray.imaging.own_pairs import matched, shift_of, shifts
from ail_ray.imaging.pairs import GivenSides
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.runs.preparation import build_data, plan_data


def named(*names: str) -> list[UPath]:
    return [UPath(f"/pictures/{name}") for name in names]


def test_names_are_matched_with_the_usual_suffixes() -> None:
    large = named("0801.png", "baby_HR.png", "img_003_SRF_2_HR.png", "same.png", "Photo 1.jpg")
    small = named("0801x2.png", "baby_LR.png", "img_003_SRF_2_LR.png", "same.png", "photo 1-lr.png")
    pairs, problems = matched(large, small)
    assert problems == []
    assert [(a.name, b.name) for a, b in pairs.items()] == list(
        zip([p.name for p in large], [p.name for p in small], strict=True)
    )


def test_what_has_no_partner_is_named() -> None:
    _, problems = matched(named("a.png", "b.png"), named("ax2.png"))
    assert problems == ["/pictures/b.png: no small pictures of its name"]
    _, problems = matched(named("a.png"), named("ax2.png", "a_LR.png"))
    assert problems == ["/pictures/a.png: 2 small pictures of its name: ax2.png and a_LR.png"]
    _, problems = matched(named("a.png"), named("a.png", "b.png", "c.png"))
    assert problems == ["2 small pictures without a large one of their name: b.png, c.png"]
    _, problems = matched(named("a.png", "a_HR.png"), named("ax2.png"))
    assert problems == ["/pictures/ax2.png: is of the name of several large pictures"]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (-2, 5), (1, -1)])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_shift_is_found(down: int, right: int, scale: int) -> None:
    whole = picture(3, 204, 240)
    small = np.asarray(Image.fromarray(whole).resize((240 // scale, 204 // scale), Image.Resampling.BOX))
    large, moved = whole, np.roll(small, (down, right), (0, 1))
    assert shift_of(large, moved, scale) == pytest.approx((down, right), abs=0.3)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three large pictures in colour, and small ones that another filter has made."""
    made = {name: tmp_path / name for name in ("large", "small", "val", "val-small")}
    for folder in made.values():
        folder.mkdir()
    for i in range(4):
        planes = [picture(3 * i + seed, 96, 84) for seed in range(3)]
        whole = Image.fromarray(np.stack(planes, axis=-1)[:95])
        where = ("large", "small") if i < 3 else ("val", "val-small")
        whole.save(made[where[0]] / f"{i}.png")
        whole.crop((0, 0, 84, 94)).resize((42, 47), Image.Resampling.BOX).save(made[where[1]] / f"{i}x2.png")
    return made


def config(folders: dict[str, Path], **changes: object) -> RunConfig:
    values = {
        "train": (str(folders["large"]),), "train_lr": (str(folders["small"]),), "validation": (str(folders["val"]),),
        "validation_lr": (str(folders["val-small"]),), "test": (), "downsizes": (1.0,), "crop": 16, "shards": 1,
    }  # fmt: skip
    return RunConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_both_sides_are_as_they_are_in_the_files(folders: dict[str, Path], tmp_path: Path) -> None:
    prepared = plan_data(config(folders), UPath(tmp_path / "storage"))
    build_data(prepared)
    for pair in prepared.pairs:
        sides, small = pair.sides(np.float32), np.asarray(Image.open(pair.small))
        assert isinstance(sides, GivenSides)
        np.testing.assert_array_equal(sides.small, luma(small).astype(np.float32) / 255)
        np.testing.assert_array_equal(sides.small_rgb, small)
        np.testing.assert_array_equal(sides.hr, luma(np.asarray(Image.open(pair.path)))[:94])
    shard = Shard(prepared.data.shard_paths[0], upsampling=2)
    for pair, (_, inputs, _) in zip(prepared.corpus.pairs, shard.images(), strict=True):
        np.testing.assert_array_equal(inputs.numpy(), pair.sides().small.astype(np.float16))
    images = EvaluationImages.load(prepared.validation[0].path)
    np.testing.assert_array_equal(images.small[0], prepared.validation[0].pairs[0].sides().small)


def test_they_are_known_by_both_contents(folders: dict[str, Path], tmp_path: Path) -> None:
    def digests() -> tuple[str, str]:
        prepared = plan_data(config(folders), UPath(tmp_path / "storage"))
        return prepared.corpus.digest, prepared.validation[0].path.stem

    before = digests()
    for place in (folders["small"] / "1x2.png", folders["val-small"] / "3x2.png"):
        Image.open(place).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(place)
    after = digests()
    assert len({*before, *after}) == 4
    plain = plan_data(config(folders, train_lr=(), validation_lr=()), UPath(tmp_path / "storage"))
    assert plain.corpus.digest not in (before[0], after[0])
    assert plain.validation[0].path.stem == digest_of(["val", 2, [plain.validation[0].pairs[0].content]]), "as ever"


def test_all_that_is_wrong_is_said_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (40, 47)).save(folders["small"] / "0x2.png")
    Image.new("RGB", (84, 95)).save(folders["val-small"] / "3x2.png")
    with pytest.raises(ConfigError) as refused:
        plan_data(config(folders), UPath(tmp_path / "storage"))
    assert refused.value.problems == [
        f"{folders['small']}/0x2.png: is 40×47 pixels, expected 42×47, 2 times smaller than 84×95",
        f"{folders['val-small']}/3x2.png: is 84×95 pixels, expected 42×47, 2 times smaller than 84×95",
    ]
    Image.new("RGB", (42, 48)).save(folders["small"] / "0x2.png")
    with pytest.raises(ConfigError, match=r"0x2\.png: is 42×48 .*; crop the large one to multiples of 2 before it is"):
        plan_data(config(folders), UPath(tmp_path / "storage"))
    (folders["small"] / "2x2.png").unlink()
    with pytest.raises(ConfigError, match=r"train-lr: .*/large/2\.png: no small pictures of its name"):
        plan_data(config(folders), UPath(tmp_path / "storage"))
    with pytest.raises(ConfigError) as refused:
        config(folders, scales=(2, 3), downsizes=(1.0, 0.5), degrade="noise=3", validation_lr=("a", "b"))
    assert refused.value.problems == [
        "validation-lr must name a folder for each set of --validation, got 2 for 1",
        "train-lr goes with one scale, got 2 3",
        "train-lr has pictures of one size only: pass --downsizes 1",
        "train-lr goes without --degrade",
    ]


def test_a_shift_is_reported_before_anything_starts(folders: dict[str, Path], tmp_path: Path) -> None:
    place = folders["small"] / "1x2.png"
    Image.fromarray(np.roll(np.asarray(Image.open(place)), 3, 0)).save(place)
    said = plan_data(config(folders), UPath(tmp_path / "storage")).passed_over
    assert said.startswith("train-lr: 1x2.png: lies +3.")
    assert said.endswith("to the right of 1.png")
    assert said.count("lies") == 1, "the others lie on each other"
    assert shifts({UPath(folders["val"] / "3.png"): UPath(folders["val-small"] / "3x2.png")}, 2) == []


def test_a_network_is_measured_on_them(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sets", str(folders["val"]), "--sets-lr", str(folders["val-small"]), "--json", "-"]
    assert evaluate(words) == 0
    (row,) = json.loads(capsys.readouterr().out)
    sides = plan_data(config(folders), UPath(folders["large"].parent)).validation[0].pairs[0].sides(np.float32)
    enlarged = np.rint(255 * sides.bicubic).clip(0, 255).astype(np.uint8)
    assert row["psnr"] == pytest.approx(psnr(sides.hr, enlarged, 2), abs=1e-3)
    assert evaluate(["--sets", str(folders["val"]), "--json", "-"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert abs(made["psnr"] - row["psnr"]) > 0.05, "another filter has made them"
    noisy = folders["val"].parent / "noisy"
    noisy.mkdir()
    Image.fromarray(np.asarray(Image.open(folders["val"] / "3.png")) ^ 8).save(noisy / "3.png")
    assert evaluate(["--sets", str(folders["val"]), "--sets-lr", str(noisy), "--scales", "1", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    hr, spoilt = (luma(np.asarray(Image.open(folder / "3.png"))) for folder in (folders["val"], noisy))
    assert row["psnr"] == pytest.approx(psnr(hr, spoilt, 0), abs=1e-3), "at scale 1 nothing is shaved off"


def test_a_set_is_measured_on_each_of_its_folders(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    other = folders["val"].parent / "other"
    other.mkdir()
    Image.open(folders["val-small"] / "3x2.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other / "3.png")
    pair = [str(folders["val"])] * 2
    assert evaluate(["--sets", *pair, "--sets-lr", str(folders["val-small"]), str(other), "--json", "-"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["psnr"] > second["psnr"] + 5
    both = {"validation": tuple(pair), "validation_lr": (str(folders["val-small"]), str(other))}
    with pytest.raises(ConfigError, match=r"validation-lr: .*/val/3\.png: has two small pictures, in two folders"):
        plan_data(config(folders, **both), UPath(folders["val"].parent / "storage"))


def test_all_that_is_wrong_with_them_is_said_before_anything_is_measured(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--sets", str(folders["val"]), str(folders["large"]), "--sets-lr", str(folders["val-small"])]
    with pytest.raises(SystemExit, match="2"):
        evaluate([*sets, "--scales", "2", "3", "--degrade", "noise=3"])
    said = capsys.readouterr().err
    for line in ("sets-lr goes without --degrade", "sets-lr goes with one scale", "each set of --sets, got 1 for 2"):
        assert line in said
    (folders["small"] / "1x2.png").unlink()
    with pytest.raises(SystemExit, match="2"):
        evaluate([*sets, str(folders["small"])])
    assert "sets-lr: " + str(folders["large"] / "1.png") in capsys.readouterr().err.replace("\n", "")
