"""What a run tells of itself: out/log.jsonl, a line every so many steps, and the same for TensorBoard in out/board."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

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
        self.clock, self.seen, self.sums = time.perf_counter(), 0, dict[str, Tensor]()

    def add(self, step: int, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """Notes the loss of the step that made it `step` steps, and the parts it has, if any; writes their means every 50."""
        self.seen += 1
        for name, value in {"loss": loss, **(parts or {})}.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        if step % _EVERY:
            return
        rate = self.seen * self.batch / (time.perf_counter() - self.clock)
        line = {"step": step, **{name: float(total) / self.seen for name, total in self.sums.items()}, "samples_per_s": rate}
        with self.file.open("a") as log:
            log.write(json.dumps(line) + "\n")
        for name in line.keys() - {"step"}:
            self.board.add_scalar(name, line[name], step)
        self.board.flush()
        self._begin()


def _at(line: str) -> float:
    """The step of a line; infinity for one that a kill cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
