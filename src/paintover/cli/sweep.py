"""`sweep`: many edits of one picture, in a grid over two settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paintover.cli.shared import (
    EDITORS_OF_PICTURES,
    AsJson,
    Device,
    Force,
    MaxBytes,
    MaxFrames,
    MaxPixels,
    ModelOrTuned,
    Refs,
    Steps,
    TunedName,
    app,
    counted,
    limits_of,
    print_json,
    refs_of,
    tell,
    understood,
    with_knobs,
)
from paintover.errors import RequestError


@app.command()
@with_knobs(*EDITORS_OF_PICTURES)
def sweep(
    *,
    words: Annotated[list[str], typer.Argument(metavar="[PICTURE] WORDS", help="The picture and what is wanted of it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to save the grid.")] = Path("sweep.png"),
    x: Annotated[str | None, typer.Option(help="What varies from left to right: t_max=50,48 (a knob, steps or seed).")] = None,
    y: Annotated[str | None, typer.Option(help="What varies from top to bottom: t_m=10,20,26.")] = None,
    editor: Annotated[
        str | None, typer.Option(help=f"{', '.join(EDITORS_OF_PICTURES)} (default: mdp-noise, or the tuning's).")
    ] = None,
    made: Annotated[str | None, typer.Option(help="Instead of a picture: the caption of one that is made first.")] = None,
    model: ModelOrTuned = None,
    tuned: TunedName = None,
    mask: Annotated[str | None, typer.Option(help="A picture of the same size, white where the edit may go.")] = None,
    ref: Refs = None,
    source_prompt: Annotated[str | None, typer.Option(help="What the picture shows (for editors that invert it).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise (default 0).")] = None,
    steps: Steps = None,
    preserve: Annotated[bool, typer.Option(help="Keep untouched pixels bit for bit; or the model's raw output.")] = True,
    side: Annotated[int, typer.Option(min=32, max=2048, help="Longer side of each picture in the grid, in pixels.")] = 256,
    together: Annotated[int, typer.Option(min=1, max=64, help="How many edits share denoiser calls.")] = 8,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
    knobs: dict[str, Any],
) -> None:
    """Edit a picture with many settings, and see them side by side in one labelled picture.

    The MDP editors vary t_max and t_m unless told otherwise; what all edits prepare alike is prepared once.
    """
    from paintover.orders.sweep import sweep as run

    alone = made is not None or (tuned is not None and len(words) == 1)
    if len(words) != (1 if alone else 2):
        raise RequestError("a sweep takes a picture and the words, or with --made or --tuned the words alone")
    with counted("sweeping") as on_edit:
        found = run(
            None if alone else words[0],
            words[-1],
            x=x,
            y=y,
            made=made,
            editor=editor,
            model=model,
            tuned=tuned,
            mask=mask,
            references=refs_of(ref),
            source_prompt=source_prompt,
            seed=seed,
            steps=steps,
            preserve=preserve,
            out=out,
            force=force,
            limits=limits_of(max_pixels, max_bytes, max_frames),
            side=side,
            together=together,
            device=device,
            on_edit=on_edit,
            **knobs,
        )
    cells = [cell for row in found.cells for cell in row]
    understood(*(cell.record for cell in cells))
    for note in dict.fromkeys(note for cell in cells if cell.record for note in cell.record["warnings"]):
        tell(f"paintover: note: {note}")
    if not as_json:
        print(found.path)
        return
    described: list[dict[str, Any]] = []
    for cell in cells:
        place = {name: value for name, axis, value in (("x", found.x, cell.x), ("y", found.y, cell.y)) if axis is not None}
        if cell.request is not None:
            described.append(place | {"request": cell.request.model_dump(mode="json"), "record": cell.record})
        else:
            described.append(place | {"reason": cell.reason})
    height, width = found.rgb_HWC.shape[:2]
    axes = {name: {axis.name: list(axis.values)} for name, axis in (("x", found.x), ("y", found.y)) if axis is not None}
    print_json({"out": str(found.path), "width": width, "height": height, **axes, "cells": described})
