"""The recipe of InstructAny2Pix's fourth stage. Imports no torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from paintover.training.recipe import Run, Side


class RealignRecipe(Run):
    """What determines a run that teaches a denoiser, and its adapter, what embeddings mean (diffusion realignment).

    The rows of a step are of three sorts: edits and pictures with embeddings ("media"), and without any, so that the denoiser
    goes on to be what it was, instructions and captions that its own text encoder reads alone. As published there is the
    first alone.
    """

    init: str | None = Field("builtin", description="the bundle to begin from, with any2pix in it")
    sizes: tuple[int, ...] = Field((64, 64, 128), min_length=1, description="pixels on each side, step by step in turn")
    batch: int = Field(48, ge=1, description="pictures a step, over all processes")
    instruct: float = Field(0.0, ge=0, le=1, description="share of rows with an instruction and no embeddings")
    captions: float = Field(0.0, ge=0, le=1, description="share of captions (text to picture) without embeddings")
    lr: float = Field(1e-3, gt=0, description="learning rate of the adapter")
    denoiser_lr: float = Field(2e-4, gt=0, description="learning rate of the denoiser")
    drop_global: float = Field(0.5, ge=0, le=1, description="share of rows that are not told the whole picture's embedding")
    drop_local: float = Field(0.5, ge=0, le=1, description="share of rows that are not told the objects' embeddings")
    noise: float = Field(0.15, ge=0, description="Gaussian noise on the whole picture's embedding, in its own lengths")
    sides: tuple[Side, Side] = Field((0.22, 0.48), description="longer side of the things, in frames of 128 pixels")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.rows()["media"] < 1:
            raise ValueError(f"instruct {self.instruct:g} and captions {self.captions:g} leave no row with embeddings")
        return self

    def rows(self) -> dict[str, int]:
        """How many of a step's rows are of each sort, in their order there."""
        counts = {name: round(getattr(self, name) * self.batch) for name in ("captions", "instruct")}
        return {"media": self.batch - sum(counts.values()), **counts}

    def frame(self, step: int) -> tuple[int, tuple[float, float]]:
        """A step's size in pixels, and the sides of things in its frames: about as many pixels whatever the frame."""
        size = self.sizes[step % len(self.sizes)]
        wider = min((128 / size) ** 0.6, 0.7 / self.sides[1])
        return size, (self.sides[0] * wider, self.sides[1] * wider)
