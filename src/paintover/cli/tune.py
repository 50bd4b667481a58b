"""`tune`: bend a model to a picture once, and edit with it often; `tuned`: what is kept of that, and throwing it away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paintover.cli.shared import (
    AsJson,
    Device,
    MaxBytes,
    MaxFrames,
    MaxPixels,
    Model,
    app,
    console,
    limits_of,
    plain,
    print_json,
    tell,
    with_knobs,
)
from paintover.cli.tuning import notes_of, telling, time_of
from paintover.editors import registry
from paintover.errors import RequestError
from paintover.tuning import store

if TYPE_CHECKING:
    from paintover.orders.tune import TunedModel
    from paintover.tuning.store import Tuning


@app.command()
@with_knobs(*registry.tuners(), of="Tuning")
def tune(
    *,
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE...", help="The picture's file; some editors take several.")],
    name: Annotated[str | None, typer.Option(help="What to call it (default: as the picture is called).")] = None,
    editor: Annotated[str, typer.Option(help=f"{', '.join(registry.tuners())}.")] = registry.tuners()[0],
    caption: Annotated[str | None, typer.Option(help="imagic: what the result shall show; it is learnt too.")] = None,
    model: Model = "builtin",
    keep: Annotated[
        Path | None, typer.Option(help="Also write what is learnt into this folder, as diffusers loads it.")
    ] = None,
    days: Annotated[float, typer.Option(help="Keep it for so many days from its last use on.")] = store.DAYS,
    force: Annotated[bool, typer.Option("--force", help="Replace a tuning of that name, and the folder.")] = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
    knobs: dict[str, Any],
) -> None:
    """Bend a model to a picture once, slowly; then edit with it often, quickly: paintover edit --tuned NAME "..."

    Ctrl-C loses nothing: the same command goes on where it was.
    """
    from paintover.orders.tune import tune as run

    if keep is not None:
        from paintover.tuning.keep import check_target

        check_target(keep, force, (store.RECORD,))  # before minutes of tuning
    limits = limits_of(max_pixels, max_bytes, max_frames)
    with telling("tuning", lambda: notes_of(pictures, editor, knobs, model, device, limits)) as teller:
        model_of = run(
            pictures if len(pictures) > 1 else pictures[0],
            editor=editor,
            name=store.named_after(pictures[0]) if name is None else name,
            numbered=name is None,
            caption=caption,
            model=model,
            days=days,
            force=force,
            limits=limits,
            device=device,
            on_step=teller.on_step,
            cancelled=teller.cancelled,
            **knobs,
        )
    for note in model_of.notes:
        tell(f"paintover: note: {note}")
    if keep is not None:
        model_of.keep(keep, force=force)
    if model_of.name is None and keep is None:
        raise typer.Exit(1)
    if as_json:
        print_json(_described(model_of, keep))
        return
    _say(model_of, keep)


@app.command()
def tuned(
    *,
    discard: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Delete this one now (may be repeated).")] = None,
    keep: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NAME FOLDER", help="Write this one into a folder, as diffusers loads it, without tuning again."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tunings that are kept; discard some, or write one into a folder."""
    if keep is not None:
        if discard:
            raise RequestError("--keep and --discard are two commands; keep it first, and discard it then")
        from paintover.orders.tune import kept

        name, folder = keep
        kept(name, folder, force=force)
        if as_json:
            print_json({"kept": str(folder)})
        else:
            print(plain(f"kept: {folder}"))
        return
    if discard:
        from paintover.orders.tune import discard as throw_away

        for name in discard:
            throw_away(name)
            tell(f"{name}: deleted")
        if as_json:
            print_json({"discarded": discard})
        return
    from paintover.orders import traces

    traces.sweep()
    there = store.listed()
    for name in store.broken():
        tell(f"paintover: note: the tuning {name!r} is damaged; discard it: paintover tuned --discard {name}")
    if as_json:
        print_json({"tuned": [_told(tuning) for tuning in there]})
        return
    if not there:
        tell('there is no tuning; make one: paintover tune PICTURE, then: paintover edit --tuned NAME "..."')
        return
    from rich.table import Table

    table = Table(*("name", "editor", "word", "picture", "model", "on disk", "took", "expires"), box=None, header_style="bold")
    for tuning in there:
        record = tuning.record
        of = ", ".join(plain(source.name) for source in record.pictures)
        size, took, until = _size(tuning.bytes_on_disk()), time_of(record.seconds), _until(record.expires)
        table.add_row(record.name, str(record.editor), record.word or "-", of, plain(str(record.model)), size, took, until)
    console().print(table, markup=False)


def _say(model: TunedModel, kept: Path | None) -> None:
    """What it is called, and how it is used."""
    record, word = model.record, model.word
    of = ", ".join(Path(source.name).name for source in record.pictures)
    took = "tuned before" if model.found else f"took {time_of(model.seconds)}"
    print(plain(f"tuned: {model.name or '(not kept)'} ({model.editor}, {of}; {took})"))
    if word:
        print(plain(f"word: {word} ({model.editor} says it by itself; say it in captions of other editors)"))
    if model.name is not None:
        said = f'"{record.caption}"' if record.caption else '"..."'
        print(plain(f"edit: paintover edit --tuned {model.name} {said}"))
        if word:
            print(plain(f'make: paintover imagine "a photo of {word}" --tuned {model.name}'))
        print(plain(f"expires: {_until(model.expires)}; sooner: paintover tuned --discard {model.name}"))
    if kept is not None:
        print(plain(f"kept: {kept}"))


def _described(model: TunedModel, kept: Path | None) -> dict[str, Any]:
    told = _told(model.tuning) | {"found": model.found}
    return told | ({"kept": str(kept)} if kept is not None else {})


def _told(tuning: Tuning) -> dict[str, Any]:
    said = tuning.record.model_dump(mode="json", exclude={"format", "key", "traces"})
    folder = None if tuning.folder is None else str(tuning.folder)
    return said | {"bytes": tuning.bytes_on_disk(), "folder": folder}


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def _until(moment: Any) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment is not None else "never"
