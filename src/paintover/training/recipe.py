"""The recipe of a run: everything that determines it besides the world's files. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paintover.errors import PaintoverError

# What a run may change when it is resumed: nothing that has already decided a number.
_OPEN = {"steps", "cooldown", "checkpoint_every", "checkpointing"}

Side = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=32, multiple_of=32)]
R = TypeVar("R", bound="Run")


class Run(BaseModel):
    """What every run has. Stages are runs in folders of their own, each beginning (`init`) where another one is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="of the first weights, the batches and their noise")
    batch: int = Field(48, ge=1, description="pictures a step, over all processes")
    lr: float = Field(5e-4, gt=0, description="learning rate of AdamW")
    warmup: int = Field(100, ge=1, description="steps over which the learning rate rises")
    steps: int = Field(6000, ge=1, description="steps in all")
    cooldown: int = Field(1000, ge=0, description="steps at the end over which the learning rate falls to zero")
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the averaged weights, which are the ones exported")
    bf16: bool = Field(False, description="bfloat16 autocast, where it is faster")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    init: str | None = Field(None, description="a run's folder or a bundle to take the weights from at the start")

    def rate(self, step: int) -> float:
        """The learning rate at this step."""
        return self.lr * self.share(step)

    def share(self, step: int) -> float:
        """Of every learning rate, at this step: warm up, hold, cool down linearly."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1, self.cooldown))


class Recipe(Run):
    """What determines a run of the denoiser's training."""

    size: int = Field(64, ge=8, description="pixels on each side")
    sides: tuple[Side, Side] = Field((0.36, 0.68), description="longer side of the things, from and to, in frames")
    captions: float = Field(0.11, ge=0, le=1, description="share of captions (text to picture); the rest are edits")
    plain: float = Field(0.6, ge=0, le=1, description="share of plain grounds among captions that settle their picture")
    blocks: tuple[Width, ...] = Field((128, 256, 256), min_length=2, description="widths of the network's levels")
    factor: int = Field(8, ge=1, description="side of the pixel blocks that become one latent")
    prediction: Literal["change", "blend"] = Field("change", description="what the network says of the source: change, blend")
    sigma_data: float | None = Field(None, gt=0, description="how far off its pictures are told to be (models.denoiser.seen)")


def read(run: Path, *kinds: type[R]) -> R | None:
    """The recipe of a run's folder, of one of these kinds, which no two have the same fields; None where there is none yet.

    Raises PaintoverError when it is not readable.
    """
    file = run / "recipe.json"
    if not file.exists():
        return None
    wrong: list[ValidationError] = []
    try:
        text = file.read_text(encoding="utf-8")
        for kind in kinds:
            try:
                return kind.model_validate_json(text)
            except ValidationError as error:
                wrong.append(error)
        nearest: ValueError = min(wrong, key=lambda error: error.error_count())
    except ValueError as error:
        nearest = error
    raise PaintoverError(f"{file} is no recipe: {' '.join(str(nearest).split())[:200]}")


def write(run: Path, recipe: Run) -> None:
    """Puts the recipe into the run's folder: whole, or not at all."""
    run.mkdir(parents=True, exist_ok=True)
    part = run / f"recipe.json.{os.getpid()}"
    part.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
    part.replace(run / "recipe.json")


def settle(run: Path, given: dict[str, Any], kind: type[R]) -> R:
    """The recipe of a run that is begun or resumed: its own, with what is `given`, the rest as defaults.

    Raises PaintoverError for a value that is out of bounds.
    """
    before = read(run, kind)
    try:
        return kind.model_validate((before.model_dump() if before else {}) | given)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several fields together
            raise PaintoverError(first["msg"].removeprefix("Value error, ")) from None
        raise PaintoverError(f"{'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg'].lower()}") from None


def check_resumes(run: Path, recipe: Run) -> None:
    """Raises PaintoverError if the run has another recipe, but for its length: what it was trained by must stay true."""
    kind = type(recipe)
    before = read(run, kind)
    for name in kind.model_fields.keys() - _OPEN if before else ():
        old, new = getattr(before, name), getattr(recipe, name)
        if old != new:
            raise PaintoverError(
                f"{run} is trained with {name} {old}, not {new}; use another folder (and init, to go on from it)"
            )
