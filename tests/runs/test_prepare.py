"""What trials share: every problem said at once, everything built once and found again."""

import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import TinyFiles
from upath import UPath

from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import ConfigError, RunConfig
from ail_ray.learning.inference import error_map
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.teachers import OurWeights, find_teacher
from ail_ray.learning.weights import save_model, weights_digest
from ail_ray.networks.architectures import FSRCNN
from ail_ray.networks.building import build_model
from ail_ray.runs.preparation import Prepared, build_data, find_start, here, plan_data, shared_weights
from ail_ray.runs.records import Weights
from ail_ray.runs.teacher_maps import TeacherMaps, teacher_maps
from ail_ray.sweeps.sweep_job import SweepJob, check
from ail_ray.tensors import checksum, read_tensors, write_tensors

Calls = list[tuple[Any, ...]]


def config(files: TinyFiles, **changes: Any) -> RunConfig:
    return RunConfig(**{**files.protocol(), **changes})


def counting(calls: Calls) -> Callable[..., Iterator[None]]:
    """As `here`, remembering what was asked for."""

    def everywhere(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[None]:
        calls.extend(arguments)
        return here(function, arguments)

    return everywhere


@pytest.fixture
def prepared(tiny_files: TinyFiles, tmp_path: Path) -> Prepared:
    return plan_data(config(tiny_files), UPath(tmp_path / "storage"))


def test_every_bad_set_is_named_at_once(tiny_files: TinyFiles, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bad = config(
        tiny_files, train=(str(tmp_path / "absent"), str(tmp_path / "empty")), validation=(str(tmp_path / "gone"),),
        test=(str(tiny_files.teacher),),
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        plan_data(bad, UPath(tmp_path))
    problems = caught.value.problems
    assert [line.split(":")[0] for line in problems] == ["train", "train", "validation", "test"]
    for line, name in zip(problems, ("absent", "empty", "gone", "teacher.safetensors"), strict=True):
        assert name in line


def test_images_that_cannot_be_used_are_refused(tiny_files: TinyFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"6 training pairs cannot fill 7 shards: pass --shards 6"):
        plan_data(config(tiny_files, shards=7), UPath(tmp_path))
    with pytest.raises(ConfigError, match=r"all 6 are smaller than a crop of 97×97"):
        plan_data(config(tiny_files, crop=97), UPath(tmp_path))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"a\.png"):
        plan_data(config(tiny_files, train=(str(tmp_path / "broken"),)), UPath(tmp_path))


def test_headers_that_cannot_be_read_are_all_named(tiny_files: TinyFiles, tmp_path: Path) -> None:
    places = [tmp_path / role / f"{i}.png" for role in ("train", "validation", "test") for i in (0, 1)]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(f"no picture for {place.parent.name}".encode())
    sets = {role: (str(tmp_path / role),) for role in ("train", "validation", "test")}
    with pytest.raises(ConfigError) as caught:
        plan_data(config(tiny_files, **sets, scales=(2, 3)), UPath(tmp_path / "storage"))
    assert caught.value.problems == [f"{place}: empty, or not an image of a known format" for place in places]


def test_sets_whose_numbers_would_overwrite_each_other_are_refused(tiny_files: TinyFiles, tmp_path: Path) -> None:
    one, two, three = (str(tmp_path / name) for name in ("a/HR 2", "b/HR 2", "HR-2"))
    for folder in (one, two, three):
        shutil.copytree(tiny_files.validation, folder)
    remedy = "results go by the name HR-2 for both; rename or link one folder"
    for sets in ({"validation": (one, two)}, {"test": (one, two)}, {"validation": (one,), "test": (two,)}):
        with pytest.raises(ConfigError) as caught:
            plan_data(config(tiny_files, **{"validation": (), **sets}), UPath(tmp_path / "storage"))
        assert caught.value.problems == [f"{one} and {two}: {remedy}"]
    with pytest.raises(ConfigError) as caught:
        plan_data(config(tiny_files, validation=(one, two, three)), UPath(tmp_path / "storage"))
    assert caught.value.problems == [f"{one} and {two}: {remedy}", f"{one} and {three}: {remedy}"]
    (tmp_path / "other").symlink_to(two)
    twice = config(
        tiny_files, validation=(one, str(tmp_path / "other")), test=(one,), train=(two, str(tiny_files.train))
    )
    planned = plan_data(twice, UPath(tmp_path / "storage"))
    assert [file.images.name for file in (*planned.validation, *planned.test)] == ["HR 2", "other", "HR 2"]


def test_planning_writes_nothing_and_leaves_validation_images_out(tiny_files: TinyFiles, tmp_path: Path) -> None:
    both = config(tiny_files, train=(str(tiny_files.train), str(tiny_files.validation)))
    planned = plan_data(both, UPath(tmp_path / "storage"))
    assert not (tmp_path / "storage").exists()
    assert len(planned.corpus.pairs) == 6
    assert planned.corpus.digest == plan_data(config(tiny_files), UPath(tmp_path / "elsewhere")).corpus.digest
    assert planned.data.crops_per_epoch(both) == 32
    assert planned.data.crops_per_epoch(config(tiny_files, crops=None)) == -(-planned.corpus.pixels // 16**2)


def test_building_again_writes_nothing(prepared: Prepared) -> None:
    calls: Calls = []
    build_data(prepared, counting(calls))
    assert len(calls) == 4 + 1
    files = {path: path.stat().st_mtime_ns for path in (*prepared.data.shard_paths, prepared.validation[0].path)}
    build_data(prepared, counting(calls))
    assert len(calls) == 4 + 1
    assert {path: path.stat().st_mtime_ns for path in files} == files
    prepared.data.shard_paths[2].unlink()
    build_data(prepared, counting(calls))
    assert [arguments[0] for arguments in calls[5:]] == [prepared.data.shard_paths[2]]
    assert [Shard(path).pixels for path in prepared.data.shard_paths] == prepared.shard_pixels
    assert sum(prepared.shard_pixels) == 64 * 64 + 2 * 64 * 80 + 72 * 72 + 2 * 80 * 96
    images = EvaluationImages.load(prepared.validation[0].path)
    assert (images.set, images.scale, [hr.shape for hr in images.hr]) == ("val", 2, [(64, 64), (64, 80)])


def test_images_whose_pixels_cannot_be_read_are_all_named(tiny_files: TinyFiles, tmp_path: Path) -> None:
    sets = {"train": tiny_files.train, "validation": tiny_files.validation, "test": tiny_files.train}
    for role, folder in sets.items():
        shutil.copytree(folder, tmp_path / role)
    broken = [tmp_path / place for place in ("test/4.png", "train/0.png", "train/3.png", "validation/1.png")]
    for place in broken:
        place.write_bytes(place.read_bytes()[:200])  # the header is whole
    folders = {role: (str(tmp_path / role),) for role in sets}
    both = config(tiny_files, **folders, downsizes=(1.0, 0.5), scales=(2, 3))
    planned = plan_data(both, UPath(tmp_path / "storage"))
    with pytest.raises(ConfigError) as caught:
        build_data(planned)
    problems = caught.value.problems
    assert [line.partition(": cannot be read as an image")[0] for line in problems] == list(map(str, broken))
    shutil.copytree(tiny_files.train, tmp_path / "test", dirs_exist_ok=True)
    with pytest.raises(ConfigError) as caught:
        build_data(planned)
    changed = f"{broken[0]}: has changed since the command began; start it again"
    assert caught.value.problems == [changed, *problems[1:]], "what is used is what was looked at"
    with pytest.raises(ConfigError) as caught:
        build_data(plan_data(both, UPath(tmp_path / "storage")))
    assert caught.value.problems == problems[1:], "files are whole or absent: what was refused is tried again"


@pytest.mark.parametrize("name", ["none", "random"])
def test_some_teachers_have_no_file(name: str) -> None:
    assert find_teacher(name) is None


def test_a_teacher_that_cannot_be_used_is_refused(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIL_TEACHER_DIR", raising=False)
    with pytest.raises(
        ConfigError, match=r"teacher mine: no such model; there are none, random, vdsr, and any path .*; more in the .*"
    ):
        find_teacher("mine")
    monkeypatch.setenv("AIL_TEACHER_DIR", str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(tiny_files.teacher.read_bytes())
    assert find_teacher("mine") == OurWeights(UPath(tmp_path / "mine.safetensors"))
    with pytest.raises(
        ConfigError, match=r"teacher other: no such model; there are none, random, mine, vdsr, and any path"
    ):
        find_teacher("other")
    with pytest.raises(ConfigError, match=r"teacher absent\.safetensors: .*no such file"):
        find_teacher("absent.safetensors")

    class Harmful:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"layers.0.weight": torch.zeros(1)}, tmp_path / "torch.pth")
    for name in ("weights.pth", "torch.pth"):
        with pytest.raises(ConfigError, match=rf"teacher .*{name}: .*pickles are never loaded"):
            find_teacher(str(tmp_path / name))
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ConfigError, match=r"absent\.safetensors: no such file"):
        find_teacher(str(tmp_path / "absent.safetensors"))
    save_model(tmp_path / "fsrcnn.safetensors", FSRCNN(width=4, scale=3))
    assert find_teacher(str(tmp_path / "fsrcnn.safetensors"), [3])
    with pytest.raises(ConfigError, match=r"teacher .*: this fsrcnn upsamples by 3, it cannot serve scale 2"):
        find_teacher(str(tmp_path / "fsrcnn.safetensors"), [3, 2])


def test_a_teachers_errors_are_computed_once(tiny_files: TinyFiles, prepared: Prepared) -> None:
    build_data(prepared)
    teacher, calls = OurWeights(UPath(tiny_files.teacher)), list[tuple[Any, ...]]()

    def asked() -> TeacherMaps:
        return teacher_maps(
            teacher, config(tiny_files), prepared, "fp64", device="cpu", threads=1, everywhere=counting(calls)
        )

    maps = asked()
    folder = maps.folder
    assert len(calls) == 4
    assert (maps.kind, maps.teacher) == ("errors", checksum(read_tensors(teacher.path)[0])[:16])
    assert asked() == maps
    assert len(calls) == 4
    model = teacher.model().double()
    for path in prepared.data.shard_paths:
        errors = read_tensors(folder / path.name)[0]["error"]
        assert errors.dtype == np.float16
        for place, inputs, hr in Shard(path).images():
            with torch.no_grad():
                sr = model(inputs.double()[None, None])[0, 0]
            expected = np.abs(hr.double().numpy() / 255 - sr.numpy()).ravel()
            np.testing.assert_allclose(errors[place], expected, rtol=2**-11, atol=2**-24)
    (folder / prepared.data.shard_paths[1].name).unlink()
    asked()
    assert [arguments[0] for arguments in calls[4:]] == [folder / prepared.data.shard_paths[1].name]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("network", ["vdsr", "fsrcnn"])
def test_maps_from_pairs_are_those_from_shards_to_the_bit(
    prepared: Prepared, tmp_path: Path, tiny_files: TinyFiles, precision: Precision, network: str
) -> None:
    """The student's way over a shard is the other way to the same errors."""
    build_data(prepared)
    torch.manual_seed(1)
    save_model(tmp_path / "teacher.safetensors", build_model(network, width=5, depth=6, scale=2))
    teacher = OurWeights(UPath(tmp_path / "teacher.safetensors"))
    maps = teacher_maps(teacher, config(tiny_files), prepared, precision, device="cpu", threads=1)
    model = placed(teacher.model(), precision, torch.device("cpu"))
    for path in prepared.data.shard_paths:
        expected = error_map(model, Shard(path, upsampling=model.traits.upsampling), precision)
        assert checksum({"error": maps.of(path.name)}) == checksum({"error": expected})


@pytest.mark.parametrize(
    ("mu0", "said"),
    [
        (0.01, "half of its errors are above 0.062, where --mu0 0.01 starts the importance at 0.01 or less; "
               "--mu0 0.062 would start it near 0.5"),
        (0.5, ""),
        (None, "--mu0 0.062, the median of its errors"),
    ],
)  # fmt: skip
def test_a_teacher_whose_errors_leave_no_importance_is_said_to(
    tiny_files: TinyFiles, prepared: Prepared, mu0: float | None, said: str
) -> None:
    build_data(prepared)
    asked, first = config(tiny_files, mu0=mu0), prepared.data.shard_paths[0].name
    maps = teacher_maps(OurWeights(UPath(tiny_files.teacher)), asked, prepared, "fp32", device="cpu", threads=1)
    write_tensors(maps.folder / first, {"error": np.array([0.0, 0.08, 0.0625, 0.07, 0.02], np.float16)})
    middle = maps.median(first)
    assert maps.remark(asked, middle) == (f"teacher {asked.teacher}: {said}" if said else "")
    assert maps.remark(config(tiny_files, rule="uniform", beta=0.1), middle) == "", "where nothing starts from Eq. 8"


def test_a_teachers_outputs_are_computed_once_beside_its_errors(tiny_files: TinyFiles, prepared: Prepared) -> None:
    build_data(prepared)
    teacher, calls = OurWeights(UPath(tiny_files.teacher)), list[tuple[Any, ...]]()
    for _ in range(2):
        maps = teacher_maps(
            teacher, config(tiny_files, rule="uniform", beta=0.1), prepared, "fp64", device="cpu", threads=1,
            everywhere=counting(calls),
        )  # fmt: skip
    assert len(calls) == 4
    assert maps.folder == prepared.storage / "outputs" / f"{maps.teacher}-{prepared.corpus.digest}-fp64"
    model = teacher.model().double()
    for path in prepared.data.shard_paths:
        outputs = maps.of(path.name)
        assert outputs.dtype == np.float16
        for place, inputs, _ in Shard(path).images():
            with torch.no_grad():
                sr = model(inputs.double()[None, None])[0, 0]
            np.testing.assert_allclose(outputs[place], sr.numpy().ravel(), rtol=2**-11, atol=2**-24)


def test_weights_to_start_from_are_known_by_content_and_must_fit(tiny_files: TinyFiles, tmp_path: Path) -> None:
    start = str(tiny_files.teacher)
    assert find_start(None, []) is None
    fitting = [config(tiny_files, width=3, start=start)]
    digest = checksum(read_tensors(UPath(start))[0])[:16]
    assert find_start(start, fitting) == Weights(digest=digest, path=UPath(start))
    (tmp_path / "copy.safetensors").write_bytes(tiny_files.teacher.read_bytes())
    copy = UPath(tmp_path / "copy.safetensors")
    assert find_start(str(copy), fitting) == Weights(digest=digest, path=copy)
    with pytest.raises(ConfigError, match=r"start absent: .*no such file"):
        find_start("absent", fitting)


def test_a_start_that_does_not_fit_is_refused_with_the_other_problems(tiny_files: TinyFiles, tmp_path: Path) -> None:
    values = tiny_files.protocol() | {"width": (3, 4), "start": str(tiny_files.teacher), "train": ("nowhere",)}
    values["teacher"] = ("absent",)
    with pytest.raises(ConfigError) as refused:
        check(SweepJob(sweep=SweepConfig.of(**values), out=str(tmp_path)))
    assert [line.split(":")[0] for line in refused.value.problems] == [
        "train", f"start {tiny_files.teacher}", "teacher absent",
    ]  # fmt: skip
    assert refused.value.problems[1].endswith(
        "weights of a vdsr of width 3, depth 3, the student is a vdsr of width 4, depth 3"
    )
    deeper = values | {"width": (3,), "depth": 4}
    with pytest.raises(ConfigError, match=r"the student is a vdsr of width 3, depth 4"):
        check(SweepJob(sweep=SweepConfig.of(**deeper), out=str(tmp_path)))


def test_a_control_needs_no_teacher_unless_it_distils(tiny_files: TinyFiles, tmp_path: Path) -> None:
    values = tiny_files.protocol() | {"rule": ("uniform",), "teacher": ("absent",)}
    inputs = check(SweepJob(sweep=SweepConfig.of(**values), out=str(tmp_path)))
    assert (inputs.teachers, inputs.starts) == ({}, {None: None})
    with pytest.raises(ConfigError, match="teacher absent: no such model"):
        check(SweepJob(sweep=SweepConfig.of(**values, beta=0.1), out=str(tmp_path)))


def test_weights_are_copied_once_to_where_all_workers_read(tiny_files: TinyFiles, tmp_path: Path) -> None:
    given = Weights(digest=weights_digest(tiny_files.teacher), path=UPath(tiny_files.teacher))
    copy = shared_weights(given, UPath(tmp_path))
    assert copy.path.parent == tmp_path / "weights"
    assert weights_digest(copy.path) == copy.digest == given.digest == copy.path.stem
    written = copy.path.stat().st_mtime_ns
    assert shared_weights(copy, UPath(tmp_path)) == copy
    assert copy.path.stat().st_mtime_ns == written
