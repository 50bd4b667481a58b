"""`paintover invert`: what an inversion makes of a picture."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from paintover.cli.shared import (
    KNOBS_PANEL,
    AsJson,
    Device,
    Force,
    MaxBytes,
    MaxFrames,
    MaxPixels,
    Model,
    Out,
    Seed,
    Steps,
    app,
    limits_of,
    print_json,
    progress,
    tell,
)
from paintover.editors.knobs import describe
from paintover.editors.two_branch import TwoBranchKnobs

_SAYS = {info.name: f"{info.description}; {info.takes} (default {info.default!r})" for info in describe(TwoBranchKnobs)}
_NAMES = ", ".join(get_args(TwoBranchKnobs.model_fields["inversion"].annotation))
_KNOB = {"rich_help_panel": KNOBS_PANEL, "metavar": "VALUE"}


@app.command()
def invert(
    *,
    picture: Annotated[str, typer.Argument(help="The picture's file.")],
    source_prompt: Annotated[str | None, typer.Option(help="What the picture shows.")] = None,
    out: Out = None,
    inversion: Annotated[str | None, typer.Option(help=f"{_NAMES} (default 'direct').", metavar="NAME")] = None,
    model: Model = "builtin",
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Annotated[str | None, typer.Option(help=_SAYS["guidance"], **_KNOB)] = None,
    negative_prompt: Annotated[str | None, typer.Option(help=_SAYS["negative_prompt"], **_KNOB)] = None,
    inner: Annotated[str | None, typer.Option(help=_SAYS["inner"], **_KNOB)] = None,
    iterations: Annotated[str | None, typer.Option(help=_SAYS["iterations"], **_KNOB)] = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
) -> None:
    """Invert a picture and bring it back: what an edit beside it starts from. The edits find the inversion in the cache."""
    from paintover.orders.invert import invert as run

    given: dict[str, Any] = {"inversion": inversion, "guidance": guidance, "negative_prompt": negative_prompt}
    given |= {"inner": inner, "iterations": iterations}
    with progress("inverting") as on_step:
        inverted = run(
            picture,
            source_prompt=source_prompt,
            model=model,
            seed=seed,
            steps=steps,
            out=out,
            force=force,
            limits=limits_of(max_pixels, max_bytes, max_frames),
            device=device,
            on_step=on_step,
            **{name: value for name, value in given.items() if value is not None},
        )
    result = inverted.result
    for warning in result.record["warnings"]:
        tell(f"paintover: note: {warning}")
    seconds = result.record["seconds"]
    found = {
        "out": str(result.path) if result.path is not None else None,
        "psnr": inverted.psnr,
        "psnr_against_codec": inverted.psnr_codec,
        "codec_psnr": inverted.codec,
        "cached": inverted.cached,
        "evaluations": result.record["evaluations"],
        "seconds": seconds,
    }
    if as_json:
        print_json({**found, "request": result.request.model_dump(mode="json"), "record": result.record})
        return
    print(f"inversion: {result.request.knobs['inversion']}, guidance {result.request.knobs['guidance']:g}")
    print(f"PSNR: {inverted.psnr:.2f} dB against the picture, {inverted.psnr_codec:.2f} dB against the codec's picture of it")
    print(f"codec alone: {inverted.codec:.2f} dB against the picture")
    kept = "found in the cache" if inverted.cached else "made, and kept for edits"
    print(f"{kept}: {found['evaluations']} evaluations, {sum(seconds.values()):.1f} s")
    if result.path is not None:
        print(result.path)
