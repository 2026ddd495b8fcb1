"""What is known of image files: read once, and again only where something has changed."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_files import picture
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import entries
from ail_ray.imaging import catalogue
from ail_ray.imaging.catalogue import Catalogue, Seen, look_at
from ail_ray.imaging.images import ImageError
from ail_ray.learning.config import RunConfig
from ail_ray.runs.preparation import build_data, plan_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for i in range(4):
        Image.fromarray(picture(i, 48 + 2 * i, 40)).save(made / f"{i}.png")
    (made / "broken.png").write_bytes(b"no picture")
    aged(made)
    return made


def aged(folder: Path) -> None:
    """As if its files had been there for a while."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60, time.time() - 60))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read from now on; files count as old a moment after they were written."""
    names = list[str]()

    def looked(path: UPath) -> Seen | ImageError:
        names.append(path.name)
        return look_at(path)

    monkeypatch.setattr(catalogue, "look_at", looked)
    monkeypatch.setattr(catalogue, "FRESH", 0.0)
    return names


def looked(place: Path, folder: Path) -> dict[str, Seen | ImageError]:
    known = Catalogue(UPath(place))
    found = known.look(UPath(path) for path in sorted(folder.iterdir()))
    known.save()
    return {path.name: seen for path, seen in found.items()}


def test_only_what_has_changed_is_read_again(folder: Path, tmp_path: Path, read: list[str]) -> None:
    first = looked(tmp_path / "tables", folder)
    assert sorted(read) == ["0.png", "1.png", "2.png", "3.png", "broken.png"]
    assert first["2.png"] == look_at(UPath(folder / "2.png"))
    assert isinstance(first["broken.png"], ImageError)
    read.clear()
    second = looked(tmp_path / "tables", folder)
    assert read == ["broken.png"], "what could not be read is tried again"
    assert {name: second[name] for name in first if name != "broken.png"} == {
        name: seen for name, seen in first.items() if name != "broken.png"
    }
    Image.fromarray(picture(9, 52, 48)).save(folder / "1.png")
    Image.fromarray(picture(8, 52, 48)).save(folder / "4.png")
    (folder / "0.png").unlink()
    read.clear()
    third = looked(tmp_path / "tables", folder)
    assert sorted(read) == ["1.png", "4.png", "broken.png"]
    assert third["1.png"] == look_at(UPath(folder / "1.png")) != first["1.png"]
    assert "0.png" not in third


def test_a_file_of_the_same_size_and_time_is_known_by_when_it_was_written(
    folder: Path, tmp_path: Path, read: list[str]
) -> None:
    Image.fromarray(picture(1, 40, 40)).save(folder / "a.bmp")
    before = os.stat(folder / "a.bmp")
    looked(tmp_path / "tables", folder)
    Image.fromarray(picture(2, 40, 40)).save(folder / "a.bmp")
    os.utime(folder / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert looked(tmp_path / "tables", folder)["a.bmp"] == look_at(UPath(folder / "a.bmp"))


def test_what_was_just_written_is_not_believed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FRESH", 3600.0)
    looked(tmp_path / "tables", folder)
    assert not (tmp_path / "tables").exists(), "it might change within the clock's tick"


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:50]), lambda p: p.write_text("[]")])
def test_a_damaged_table_is_made_again(
    folder: Path, tmp_path: Path, read: list[str], damage: Callable[[Path], object]
) -> None:
    first = looked(tmp_path / "tables", folder)
    (table,) = (tmp_path / "tables" / "images").iterdir()
    damage(table)
    again = looked(tmp_path / "tables", folder)
    assert len(read) == 10
    assert again["0.png"] == first["0.png"]


def test_a_place_that_tells_no_time_of_change_is_read_each_time(tmp_path: Path, read: list[str]) -> None:
    folder, place = UPath("memory://pictures"), UPath(tmp_path / "tables")
    (folder / "0.png").write_bytes(saved(0))
    for _ in range(2):
        known = Catalogue(place)
        assert isinstance(known.look([folder / "0.png"])[folder / "0.png"], Seen)
        known.save()
    assert read == ["0.png", "0.png"]


def test_the_listing_of_each_store_is_understood() -> None:
    """Keys as s3fs, gcsfs and fsspec's own have them; the folder itself is marked by an object of its name."""

    class Folder:
        path = "bucket/pictures"

        def __init__(self, **tells: object) -> None:
            self.fs = self
            self.tells = tells

        def ls(self, path: str, detail: bool) -> list[dict[str, object]]:
            found = [
                ("bucket/pictures/", "file"),
                ("bucket/pictures/b.png", "file"),
                ("bucket/pictures/a", "directory"),
            ]
            return [{"name": name, "type": kind, "size": 7, **self.tells} for name, kind in found]

        def __truediv__(self, name: str) -> UPath:
            return UPath("memory://bucket/pictures") / name

    for tells, stamp, changed in (
        ({"ETag": '"0f"', "LastModified": "2026-11-30"}, '7 "0f"', 0.0),
        ({"etag": "CK=", "updated": "2026-11-30T22:00:00Z", "mtime": "2026-11-30T22:00:00Z"}, "7 CK=", 0.0),
        ({"mtime": 1.5}, "7 1.5", 1.5),
        ({"created": "2026-11-30"}, "", 0.0),
    ):
        found = entries(Folder(**tells))  # type: ignore[arg-type]
        assert [(entry.path.name, entry.kind) for entry in found] == [("a", "folder"), ("b.png", "file")]
        assert {(entry.stamp, entry.changed) for entry in found} == {(stamp, changed)}


def test_a_local_address_tells_when_a_file_has_changed(folder: Path, tmp_path: Path, read: list[str]) -> None:
    picture_ = UPath(f"file://{folder}") / "a.bmp"
    for i in (1, 2, 2):
        if i != len(read):
            Image.fromarray(picture(i, 40, 40)).save(folder / "a.bmp")
        known = Catalogue(UPath(tmp_path / "tables"))
        assert known.look([picture_])[picture_] == look_at(UPath(folder / "a.bmp"))
        known.save()
    assert read == ["a.bmp", "a.bmp"]


def test_other_versions_and_odd_names(folder: Path, tmp_path: Path, read: list[str]) -> None:
    Image.fromarray(picture(1, 40, 40)).save(folder / "clip::01.png")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(saved(1))
    looked(tmp_path / "tables", folder)
    read.clear()
    looked(tmp_path / "tables", folder)
    assert sorted(read) == sorted([os.fsdecode(b"caf\xe9.png"), "broken.png"]), "whose name no table can hold"
    (table,) = (tmp_path / "tables" / "images").iterdir()
    table.write_text(table.read_text().replace('"version": 1', '"version": 0').replace('"version":1', '"version":0'))
    read.clear()
    looked(tmp_path / "tables", folder)
    assert len(read) == 7, "what an older version knew is read anew"


def saved(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, 40, 40)).save(buffer, "png")
    return buffer.getvalue()


def config(folder: Path) -> RunConfig:
    return RunConfig(train=(str(folder),), validation=(), test=(), downsizes=(1.0,), crop=16, shards=1, rule="uniform")


def test_a_second_start_reads_no_image_and_names_the_same_corpus(folder: Path, tmp_path: Path, read: list[str]) -> None:
    (folder / "broken.png").unlink()
    storage = UPath(tmp_path / "storage")
    first = plan_data(config(folder), storage)
    assert not storage.exists(), "a plan writes nothing"
    build_data(first)
    read.clear()
    second = plan_data(config(folder), storage)
    assert read == []
    assert second.corpus == first.corpus


def test_a_table_that_was_wrong_is_dropped_by_whoever_reads_the_file(
    folder: Path, tmp_path: Path, read: list[str]
) -> None:
    (folder / "broken.png").unlink()
    storage = UPath(tmp_path / "storage")
    prepared = plan_data(config(folder), storage)
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(folder / "2.png")  # after it was looked at
    with pytest.raises(ConfigError, match=r"2\.png: has changed since the command began; start it again"):
        build_data(prepared)
    assert not list((storage / "images").glob("*.json"))
    build_data(plan_data(config(folder), storage))
