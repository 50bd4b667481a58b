"""`compare`: one picture and one instruction, by several editors, in one labelled picture."""

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
    Model,
    Refs,
    Seed,
    Steps,
    app,
    counted,
    limits_of,
    print_json,
    refs_of,
    tell,
)


@app.command()
def compare(
    *,
    picture: Annotated[str, typer.Argument(help="The picture's file.")],
    instruction: Annotated[str, typer.Argument(help="What is wanted of it; every editor is told the same words.")],
    editors: Annotated[
        str | None,
        typer.Option(
            help=f"Which, with commas between, of {', '.join(EDITORS_OF_PICTURES)} (default: instruct, and the two whose "
            "language model says what an instruction means)."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to save the sheet.")] = Path("compare.png"),
    model: Model = "builtin",
    ref: Refs = None,
    source_prompt: Annotated[str | None, typer.Option(help="What the picture shows (for editors that invert it).")] = None,
    seed: Seed = 0,
    steps: Steps = None,
    side: Annotated[
        int | None, typer.Option(min=32, max=2048, help="Longer side of each picture in the sheet, at most.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
) -> None:
    """Edit a picture by several editors, and see the results side by side with what each made of the words.

    An editor that cannot is told as failed, and does not stop the others: the exit code is then 2.
    """
    from paintover.orders.compare import compare as run

    asked: dict[str, Any] = {} if side is None else {"side": side}
    if editors is not None:
        asked["editors"] = [name.strip() for name in editors.split(",") if name.strip()]
    with counted("comparing") as on_edit:
        found = run(
            picture,
            instruction,
            model=model,
            references=refs_of(ref),
            source_prompt=source_prompt,
            seed=seed,
            steps=steps,
            out=out,
            force=force,
            limits=limits_of(max_pixels, max_bytes, max_frames),
            device=device,
            on_edit=on_edit,
            **asked,
        )
    for column in found.columns:
        if column.text:
            tell(f"{column.editor} understood: {column.text}")
        for note in column.record["warnings"] if column.record else ():
            tell(f"paintover: note: {column.editor}: {note}")
        if column.reason is not None:
            tell(f"paintover: {column.editor} failed: {column.reason}")
    if as_json:
        height, width = found.rgb_HWC.shape[:2]
        described = [
            {"editor": c.editor, "reason": c.reason}
            if c.request is None
            else {"editor": c.editor, "request": c.request.model_dump(mode="json"), "record": c.record}
            for c in found.columns
        ]
        print_json({"out": str(found.path), "width": width, "height": height, "editors": described})
    else:
        print(found.path)
    if any(column.reason is not None for column in found.columns):
        raise typer.Exit(2)
