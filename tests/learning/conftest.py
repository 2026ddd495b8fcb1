"""A tiny corpus for the whole folder."""

import numpy as np
import pytest
from PIL import Image
from tiny_run import TINY
from upath import UPath

from ail_ray.imaging.pairs import plan_corpus
from ail_ray.imaging.shards import Shard, write_shard


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Shard]:
    """Two shards of two small photographs, noisy ramps with edges."""
    folder, generator = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    images = []
    for i, (height, width) in enumerate([(30, 26), (24, 36), (28, 28), (22, 40)]):
        ramp = np.add.outer(np.arange(height) * (i + 1), np.arange(width) * 3)
        edge = 90 * (np.add.outer(np.arange(height), -np.arange(width)) > 0)
        picture = np.clip(ramp + edge + generator.normal(0, 4, (height, width)), 0, 255).astype(np.uint8)
        images.append(UPath(folder / f"{i}.png"))
        Image.fromarray(picture).save(str(images[-1]))
    corpus = plan_corpus(images, downsizes=TINY.downsizes, scales=TINY.scales, crop=TINY.crop, shards=TINY.shards)
    paths = [UPath(folder / f"shard-{s}.safetensors") for s in range(TINY.shards)]
    for s, path in enumerate(paths):
        write_shard(path, corpus.shard_pairs(s))
    return {s: Shard(path) for s, path in enumerate(paths)}
