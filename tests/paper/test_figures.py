"""Figures of the docs: a picture of the promised size in which every panel shows something."""

from pathlib import Path

import numpy as np
from PIL import Image

from ail_ray.paper.figures import draw_rules

EXAMPLES = str(Path(__file__).parents[2] / "docs" / "examples" / "rules.py")


def test_the_rules_are_drawn(tmp_path: Path) -> None:
    draw_rules(tmp_path / "rules.png", EXAMPLES)
    picture = np.asarray(Image.open(tmp_path / "rules.png").convert("L"))
    assert picture.shape == (560, 1000)
    for panel in (part for row in np.array_split(picture, 2) for part in np.array_split(row, 3, axis=1)):
        assert (panel < 128).sum() > 1000
    other = tmp_path / "other.png"
    draw_rules(other, EXAMPLES, lam=0.05)
    assert other.read_bytes() != (tmp_path / "rules.png").read_bytes()
