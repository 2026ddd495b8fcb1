"""Feed commands, images, weights and manifests that are a little or very wrong: `make fuzz`.

Whatever comes in, the answer is a result or a refusal that names what is wrong: no other exception, no hang. The
counts say how many inputs of each class got past the first parser (the shell words, the image header, the tensor file,
the JSON) and how they ended. Exit code 1: something else happened, or too few inputs got that far.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image
from tiny_files import newest_manifest
from upath import UPath

from ail_ray.commands.flags import flags_for, flags_of, job_of
from ail_ray.commands.parsing import parse
from ail_ray.errors import ConfigError
from ail_ray.files import FileError, digest_of, read_json
from ail_ray.imaging.image_sets import DatasetError
from ail_ray.imaging.images import ImageError, image_size, luma, read_image
from ail_ray.learning.config import RunConfig
from ail_ray.learning.presets import PRESETS
from ail_ray.learning.weights import load_model, model_tensors
from ail_ray.networks.architectures import VDSR
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.preparation import plan_data
from ail_ray.sweeps.sweep_job import SweepJob

REFUSALS = (ConfigError, ImageError, FileError, DatasetError)
HANG = 20.0  # seconds
PAST = 0.3  # share of inputs that has to get past the first parser

WORDS = {
    "rho": ["0.5", "0.75 0.8", "1", "-1", "nan", "0,5", "", "1e400"],
    "lam": ["0.1", "0", "-0.2", "inf", "nan", "0.1 0.15", "λ"],
    "width": ["3", "0", "-3", "13 32", "2.5", "99999999999"],
    "teacher": ["none", "random", "nobody", "vdsr", "/absent.safetensors", "", "../..", "s3://absent/x", "\0"],
    "rule": ["eq7", "reference", "exact", "uniform", "fixed", "hard-first", "eq8", ""],
    "restart": ["round", "never", "always"],
    "beta": ["0", "0.1", "-1", "nan", "inf"],
    "start": ["/absent.safetensors", "None", "", "\0"],
    "seed": ["0", "-1", "1 2 3", "99999999999999999999999", "0x10"],
    "scales": ["2", "5", "2 3 4", "0", "2 2", ""],
    "downsizes": ["1.0", "0", "1 0.5", "-1", "nan", "2"],
    "epochs": ["1", "0", "-5", "many"],
    "rounds": ["0", "3", "-1", "1e3", ""],
    "crop": ["41", "1", "0", "100000", "8"],
    "batch": ["16", "0", "-1", "16 32"],
    "crops": ["10", "0", "none", "None"],
    "learning-rate": ["0.1", "0", "inf", "nan", "-1"],
    "optimizer": ["sgd", "adam", "lion", "SGD"],
    "schedule": ["step", "cosine", "none"],
    "precision": ["auto", "fp32", "bf16", "fp8"],
    "shards": ["1", "16", "0", "1000000"],
    "workers": ["1", "2", "1..4", "4..1", "..", "0", "-1", "a..b", "1..", "2..2"],
    "threads": ["1", "0", "x"],
    "max-workers": ["1", "0", "None", "-2"],
    "out": ["out", "", "/proc/nowhere", "~", "s3://bucket/x", "\0"],
    "train": ["sample", "sample sample", "", "/absent", "nowhere", "sample-val", "."],
    "network": ["vdsr", "resnet", ""],
    "search": ["grid", "random", "optuna", "bayes"],
    "samples": ["8", "0", "-1"],
    "clip": ["0.4", "0", "nan"],
    "error-factor": ["1", "65025", "0", "nan"],
}
FLAGS = ["--asha", "--local", "--gpu", "--no-asha", "--version", "--lamda", "--rho=0.8", "-x", "--", "7"]


class Hang(BaseException):
    """An input took too long."""


def command(generator: random.Random, folder: Path) -> tuple[bool, Callable[[], Any]]:
    """A command line; past the first parser if every option exists."""
    names = generator.sample(sorted(WORDS), generator.randint(1, 4))
    words = [word for name in names for word in (f"--{name}", *generator.choice(WORDS[name]).split(" "))]
    known = generator.random() < 0.7
    if not known:
        words.insert(generator.randrange(len(words) + 1), generator.choice(FLAGS))

    def read() -> None:
        preset = generator.choice(sorted(PRESETS))
        said, code = io.StringIO(), None
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                kind = flags_for(words)
                default = flags_of(kind, SweepJob(sweep=PRESETS[preset]()))
                job = job_of(parse(kind, words, default=default, prog="fuzz", description=""))
        except SystemExit as leaving:
            code = leaving.code
        if code is not None:
            lines = said.getvalue().splitlines()
            assert code == 2, code
            assert lines, "refused without a word"
            assert all(line.startswith("error: ") for line in lines), lines
            raise ConfigError(lines)
        if generator.random() < 0.05:  # what it names is looked for, and the pixels' headers are read
            plan_data(job.sweep.base, UPath(folder))

    return known, read


def image(generator: random.Random, folder: Path) -> tuple[bool, Callable[[], Any]]:
    """An image file of some mode and format, cut, overwritten or whole; past the first parser if Pillow knows it."""
    mode = generator.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB"])
    kind = generator.choice(["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"])
    width, height = (generator.choice([1, 2, 3, 17, 48]) for _ in range(2))
    data = io.BytesIO()
    with contextlib.suppress(OSError, ValueError, KeyError, SystemError):
        picture = Image.new(mode, (width, height))
        extra: dict[str, Any] = {}
        if kind in ("JPEG", "PNG", "WEBP") and generator.random() < 0.4:
            exif = Image.Exif()
            exif[0x0112] = generator.choice([0, 1, 3, 5, 6, 8, 9, 77])
            extra["exif"] = exif
        if kind in ("GIF", "TIFF", "WEBP") and generator.random() < 0.3:
            extra |= {"save_all": True, "append_images": [Image.new(mode, (width, height))]}
        picture.save(data, kind, **extra)
    path = folder / f"image.{kind.lower()}"
    path.write_bytes(mutated(data.getvalue(), generator))

    def read() -> None:
        size = image_size(path)
        pixels = read_image(path)
        assert pixels.shape[:2] == size, (pixels.shape, size)
        assert luma(pixels).dtype == np.uint8

    known = False
    with contextlib.suppress(Exception), Image.open(path):
        known = True
    return known, read


def weights(generator: random.Random, folder: Path) -> tuple[bool, Callable[[], Any]]:
    """A network's file with some tensor missing, renamed, reshaped, of another type, or bytes overwritten."""
    width, depth = generator.randint(1, 4), generator.randint(2, 5)
    tensors = dict(model_tensors(VDSR(width=width, depth=depth)))
    for _ in range(generator.randint(0, 2)):
        name = generator.choice(sorted(tensors) or ["none"])
        if name == "none":
            break
        change = generator.randrange(7)
        array = tensors[name]
        if change == 0:
            del tensors[name]
        elif change == 1:
            tensors[generator.choice(["", "x", "layers.99.weight", "input.weight", "layers.-1.weight"])] = tensors.pop(
                name
            )
        elif change == 2:
            tensors[name] = array.reshape(-1)
        elif change == 3:
            tensors[name] = array.astype(generator.choice([np.float16, np.float64, np.int8, np.bool_]))
        elif change == 4:
            tensors[name] = np.full_like(array, generator.choice([np.nan, np.inf, 1e30]))
        elif change == 5:
            tensors[name] = np.zeros((0, 1, 3, 3), np.float32)
        else:
            tensors[name] = np.zeros((), np.float32)
    metadata = generator.choice([None, {"sha256": "0" * 64}, {"network": "drrn"}, {"width": "-1", "depth": "x"}])
    path = folder / "weights.safetensors"
    path.write_bytes(mutated(safetensors.numpy.save(tensors, metadata), generator, gently=0.6))
    known = False
    with contextlib.suppress(Exception), safetensors.safe_open(str(path), framework="np") as file:
        known = file.keys() is not None
    return known, lambda: load_model(path)


def manifest(generator: random.Random, folder: Path) -> tuple[bool, Callable[[], Any]]:
    """A manifest with values changed, and the right checksum as an attacker would write it, or bytes overwritten."""
    run = RunDirectory(UPath(folder / "run"))
    shutil.rmtree(folder / "run", ignore_errors=True)
    run.create(RunConfig(rounds=2, teacher="none"), corpus="c", precision="fp32", threads=1, workers=1)
    path = newest_manifest(run.path)
    content = read_json(path)
    del content["sha256"]
    strange = [
        None,
        -1,
        10**30,
        1.5,
        "x",
        "../../etc",
        [],
        {},
        [[]],
        [[0]],
        [["a", 0, 0]],
        [[0, 0, 0]],
        True,
        [[1, 2, 3, 4]],
    ]
    for _ in range(generator.randint(0, 2)):
        content[generator.choice(sorted(content))] = generator.choice(strange)
    if generator.random() < 0.1 and isinstance(content["config"], dict):
        content["config"] = content["config"] | {
            "rounds": generator.choice(strange),
            "epochs": generator.choice(strange),
        }
    if generator.random() < 0.8:
        content["sha256"] = digest_of(content, length=64)
    data = mutated(json.dumps(content).encode(), generator, gently=0.8)
    path.write_bytes(data)
    known = False
    with contextlib.suppress(ValueError):
        known = isinstance(json.loads(data), dict)

    def read() -> None:
        run.mend(shards=2)
        run.load_state()
        [*run.follow()]

    return known, read


def mutated(data: bytes, generator: random.Random, gently: float = 0.4) -> bytes:
    """The bytes as they are (with that probability), cut, with some overwritten, or something else altogether."""
    if generator.random() < gently or not data:
        return data
    change = generator.randrange(5)
    if change == 0:
        return data[: generator.randrange(len(data))]
    if change == 1:
        return generator.choice(
            [b"", b"\x80\x04\x95.", b"PK\x03\x04", b"{}", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]
        )
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 8])):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed) + (generator.randbytes(20) if change == 2 else b"")


CLASSES = {
    "commands": (command, 0.15),
    "images": (image, 0.35),
    "weights": (weights, 0.3),
    "manifests": (manifest, 0.2),
}


def fuzz(inputs: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Try so many inputs; how each class ended, and a line for each that ended as it must not."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}
    wrong: list[str] = []

    def too_long(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, too_long)
    try:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, (make, share) in CLASSES.items():
                for i in range(max(1, round(inputs * share))):
                    known, read = make(random.Random(f"{seed} {name} {i}"), Path(scratch))
                    signal.setitimer(signal.ITIMER_REAL, HANG)
                    try:
                        read()
                        end = "taken"
                    except REFUSALS:
                        end = "refused"
                    except Hang:
                        end = "hang"
                    except Exception as error:
                        end = "traceback"
                        wrong.append(f"{name} {i} (seed {seed}): {type(error).__name__}: {error}")
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    counts[name][end] += 1
                    counts[name]["past the first parser"] += known
                    if end == "hang":
                        wrong.append(f"{name} {i} (seed {seed}): hangs")
    finally:
        signal.signal(signal.SIGALRM, before)
    return counts, wrong


def main() -> int:
    """Fuzz and print the counts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    counts, wrong = fuzz(options.inputs, options.seed)
    columns = ("past the first parser", "taken", "refused", "traceback", "hang")
    print(f"{'class':12}{'inputs':>8}" + "".join(f"{column:>23}" for column in columns))
    total: Counter[str] = Counter()
    for name, ends in counts.items():
        inputs = sum(ends[column] for column in columns[1:])
        total += ends + Counter(inputs=inputs)
        print(f"{name:12}{inputs:8}" + "".join(f"{ends[column]:23}" for column in columns))
    print(f"{'all':12}{total['inputs']:8}" + "".join(f"{total[column]:23}" for column in columns))
    print(f"{time.monotonic() - began:.0f} s, seed {options.seed}", *wrong[:20], sep="\n")
    return int(bool(wrong) or total["past the first parser"] < PAST * total["inputs"])


if __name__ == "__main__":
    os.environ.setdefault("AIL_DATA_DIR", "")
    sys.exit(main())
