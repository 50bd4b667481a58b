"""The recipe of InstructAny2Pix's stages but for the denoiser's. Imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from paintover.training.recipe import Run, Side


class Any2PixRecipe(Run):
    """What determines a run of stage 1, 2, 3 or 5, each beginning with the bundle that the one before it made.

    1 teaches the language model's input projector what pictures and sounds are called, 2 both projectors to say what a picture
    of something is like, 3 the prior, 5 language model and projectors to understand instructions (methods.md D.3). Stage 4,
    the denoiser's, has a recipe of its own.
    """

    init: str | None = Field("builtin", description="the bundle to begin from, with any2pix in it")
    stage: int = Field(5, ge=1, le=5, description="1 alignment, 2 generation, 3 prior, 5 instructions")
    size: int = Field(96, ge=8, description="pixels on each side of the pictures")
    sides: tuple[Side, Side] = Field((0.22, 0.55), description="longer side of the things, from and to, in frames")
    noise: float = Field(1.0, ge=0, description="length, at most, of the Gaussian noise on unit embeddings (stage 3)")
    swap: float = Field(0.5, ge=0, le=1, description="share of embeddings replaced by a sound's or the words' (stage 3)")
    drop_base: float = Field(0.2, ge=0, le=1, description="share of instructions whose base is words, and no picture (stage 5)")
    drop_media: float = Field(0.2, ge=0, le=1, description="share of other references replaced by words (stage 5)")
    loss: Literal["l1", "l2"] = Field("l2", description="of embeddings: l2 as published, l1 as released")
    embedding_loss: float = Field(1.0, ge=0, description="weight of the embeddings' loss, beside the words'")

    @model_validator(mode="after")
    def _not_the_denoiser(self) -> Self:
        if self.stage == 4:
            raise ValueError("stage 4 teaches the denoiser, which `paintover train realign` does")
        return self
