"""Films enlarged frame by frame: luma by the network, chroma bicubically, sound and times as they are.

Frames are taken as they are stored, in luma and chroma of the film's own kind, so that no colour is converted. One
frame at a time is in memory. The extra `[video]` brings PyAV.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import TEMPORARY, is_local
from ail_ray.imaging.images import ImageError, enlarge

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
QUALITY = "16"
"""Of H.264, as its encoder counts: at 18 people see no difference, and less is better."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """What the header of a film says; height and width are those that are shown, turned upright."""

    height: int
    width: int
    frames: int  # about
    lost: str  # what is not kept of it, in words


def read_film(path: UPath) -> Film:
    """Read the header of a film.

    Raises:
        ImageError: it cannot be read, or has no picture; or PyAV is not installed.
    """
    with _opened(path) as film:
        stream = film.streams.video[0]
        frame = next(film.decode(stream))
        turned = _turns(frame) % 2
        height, width = (frame.width, frame.height) if turned else (frame.height, frame.width)
        seconds = float(film.duration or 0) / 1e6
        frames = stream.frames or round(seconds * float(stream.average_rate or 25)) or 1
        lost = ["subtitles"] if film.streams.subtitles else []
        lost += ["all but 8 bits a colour"] if frame.format.components[0].bits > 8 else []
        return Film(height=height, width=width, frames=frames, lost=" and ".join(lost))


def enlarge_film(
    source: UPath,
    target: UPath,
    scale: int,
    resolve: Callable[[np.ndarray], np.ndarray],
    advance: Callable[[int], None],
) -> int:
    """Enlarge a film into a new file, unless there is one of that name; returns the number of frames.

    Args:
        resolve: enlarges luma, (H, W) uint8.
        advance: is called with the number of enlarged pixels after each frame.

    Raises:
        ImageError: the film is damaged, or the result cannot be written in its format.
        OSError: the disk is full, say.
    """
    import av

    header = read_film(source)
    temporary = target.with_name(f".{target.stem}{TEMPORARY}{target.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    frames = 0
    try:
        with _opened(source) as film, av.open(str(temporary), "w") as made:
            stream = film.streams.video[0]
            shown = _encoder(made, stream, header, scale)  # before the sound, whose first packet begins the file
            sound = {each.index: made.add_stream_from_template(each) for each in film.streams.audio}
            for packet in film.demux(stream, *film.streams.audio):
                if packet.stream.index in sound:
                    if packet.dts is not None:
                        packet.stream = sound[packet.stream.index]
                        made.mux(packet)
                    continue
                for frame in packet.decode():
                    enlarged = _enlarged(frame, scale, resolve)
                    made.mux(shown.encode(enlarged))
                    frames += 1
                    advance(enlarged.width * enlarged.height)
            made.mux(shown.encode())
        if not frames:
            raise ImageError(f"{source}: holds no picture")
        try:
            os.link(str(temporary), str(target))  # replaces none
        except FileExistsError:
            raise ImageError(f"{source}: {target} came to be meanwhile") from None
        except OSError:  # a file system without hard links
            os.rename(str(temporary), str(target))
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in (28, 122):
            raise OSError(error.errno, "no space left for the film") from error
        raise ImageError(f"{source}: {one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return frames


@contextmanager
def _opened(path: UPath) -> Iterator[Any]:
    """The film as PyAV opens it, with a picture; all that goes wrong is an ImageError."""
    if not is_local(path):
        raise ImageError(f"{path}: films are read from a disk only")
    try:
        import av
    except ModuleNotFoundError:
        raise ImageError(f"{path}: films are read by PyAV: pip install 'ail-ray[video]'") from None
    try:
        with av.open(str(path)) as film:
            if not film.streams.video:
                raise ImageError(f"{path}: holds no picture")
            film.streams.video[0].thread_type = "AUTO"
            yield film
    except av.FFmpegError as error:
        raise ImageError(f"{path}: cannot be read as a film ({one_line(error)})") from error
    except StopIteration:
        raise ImageError(f"{path}: holds no picture") from None


def _enlarged(frame: Any, scale: int, resolve: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A frame with each plane enlarged, upright, at the same time."""
    import av

    kind = _kind(frame.height, frame.width)
    stored = frame.reformat(format=kind, dst_color_range=frame.color_range)
    planes = [_plane(stored, i) for i in range(3)]
    planes = [np.ascontiguousarray(np.rot90(plane, _turns(frame))) for plane in planes]
    made = [resolve(planes[0]), *(_bicubic(plane, scale) for plane in planes[1:])]
    enlarged = av.VideoFrame(made[0].shape[1], made[0].shape[0], kind)
    for plane, values in zip(enlarged.planes, made, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    enlarged.pts, enlarged.time_base = frame.pts, frame.time_base
    enlarged.color_range, enlarged.colorspace = frame.color_range, frame.colorspace
    return enlarged


def _plane(frame: Any, index: int) -> np.ndarray:
    plane = frame.planes[index]
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _bicubic(plane: np.ndarray, scale: int) -> np.ndarray:
    return np.rint(enlarge(plane.astype(np.float32), scale).clip(0, 255)).astype(np.uint8)


def _turns(frame: Any) -> int:
    """How often a frame is to be turned left by 90 degrees, as telephones say of what they have filmed upright."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _kind(height: int, width: int) -> str:
    """How planes are stored: chroma at half the size, which odd sides cannot have."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def _encoder(made: Any, stream: Any, header: Film, scale: int) -> Any:
    """A stream of H.264 for a film's enlarged frames, with the times of the stream that they come from."""
    encoder = made.add_stream("libx264", rate=stream.average_rate, options={"crf": QUALITY, "preset": "medium"})
    encoder.width, encoder.height = header.width * scale, header.height * scale
    encoder.pix_fmt = _kind(header.height, header.width)
    encoder.codec_context.time_base = stream.time_base
    given = stream.codec_context
    for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(encoder.codec_context, name, getattr(given, name))
    return encoder
