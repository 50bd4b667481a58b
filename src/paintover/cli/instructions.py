"""`paintover train instructions` and `variants`: what InstructAny2Pix learns from, made of pictures and sounds that one has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paintover.cli.pairs import SkipBroken
from paintover.cli.shared import Device, Model, counted, tell
from paintover.cli.train import group
from paintover.training.phrases import KINDS


@group.command()
def instructions(
    *,
    media: Annotated[list[Path], typer.Argument(help="Folders or tables of captioned pictures and sounds.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make; what is there already is kept.")],
    count: Annotated[int, typer.Option(min=1, help="How many instructions; a larger number later adds to them.")] = 1000,
    kind: Annotated[list[str] | None, typer.Option(help=f"{', '.join(KINDS)} (default: all that the media allow).")] = None,
    llm: Annotated[
        str | None,
        typer.Option(help="Who says them: a language model's folder, or owner/name[@revision] (default: templates)."),
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="A JSONL file of what people wrote, for --llm (default: ours).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what they are about, and how they are said.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Instructions at a time, for --llm.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="The most that the language model says.")] = 120,
    tries: Annotated[int, typer.Option(min=1, help="How often it is asked before an instruction is left out.")] = 3,
    device: Device = None,
) -> None:
    """Make instructions that speak of pictures and sounds, in the form of MM-Inst, for InstructAny2Pix's stage 5.

    Stop it at any moment; the same command goes on.
    """
    from paintover.training.instructions import make

    with counted("writing") as bar:
        made = make(
            out, media, count=count, seed=seed, kinds=kind or None, llm=llm, shown=examples,
            batch=batch, tokens=tokens, tries=tries, device=device, on_sample=bar,
        )  # fmt: skip
    tell(f"paintover: {made.now} instructions made, {made.before} had been before, {made.refused} of all not said usably")
    print(out)


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
