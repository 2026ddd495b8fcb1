"""Tensors in files: safetensors with the SHA-256 of their bytes in the header, so that a damaged file is noticed.

No pickle is ever written or loaded.
"""

import hashlib
import json
import tempfile
import warnings
from typing import Any

import numpy as np
import safetensors
import torch
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import Buffer, FileError, check_regular, is_local, write_bytes

KINDS = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16", "<f2": "F16", "<i4": "I32", "<u4": "U32",
    "<f4": "F32", "<f8": "F64", "<i8": "I64", "<u8": "U64",
}  # fmt: skip
"""Names of numpy's types in safetensors, in its order."""
CONVERT = "torch.load(FILE, weights_only=True), where that can do no harm, then safetensors.torch.save_file"


def write_tensors(path: UPath, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays (any shape; float, integer or bool) as safetensors with their checksum."""
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # a scalar stays one
    metadata = dict(metadata or {}, sha256=checksum(tensors))
    write_bytes(path, *_pieces(tensors, metadata))


def read_tensors(path: UPath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file, memory-mapped and not copied: treat them as read-only.

    Arrays that are never used take no memory, since the checksum is computed by reading the file, not its mapping.

    Raises:
        FileError: missing, not safetensors (a pickle is refused here), or its bytes differ from its checksum.
    """
    check_regular(path)
    try:
        tensors, metadata, found = _mapped(path)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        remedy = "" if path.suffix == ".safetensors" else f"; to convert one: {CONVERT}"
        said = f"{path}: not a readable safetensors file ({error}); pickles are never loaded{remedy}"
        raise FileError(said) from None
    except Exception as error:
        if is_local(path):
            raise
        # Whatever an object store's library raises, or that it is not installed.
        raise FileError(f"{path}: cannot be read ({one_line(error)})") from error
    if metadata.get("sha256") not in (None, found):
        raise FileError(f"{path}: damaged, its content differs from its checksum")
    return tensors, metadata


def checksum(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(_title(name, array))
        digest.update(_content(np.ascontiguousarray(array)))
    return digest.hexdigest()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory, read-only arrays included (nobody here writes into one)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _pieces(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> list[Buffer]:
    """The pieces of a safetensors file, to be written one by one; the library would copy all of it several times.

    The same content is the same bytes, those of the library, which has the metadata in a new order every time.
    """
    order, end = list(KINDS), 0
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    names = sorted(tensors, key=lambda name: (-order.index(tensors[name].dtype.str), name))  # the widest first
    for name in names:
        array, start = tensors[name], end
        end += array.nbytes
        header[name] = {"dtype": KINDS[array.dtype.str], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(_content(tensors[name]) for name in names)]


def _content(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _mapped(path: UPath) -> tuple[dict[str, np.ndarray], dict[str, str], str | None]:
    """Arrays, metadata and, if the metadata names a checksum, the checksum that the arrays really have."""
    if not is_local(path):
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as copy:  # the mapping outlives the name
            copy.write(path.read_bytes())
            copy.flush()
            return _mapped(UPath(copy.name))
    with safetensors.safe_open(str(path), framework="pt") as file:  # maps the file, where "np" would copy it
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Numpy has no bfloat16, all of whose values float32 has.
        tensors = {
            name: (each.float() if each.dtype == torch.bfloat16 else each).numpy() for name, each in read.items()
        }
        metadata = file.metadata() or {}
    return tensors, metadata, _checksum_on_disk(path, tensors) if "sha256" in metadata else None


def _checksum_on_disk(path: UPath, tensors: dict[str, np.ndarray]) -> str:
    """What `checksum` returns, computed from the file without touching the mapped pages."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(str(path), "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        for name in sorted(tensors):
            array, left = tensors[name], tensors[name].nbytes
            digest.update(_title(name, array))
            file.seek(start + header[name]["data_offsets"][0])
            while left and (read := file.readinto(buffer[: min(left, len(buffer))])):
                digest.update(buffer[:read])
                left -= read
    return digest.hexdigest()


def _title(name: str, array: np.ndarray) -> bytes:
    return f"{name} {array.dtype.str} {array.shape};".encode()
