"""Words for models, and networks from ONNX files: what a device computes is measured and seen as everything else is."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from terminal import Terminal

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.evaluate import main as evaluate_job
from ail_ray.commands.upscale import main as upscale_job
from ail_ray.delivery.evaluate import benchmark
from ail_ray.delivery.named import find_network
from ail_ray.delivery.onnx import to_onnx
from ail_ray.delivery.onnx_file import WHOLE_PICTURE, OnnxFile
from ail_ray.delivery.upscale import upscale
from ail_ray.errors import ConfigError
from ail_ray.files import FileError
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import to_uint8
from ail_ray.learning.inference import evaluate, predict
from ail_ray.learning.weights import save_model
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, VDSR, Bicubic, Network, unserved

ROOT = Path(__file__).parents[2]


def trained(model: Network) -> Network:
    """With weights of a size that leaves the output about [0, 1], every layer at work."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.normal_(std=0.5 / np.sqrt(parameter[0].numel()))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> EvaluationImages:
    rows, columns = np.mgrid[0:60, 0:72]
    return EvaluationImages("waves", 2, [(128 + 60 * np.sin(rows / 4) * np.cos(columns / 5)).astype(np.uint8)])


NETWORKS: dict[str, Callable[[], Network]] = {
    "vdsr": lambda: VDSR(4, 5),
    "drrn": lambda: DRRN(4, 6),
    "fsrcnn": lambda: FSRCNN(12, 6, 2),
    "abpn": lambda: ABPN(6, 5, 2),
}


@cache
def exported(name: str, eight_bit: bool) -> bytes:
    return to_onnx(trained(NETWORKS[name]()), eight_bit=eight_bit)


def written(folder: Path, name: str, *, eight_bit: bool = False) -> Path:
    (folder / "student.onnx").write_bytes(exported(name, eight_bit))
    return folder / "student.onnx"


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_is_used_as_its_own_input_says(
    tmp_path: Path, images: EvaluationImages, name: str, eight_bit: bool
) -> None:
    model = trained(NETWORKS[name]())
    network = find_network(str(written(tmp_path, name, eight_bit=eight_bit)))
    assert isinstance(network, OnnxFile)
    assert network.traits.upsampling == model.traits.upsampling
    assert model.traits.reach <= network.traits.reach <= model.traits.reach + 2, (
        "no tile can tell, and little is computed in vain"
    )
    inputs = images.inputs(model.traits.upsampling)[0]
    given = to_uint8(inputs).astype(np.float32) / 255 if eight_bit else inputs
    difference = np.abs(predict(network, inputs).astype(int) - predict(model, given))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3
    assert unserved(network, [3]) == (
        ["this network in student.onnx upsamples by 2, it cannot serve scale 3"] if model.traits.upsampling == 2 else []
    )
    if not eight_bit:
        assert evaluate(network, images).psnr == pytest.approx(evaluate(model, images).psnr, abs=1e-3)


def test_tiles_of_a_file_leave_no_seams(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    for name in ("vdsr", "fsrcnn"):
        network = find_network(str(written(tmp_path, name)))
        whole, tiled = (np.asarray(upscale(network, image, 2, tile=tile)).astype(int) for tile in (10**6, 40))
        assert np.abs(whole - tiled).max() <= 1
        assert np.mean(whole != tiled) < 1e-4


def test_eight_bit_weights_are_measured_from_their_file(tmp_path: Path, images: EvaluationImages) -> None:
    model, path = trained(VDSR(4, 5)), tmp_path / "int8.onnx"
    path.write_bytes(to_onnx(model, "int8", eight_bit=True, calibration=images.inputs(1)))
    assert find_network(str(path)).traits.reach == model.traits.reach
    said = list[str]()
    options = {"precision": "fp32", "device": "cpu", "say": said.append}
    (row,) = benchmark(str(path), ["sample-val"], [2], **options)  # type: ignore[arg-type]
    save_model(tmp_path / "student.safetensors", model)
    (exact,) = benchmark(str(tmp_path / "student.safetensors"), ["sample-val"], [2], **options)  # type: ignore[arg-type]
    assert abs(row.psnr - exact.psnr) < 2, "what the integers cost, and not a picture of another range"
    assert row.psnr != exact.psnr
    assert len(said) == 2


def graph(path: Path, *nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT, shape: tuple[object, ...]) -> Path:
    """A file with the given operations from `x` to `y`."""
    given = helper.make_tensor_value_info("x", kind, shape)
    made = helper.make_tensor_value_info("y", kind, ("n", "c", "a", "b"))
    ones = [helper.make_tensor(name, TensorProto.FLOAT, [1, 1, 3, 3], np.full(9, 1 / 9)) for name in ("w",)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [made], ones), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path.write_bytes(model.SerializeToString())
    return path


def test_of_a_file_that_may_see_everything_the_picture_is_one_tile(tmp_path: Path) -> None:
    free = ("n", 1, "h", "w")
    mean = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3])
    network = find_network(
        str(graph(tmp_path / "a.onnx", mean, helper.make_node("Add", ["x", "m"], ["y"]), shape=free))
    )
    assert network.traits.reach == WHOLE_PICTURE
    picture, tiles = np.zeros((40, 60), np.uint8), list[int]()
    picture[:, 30:] = 100
    enlarged = np.asarray(upscale(network, Image.fromarray(picture), 2, tile=32, advance=tiles.append))
    assert tiles == [80 * 120]
    assert enlarged[0, 0] == pytest.approx(50, abs=1), "the mean of the whole, and not of a tile"
    same = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")
    assert find_network(str(graph(tmp_path / "b.onnx", same, shape=free))).traits.reach == WHOLE_PICTURE


def test_what_is_no_network_for_luma_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    free, relu = ("n", 1, "h", "w"), helper.make_node("Relu", ["x"], ["y"])
    shrinks = helper.make_node("Conv", ["x", "w"], ["y"])
    files = {
        tmp_path / "none.onnx": "no such file",
        tmp_path / "text.onnx": "not a network that onnxruntime can run",
        graph(tmp_path / "rgb.onnx", relu, shape=("n", 3, "h", "w")): "needed is one input, luma of any size",
        graph(tmp_path / "fixed.onnx", relu, shape=("n", 1, 64, 64)): "needed is one input, luma of any size",
        graph(tmp_path / "double.onnx", relu, shape=free, kind=TensorProto.DOUBLE): "needed is one input, luma",
        graph(tmp_path / "shrinks.onnx", shrinks, shape=free): "makes float32 .* needed is the same type, and 1, 2, 3",
    }
    for path, why in files.items():
        with pytest.raises(FileError, match=why) as refused:
            find_network(str(path))
        assert str(refused.value).startswith(f"{path}: ")
        assert "\n" not in str(refused.value)


def test_both_jobs_take_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)).save(folder / "a.png")
    save_model(tmp_path / "mine.safetensors", trained(VDSR(4, 5)))
    monkeypatch.setenv("AIL_TEACHER_DIR", str(tmp_path))
    words = ("bicubic", "vdsr", "mine", str(tmp_path / "mine.safetensors"), str(written(tmp_path, "vdsr")))
    for i, word in enumerate(words):
        assert evaluate_job(["--model", word, "--sets", str(folder)]) == 0
        assert upscale_job([str(folder), "--model", word, "--out", f"{out}/{i}"]) == 0
    bicubic, teacher, *mine = (np.asarray(Image.open(out / str(i) / "a-x2.png")).astype(int) for i in range(5))
    assert np.abs(bicubic - teacher).max() > 10
    assert np.abs(mine - mine[0]).max() <= 1 <= np.abs(mine[0] - bicubic).max()
    capsys.readouterr()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    for word, line in (
        ("champion", "there is no champion for scale 2 in MLflow at"),
        ("mime", "mime: no such model; there are bicubic, champion, mine, vdsr, and any path with a slash or a suffix"),
        (str(tmp_path / "absent.onnx"), f"{tmp_path}/absent.onnx: no such file"),
    ):
        for job, others in ((evaluate_job, ["--sets", str(folder)]), (upscale_job, [str(folder), "--out", str(out)])):
            with pytest.raises(SystemExit, match="2"):
                job([*others, "--model", word])
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1
            assert line in said[0]
    assert not (tmp_path / "none.db").exists()


def test_evaluate_asks_for_the_champion_of_every_scale(tmp_path: Path) -> None:
    asked = list[tuple[str, int]]()

    def load(word: str, scale: int) -> Network:
        asked.append((word, scale))
        if scale == 4:
            raise ConfigError(["there is no champion for scale 4"])
        return FSRCNN(4, 5, scale)

    options = {"precision": "fp32", "device": "cpu", "say": lambda line: None}
    with pytest.raises(ConfigError, match=r"^model: there is no champion for scale 4$"):
        benchmark("champion", ["sample-val"], [2, 4], load=load, **options)  # type: ignore[arg-type]
    shares = list[float]()
    rows = benchmark("champion", ["sample-val"], [2, 3], load=load, advance=shares.append, **options)  # type: ignore[arg-type]
    assert asked[2:] == [("champion", 2), ("champion", 3)]
    assert [row.scale for row in rows] == [2, 3]
    assert shares == [pytest.approx(1 / 6)] * 6, "each of three images at two scales is a sixth of the work"


def test_bicubic_is_what_evaluation_takes_for_it(images: EvaluationImages) -> None:
    assert isinstance(chosen_model("bicubic", 2), Bicubic)
    assert evaluate(Bicubic(), images) == evaluate(None, images)


def test_evaluate_shows_at_a_terminal_how_far_it_is() -> None:
    job = Terminal([sys.executable, "jobs/evaluate.py", "--model", "bicubic", "--sets", "sample-val"], cwd=ROOT)
    try:
        job.shows("%")
        assert job.end() == 0
    finally:
        job.close()
    assert job.lines == ["sample-val ×2: 30.659 dB, SSIM 0.8977 (3 images)"], "and nothing of it is left"
