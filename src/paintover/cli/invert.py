"""`paintover invert`: what an inversion makes of a picture."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paintover.cli.shared import (
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
    with_knobs,
)


@app.command()
@with_knobs("invert")
def invert(
    *,
    picture: Annotated[str, typer.Argument(help="The picture's file.")],
    source_prompt: Annotated[str | None, typer.Option(help="What the picture shows.")] = None,
    out: Out = None,
    model: Model = "builtin",
    seed: Seed = 0,
    steps: Steps = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
    knobs: dict[str, Any],
) -> None:
    """Invert a picture and bring it back: what an edit beside it starts from. The edits find the inversion in the cache."""
    from paintover.orders.invert import invert as run

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
            **knobs,
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
