"""Films: every frame enlarged as pictures are, at its time, with the sound as it was."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from ail_ray.imaging.images import enlarge

TIMES = [0, 1, 2, 5, 6, 9, 10, 14, 15, 20]  # of frames, in 25ths of a second: not at a constant rate


def film(path: Path, *, size: tuple[int, int] = (64, 48), kind: str = "yuv420p", sound: bool = True) -> Path:
    """A film of ten frames that are flat but for a bar, with a second of sound."""
    width, height = size
    with av.open(str(path), "w") as made:
        video = made.add_stream("libx264", rate=25, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = width, height, kind
        video.codec_context.time_base = Fraction(1, 25)
        audio: Any = made.add_stream("aac", rate=44100) if sound else None
        if sound:
            audio.codec_context.layout = "mono"
        for i, time in enumerate(TIMES):
            picture = np.full((height, width, 3), (40 + 15 * i, 120, 200 - 10 * i), np.uint8)
            picture[:, width // 4 : width // 2] = 220
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=kind)
            frame.pts, frame.time_base = time, Fraction(1, 25)
            made.mux(video.encode(frame))
        made.mux(video.encode())
        for i in range(43 if sound else 0):
            wave = np.sin(np.arange(1024 * i, 1024 * (i + 1), dtype=np.float32) / 10)[None]
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 44100, 1024 * i, Fraction(1, 44100)
            made.mux(audio.encode(samples))
        if sound:
            made.mux(audio.encode())
    return path


def frames(path: Path) -> list[tuple[float, list[np.ndarray]]]:
    """The time of each frame in seconds, and its planes."""
    found = []
    with av.open(str(path)) as read:
        for frame in read.decode(video=0):
            planes = [
                np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width].copy() for p in frame.planes
            ]
            found.append((float(frame.pts * frame.time_base), planes))
    return found


def sound(path: Path) -> str:
    with av.open(str(path)) as read:
        packets = b"".join(bytes(packet) for packet in read.demux(audio=0))
    return hashlib.sha256(packets).hexdigest()


@pytest.mark.parametrize("scale", [2, 3])
def test_every_frame_is_enlarged_at_its_time_and_the_sound_stays(
    run: Callable[..., Any], tmp_path: Path, scale: int
) -> None:
    source = film(tmp_path / "film.mp4")
    code, lines = run(source, "--scale", scale)
    target = tmp_path / "out" / f"film-x{scale}.mp4"
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith(f"{source}: {target} (10 frames, ")
    before, after = frames(source), frames(target)
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-4)
    for (_, small), (_, large) in zip(before, after, strict=True):
        for one, other in zip(small, large, strict=True):
            expected = enlarge(one.astype(np.float32), scale)
            assert expected.shape == other.shape
            assert np.abs(expected - other).mean() < 2, "but for the loss of H.264"
    assert sound(target) == sound(source)
    assert [path.name for path in target.parent.iterdir()] == [target.name], "nothing half written is left"
    assert "skipped" in run(source, "--scale", scale)[1][0]


def test_odd_sides_and_silence(run: Callable[..., Any], tmp_path: Path) -> None:
    source = film(tmp_path / "odd.mkv", size=(63, 47), kind="yuv444p", sound=False)
    assert run(source)[0] == 0
    (_, planes), *_ = frames(tmp_path / "out" / "odd-x2.mkv")
    assert [plane.shape for plane in planes] == [(94, 126)] * 3


def test_a_film_that_ends_in_the_middle_costs_no_picture(run: Callable[..., Any], tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4")
    (tmp_path / "broken.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "empty.mkv").touch()
    Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.png")
    code, lines = run(tmp_path / "broken.mp4", tmp_path / "empty.mkv", tmp_path / "photo.png")
    assert code == 1
    assert lines[0].startswith(f"{tmp_path}/broken.mp4: failed: cannot be read as a film (")
    assert lines[1].startswith(f"{tmp_path}/empty.mkv: failed: cannot be read as a film (")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo-x2.png"]


def test_a_folder_says_that_it_has_films(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "film.mp4", sound=False)
    Image.new("RGB", (20, 10)).save(tmp_path / "in" / "photo.png")
    code, lines = run("in")
    assert (code, lines[0]) == (0, "passed over: 1 .mp4"), "a film takes long: it is named itself"


def test_without_pyav_a_line_says_how_to_get_it(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copy(film(tmp_path / "film.mp4", sound=False), tmp_path / "again.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    code, lines = run(source)
    assert (code, lines) == (2, [f"error: images: {source}: films are read by PyAV: pip install 'ail-ray[video]'"])
