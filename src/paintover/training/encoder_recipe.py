"""The recipe of the media encoder. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from paintover.training.recipe import Run, Side, Width


class EncoderRecipe(Run):
    """What determines a run that teaches the built-in encoder that pictures, sounds and words mean the same.

    A step has `labels` labels, each with some pictures and sounds and a text, and `scenes` whole pictures with their captions.
    """

    init: str | None = Field("builtin", description="a bundle whose vision tower to begin with, or a run of this kind")
    size: int = Field(96, ge=16, multiple_of=16, description="pixels on each side of what it sees")
    width: int = Field(256, ge=8, description="width of the space that pictures, sounds and words share")
    sights: tuple[Width, ...] = Field((64, 128, 256), min_length=1, description="channels of the tower that sees, by level")
    sounds: tuple[Width, ...] = Field((32, 64, 128), min_length=1, description="channels of the tower that hears, by level")
    labels: int = Field(16, ge=2, description="labels a step")
    crops: int = Field(3, ge=2, description="pictures of each label; two of them show the same thing")
    clips: int = Field(2, ge=1, description="sounds of each label that has any")
    scenes: int = Field(24, ge=2, description="whole pictures a step, with their captions")
    batch: int = Field(1, ge=1, description="steps' worth of rows a step, over all processes")
    sides: tuple[Side, Side] = Field((0.22, 0.55), description="longer side of the things in whole pictures, in frames")
    same: float = Field(0.3, ge=0, description="weight of telling a thing's own pictures from those of its kind")
    scene_loss: float = Field(0.5, ge=0, description="weight of whole pictures against captions")
