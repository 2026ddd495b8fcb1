"""Finding image sets: the bundled sample, named folders, paths, object stores, and what is said of bad ones."""

import pickle
from pathlib import Path

import pytest
from upath import UPath

from ail_ray.imaging.image_sets import BSDS200_VAL, DatasetError, find, newly_read, passed_over
from ail_ray.imaging.images import content_digest, image_size, read_image


@pytest.fixture(autouse=True)
def _no_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIL_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # has no cache of image sets


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def names(paths: tuple[UPath, ...]) -> list[str]:
    return [path.name for path in paths]


def test_sample_is_there_without_any_data() -> None:
    sizes = {path.name: image_size(path) for path in find("sample").paths}
    assert sizes == {
        "brick.png": (512, 512),
        "camera.png": (512, 512),
        "chelsea.png": (300, 451),
        "coffee.png": (400, 600),
        "grass.png": (512, 512),
        "gravel.png": (512, 512),
        "rocket.jpg": (427, 640),
    }


def test_validation_sample_is_disjoint_from_training() -> None:
    training, validation = find("sample"), find("sample-val")
    sizes = {path.name: image_size(path) for path in validation.paths}
    assert sizes == {"astronaut.png": (512, 512), "coins.png": (303, 384), "text.png": (172, 448)}
    contents = [{content_digest(path.read_bytes()) for path in images.paths} for images in (training, validation)]
    assert not contents[0] & contents[1]


def test_sample_does_not_depend_on_data_dir(tmp_path: Path) -> None:
    folder_of(tmp_path / "sample", "other.png")
    assert find("sample", tmp_path) == find("sample", "memory://nowhere") == find("sample")


def test_counts_of_the_papers_sets(data_dir: Path) -> None:
    counts = {name: len(find(name, data_dir).paths) for name in ("T91", "BSDS200", "Set5", "Set14")}
    assert counts == {"T91": 91, "BSDS200": 200, "Set5": 5, "Set14": 14}


def test_one_image_of_set14_is_single_channel(data_dir: Path) -> None:
    assert [read_image(path).ndim for path in find("Set14", data_dir).paths].count(2) == 1


def test_bsds200_val_is_every_twentieth_of_bsds200(data_dir: Path) -> None:
    everything, validation = find("BSDS200", data_dir), find("BSDS200-val", data_dir)
    assert validation.name == "BSDS200-val"
    assert validation.paths == everything.paths[::20]
    assert tuple(names(validation.paths)) == BSDS200_VAL


def test_bsds200_val_names_what_is_missing(tmp_path: Path) -> None:
    folder_of(tmp_path / "BSDS200", *BSDS200_VAL[2:])
    with pytest.raises(DatasetError, match=r"BSDS200 lacks 100075\.png, 12074\.png; fetch .* --sets BSDS200 --to "):
        find("BSDS200-val", tmp_path)


def test_named_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "mine", "b.png", "a.png")
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path))
    images = find("mine")
    assert images.name == "mine"
    assert images.paths == (UPath(tmp_path / "mine" / "a.png"), UPath(tmp_path / "mine" / "b.png"))
    assert images == find("mine", tmp_path) == find("mine", UPath(tmp_path)) == find(str(tmp_path / "mine"))


def test_argument_wins_over_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "one" / "mine", "one.png")
    folder_of(tmp_path / "two" / "mine", "two.png")
    monkeypatch.setenv("AIL_DATA_DIR", str(tmp_path / "one"))
    assert names(find("mine", tmp_path / "two").paths) == ["two.png"]


def test_images_are_known_by_suffix_sorted_by_name_and_not_searched_for(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "mix", "f.tiff", "e.TIF", "d.webp", "c.JPEG", "b.Jpg", "a.bmp", "B.PNG", "b.png",
        "notes.txt", "png", "._a.bmp", ".png", "a.bmp.part",
    )  # fmt: skip
    folder_of(folder / "inner", "inner.png")
    (folder / "folder.png").mkdir()
    expected = ["B.PNG", "a.bmp", "b.Jpg", "b.png", "c.JPEG", "d.webp", "e.TIF", "f.tiff"]
    assert names(find(str(folder)).paths) == expected


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "few", "a.png", "b.HEIC", "c.heic", "notes.txt", "README", "._a.heic", "b.png")
    for name in ("one", "two.png", ".three"):
        (folder / name).mkdir()
    images = find(str(folder))
    assert names(images.paths) == ["a.png", "b.png"]
    assert dict(images.passed_over) == {".heic": 2, "folder": 2, ".txt": 1, "without a suffix": 1}
    assert passed_over([images, images, find("sample")]) == (
        "passed over: 2 folders inside (a name that ends in /** enters them), 2 .heic, 1 without a suffix, 1 .txt"
    )
    assert passed_over([find("sample")]) == ""
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    with pytest.raises(
        DatasetError, match=r"few: no images in this folder \(.*\); passed over: 2 folders inside \(a name"
    ):
        find(str(folder))


def test_what_older_versions_have_passed_over_is_said(tmp_path: Path) -> None:
    images = find(str(folder_of(tmp_path / "new", "a.png", "b.avif", "c.JFIF", "d.avif", "e.jp2")))
    assert newly_read([images, images]) == (
        "other images than older versions had, which passed over 1 .jfif, 2 .avif, 1 .jp2"
    )
    assert newly_read([find("sample")]) == ""


def test_a_name_that_ends_in_stars_enters_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of frames beside frames: all of them, by their path below; a link back to where it came from is not."""
    clips = folder_of(tmp_path / "clips", "b.png", "z.mov")
    for clip in ("a", "c/deep", ".hidden", "empty"):
        folder_of(clips / clip, *(["1.png", "2.png"] if clip != "empty" else []))
    (clips / "c" / "back").symlink_to(clips)
    (clips / "d").symlink_to(clips / "a")
    every = find(f"{clips}/**")
    below = [path.relative_to(clips).as_posix() for path in every.paths]
    assert below == ["a/1.png", "a/2.png", "b.png", "c/deep/1.png", "c/deep/2.png", "d/1.png", "d/2.png"]
    assert (every.name, every.passed_over) == ("clips", ((".mov", 1),))
    assert names(find(str(clips)).paths) == ["b.png"]
    monkeypatch.chdir(tmp_path)
    assert every == find("clips/**") == find("./clips/**") == find("clips/**", tmp_path)
    folder_of(tmp_path / "none" / "inner", "a.txt")
    with pytest.raises(DatasetError, match=r"none: no images in this folder or in one inside it"):
        find("none/**")
    store = UPath("memory://test_datasets/clips/one")
    store.mkdir(parents=True)
    (store / "1.png").write_bytes(b"x")
    assert names(find("memory://test_datasets/clips/**").paths) == ["1.png"]


def test_object_stores_as_path_and_as_data_dir() -> None:
    folder = UPath("memory://test_datasets/sets/few")
    folder.mkdir(parents=True)
    for name in ("2.png", "1.jpg", "readme.md"):
        (folder / name).write_bytes(b"x")
    images = find("memory://test_datasets/sets/few")
    assert images.name == "few"
    assert names(images.paths) == ["1.jpg", "2.png"]
    assert images.paths[0].read_bytes() == b"x"
    assert images == find("memory://test_datasets/sets/few/") == find("few", "memory://test_datasets/sets")


def test_relative_and_home_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "sets" / "few", "1.png")
    monkeypatch.chdir(tmp_path / "sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = find(str(folder))
    assert expected == find("few") == find("./few") == find("few/") == find("~/sets/few")
    assert expected == find("few", "~/sets") == find("few", ".")
    monkeypatch.chdir(folder)
    assert find(".") == expected


def test_image_set_travels_between_processes(tmp_path: Path) -> None:
    images = find(str(folder_of(tmp_path / "few", "1.png")))
    assert pickle.loads(pickle.dumps(images)) == images
    assert hash(images) == hash(find(str(tmp_path / "few")))


def test_unknown_name_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'Set6'; there are sample, sample-val \(AIL_DATA_DIR is not set\)"):
        find("Set6")
    folder_of(tmp_path / "data" / "BSDS200", "1.png")
    folder_of(tmp_path / "data" / "Set5", "1.png")
    with pytest.raises(DatasetError, match=r"sample, sample-val, BSDS200-val, BSDS200, Set5 \(looked in .*data\)"):
        find("Set6", tmp_path / "data")
    with pytest.raises(DatasetError, match="unknown image set ''"):
        find("", tmp_path / "data")
    with pytest.raises(DatasetError, match=r"image set BSDS200-val is not here \(AIL_DATA_DIR is not set"):
        find("BSDS200-val")


def test_empty_environment_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIL_DATA_DIR", "")
    with pytest.raises(DatasetError, match="AIL_DATA_DIR is not set"):
        find("Set5")


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "empty", "notes.txt")
    folder_of(tmp_path / "files", "one.png")
    with pytest.raises(DatasetError, match=r"empty: no images in this folder \(looked for \.png"):
        find("empty", tmp_path)
    with pytest.raises(DatasetError, match="none: no such folder"):
        find(str(tmp_path / "none"))
    with pytest.raises(DatasetError, match=r"one\.png: is a file, not a folder"):
        find(str(tmp_path / "files" / "one.png"))
    with pytest.raises(DatasetError, match="nodata: no such folder"):
        find("Set5", tmp_path / "nodata")
    with pytest.raises(DatasetError, match="memory://test_datasets/none: no such folder"):
        find("memory://test_datasets/none")
    with pytest.raises(
        DatasetError, match="nosuchstore://bucket/a: neither a folder nor the address of an object store"
    ):
        find("nosuchstore://bucket/a")
