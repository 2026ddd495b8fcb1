"""A network over whole images: error maps, the golden numbers of the public teacher, images split over workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TINY, fresh_state, tiny

from ail_ray.delivery.evaluate import benchmark
from ail_ray.errors import ConfigError
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.images import degrade, enlarge
from ail_ray.imaging.metrics import psnr, ssim
from ail_ray.imaging.shards import Shard
from ail_ray.learning import inference
from ail_ray.learning.group import Group
from ail_ray.learning.inference import error_map, evaluate, predict, super_resolve
from ail_ray.learning.weights import save_model
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, VDSR, Network

GOLDEN = {
    ("Set5", 2): 37.592, ("Set5", 3): 33.753, ("Set5", 4): 31.441,
    ("Set14", 2): 33.041, ("Set14", 3): 29.855, ("Set14", 4): 28.089,
}  # fmt: skip


@pytest.fixture(scope="module")
def images() -> EvaluationImages:
    hr = [np.random.default_rng(i).integers(0, 256, (24 + 4 * i, 30), np.uint8) for i in range(5)]
    return EvaluationImages("noise", 2, hr)


@pytest.mark.long
@pytest.mark.timeout(1800)  # half a minute of two idle cores, but CI may share them
@pytest.mark.parametrize(("name", "scale"), GOLDEN)
def test_the_public_teacher_has_its_published_numbers(
    data_dir: Path, teacher_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scale: int
) -> None:
    monkeypatch.setenv("AIL_DATA_DIR", str(data_dir))
    threads, said = torch.get_num_threads(), list[str]()
    torch.set_num_threads(2)
    try:
        (row,) = benchmark(str(teacher_path), [name], [scale], precision="fp32", device="cpu", say=said.append)
    finally:
        torch.set_num_threads(threads)
    assert row.psnr == pytest.approx(GOLDEN[name, scale], abs=0.005)
    assert (row.set, row.scale, row.images) == (name, scale, {"Set5": 5, "Set14": 14}[name])
    assert said == [f"{name} ×{scale}: {row.psnr:.3f} dB, SSIM {row.ssim:.4f} ({row.images} images)"]


def test_error_map_is_the_absolute_error_in_the_shards_order(shards: dict[int, Shard]) -> None:
    student = fresh_state(TINY).student
    for shard in shards.values():
        errors = error_map(student, shard, "fp32")
        assert (errors.dtype, errors.shape) == (np.float16, (shard.pixels,))
        for place, inputs, hr in shard.images():
            with torch.no_grad():
                sr = student(inputs.float()[None, None])[0, 0].numpy()
            exact = np.abs(hr.numpy().astype(np.float64) / 255 - sr).ravel()
            # half a unit of float16's eleven bits, and float32's noise near zero
            np.testing.assert_allclose(errors[place].astype(np.float64), exact, rtol=2**-11, atol=1e-6)
        assert len(np.unique(errors)) > 100


def test_error_map_in_double_precision(shards: dict[int, Shard]) -> None:
    student = fresh_state(tiny(precision="fp64")).student
    single = error_map(fresh_state(TINY).student, shards[0], "fp32").astype(np.float64)
    np.testing.assert_allclose(error_map(student, shards[0], "fp64").astype(np.float64), single, atol=2e-3)


def test_super_resolve_goes_over_the_whole_image() -> None:
    model, inputs = VDSR(width=2, depth=3), torch.rand(9, 13)
    sr = super_resolve(model, inputs, "fp32")
    assert sr.shape == (9, 13)
    torch.testing.assert_close(sr, model(inputs[None, None])[0, 0].detach())
    assert not sr.requires_grad
    assert super_resolve(model, inputs.half(), "fp32").dtype == torch.float32
    assert super_resolve(model.double(), inputs, "fp64").dtype == torch.float64


@pytest.mark.parametrize(
    "model",
    [VDSR(3, 3), DRRN(3, 6), *(FSRCNN(7, 5, scale) for scale in (2, 3, 4)), ABPN(5, 5, 3)],
    ids=lambda m: f"{m.made.network} {m.traits.upsampling}",
)
def test_strips_are_the_whole_image(model: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = model.double(), torch.rand(230, 11, generator=torch.Generator().manual_seed(0))
    whole = super_resolve(model, image, "fp64")
    monkeypatch.setattr(inference, "STRIP", 1)
    assert len(inference._strips(230, 11, model.depth)) == -(-230 // (16 * model.depth)) > 2
    torch.testing.assert_close(super_resolve(model, image, "fp64"), whole, rtol=0, atol=1e-12)


def test_strips_are_equal_and_few() -> None:
    assert inference._strips(720, 1280, 20) == [(0, 240), (240, 480), (480, 720)]
    assert inference._strips(481, 321, 20) == [(0, 481)]
    assert inference._strips(1000, 10**6, 20) == [(0, 250), (250, 500), (500, 750), (750, 1000)]


def test_rows_are_means_over_the_images(images: EvaluationImages) -> None:
    student = fresh_state(TINY).student
    row = evaluate(student, images)
    sr = [predict(student, inputs) for inputs in images.bicubic]
    assert (row.set, row.scale, row.images) == ("noise", 2, 5)
    assert row.psnr == pytest.approx(np.mean([psnr(hr, s, 2) for hr, s in zip(images.hr, sr, strict=True)]))
    assert row.ssim == pytest.approx(np.mean([ssim(hr, s, 2) for hr, s in zip(images.hr, sr, strict=True)]))


def test_without_a_model_it_is_bicubic_and_so_is_a_network_of_zeros(images: EvaluationImages) -> None:
    row = evaluate(None, images)
    sr = [np.rint(np.clip(enlarge(degrade(hr, 2), 2), 0, 1) * 255).astype(np.uint8) for hr in images.hr]
    assert row.psnr == pytest.approx(np.mean([psnr(hr, s, 2) for hr, s in zip(images.hr, sr, strict=True)]))
    zeros = VDSR(width=2, depth=2)
    for parameter in zeros.parameters():
        torch.nn.init.zeros_(parameter)
    assert evaluate(zeros, images) == row


class FakeGroup(Group):
    """One of several workers whose sum is collected by the test and not by torch.distributed."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        PARTS[self.rank] = tensor.clone()
        return sum(PARTS.values(), torch.zeros_like(tensor))


PARTS: dict[int, torch.Tensor] = {}


@pytest.mark.parametrize("size", [2, 3, 8])
def test_images_split_over_workers_give_the_whole(images: EvaluationImages, size: int) -> None:
    student = fresh_state(TINY).student
    PARTS.clear()
    rows = [evaluate(student, images, group=FakeGroup(rank, size)) for rank in range(size)]
    whole = evaluate(student, images)
    assert len(PARTS) == size
    # the last worker's sum has seen all the others
    assert rows[-1].psnr == pytest.approx(whole.psnr, rel=1e-12)
    assert rows[-1].ssim == pytest.approx(whole.ssim, rel=1e-12)
    assert rows[-1].images == 5
    assert sum(bool(part[0] != 0) for part in PARTS.values()) == min(size, 5)


def test_benchmark_measures_our_own_weights(tmp_path: Path) -> None:
    path = tmp_path / "zeros.safetensors"
    zeros = VDSR(width=2, depth=2)
    for parameter in zeros.parameters():
        torch.nn.init.zeros_(parameter)
    save_model(path, zeros)
    options = {"precision": "fp32", "device": "cpu", "say": lambda line: None}
    ours = benchmark(str(path), ["sample-val"], [2, 4], **options)  # type: ignore[arg-type]
    bicubic = benchmark("bicubic", ["sample-val"], [2, 4], **options)  # type: ignore[arg-type]
    assert ours == bicubic
    assert bicubic[0].psnr == pytest.approx(30.659, abs=0.005)


def test_a_network_that_upsamples_reads_the_small_images(images: EvaluationImages, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FSRCNN(width=6, depth=5, scale=2)
    torch.nn.init.normal_(model.deconvolution.weight, std=0.05)
    row = evaluate(model, images)
    sr = [predict(model, degrade(hr, 2)) for hr in images.hr]
    assert row.psnr == pytest.approx(np.mean([psnr(hr, s, 2) for hr, s in zip(images.hr, sr, strict=True)]))
    path = tmp_path / "fsrcnn.safetensors"
    save_model(path, model)
    with pytest.raises(ConfigError) as refused:
        benchmark(str(path), ["sample-val"], [2, 3], precision="fp32", device="cpu", say=pytest.fail)
    assert refused.value.problems == ["model: this fsrcnn upsamples by 2, it cannot serve scale 3"]


def test_benchmark_refuses_everything_bad_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        benchmark(
            str(tmp_path / "none.safetensors"), ["memory://test_inference/none", "sample-val"], [5, 2],
            precision="fp32", device="cpu", say=pytest.fail,
        )  # fmt: skip
    assert [line.split(":")[0] for line in refused.value.problems] == [
        "scales must be 2, 3 or 4, got 5",
        "model",
        "sets",
    ]
    with pytest.raises(ConfigError, match=r"device: .*nowhere"):
        benchmark("bicubic", ["sample-val"], [2], precision="fp32", device="nowhere", say=pytest.fail)
    with pytest.raises(ConfigError) as refused:
        benchmark("bicubic", [], [], precision="fp32", device="meta", say=pytest.fail)
    assert refused.value.problems == [
        "sets must name at least one", "scales must name at least one", "device must be cpu or cuda, got meta",
    ]  # fmt: skip


def test_a_perfect_image_counts_a_hundred_decibels() -> None:
    flat = EvaluationImages("flat", 2, [np.full((32, 40), 90, np.uint8)])
    row = evaluate(None, flat)
    assert (row.psnr, row.ssim, row.images) == (100.0, 1.0, 1)
