"""The recipe of the small multimodal language model. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from paintover.training.recipe import Run, Side


class LanguageRecipe(Run):
    """What determines a run that teaches the built-in language model to look and to say what is meant."""

    sides: tuple[Side, Side] = Field((0.22, 0.48), description="longer side of the things, from and to, in frames")
    captions: float = Field(0.15, ge=0, le=1, description="share of captions: what is in the picture?")
    explicit: float = Field(0.3, ge=0, le=1, description="share, of the instructions, of those that are explicit already")
    unseen: float = Field(0.2, ge=0, le=1, description="share of instructions that are asked without the picture (LGIE)")
    batch: int = Field(48, ge=1, description="questions a step")
    lr: float = Field(1e-3, gt=0, description="learning rate of AdamW")
    image_tokens: int = Field(8, ge=1, description="[IMG] tokens")
    instruction_loss: float = Field(1.0, ge=0, description="weight of the cross-entropy of the answers (L_ins)")
    align_loss: float = Field(1.0, ge=0, description="weight of the edit head's error against the text encoder's states")
    patch_loss: float = Field(0.5, ge=0, description="weight of the class that each patch of the picture shows")
