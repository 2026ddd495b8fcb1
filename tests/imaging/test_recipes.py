"""Pictures made worse by a recipe: what each step does, and that its draws are the same wherever they are made."""

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_files import picture
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.imaging.evaluation import EvaluationImages, middle, write_evaluation
from ail_ray.imaging.images import luma
from ail_ray.imaging.metrics import psnr
from ail_ray.imaging.pairs import DrawnSides, Pair, evaluation_pairs, plan_corpus
from ail_ray.imaging.recipes import Recipe, RecipeError, generator_of
from ail_ray.imaging.shards import write_shard
from ail_ray.learning.config import RunConfig

FULL = "blur=0.2..1.5,aniso=0.5..2,noise=0..10,poisson=0..10,jpeg=40..95"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colour pictures and a grey one."""
    made = tmp_path_factory.mktemp("drawn")
    for i in range(3):
        planes = [picture(3 * i + seed, 96, 80) for seed in range(3)]
        Image.fromarray(np.stack(planes, axis=-1)).save(made / f"{i}.png")
    Image.fromarray(picture(9, 96, 80)).save(made / "grey.png")
    return made


def corpus_of(folder: Path, recipe: str = FULL, *, reverse: bool = False, **values: int):  # type: ignore[no-untyped-def]
    images = sorted((UPath(path) for path in folder.iterdir()), reverse=reverse)
    return plan_corpus(images, downsizes=(1.0, 0.5), scales=(2,), crop=16, shards=2, recipe=recipe, **values)


def drawn(image: np.ndarray, recipe: str, scale: int = 1, seed: int = 0) -> np.ndarray:
    return Recipe.of(recipe).apply(image, scale, np.random.default_rng(seed))


def test_a_recipe_is_read_and_written() -> None:
    assert str(Recipe.of(" blur=0.20..1.50, noise=5 ,down=area,luma,jpeg=40..95")) == (
        "blur=0.2..1.5,noise=5..5,down=area,luma,jpeg=40..95"
    )
    assert Recipe.of("").steps == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sharpen=1", r"'sharpen' is no step; there are luma, down, blur, aniso, noise, poisson, jpeg"),
        ("blur", r"blur needs a number or a range such as blur=0\.\.100, got ''"),
        ("blur=a..b", r"blur needs a number or a range such as blur=0\.\.100, got 'a\.\.b'"),
        ("jpeg=0..50", r"jpeg must be a range within 1\.\.100, got 0\.\.50"),
        ("noise=9..3", r"noise must be a range within 0\.\.255, got 9\.\.3"),
        ("noise=nan", r"noise must be a range within 0\.\.255, got nan"),
        ("down=lanczos", r"down must be one of bicubic, bilinear, area, got 'lanczos'"),
        ("down=area,down=area", r"down can be named once"),
    ],
)
def test_what_is_no_recipe_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.of(text)


def test_noise_has_its_sigma_and_is_not_clipped() -> None:
    flat = np.full((200, 200), 250, np.uint8)
    made = drawn(flat, "noise=25")
    assert made.dtype == np.float32
    assert (made - 250 / 255).std() * 255 == pytest.approx(25, rel=0.02)
    assert made.max() > 1.1, "DnCNN's setting clips nothing"
    assert (drawn(flat, "poisson=10") - 250 / 255).std() * 255 == pytest.approx(10 * (250 / 255) ** 0.5, rel=0.02)
    colour = np.full((200, 200, 3), 128, np.uint8)
    assert drawn(colour, "noise=25").shape == (200, 200, 3)
    y = drawn(colour, "luma,noise=25")
    assert y.shape == (200, 200)
    assert y.std() * 255 == pytest.approx(25, rel=0.02), "on luma itself"
    assert y.mean() == pytest.approx(luma(colour)[0, 0] / 255, abs=0.003)


def test_blurs_are_gaussian() -> None:
    point = np.zeros((41, 41), np.uint8)
    point[20, 20] = 255
    y, x = np.indices(point.shape) - 20
    made = drawn(point, "blur=2").astype(np.float64)
    assert made.sum() == pytest.approx(1, rel=1e-4)
    assert (made * x**2).sum() == pytest.approx(4, rel=0.02)
    both = [drawn(point, "aniso=1..3", seed=seed).astype(np.float64) for seed in range(20)]
    moments = [[[(m * x * x).sum(), (m * x * y).sum()], [(m * x * y).sum(), (m * y * y).sum()]] for m in both]
    axes = np.linalg.eigvalsh(np.array(moments)) ** 0.5
    assert (axes > 0.9).all()
    assert (axes < 3.1).all()
    assert (axes[:, 1] / axes[:, 0]).max() > 1.3, "not the same in all directions"


def test_a_jpeg_is_pillows() -> None:
    image = picture(0, 64, 64)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=20)
    np.testing.assert_array_equal(np.rint(drawn(image, "jpeg=20") * 255), np.asarray(Image.open(buffer)))


def test_a_picture_becomes_smaller_where_the_recipe_says_so() -> None:
    image = picture(1, 64, 48)
    assert drawn(image, "blur=1", scale=4).shape == (16, 12)
    area = image.reshape(32, 2, 24, 2).mean((1, 3)) / 255
    np.testing.assert_allclose(drawn(image, "down=area", scale=2), area, atol=1e-6)
    noisy = drawn(np.full((200, 200), 128, np.uint8), "noise=20", scale=2)
    assert noisy.std() * 255 == pytest.approx(20, rel=0.05), "noise comes after downsizing"
    before = drawn(np.full((200, 200), 128, np.uint8), "noise=20,down=area", scale=2)
    assert before.std() * 255 == pytest.approx(10, rel=0.05), "unless the recipe has it before"


@given(seed=st.integers(0, 2**32), copy=st.integers(0, 9))
def test_draws_follow_from_seed_content_and_copy(seed: int, copy: int) -> None:
    content = "0123456789abcdef" * 4
    first = generator_of(seed, content, copy).random(3)
    np.testing.assert_array_equal(first, generator_of(seed, content, copy).random(3))
    for other in ((seed + 1, content, copy), (seed, "1" + content[1:], copy), (seed, content, copy + 1)):
        assert (generator_of(*other).random(3) != first).any()


def test_both_sides_of_a_pair_are_of_one_draw(folder: Path) -> None:
    for pair in corpus_of(folder, copies=2).pairs:
        sides = pair.sides()
        assert isinstance(sides, DrawnSides)
        assert sides.small.shape == (pair.height // 2, pair.width // 2)
        y = sides.small_rgb[..., 0] if sides.is_grey else luma(sides.small_rgb)
        assert np.abs(sides.small * 255 - y).max() <= 1.1, "the colour picture and its luma"
        assert 15 < psnr(sides.hr, np.rint(sides.bicubic * 255).clip(0, 255).astype(np.uint8), 2) < 60
        np.testing.assert_array_equal(sides.hr, Pair(**{**vars(pair), "recipe": ""}).sides().hr)


def test_a_corpus_is_the_same_in_any_order_and_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    one, other = corpus_of(folder, copies=2), corpus_of(folder, copies=2, reverse=True)
    assert (one.digest, one.pairs, len(one.pairs)) == (other.digest, other.pairs, 16)
    digests = {corpus_of(folder, recipe, **v).digest for recipe, v in [
        (FULL, {}), (FULL, {"seed": 1}), (FULL, {"copies": 2}), ("noise=5", {}), ("", {}),
    ]}  # fmt: skip
    assert len(digests) == 5
    for s in range(2):
        write_shard(UPath(tmp_path / f"here-{s}"), one.shard_pairs(s))
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path; from test_recipes import corpus_of;"
        "from ail_ray.imaging.shards import write_shard; from upath import UPath;"
        "write_shard(UPath(sys.argv[4]), corpus_of(Path(sys.argv[3]), copies=2).shard_pairs(int(sys.argv[5])))"
    )
    tests = Path(__file__).parent
    running = [
        subprocess.Popen([sys.executable, "-c", script, tests, tests.parent, folder, tmp_path / f"there-{s}", str(s)])
        for s in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    for s in range(2):
        assert (tmp_path / f"here-{s}").read_bytes() == (tmp_path / f"there-{s}").read_bytes()


def test_a_build_that_is_killed_goes_on_to_the_same_shards(folder: Path, tmp_path: Path) -> None:
    """The process is killed in the middle of a shard; a second one, with the files in another order, ends the work."""
    asked = corpus_of(folder, copies=3)
    for s in range(2):
        write_shard(UPath(tmp_path / "whole" / f"shard-{s}"), asked.shard_pairs(s))
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path;"
        "from test_recipes import corpus_of, slowly; from ail_ray.imaging.shards import write_shard;"
        "from upath import UPath; slowly(int(sys.argv[5]));"
        "corpus = corpus_of(Path(sys.argv[3]), copies=3, reverse=True);"
        "[write_shard(UPath(sys.argv[4]) / f'shard-{s}', corpus.shard_pairs(s)) for s in range(2)]"
    )
    tests = Path(__file__).parent

    def build(pause: int) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", script, tests, tests.parent, folder, tmp_path / "killed", str(pause)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    with build(15) as process:  # of 24 pairs, 12 of which are in the first shard
        assert process.stdout is not None
        assert process.stdout.readline() == "stands still\n"
        process.kill()
    assert {path.name for path in (tmp_path / "killed").iterdir()} >= {"shard-0"}
    assert not (tmp_path / "killed" / "shard-1").exists()
    with build(0) as process:
        assert process.wait() == 0
    for s in range(2):
        assert (tmp_path / "killed" / f"shard-{s}").read_bytes() == (tmp_path / "whole" / f"shard-{s}").read_bytes()


def slowly(pairs: int) -> None:
    """In a process of its own: stand still after some pairs; never, if 0."""
    sides, met = Pair.sides, list[str]()

    def counted(pair: Pair, *rest: object) -> object:
        met.append(pair.name)
        if len(met) == pairs:
            print("stands still", flush=True)
            time.sleep(600)
        return sides(pair, *rest)  # type: ignore[arg-type]

    Pair.sides = counted  # type: ignore[assignment,method-assign]


def test_evaluation_images_keep_both_sides(folder: Path, tmp_path: Path) -> None:
    images = [UPath(path) for path in sorted(folder.iterdir())]
    pairs, _ = evaluation_pairs(images, 2, "noise=10", 3)
    path = UPath(tmp_path / "evaluation.safetensors")
    assert write_evaluation(path, "drawn", 2, pairs) == []
    found = EvaluationImages.load(path)
    assert len(found) == 4
    for pair, hr, small in zip(pairs, found.hr, found.small, strict=True):
        np.testing.assert_array_equal(hr, pair.sides().hr)
        np.testing.assert_array_equal(small, pair.sides().small)
    window = found.windows(40, 2)
    for i in range(2):
        assert window.hr[i].shape == (40, 40)
        np.testing.assert_array_equal(window.small[i], found.small[i][14:34, 10:30])
        np.testing.assert_array_equal(window.hr[i], middle(found.hr[i], 40, 2))
        np.testing.assert_array_equal(window.hr[i], found.hr[i][28:68, 20:60])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "blur: [0.2, 1.5]\ndown: area\nnoise: 0..10\njpeg: 60\nluma:\n"),
        ("a.YML", "- blur: 0.2..1.5\n- down: area\n- noise: [0, 10]\n- jpeg: 60\n- luma\n"),
        ("b.yaml", "blur: [0.2, 1.5]\ndown: area\nnoise: 0..10\njpeg: 60\nluma: true\n"),
        ("a.json", '{"blur": [0.2, 1.5], "down": "area", "noise": [0, 10], "jpeg": 60, "luma": null}'),
    ],
)
def test_a_recipe_may_be_in_a_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    found = Recipe.of(str(tmp_path / name))
    assert str(found) == "blur=0.2..1.5,down=area,noise=0..10,jpeg=60..60,luma"
    assert RunConfig(degrade=str(tmp_path / name)) == RunConfig(degrade=str(found)), "no run depends on the file"


def test_a_list_has_a_step_twice(tmp_path: Path) -> None:
    (tmp_path / "twice.json").write_text('[{"jpeg": [60, 95]}, {"blur": 1}, {"jpeg": [30, 60]}]')
    assert str(Recipe.of(str(tmp_path / "twice.json"))) == "jpeg=60..95,blur=1..1,jpeg=30..60"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"expected steps such as `blur: \[0\.2, 1\.5\]`, got None"),
        ("[]", r"expected steps such as .*, got \[\]"),
        ("- 3", r"expected steps such as .*, got \[3\]"),
        ("a: [", r"broken\.yaml: cannot be read \("),
        ("!!python/object/apply:os.system ['touch executed']", r"broken\.yaml: cannot be read \("),
        ("noise: [3]\nblur: [1, 2, 3]", r"blur needs a number or a range such as"),
        ("blur: 1\nnoise: 5\nblur: 2", r"blur twice: write a list of steps then"),
        ("noise: {low: 3}", r"noise needs a number or a range such as"),
    ],
)
def test_what_is_no_recipe_in_a_file_is_refused(
    tmp_path: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text(content)
    with pytest.raises(RecipeError, match=message):
        Recipe.of("broken.yaml")
    assert not (tmp_path / "executed").exists()


def test_a_recipe_that_is_not_there_is_refused_with_all_else() -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig(degrade="absent.yaml", rounds=-1)
    assert any(line.startswith("degrade: absent.yaml: cannot be read") for line in refused.value.problems)
    assert len(refused.value.problems) == 2
