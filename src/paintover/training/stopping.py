"""Being asked to stop: the main process finishes its step and writes a checkpoint, so its workers must outlive the request."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that is filled when SIGTERM or Ctrl-C comes. The second one is answered as it was before, as are all after."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where no signal is delivered
        yield asked
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _: object) -> None:
        asked.append(number)
        restore()

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()


def ignore_signals(_worker: int = 0) -> None:
    """For a DataLoader's workers: a terminal's Ctrl-C, and a scheduler's SIGTERM, reach the whole group of processes."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def anywhere(here: bool, accelerator: Accelerator) -> bool:
    """Whether it is so in any process: they stop after the same step or wait for each other forever."""
    if accelerator.num_processes == 1:
        return here
    return bool(accelerator.reduce(torch.tensor(float(here), device=accelerator.device), "sum") > 0)
