"""What the driver says: every run by a name that tells it from the others of its sweep."""

from dataclasses import replace

import pytest

from ail_ray.learning.config import RunConfig
from ail_ray.orchestration.runs import title


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RunConfig(), "λ=0.15 teacher=vdsr seed=0"),
        (RunConfig(scales=(2, 3), rule="exact", teacher="/w/t.st"), "exact λ=0.15 teacher=t.st seed=0"),
        (RunConfig(rule="hard-first", lam=0.1, seed=2), "hard-first λ=0.1 teacher=vdsr seed=2"),
        (RunConfig(rule="uniform"), "w=1 (control) seed=0"),
        (RunConfig(rule="uniform", beta=0.1), "w=1 β=0.1 teacher=vdsr seed=0"),
        (RunConfig(rule="uniform", restart="never", start="/w/s.safetensors"),
         "w=1 (control) one schedule from s.safetensors seed=0"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_it_reads(config: RunConfig, words: str) -> None:
    scales = ",".join(map(str, config.scales))
    assert title(replace(config, init="identity")) == f"vdsr-f13 ×{scales} {words}"
    he = title(config)
    assert ("init=he" in he) == (config.start is None), "given weights are not drawn"
