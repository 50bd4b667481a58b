"""`paintover train instructions` and `variants`: what InstructAny2Pix learns from, made of pictures and sounds that one has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paintover.cli.pairs import SkipBroken
from paintover.cli.shared import Device, Model, counted, tell
from paintover.cli.train import group


@group.command()
def variants(
    *,
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures; those in its sub-folders, too.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make; what is there already is kept.")],
    count: Annotated[int, typer.Option(min=1, help="Variants of each picture.")] = 4,
    boxes: Annotated[Path | None, typer.Option(help="A table of what a detector found (default: random squares).")] = None,
    model: Model = "builtin",
    seed: Annotated[int, typer.Option(min=0, help="Of the squares and the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps (default: as for imagine).")] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="How far a region is noised (1: nothing of it is left).")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Variants at a time.")] = 8,
    skip_broken: SkipBroken = False,
    device: Device = None,
) -> None:
    """Paint a region of each picture anew, told nothing, for InstructAny2Pix's diffusion realignment (stage 4).

    Stop it at any moment; the same command goes on.
    """
    from paintover.training.variants import make

    with counted("painting") as bar:
        made = make(
            pictures, out, model=model, count=count, detected=boxes, seed=seed, steps=steps, strength=strength,
            together=batch, skip_broken=skip_broken, device=device, on_picture=bar,
        )  # fmt: skip
    tell(f"paintover: {made.now} variants made, {made.before} had been before, {made.broken} pictures broken and left out")
    print(out)
