"""A sweep on a Ray of its own, with fifty secrets in its environment: nobody else could reach it, and none is left."""

import tempfile
from pathlib import Path

import pytest
from exposure import Place, own_ray
from tiny_files import TinyFiles


@pytest.mark.ray
@pytest.mark.long
def test_a_sweep_listens_on_the_loopback_and_writes_no_secret_down(tiny_files: TinyFiles) -> None:
    with tempfile.TemporaryDirectory(prefix="ail") as name:  # a short name: Ray puts sockets there
        place = Place(Path(name), tiny_files)
        own_ray(place)
        place.search(place.folder)
        place.look_at_permissions()
    assert place.problems == []
