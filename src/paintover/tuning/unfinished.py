"""Tuning that was interrupted: its state on disk, whole or not at all, until it is taken up again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from torch import Tensor

from paintover.models import tensors as files

EVERY = 20.0  # seconds between two writings at least
_CARRIED = "carried/"
_HEAD = 16 << 20  # bytes; of a million names at most
State = tuple[dict[str, Tensor], dict[str, str]]


class Unfinished:
    """Where a tuning leaves its state, so that a kill at any moment costs the iterations since it was last written.

    path: the file; None keeps nothing. every: seconds between two writings at least (None: EVERY); and writing may take a
    twentieth of the time, so that large models are written seldom. A disk that is full, or cannot be written to, stops no
    tuning. What was damaged on the disk counts as not there.
    """

    def __init__(self, path: Path | None, every: float | None = None) -> None:
        self.path, self.every = path, EVERY if every is None else every
        self._began = self._written = time.monotonic()
        self._took = 0.0
        self._before: float | None = None
        self._carried: dict[str, Tensor] | None = None
        self._state: State | None = None  # read for what is carried, until it is asked for

    def carried(self) -> dict[str, Tensor]:
        """What stages that are over came to (`carry`), for those after them to go on from; {} where none is over."""
        if self._carried is None:
            self._state = self.read()
        return dict(self._carried or {})

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """A stage is over: what it came to is written with every state of the stages after it."""
        self._carried = self.carried() | {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def spent(self) -> float:
        """Seconds that went into what is there, before this began. Only the file's head is read, if nothing was read yet."""
        if self._before is None and self.path is not None:
            with contextlib.suppress(OSError, ValueError, OverflowError):
                with self.path.open("rb") as file:
                    head = file.read(_HEAD)
                self._before = max(float(files.facts(bytearray(head), 32).get("seconds", 0)), 0.0)
        return self._before or 0.0

    def read(self) -> State | None:
        """(tensors, facts) as they were written last; None where there is nothing, or nothing whole.

        They share the memory of the whole file: let go of them once they are in their places.
        """
        state, self._state = self._state, None
        return state if state is not None else self._read()

    def _read(self) -> State | None:
        found: dict[str, Tensor] = {}
        facts: dict[str, str] = {}
        try:
            data = files.read(self.path) if self.path is not None else bytearray()
            if files.checked(data):
                found, facts = files.parse(data, 32), files.facts(data, 32)
        except (OSError, ValueError):
            found = {}
        if self._carried is None:
            carried = {name: tensor for name, tensor in found.items() if name.startswith(_CARRIED)}
            self._carried = {name.removeprefix(_CARRIED): tensor.clone() for name, tensor in carried.items()}
        if self._before is None:
            self._before = float(facts.get("seconds", 0))
        return ({name: t for name, t in found.items() if not name.startswith(_CARRIED)}, facts) if found else None

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._written > max(self.every, 20 * self._took)

    def write(self, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        if self.path is None:
            return
        began, self._state = time.monotonic(), None
        facts = facts | {"seconds": str(self.spent() + began - self._began)}
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with files.whole(self.path, sync=True) as file:
                files.put_checked(file, tensors | {_CARRIED + name: tensor for name, tensor in self.carried().items()}, facts)
        self._written = time.monotonic()
        self._took = self._written - began

    def done(self) -> None:
        """It came to its end: nothing is kept."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
