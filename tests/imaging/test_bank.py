"""Corpus, shards and crops: identity by content, and every crop against a slow cut with numpy.rot90 and fliplr."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from operator_calls import Calls
from PIL import Image
from upath import UPath

from ail_ray.imaging import bank as banks
from ail_ray.imaging.bank import AHEAD, Bank, Crops
from ail_ray.imaging.images import degrade, downsize, enlarge
from ail_ray.imaging.pairs import Corpus, plan_corpus
from ail_ray.imaging.shards import Shard, write_shard

SIZES = [(20, 24), (17, 33), (40, 21), (26, 26), (16, 16), (31, 18)]
CROP = 8


@pytest.fixture
def images(tmp_path: Path) -> list[UPath]:
    generator, paths = np.random.default_rng(0), []
    for i, size in enumerate(SIZES):
        paths.append(UPath(tmp_path / f"{i}.png"))
        Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(str(paths[-1]))
    return paths


def plan(images: list[UPath], **changed: object) -> Corpus:
    options: dict[str, object] = {"downsizes": (1.0, 0.7), "scales": (2, 3), "crop": CROP, "shards": 4} | changed
    return plan_corpus(images, **options)  # type: ignore[arg-type]


def shard_files(folder: Path, corpus: Corpus, upsampling: int = 1) -> list[Shard]:
    paths = [UPath(folder / f"{s}.safetensors") for s in range(len(corpus.shards))]
    for s, path in enumerate(paths):
        write_shard(path, corpus.shard_pairs(s))
    return [Shard(path, upsampling=upsampling) for path in paths]


def weighed(shards: dict[int, Shard], total: int, seed: int = 3, crop: int = CROP) -> Bank:
    """A bank in which a pixel's importance is its index in its shard, exact in float16 up to 2048."""
    bank = Bank(shards, total_shards=total, crop=crop, seed=seed)
    for s, shard in shards.items():
        bank.weigh(s, (np.arange(shard.pixels) % 2048).astype(np.float16))
    return bank


def as_multiset(*batches: Crops) -> list[bytes]:
    parts = [(b.inputs[i], b.hr[i], b.importance[i]) for b in batches for i in range(len(b.hr))]
    return sorted(b"".join(tensor.numpy().tobytes() for tensor in part) for part in parts)


def test_every_image_gives_a_pair_for_each_downsize_and_scale(images: list[UPath]) -> None:
    corpus = plan(images)
    assert (len(corpus.pairs), corpus.skipped) == (24, 0)
    for pair in corpus.pairs:
        hr = pair.sides().hr
        assert hr.shape == (pair.height, pair.width)
        assert hr.dtype == np.uint8
        assert pair.height % pair.scale == pair.width % pair.scale == 0
        full = np.asarray(Image.open(pair.path))
        np.testing.assert_array_equal(hr, downsize(full, pair.downsize)[: pair.height, : pair.width])
    assert corpus.pixels == sum(pair.sides().hr.size for pair in corpus.pairs)


def test_the_digest_is_of_contents_and_preparation(images: list[UPath], tmp_path: Path) -> None:
    corpus = plan(images)
    moved = [UPath(tmp_path / f"renamed-{9 - i}.png") for i in range(len(images))]
    for old, new in zip(images, moved, strict=True):
        new.write_bytes(old.read_bytes())
    again = plan(moved[::-1])
    assert again.digest == corpus.digest
    assert [pair.content for pair in again.pairs] == [pair.content for pair in corpus.pairs]
    assert again.shards == corpus.shards
    others = [plan(images, crop=9), plan(images, shards=5), plan(images, scales=(2,)), plan(images, downsizes=(1.0,))]
    others.append(plan(images[1:]))
    Image.fromarray(np.zeros(SIZES[0], np.uint8)).save(str(images[0]))
    others.append(plan(images))
    assert len({corpus.digest, *(other.digest for other in others)}) == 7


def test_validation_images_are_left_out_by_content(images: list[UPath], tmp_path: Path) -> None:
    copy = UPath(tmp_path / "elsewhere.png")
    copy.write_bytes(images[2].read_bytes())
    corpus = plan(images, exclude=[copy])
    assert {pair.path for pair in corpus.pairs} == {str(path) for path in images if path != images[2]}
    assert corpus.digest == plan([*images[:2], *images[3:]]).digest


def test_small_pairs_are_skipped_and_counted(images: list[UPath]) -> None:
    corpus = plan(images, crop=16, downsizes=(1.0,))
    # the 16x16 image is 15x15 at scale 3, and 17x33 is 15x33
    assert (len(corpus.pairs), corpus.skipped) == (10, 2)
    assert min(min(pair.height, pair.width) for pair in corpus.pairs) == 16


def test_too_few_pairs_are_refused_with_the_remedy(images: list[UPath]) -> None:
    with pytest.raises(ValueError, match="4 training pairs cannot fill 5 shards: pass --shards 4 or less"):
        plan(images[:1], shards=5)
    with pytest.raises(ValueError, match="all 24 are smaller than a crop of 64×64"):
        plan(images, crop=64)


def test_shards_hold_every_pair_once_and_about_equal_pixels(images: list[UPath]) -> None:
    corpus = plan(images)
    assert sorted(i for shard in corpus.shards for i in shard) == list(range(24))
    weights = [sum(pair.pixels for pair in corpus.shard_pairs(s)) for s in range(4)]
    assert max(weights) - min(weights) <= max(pair.pixels for pair in corpus.pairs)
    assert max(weights) < 1.1 * corpus.pixels / 4


def test_a_shard_holds_the_prepared_images(images: list[UPath], tmp_path: Path) -> None:
    corpus = plan(images)
    for s, shard in enumerate(shard_files(tmp_path, corpus)):
        pairs, end = corpus.shard_pairs(s), 0
        assert shard.pixels == sum(pair.pixels for pair in pairs) == len(shard.hr) == len(shard.inputs)
        for pair, (place, inputs, hr) in zip(pairs, shard.images(), strict=True):
            expected = pair.sides().hr
            np.testing.assert_array_equal(hr.numpy(), expected)
            exact = enlarge(degrade(expected, pair.scale), pair.scale)
            np.testing.assert_array_equal(inputs.numpy(), exact.astype(np.float16))
            np.testing.assert_allclose(inputs.numpy().astype(np.float32), exact, atol=2**-11)
            assert (place.start, place.stop) == (end, end + pair.pixels)
            end = place.stop


def cut_slowly(
    shards: list[Shard], *, seed: int, round: int, epoch: int, step: int, batch: int, crop: int = CROP
) -> list[bytes]:
    """The crops of a step from the random numbers' definition, one after the other, with numpy's own turns."""
    up = shards[0].upsampling
    raw = np.random.Philox(key=seed, counter=[0, step, epoch, round]).random_raw(2 * batch + len(shards))
    order = np.argsort(raw[2 * batch :], kind="stable")
    crops = []
    for i in range(batch):
        shard = shards[order[i % len(shards)]]
        importance = (np.arange(shard.pixels) % 2048).astype(np.float16)
        corners = [
            (place, image, hr, row, column)
            for place, image, hr in shard.images()
            for row in range(0, hr.shape[0] - crop + 1, up)
            for column in range(0, hr.shape[1] - crop + 1, up)
        ]
        place, image, hr, row, column = corners[int((int(raw[i]) >> 11) / 2**53 * len(corners))]
        orientation = int(raw[batch + i]) >> 61
        turned = []
        weights = importance[place].reshape(hr.shape)
        for plane, factor in ((image.numpy(), up), (hr.numpy(), 1), (weights, 1)):
            top, left, side = row // factor, column // factor, crop // factor
            cut = np.rot90(plane[top : top + side, left : left + side], orientation % 4)
            turned.append(np.fliplr(cut) if orientation >= 4 else cut)
        crops.append(b"".join(np.ascontiguousarray(array).tobytes() for array in turned))
    return sorted(crops)


def test_crops_are_cut_and_turned_as_numpy_does(images: list[UPath], tmp_path: Path) -> None:
    shards = shard_files(tmp_path, plan(images))
    bank = weighed(dict(enumerate(shards)), 4)
    for counters in ({"round": 0, "epoch": 0, "step": 0}, {"round": 7, "epoch": 49, "step": 1234}):
        crops = bank.crops(**counters, batch=24)
        assert crops.inputs.shape == crops.hr.shape == crops.importance.shape == (24, 1, CROP, CROP)
        assert as_multiset(crops) == cut_slowly(shards, seed=3, **counters, batch=24)


@pytest.mark.parametrize(("scale", "crop"), [(2, 8), (3, 9), (4, 12)])
def test_a_network_that_upsamples_gets_low_resolution_crops_in_place(
    images: list[UPath], tmp_path: Path, scale: int, crop: int
) -> None:
    corpus = plan(images, scales=(scale,), crop=crop, shards=3)
    shards = shard_files(tmp_path, corpus, upsampling=scale)
    for s, shard in enumerate(shards):
        for pair, (place, small, hr) in zip(corpus.shard_pairs(s), shard.images(), strict=True):
            assert place.stop - place.start == pair.pixels
            np.testing.assert_array_equal(hr.numpy(), pair.sides().hr)
            np.testing.assert_array_equal(small.numpy(), degrade(pair.sides().hr, scale).astype(np.float16))
    crops = weighed(dict(enumerate(shards)), 3, crop=crop).crops(round=1, epoch=2, step=3, batch=24)
    assert crops.hr.shape == crops.importance.shape == (24, 1, crop, crop)
    assert crops.inputs.shape == (24, 1, crop // scale, crop // scale)
    assert as_multiset(crops) == cut_slowly(shards, seed=3, round=1, epoch=2, step=3, batch=24, crop=crop)


def test_a_network_that_upsamples_cannot_read_other_scales(images: list[UPath], tmp_path: Path) -> None:
    shard_files(tmp_path, plan(images))
    with pytest.raises(ValueError, match=r"0\.safetensors: a network for scale 2 cannot read it"):
        Shard(UPath(tmp_path / "0.safetensors"), upsampling=2)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_global_batch_does_not_depend_on_the_workers(images: list[UPath], tmp_path: Path, workers: int) -> None:
    shards = dict(enumerate(shard_files(tmp_path, plan(images))))
    whole = weighed(shards, 4)
    parts = [weighed({s: shards[s] for s in shards if s % workers == rank}, 4) for rank in range(workers)]
    for batch in (2, 13, 16):  # with 2, some worker has nothing
        counters = {"round": 1, "epoch": 2, "step": 3, "batch": batch}
        assert as_multiset(*(bank.crops(**counters) for bank in parts)) == as_multiset(whole.crops(**counters))


def test_crops_follow_from_seed_and_counters_alone(images: list[UPath], tmp_path: Path) -> None:
    shards = dict(enumerate(shard_files(tmp_path, plan(images))))
    counters = {"round": 1, "epoch": 1, "step": 1, "batch": 8}
    first = as_multiset(weighed(shards, 4).crops(**counters))
    bank = weighed(shards, 4)
    seen = {tuple(as_multiset(bank.crops(**(counters | {name: 2})))) for name in ("round", "epoch", "step")}
    seen.add(tuple(as_multiset(weighed(shards, 4, seed=4).crops(**counters))))
    assert as_multiset(bank.crops(**counters)) == first
    assert len(seen | {tuple(first)}) == 5


def test_positions_and_orientations_are_uniform(tmp_path: Path, images: list[UPath]) -> None:
    corpus = plan(images[4:], scales=(2,), downsizes=(1.0,), shards=1)  # 16x16 and 30x18: 81 + 253 places
    (shard,) = shard_files(tmp_path, corpus)
    crops = weighed({0: shard}, 1).crops(round=0, epoch=0, step=0, batch=334 * 60)
    index = crops.importance[:, 0].numpy().astype(np.int64)
    np.testing.assert_array_equal(shard.hr.numpy()[index], crops.hr[:, 0].numpy())
    np.testing.assert_array_equal(shard.inputs.numpy()[index], crops.inputs[:, 0].numpy())
    _, counts = np.unique(index.min(axis=(1, 2)), return_counts=True)
    assert len(counts) == 334
    assert ((counts - 60) ** 2 / 60).sum() < 333 + 4 * np.sqrt(2 * 333), "chi-squared, 4 deviations above its mean"
    ends = np.stack([index[:, 0, 0], index[:, 0, -1], index[:, -1, 0]], axis=1) - index.min(axis=(1, 2))[:, None]
    corners = np.isin(ends, [7, 7 * 16 + 7, 7 * 18 + 7]) + 2 * (ends > 7)  # 0 to 3, in images 16 or 18 pixels wide
    kinds, counts = np.unique(corners, axis=0, return_counts=True)
    expected = [[0, 1, 2], [0, 2, 1], [1, 0, 3], [1, 3, 0], [2, 0, 3], [2, 3, 0], [3, 1, 2], [3, 2, 1]]
    assert kinds.tolist() == expected, "which corners of the image lie top left, top right and bottom left"
    assert ((counts - 2505) ** 2 / 2505).sum() < 30, "chi-squared of 7 degrees: 99.99 % lie below 30"


def test_importance_of_another_length_is_refused(images: list[UPath], tmp_path: Path) -> None:
    shards = dict(enumerate(shard_files(tmp_path, plan(images))))
    with pytest.raises(ValueError, match=rf"shard 1 has shape \(3,\), expected \({shards[1].pixels},\)"):
        Bank(shards, total_shards=4, crop=CROP, seed=0).weigh(1, np.ones(3, np.float16))


def test_a_teachers_outputs_are_cut_like_the_images(images: list[UPath], tmp_path: Path) -> None:
    shards = dict(enumerate(shard_files(tmp_path, plan(images))))
    bank = weighed(shards, 4)
    without = bank.crops(round=1, epoch=0, step=2, batch=16)
    assert without.outputs is None
    for s, shard in shards.items():
        bank.teach(s, shard.hr.numpy().astype(np.float16))
    crops = bank.crops(round=1, epoch=0, step=2, batch=16)
    assert crops.outputs is not None
    assert crops.outputs.dtype == torch.float16
    np.testing.assert_array_equal(crops.outputs.numpy(), crops.hr.numpy())
    assert as_multiset(crops) == as_multiset(without)
    with pytest.raises(ValueError, match=r"outputs of shard 2 has shape \(3,\)"):
        bank.teach(2, np.zeros(3, np.float16))


@pytest.mark.parametrize("upsampling", [1, 2])
def test_shards_that_are_joined_on_a_device_give_the_same_crops(
    images: list[UPath], tmp_path: Path, upsampling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dict(enumerate(shard_files(tmp_path, plan(images, scales=(2,)), upsampling)))
    steps, found = range(5, 5 + AHEAD + 3), []
    for joined in (False, True):
        monkeypatch.setattr(banks, "apart", lambda device, joined=joined: joined)
        for numbers in ((0, 1, 2, 3), (1, 3)):  # the second has nothing of some batches of two
            bank = weighed({s: copy.copy(files[s]) for s in numbers}, 4)
            for s in numbers:
                bank.teach(s, files[s].hr.numpy().astype(np.float16))
            batches = list(bank.batches(round=1, epoch=2, steps=steps, batch=2))
            assert len(batches) == len(steps)
            batches.append(bank.crops(round=1, epoch=2, step=steps[-1], batch=2))
            assert as_multiset(batches[-1]) == as_multiset(batches[-2])
            found.append([plane for crops in batches for plane in vars(crops).values()])
    for expected, joint in zip(found[:2], found[2:], strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(expected, joint, strict=True))


def test_a_device_gets_the_crops_of_many_steps_in_one_copy(images: list[UPath], tmp_path: Path) -> None:
    shards = dict(enumerate(shard_files(tmp_path, plan(images))))
    for shard in shards.values():
        shard.hr, shard.inputs = shard.hr.to("meta"), shard.inputs.to("meta")
    bank = weighed(shards, 4)
    with Calls() as calls:
        crops = list(bank.batches(round=0, epoch=0, steps=range(AHEAD), batch=16))
    assert {(each.hr.device.type, each.hr.shape) for each in crops} == {("meta", (16, 1, CROP, CROP))}
    assert calls.of["_to_copy"] == 1
    assert calls.of["index_select"] == 3 * AHEAD, "four shards, one buffer"
    assert calls.of["cat"] == 0
