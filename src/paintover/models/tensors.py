"""Named tensors in a file: safetensors, written and read without a second copy of them in memory, private, and checked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

# As safetensors names them.
_KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {kind: dtype for dtype, kind in _KINDS.items()}


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def put(file: BinaryIO, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> bytes:
    """Writes the tensors to a file, one after the other, facts beside them, and returns the sha256 of what was written.

    The largest first, so that each lies where its dtype may; those of an accelerator come to memory one at a time.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {"__metadata__": dict(facts)} if facts else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    for part in (len(text).to_bytes(8, "little"), text):
        digest.update(part)
        file.write(part)
    for _, tensor in ordered:
        if tensor.nbytes:
            bytes_N = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            digest.update(bytes_N)
            file.write(bytes_N)
    return digest.digest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of what `put` would write (hex)."""
    return put(_Nowhere(), tensors).hex()


class _Nowhere(io.RawIOBase, BinaryIO):
    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def parse(data: bytearray, start: int = 0) -> dict[str, Tensor]:
    """The tensors in data[start:], which share its memory. Raises ValueError for what is no safetensors."""
    try:
        length = int.from_bytes(data[start : start + 8], "little")
        first = start + 8 + length
        if len(data) < start + 8 or first > len(data):
            raise ValueError("cut off")
        header = json.loads(data[start + 8 : first].decode())
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            count = (end - begin) // dtype.itemsize
            if not 0 <= begin <= end <= len(data) - first:
                raise ValueError("cut off")
            flat = (
                torch.frombuffer(data, dtype=dtype, count=count, offset=first + begin) if count else torch.empty(0, dtype=dtype)
            )
            found[name] = flat.view(shape)
    except (KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise ValueError(f"no safetensors: {type(error).__name__}") from None
    return found


def checked(data: bytearray) -> bool:
    """Whether the first 32 bytes are the sha256 of the others."""
    return hashlib.sha256(memoryview(data)[32:]).digest() == data[:32]


def facts(data: bytearray, start: int = 0) -> dict[str, str]:
    """The facts beside the tensors in data[start:], which `parse` has read without an error."""
    length = int.from_bytes(data[start : start + 8], "little")
    found = json.loads(data[start + 8 : start + 8 + length].decode()).get("__metadata__", {})
    return {str(name): str(value) for name, value in found.items()}


def put_checked(file: BinaryIO, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """As `put`, its sha256 first, so that damage shows."""
    file.write(bytes(32))
    digest = put(file, tensors, facts)
    file.seek(0)
    file.write(digest)


def read(path: Path) -> bytearray:
    """A file's bytes, in memory once. Raises OSError; what changed its size meanwhile comes cut off."""
    with path.open("rb") as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        got = file.readinto(data)
    return data[:got] if got < len(data) else data


@contextlib.contextmanager
def whole(path: Path, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to be written in place of `path`, all of it or nothing, readable by its owner alone. Raises OSError.

    sync: even where the machine loses its power.
    """
    handle, part = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
