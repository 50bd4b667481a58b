"""Tuning that was interrupted: its state on disk, whole or not at all, until it is taken up again."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_CARRIED = "carried/"


class Unfinished:
    """Where a tuning leaves its state, so that a kill at any moment costs the iterations since it was last written.

    path: the file; None keeps nothing. every: seconds between two writings at least; and writing may take a twentieth of the
    time, so that large models are written seldom. A disk that is full, or cannot be written to, stops no tuning.
    """

    def __init__(self, path: Path | None, every: float = 20.0) -> None:
        self.path, self.every = path, every
        self._written, self._took = time.monotonic(), 0.0
        self._carried: dict[str, Tensor] | None = None

    def carried(self) -> dict[str, Tensor]:
        """What stages that are over came to (`carry`), for those after them to go on from; {} where none is over."""
        if self._carried is None:
            tensors, _ = self._read(carried=True) or ({}, {})
            self._carried = {name.removeprefix(_CARRIED): tensor for name, tensor in tensors.items()}
        return dict(self._carried)

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """A stage is over: what it came to is written with every state of the stages after it."""
        self._carried = self.carried() | {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def read(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, facts) as they were written last; None where there is nothing, or nothing whole."""
        return self._read(carried=False)

    def _read(self, carried: bool) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                names = [name for name in file.keys() if name.startswith(_CARRIED) == carried]  # noqa: SIM118
                return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
        except (OSError, SafetensorError):
            return None

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._written > max(self.every, 20 * self._took)

    def write(self, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        if self.path is None:
            return
        began = time.monotonic()
        tensors = tensors | {_CARRIED + name: tensor for name, tensor in self.carried().items()}
        with contextlib.suppress(OSError, SafetensorError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix=self.path.stem, suffix=".part", dir=self.path.parent)
            os.close(handle)
            try:
                save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part, metadata=facts)
                with open(part, "rb") as written:
                    os.fsync(written.fileno())
                os.replace(part, self.path)
            except BaseException:
                os.unlink(part)
                raise
        self._written = time.monotonic()
        self._took = self._written - began

    def done(self) -> None:
        """It came to its end: nothing is kept."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
