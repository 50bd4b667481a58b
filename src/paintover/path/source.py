"""The source's own way through the denoiser, kept: what an edit beside it starts from and borrows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paintover.path.predict import Condition, Predict
from paintover.path.schedule import Step
from paintover.path.walk import Record


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A walk that ends at the source, of a picture that was inverted or of one that was made from words.

    record: its latents and noises; record.eps[i] leads from record.x[i] to record.x[i + 1], exactly:
            x[i + 1] = steps[i].next(x[i], eps[i]) + added[i].
    nulls:  what guidance is held against: one condition for each step, or one for all; None: the edit's own.
    added:  noise that belongs to each step (an edit beside the source adds the same); None: there is none.
    """

    record: Record
    nulls: tuple[Condition, ...] | None = None
    added: tuple[Tensor, ...] | None = None

    def null(self, i: int, otherwise: Condition) -> Condition:
        """What guidance is held against at step i: what the inversion found, or else the edit's own."""
        return otherwise if self.nulls is None else self.nulls[min(i, len(self.nulls) - 1)]

    def after(self, step: Step, x_BCHW: Tensor) -> Tensor:
        """Adds the noise that belongs to the step, where there is some: `walk`'s after."""
        return x_BCHW if self.added is None else x_BCHW + self.added[step.i]

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for the prepare cache."""
        kept = {"x_SCHW": torch.cat(self.record.x), "eps_SCHW": torch.cat(self.record.eps)}
        if self.nulls is not None:
            kept["null_tokens_SLD"] = torch.cat([null.tokens_BLD for null in self.nulls])
            pooled = [null.pooled_BD for null in self.nulls if null.pooled_BD is not None]
            if pooled:
                kept["null_pooled_SD"] = torch.cat(pooled)
        if self.added is not None:
            kept["added_SCHW"] = torch.cat(self.added)
        return kept

    @staticmethod
    def of(kept: dict[str, Tensor]) -> Source:
        """From what `tensors` made."""
        record = Record(eps=list(kept["eps_SCHW"].split(1)), x=list(kept["x_SCHW"].split(1)))
        nulls = None
        if "null_tokens_SLD" in kept:
            tokens = kept["null_tokens_SLD"].split(1)
            pooled = kept["null_pooled_SD"].split(1) if "null_pooled_SD" in kept else (None,) * len(tokens)
            nulls = tuple(Condition(*null) for null in zip(tokens, pooled, strict=True))
        return Source(record, nulls, kept["added_SCHW"].split(1) if "added_SCHW" in kept else None)


# An inversion in the making: a path that returns the source's walk.
Inverting = Generator[Sequence[Predict], Sequence[Tensor], Source]
