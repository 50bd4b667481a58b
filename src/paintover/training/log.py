"""What a run tells of itself: out/log.jsonl, a line every so many steps, and the same for TensorBoard in out/board."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

_EVERY = 50


class Log:
    """Begins after `step`: what a killed run logged beyond its last checkpoint is taken back, and happens again."""

    def __init__(self, out: Path, step: int, batch: int) -> None:
        self.file, self.batch = out / "log.jsonl", batch
        if self.file.exists():
            part = self.file.with_suffix(".part")
            part.write_text("".join(line for line in self.file.read_text().splitlines(keepends=True) if _at(line) <= step))
            part.replace(self.file)
        self.board = SummaryWriter(str(out / "board"), purge_step=step + 1)
        self._begin()

    def _begin(self) -> None:
        self.clock, self.seen, self.loss = time.perf_counter(), 0, torch.zeros(())

    def add(self, step: int, loss: Tensor) -> None:
        """Notes the loss of the step that made it `step` steps; writes the mean every 50."""
        self.seen, self.loss = self.seen + 1, self.loss.to(loss.device) + loss.detach()
        if step % _EVERY:
            return
        rate = self.seen * self.batch / (time.perf_counter() - self.clock)
        line = {"step": step, "loss": float(self.loss) / self.seen, "samples_per_s": rate}
        with self.file.open("a") as log:
            log.write(json.dumps(line) + "\n")
        for name in ("loss", "samples_per_s"):
            self.board.add_scalar(name, line[name], step)
        self.board.flush()
        self._begin()


def _at(line: str) -> float:
    """The step of a line; infinity for one that a kill cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
