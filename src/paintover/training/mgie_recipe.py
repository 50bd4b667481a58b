"""The recipe of MGIE's joint training. Imports no torch."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from paintover.training.recipe import Run, Side


class MgieRecipe(Run):
    """What determines a joint training of language model, edit head and denoiser (MGIE, algorithm 1).

    The rows of a step are of four sorts: instructions that the language model answers with the picture before it ("seen") or
    without (LGIE), instructions that the denoiser's own text encoder reads (InstructPix2Pix), and captions, which it reads too.
    MGIE as published has the first alone; a model that shall go on to be all four is trained on all four.
    """

    init: str | None = Field("builtin", description="the bundle to begin from, with a language model in it")
    size: int = Field(128, ge=8, description="pixels on each side")
    sides: tuple[Side, Side] = Field((0.22, 0.48), description="longer side of the things, from and to, in frames")
    ambiguous: float = Field(0.55, ge=0, le=1, description="share of ambiguous instructions among the edits")
    batch: int = Field(48, ge=1, description="pictures a step, over all processes")
    unseen: float = Field(0.0, ge=0, le=1, description="share of rows that the language model answers without the picture")
    instruct: float = Field(0.0, ge=0, le=1, description="share of rows whose instruction the text encoder reads")
    captions: float = Field(0.0, ge=0, le=1, description="share of captions (text to picture)")
    lr: float = Field(5e-4, gt=0, description="learning rate of word embeddings, LM head and edit head")
    denoiser_lr: float = Field(1e-4, gt=0, description="learning rate of the denoiser")
    instruction_loss: float = Field(1.0, ge=0, description="weight of L_ins")
    edit_loss: float = Field(0.5, ge=0, description="weight of L_edit")
    projector: bool = Field(False, description="train the projector W, too")
    silent: bool = Field(False, description="answer with the [IMG] tokens alone: without expressive instructions")
    checkpointing: bool = Field(False, description="less memory, a third more time: activations are computed again")
    schedule: Literal["cosine", "hold"] = Field("cosine", description="how the learning rate goes on after it has risen")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        shares = {name: getattr(self, name) for name in ("captions", "instruct", "unseen")}
        said = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"{said} are shares of the rows, and their sum is {sum(shares.values()):g}; expected at most 1")
        if self.rows()["seen"] < 0:
            raise ValueError(f"{said} of a batch of {self.batch} are more rows than it has; expected smaller shares of it")
        return self

    def share(self, step: int) -> float:
        if self.schedule == "hold":
            return super().share(step)
        rising = (step + 1) / self.warmup
        return min(1.0, rising, 0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def rows(self) -> dict[str, int]:
        """How many of a step's rows are of each sort, in their order there."""
        counts = {name: round(getattr(self, name) * self.batch) for name in ("captions", "instruct", "unseen")}
        return {**counts, "seen": self.batch - sum(counts.values())}
