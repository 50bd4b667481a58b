"""The recipe of the small multimodal language model. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from paintover.training.recipe import Run, Side, Width


class LanguageRecipe(Run):
    """What determines a run that teaches the built-in language model to look and to say what is meant."""

    init: str | None = Field(None, description="folder of a run of this kind to take the weights from at the start")
    sides: tuple[Side, Side] = Field((0.22, 0.48), description="longer side of the things, from and to, in frames")
    captions: float = Field(0.15, ge=0, le=1, description="share, of questions with a picture, of what is in the picture?")
    explicit: float = Field(0.3, ge=0, le=1, description="share, of the instructions, of those that are explicit already")
    unseen: float = Field(0.2, ge=0, le=1, description="share of instructions that are asked without the picture (LGIE)")
    batch: int = Field(48, ge=1, description="questions a step")
    lr: float = Field(1e-3, gt=0, description="learning rate of AdamW")
    size: int = Field(128, ge=8, description="pixels on each side of what the vision tower sees")
    vision: tuple[Width, ...] = Field((64, 128, 256), min_length=1, description="channels of the vision tower's levels")
    width: int = Field(256, ge=8, multiple_of=8, description="width of the language model")
    layers: int = Field(4, ge=1, description="its layers")
    head_width: int = Field(192, ge=4, multiple_of=4, description="width of the edit head")
    head_layers: int = Field(4, ge=1, description="layers of its encoder, and of its decoder")
    queries: int = Field(32, ge=1, description="token states it makes: as many as the text encoder")
    expressive: bool = Field(
        True, description="say what is meant before the [IMG] tokens (off: without expressive instructions)"
    )
    image_tokens: int = Field(8, ge=1, description="[IMG] tokens")
    instruction_loss: float = Field(1.0, ge=0, description="weight of the cross-entropy of the answers (L_ins)")
    align_loss: float = Field(1.0, ge=0, description="weight of the edit head's error against the text encoder's states")
    patch_loss: float = Field(0.5, ge=0, description="weight of the class that each patch of the picture shows")
