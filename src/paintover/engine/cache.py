"""The prepare cache: what an editor made of a picture once (inversion, encoding, tuning), kept for the next edit of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from paintover.models import tensors as files
from paintover.models.files import cache_folder
from paintover.models.tensors import size

Tensors = dict[str, Tensor]
_LEFT = {".unfinished": 7 * 24 * 3600}  # seconds until what was left by a killed process goes; parts of a file much sooner


def cache_key(**parts: Any) -> str:
    """A content address: sha256 of the JSON of what determines an entry (picture, fingerprint, editor, knobs that matter)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class PrepareCache:
    """Named tensors by key: the latest in memory, more on disk, the least recently used given up first.

    folder:       where entries lie, by default $PAINTOVER_CACHE/prepare or ~/.cache/paintover/prepare. Processes may share it.
    max_bytes:    limit of the folder; 0 keeps nothing on disk.
    memory_bytes: limit of what this process keeps in memory.

    An entry is a file: the sha256 of the rest, then safetensors. A file that was damaged, or cut short, counts as not there.
    The cache never fails an edit: a folder that cannot be read or written makes it forgetful, nothing worse. What is too large
    for its memory is found there as long as somebody else holds it: tuned weights are not read anew while they are in use.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int = 4 << 30, memory_bytes: int = 256 << 20) -> None:
        self.folder = Path(folder) if folder is not None else _default_folder()
        self.max_bytes, self.memory_bytes = max_bytes, memory_bytes
        self.hits = self.misses = 0
        self._memory: OrderedDict[str, Tensors] = OrderedDict()
        self._in_use: dict[str, dict[str, weakref.ref[Tensor]]] = {}
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The entry for `key`, from memory or disk, or else made now and kept. CPU tensors, not to be written to.

        What `make` raises comes through, and nothing is kept.
        """
        found = self.find(key)
        return found if found is not None else self.keep(key, make())

    def find(self, key: str) -> Tensors | None:
        """The entry for `key`, from memory or disk; None if there is none (which counts as a miss)."""
        with self._lock:
            found = self._memory.get(key) or self._used(key)
        found = found if found is not None else self._read(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._touch(key)
        self._remember(key, found)
        return dict(found)

    def keep(self, key: str, made: Tensors) -> Tensors:
        """Keeps the entry and returns it as `find` would. What was made is given up: nobody else may write to it."""
        found = {name: _alone(tensor.detach().cpu()) for name, tensor in made.items()}
        if self._write(key, found):
            with contextlib.suppress(OSError):
                self.unfinished(key).unlink(missing_ok=True)
        self._remember(key, found)
        return dict(found)

    def takes(self, made: Tensors) -> bool:
        """Whether an entry of this size would be kept for other processes."""
        return size(made) <= self.max_bytes

    def forget(self, key: str) -> None:
        """Gives the entry up, and what may be left of its making: in memory and on disk."""
        with self._lock:
            self._memory.pop(key, None)
            self._in_use.pop(key, None)
        for path in (self._path(key), self.unfinished(key)):
            with contextlib.suppress(OSError):
                path.unlink()

    def sweep(self) -> None:
        """Deletes what interrupted or killed processes left and nobody took up again."""
        for used, _, path in self._files():
            if path.suffix != ".entry" and time.time() - used > _LEFT.get(path.suffix, 3600):
                with contextlib.suppress(OSError):
                    path.unlink()

    def unfinished(self, key: str) -> Path:
        """A file where a long preparation of the entry may leave its state; it goes once the entry is kept, or in a week."""
        return self._path(key).with_suffix(".unfinished")

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()  # whatever the key says, it names a file in our folder
        return self.folder / name[:2] / f"{name}.entry"

    def _remember(self, key: str, tensors: Tensors) -> None:
        with self._lock:
            if size(tensors) > self.memory_bytes:  # it would push out all others, and then itself
                self._in_use = {
                    one: kept for one, kept in self._in_use.items() if all(ref() is not None for ref in kept.values())
                }
                self._in_use[key] = {name: weakref.ref(tensor) for name, tensor in tensors.items()}
                return
            self._memory[key] = tensors
            self._memory.move_to_end(key)
            while sum(map(size, self._memory.values())) > self.memory_bytes:
                self._memory.popitem(last=False)

    def _used(self, key: str) -> Tensors | None:
        """The entry where all of it is still in somebody's hands."""
        found = {name: ref() for name, ref in self._in_use.get(key, {}).items()}
        alive = {name: tensor for name, tensor in found.items() if tensor is not None}
        return alive if alive and len(alive) == len(found) else None

    def _read(self, key: str) -> Tensors | None:
        path = self._path(key)
        try:
            data = files.read(path)
            if files.checked(data):
                return files.parse(data, 32)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            pass
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _touch(self, key: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def _write(self, key: str, tensors: Tensors) -> bool:
        """Whether the entry needs no making any more, as far as the disk goes."""
        if self.max_bytes == 0 or not self.takes(tensors):
            return True
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.whole(path) as file:
                files.put_checked(file, tensors)
            self._make_room()
            return True
        return False  # a full disk

    def _make_room(self) -> None:
        """Deletes the least recently used entries until the folder keeps its limit, and what is left of killed processes."""
        self.sweep()
        entries = sorted(found for found in self._files() if found[2].suffix == ".entry")
        excess = sum(length for _, length, _ in entries) - self.max_bytes
        for _, length, path in entries:
            if excess > 0:
                with contextlib.suppress(OSError):  # another process may have been quicker
                    path.unlink()
                excess -= length

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path


def shared() -> PrepareCache:
    """The cache of the default folder, one for the whole process: what is in its memory serves every edit."""
    return _of(_default_folder())


@lru_cache(maxsize=2)  # one is the rule; the folder changes where $PAINTOVER_CACHE is set anew
def _of(folder: Path) -> PrepareCache:
    return PrepareCache(folder)


def _default_folder() -> Path:
    return cache_folder() / "prepare"


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own, as far as it needs some: what is tuned is too large to be copied without need."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
