"""The commands that make pictures: edit, imagine, batch; and those about pictures that were made: redo, show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paintover.cli.shared import (
    EDITORS_OF_MADE,
    EDITORS_OF_PICTURES,
    EDITORS_OF_WORDS,
    AsJson,
    Candidates,
    Device,
    Force,
    KeepCandidates,
    MaxBytes,
    MaxFrames,
    MaxPixels,
    MinScore,
    MissingParameter,
    ModelOrTuned,
    Out,
    PreservationWeight,
    Refs,
    ScorerName,
    Seed,
    Steps,
    TunedName,
    app,
    limits_of,
    plain,
    print_json,
    progress,
    refs_of,
    tell,
    understood,
    with_knobs,
)
from paintover.cli.tuning import notes_of, telling
from paintover.editors import registry
from paintover.errors import RequestError

if TYPE_CHECKING:
    from paintover.orders.order import Order
    from paintover.request import EditRequest, EditResult


_WORDS = (
    'For instruct, mgie and lgie: what should change, "make it look like dusk". For most editors: a caption of the result, '
    '"a meadow at dusk" (`paintover editors` says which).'
)


@app.command()
@with_knobs(*EDITORS_OF_PICTURES)
def edit(
    *,
    picture: Annotated[str | None, typer.Argument(help="The picture's file (with --tuned, it need not be named).")] = None,
    instruction: Annotated[str | None, typer.Argument(help=_WORDS)] = None,
    out: Out = None,
    editor: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(EDITORS_OF_PICTURES)} (default: {registry.names()[0]}, any2pix with --ref, or the tuning's)."
        ),
    ] = None,
    model: ModelOrTuned = None,
    tuned: TunedName = None,
    mask: Annotated[str | None, typer.Option(help="A picture of the same size, white where the edit may go.")] = None,
    ref: Refs = None,
    source_prompt: Annotated[str | None, typer.Option(help="What the picture shows (for editors that invert it).")] = None,
    seed: Seed = 0,
    steps: Steps = None,
    preserve: Annotated[bool, typer.Option(help="Keep untouched pixels bit for bit; or the model's raw output.")] = True,
    keep_location: Annotated[bool, typer.Option("--keep-location", help="Keep the GPS position in the file.")] = False,
    shown: Annotated[bool, typer.Option("--show", help="Also save the mask that the editor found: OUT.mask.png.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
    candidates: Candidates = None,
    min_score: MinScore = None,
    scorer: ScorerName = None,
    preservation_weight: PreservationWeight = None,
    keep_candidates: KeepCandidates = False,
    knobs: dict[str, str],
) -> None:
    """Edit a picture as the words say."""
    from paintover.orders import media
    from paintover.orders import tuned as of_tuning
    from paintover.orders.order import Order, beside, request_for
    from paintover.orders.sentinel import Sentinel

    limits = limits_of(max_pixels, max_bytes, max_frames)
    sentinel = Sentinel.asked(candidates, min_score, scorer, preservation_weight, keep_candidates)
    if tuned is not None and instruction is None:
        picture, instruction = None, picture
    if (picture is None and tuned is None) or (instruction is None and tuned is None):
        raise MissingParameter(f"Missing argument '{'picture' if picture is None else 'instruction'}'.")
    tuning = of_tuning.found(tuned)
    if tuning is not None and instruction is None:
        instruction = tuning.record.caption
    pixels = of_tuning.picture_of(tuning, limits) if tuning is not None and picture is None else None
    spoken = media.told(refs_of(ref))
    whose = of_tuning.asked(tuning, editor or (media.USUAL if spoken else None), model, registry.names()[0])
    instruction = instruction or ""
    request = request_for(
        picture=picture,
        mask=mask,
        instruction=instruction,
        source_prompt=source_prompt,
        references=spoken,
        **whose,
        knobs=knobs,
        seed=seed,
        steps=steps,
        preserve=preserve,
    )
    masks = [partial(beside, name=name) for name in registry.get(whose["editor"]).shows(instruction)] if shown else []
    masks += [partial(beside, name=name) for name in (sentinel.names if sentinel is not None else ())]
    name = picture if picture is not None else pixels.name if pixels is not None else "picture"
    target = out or _free(f"{Path(name).stem}.edited.png", *masks)
    order = Order(request, pixels, None, target, force, keep_location, limits, show=shown, tuning=tuning, sentinel=sentinel)
    _serve(order, device, as_json)


@app.command()
@with_knobs(*EDITORS_OF_WORDS, *EDITORS_OF_MADE)
def imagine(
    *,
    prompt: Annotated[str, typer.Argument(help='What the picture should show, for example "a cow in a meadow".')],
    then: Annotated[str | None, typer.Option(help="Then edit it: a caption of a second picture, made beside it.")] = None,
    editor: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(EDITORS_OF_WORDS)} (default: imagine, or any2pix with --ref); with --then: "
            f"{', '.join(EDITORS_OF_MADE)}."
        ),
    ] = None,
    ref: Refs = None,
    out: Out = None,
    model: ModelOrTuned = None,
    tuned: TunedName = None,
    seed: Seed = 0,
    steps: Steps = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
    candidates: Candidates = None,
    min_score: MinScore = None,
    scorer: ScorerName = None,
    preservation_weight: PreservationWeight = None,
    keep_candidates: KeepCandidates = False,
    knobs: dict[str, str],
) -> None:
    """Make a picture from words, or from words that speak of --ref's; with --then another one beside it: both are saved."""
    from paintover.orders import media
    from paintover.orders import tuned as of_tuning
    from paintover.orders.order import Order, beside
    from paintover.orders.run import imagined
    from paintover.orders.sentinel import Sentinel

    sentinel = Sentinel.asked(candidates, min_score, scorer, preservation_weight, keep_candidates)
    tuning = of_tuning.found(tuned)
    limits = limits_of(max_pixels, max_bytes, max_frames)
    spoken = media.told(refs_of(ref))
    request = imagined(prompt, then, editor, tuning, model, knobs=knobs, seed=seed, steps=steps, references=spoken)
    besides = [*(["source"] if then is not None else []), *(sentinel.names if sentinel is not None else ())]
    target = out or _free("imagined.png", *(partial(beside, name=name) for name in besides))
    source = beside(target, "source") if then is not None else None
    order = Order(request, out=target, force=force, limits=limits, out_source=source, tuning=tuning, sentinel=sentinel)
    _serve(order, device, as_json)


@app.command()
def redo(
    *,
    made: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture that paintover wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the repeated edit (default: only compare).")] = None,
    picture: Annotated[str | None, typer.Option(help="The source, where it is no longer where it was.")] = None,
    mask: Annotated[str | None, typer.Option(help="The mask, likewise.")] = None,
    ref: Annotated[
        list[str] | None, typer.Option("--ref", metavar="NAME=FILE", help="A reference, likewise: audio1=moo.ogg. Repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The bundle, where it is no longer where it was.")] = None,
    tuned: Annotated[str | None, typer.Option(help="The tuning, likewise: a name or a folder.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
) -> None:
    """Repeat the edit that made a picture, and compare."""
    from paintover.orders.redo import redo as again

    limits = limits_of(max_pixels, max_bytes, max_frames)
    with progress("repeating") as on_step:
        redone = again(
            made,
            picture=picture,
            mask=mask,
            references=refs_of(ref),
            model=model,
            tuned=tuned,
            out=out,
            force=force,
            limits=limits,
            device=device,
            on_step=on_step,
        )
    understood(redone.result.record)
    if as_json:
        found = {"identical": redone.identical, "largest_difference": redone.largest_difference}
        same = {"same_source": redone.same_source, "same_mask": redone.same_mask, "same_model": redone.same_model}
        if redone.result.request.tuned is not None:
            same["same_tuning"] = redone.same_tuning
        if redone.result.request.references:
            same["same_references"] = redone.same_references
        print_json({**_described(redone.result), **found, **same})
        return
    if redone.identical:
        print("identical: every pixel is the same")
    elif redone.largest_difference is None:
        print("different: the sizes are not the same")
    else:
        print(f"different: by up to {redone.largest_difference} of 255 in a pixel")
    print(f"source: {'the same' if redone.same_source else 'differs from the one that was edited (sha256)'}")
    if redone.result.request.mask_sha256 is not None or not redone.same_mask:
        print(f"mask: {'the same' if redone.same_mask else 'differs from the one that was used (sha256)'}")
    for one in redone.result.request.references:
        print(f"{one.name}: {'differs from the one that was used (sha256)' if one.name in redone.differing else 'the same'}")
    print(f"model: {'the same' if redone.same_model else 'differs from the one that edited it (fingerprint)'}")
    if redone.result.request.tuned is not None:
        print(f"tuning: {'the same' if redone.same_tuning else 'differs from the one that was used (sha256)'}")


@app.command()
def show(
    *,
    made: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture that paintover wrote.")],
    as_json: AsJson = False,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
) -> None:
    """Show how a picture was made."""
    from paintover.picture.provenance import read

    found = read(made, limits_of(max_pixels, max_bytes, max_frames))
    if as_json:
        print_json(found)
        return
    for part, words in found.items():
        if not isinstance(words, dict):
            continue
        print(plain(f"{part}:"))
        for name, value in words.items():
            if name == "references" and value and isinstance(value, list):
                value = ", ".join(map(_reference, value))
            if value not in (None, [], {}):
                print(plain(f"  {name}: {value if isinstance(value, str) else json.dumps(value)}"))


def _reference(one: Any) -> str:
    """As it was given: audio1=moo.ogg."""
    return f"{one.get('name')}={one.get('path') or '(in memory)'}" if isinstance(one, dict) else json.dumps(one)


@app.command()
def batch(
    *,
    jobs: Annotated[str, typer.Argument(help='One JSON object a line: {"picture": "a.jpg", "instruction": "..."}.')],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pictures and results.jsonl.")],
    together: Annotated[int, typer.Option(min=1, max=64, help="How many pictures share denoiser calls.")] = 8,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
) -> None:
    """Edit every line of a file of jobs. Run it again to go on after an interruption.

    Pictures are named from the folder of the jobs file. A failed line is reported and does not stop the others: the exit
    code is then 2 if all failures were bad input, otherwise 1.
    """
    from paintover.orders.batch import Line
    from paintover.orders.batch import batch as run

    def on_line(line: Line) -> None:
        record = line.record or {}
        said = record.get("expressive")
        tell(f"line {line.line}: {line.status} {line.error or line.out}{f' (understood: {said})' if said else ''}")
        for warning in record.get("warnings", ()):
            tell(f"line {line.line}: note: {warning}")

    limits = limits_of(max_pixels, max_bytes, max_frames)
    report = run(jobs, out, together=together, force=force, limits=limits, device=device, on_line=on_line)
    if as_json:
        print_json({"done": report.done, "skipped": report.skipped, "failed": report.failed, "results": str(report.results)})
    else:
        print(f"{report.done} done, {report.skipped} skipped, {report.failed} failed: {report.results}")
    if report.failed:
        raise typer.Exit(1 if report.failed_by_us else 2)


def _serve(order: Order, device: str | None, as_json: bool) -> None:
    from dataclasses import replace

    from paintover.orders.run import edit_one

    request = order.request
    if order.tuning is None and request.editor in registry.tuners():
        given = [request.picture or ""]
        notes = partial(notes_of, given, request.editor, request.knobs, request.model, device, order.limits)
        with telling("editing", notes) as teller:
            result = edit_one(replace(order, on_step=teller.on_step, cancelled=teller.cancelled), device=device)
    else:
        doing = "editing" if request.picture or order.picture is not None else "imagining"
        count = order.sentinel.candidates if order.sentinel is not None else 1
        with progress(doing if count == 1 else f"{doing}, {count} candidates") as on_step:
            result = edit_one(replace(order, on_step=on_step), device=device)
    understood(result.record)
    _chosen(result.record)
    for warning in result.record["warnings"]:
        tell(f"paintover: note: {warning}")
    if order.show and not any(name.startswith("mask") for name in result.files):
        tell(f"paintover: note: {order.request.editor} finds no mask, so there is none to show")
    if as_json:
        print_json(_described(result) | (_of_source(result) if "source" in result.files else {}))
    else:
        print(result.path, *result.files.values(), sep="\n")


def _chosen(record: dict[str, Any]) -> None:
    """Tells which candidate is the result, and why."""
    if "candidates" not in record:
        return
    best = next(one for one in record["candidates"] if one["seed"] == record["chosen"])
    kept = "" if best["preservation"] is None else f", preservation {best['preservation']:.4f}"
    count = len(record["candidates"])
    chosen = f"seed {best['seed']}" + (f" of {count} candidates" if count > 1 else "")
    tell(f"chosen: {chosen}, {record['why']} (score {best['score']:.4f}: agreement {best['agreement']:.4f}{kept})")
    for one in record["candidates"]:
        if "failed" in one:
            tell(f"paintover: note: seed {one['seed']} gave no picture: {one['failed']}")


def _described(result: EditResult) -> dict[str, Any]:
    height, width = result.rgb_HWC.shape[:2]
    request: EditRequest = result.request
    out = str(result.path) if result.path is not None else None
    said = {"out": out, "width": width, "height": height, "request": request.model_dump(mode="json"), "record": result.record}
    files = {name: str(path) for name, path in result.files.items()}
    shown = {name: path for name, path in files.items() if name != "source" and not name.startswith("candidate")}
    said |= {"shown": shown} if shown else {}
    if "candidates" in result.record:
        kept = [files.get(f"candidate {n + 1}") for n in range(len(result.record["candidates"]))]
        told = zip(result.record["candidates"], kept, strict=True)
        said["candidates"] = [one | ({"out": place} if place is not None else {}) for one, place in told]
    return said


def _of_source(result: EditResult) -> dict[str, Any]:
    from paintover.orders.order import of_source

    height, width = result.shown["source"].shape[:2]
    request = of_source(result.request).model_dump(mode="json")
    return {"source": {"out": str(result.files["source"]), "width": width, "height": height, "request": request}}


def _free(name: str, *besides: Callable[[Path], Path]) -> Path:
    """A file name in the current folder that is not taken: photo.edited.png, photo.edited-2.png, ...; nor are its besides."""
    stem, suffix = os.path.splitext(name)
    numbered = (Path(name) if n == 1 else Path(f"{stem}-{n}{suffix}") for n in range(1, 10_000))
    taken = os.path.lexists
    free = next((path for path in numbered if not any(map(taken, (path, *(beside(path) for beside in besides))))), None)
    if free is None:
        raise RequestError(f"{name} and its numbered names are all taken; name the output with -o")
    return free
