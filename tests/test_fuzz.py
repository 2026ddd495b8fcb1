"""A few of the inputs of `make fuzz`: each is taken or refused, none raises anything else or hangs."""

import pytest
from fuzz import CLASSES, PAST, fuzz


@pytest.mark.long
def test_wrong_input_is_refused_and_nothing_else_happens() -> None:
    counts, wrong = fuzz(300, seed=42)
    assert wrong == []
    assert sum(ends["past the first parser"] for ends in counts.values()) > PAST * 300
    assert all(counts[name]["refused"] > 0 for name in CLASSES)
    assert all(counts[name]["taken"] > 0 for name in CLASSES)
