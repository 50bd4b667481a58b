"""The command line. Results go to stdout, progress and messages to stderr; it holds no editing logic.

Exit codes: 0 done; 2 bad usage or bad input; 1 a failure of ours; 130 interrupted.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paintover.editors import registry
from paintover.editors.knobs import describe, takes
from paintover.errors import PaintoverError, RequestError

if TYPE_CHECKING:
    from paintover.editors.order import Order
    from paintover.picture.limits import Limits
    from paintover.request import EditRequest, EditResult

app = typer.Typer(
    help="Edit a picture by saying what should change.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LIMITS = "Limits"
_KNOBS = "Knobs (each editor's own: see `paintover editors`)"

Model = Annotated[str, typer.Option(help="builtin, a folder, or owner/name of the hub.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to save (.png, .webp, .jpg, .tiff).")]
Seed = Annotated[int, typer.Option(help="Of the noise: another seed, another variant.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps (default: what the model recommends).")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps ... (default: the fastest there is).")]
MaxPixels = Annotated[int | None, typer.Option(rich_help_panel=_LIMITS, help="Most pixels of a picture (default 100000000).")]
MaxBytes = Annotated[
    int | None, typer.Option(rich_help_panel=_LIMITS, help="Most bytes of a picture file (default 209715200).")
]
MaxFrames = Annotated[int | None, typer.Option(rich_help_panel=_LIMITS, help="Most frames of an animation (default 1000).")]


def with_knobs(*editors: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for each knob of the editors; the command receives those that were used as `knobs`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        told: dict[str, list[str]] = {}
        for editor in editors:
            for info in describe(registry.get(editor).Knobs):
                told.setdefault(info.name, []).append(
                    f"{editor}: {info.description}; {info.takes} (default {json.dumps(info.default)})"
                )
        flags = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None, typer.Option(rich_help_panel=_KNOBS, help="\n\n".join(lines), metavar="VALUE")
                ],
            )
            for name, lines in told.items()
        ]

        def run(**given: Any) -> None:
            knobs = {name: given.pop(name) for name in told}
            command(**given, knobs={name: value for name, value in knobs.items() if value is not None})

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "knobs"]
        run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


_EDITORS_OF_PICTURES = [name for name in registry.names() if registry.get(name).from_picture]


@app.command()
@with_knobs(*_EDITORS_OF_PICTURES)
def edit(
    *,
    picture: Annotated[str, typer.Argument(help="The picture's file.")],
    instruction: Annotated[str, typer.Argument(help='What should change, for example "make it look like dusk".')],
    out: Out = None,
    editor: Annotated[str, typer.Option(help=f"{', '.join(_EDITORS_OF_PICTURES)}.")] = registry.names()[0],
    model: Model = "builtin",
    mask: Annotated[str | None, typer.Option(help="A picture of the same size, white where the edit may go.")] = None,
    source_prompt: Annotated[str | None, typer.Option(help="What the picture shows (for editors that invert it).")] = None,
    seed: Seed = 0,
    steps: Steps = None,
    preserve: Annotated[bool, typer.Option(help="Keep untouched pixels bit for bit; or the model's raw output.")] = True,
    keep_location: Annotated[bool, typer.Option("--keep-location", help="Keep the GPS position in the file.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
    knobs: dict[str, str],
) -> None:
    """Edit a picture as the words say."""
    from paintover.editors.order import Order, request_for

    request = request_for(
        picture=picture,
        mask=mask,
        instruction=instruction,
        source_prompt=source_prompt,
        editor=editor,
        knobs=knobs,
        model=model,
        seed=seed,
        steps=steps,
        preserve=preserve,
    )
    limits = _limits(max_pixels, max_bytes, max_frames)
    target = out or _free(f"{Path(picture).stem}.edited.png")
    _serve(Order(request, out=target, force=force, keep_location=keep_location, limits=limits), device, as_json)


@app.command()
@with_knobs("imagine")
def imagine(
    *,
    prompt: Annotated[str, typer.Argument(help='What the picture should show, for example "a cow in a meadow".')],
    out: Out = None,
    model: Model = "builtin",
    seed: Seed = 0,
    steps: Steps = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    knobs: dict[str, str],
) -> None:
    """Make a picture from words alone."""
    from paintover.editors.order import Order, request_for

    request = request_for(instruction=prompt, editor="imagine", knobs=knobs, model=model, seed=seed, steps=steps)
    _serve(Order(request, out=out or _free("imagined.png"), force=force), device, as_json)


@app.command()
def editors(*, as_json: AsJson = False) -> None:
    """List the editors and their knobs."""
    cards = [registry.get(name).card() for name in registry.names()]
    if as_json:
        _print_json({"editors": cards})
        return
    from rich.table import Table

    for name in registry.names():
        editor = registry.get(name)
        table = Table(title=f"[bold]{name}[/bold]  {editor.summary}", title_justify="left", box=None, pad_edge=False)
        for column in ("flag", "takes", "default", "what it does"):
            table.add_column(column, no_wrap=column == "flag")
        for info in describe(editor.Knobs):
            table.add_row(info.flag, info.takes, json.dumps(info.default), info.description)
        _console().print(table)
        _console().print(f"[dim]{editor.paper}; needs a bundle that can '{editor.needs}'[/dim]\n")


@app.command()
def models(*, as_json: AsJson = False) -> None:
    """List the bundles that are known here."""
    from paintover.models.listing import list_bundles

    listings = list_bundles()
    if as_json:
        rows = [
            {"name": m.name, "where": m.where, "can": sorted(m.capabilities), "licence": m.licence, "summary": m.summary}
            for m in listings
        ]
        _print_json({"models": rows})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "where", "can", "licence", "summary"):
        table.add_column(column, overflow="fold")
    for m in listings:
        table.add_row(m.name, m.where, ", ".join(sorted(m.capabilities)), m.licence, m.summary)
    _console().print(table)
    print("Any folder in the diffusers layout works too: --model ./folder", file=sys.stderr)


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Report versions, devices, memory, the built-in model and the cache."""
    from paintover.doctor import examine

    report = examine()
    if as_json:
        _print_json(report)
        return
    for part, findings in report.items():
        print(f"{part}:")
        for name, value in findings.items():
            print(f"  {name}: {value}")


@app.command()
def redo(
    *,
    made: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture that paintover wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the repeated edit (default: only compare).")] = None,
    picture: Annotated[str | None, typer.Option(help="The source, where it is no longer where it was.")] = None,
    model: Annotated[str | None, typer.Option(help="The bundle, where it is no longer where it was.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    max_frames: MaxFrames = None,
) -> None:
    """Repeat the edit that made a picture, and compare."""
    from paintover.editors.redo import redo as again

    limits = _limits(max_pixels, max_bytes, max_frames)
    with _progress("repeating") as on_step:
        redone = again(made, picture=picture, model=model, out=out, force=force, limits=limits, device=device, on_step=on_step)
    if as_json:
        found = {"identical": redone.identical, "largest_difference": redone.largest_difference}
        same = {"same_source": redone.same_source, "same_model": redone.same_model}
        _print_json({**_described(redone.result), **found, **same})
        return
    if redone.identical:
        print("identical: every pixel is the same")
    elif redone.largest_difference is None:
        print("different: the sizes are not the same")
    else:
        print(f"different: by up to {redone.largest_difference} of 255 in a pixel")
    print(f"source: {'the same' if redone.same_source else 'differs from the one that was edited (sha256)'}")
    print(f"model: {'the same' if redone.same_model else 'differs from the one that edited it (fingerprint)'}")


@app.command()
def show(
    *,
    made: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture that paintover wrote.")],
    as_json: AsJson = False,
) -> None:
    """Show how a picture was made."""
    from paintover.picture.provenance import read

    found = read(made)
    if as_json:
        _print_json(found)
        return
    for part, words in found.items():
        if not isinstance(words, dict):
            continue
        print(f"{part}:")
        for name, value in words.items():
            if value not in (None, [], {}):
                print(f"  {name}: {value if isinstance(value, str) else json.dumps(value)}")


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
    from paintover.editors.batch import Line
    from paintover.editors.batch import batch as run

    def tell(line: Line) -> None:
        print(f"line {line.line}: {line.status} {line.error or line.out}", file=sys.stderr)

    limits = _limits(max_pixels, max_bytes, max_frames)
    report = run(jobs, out, together=together, force=force, limits=limits, device=device, on_line=tell)
    if as_json:
        _print_json({"done": report.done, "skipped": report.skipped, "failed": report.failed, "results": str(report.results)})
    else:
        print(f"{report.done} done, {report.skipped} skipped, {report.failed} failed: {report.results}")
    if report.failed:
        raise typer.Exit(1 if report.failed_by_us else 2)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: one line on stderr for whatever goes wrong, and the exit code that belongs to it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Before torch is loaded: threads that wait asleep, not spinning. On a busy machine an edit took 56 s spinning, 0.2 s so.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names that are not UTF-8 go out as they came in
    try:
        code = app(arguments, prog_name="paintover", standalone_mode=False)
    except PaintoverError as error:
        code = _complain(str(error), 2)
    except typer.TyperException as error:
        code = _complain(_usage(error, arguments), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if os.environ.get("PAINTOVER_DEBUG"):
            raise
        code = _complain(f"{type(error).__name__}: {error} (a fault of ours; PAINTOVER_DEBUG=1 shows where)", 1)
    if code == 130:
        _complain("interrupted; nothing was left half-written", 130)
    sys.exit(code or 0)


def _usage(error: typer.TyperException, arguments: list[str]) -> str:
    """A wrong command line in one line; an unknown flag of `edit` and `imagine` is answered with the editor's knobs."""
    option = getattr(error, "option_name", None)
    command = next((word for word in arguments if not word.startswith("-")), "")
    message = " ".join(error.format_message().split())
    if option is not None and command in ("edit", "imagine"):
        name = "imagine"
        if command == "edit":
            given = [b for a, b in zip(["", *arguments], [*arguments, ""], strict=True) if a == "--editor"]
            given += [word.partition("=")[2] for word in arguments if word.startswith("--editor=")]
            name = given[-1] if given else registry.names()[0]
        return f"there is no option {option}; {takes(name, registry.get(name).Knobs)}"
    return f"{message} (see paintover {command} --help)".replace("  ", " ")


def _complain(message: str, code: int) -> int:
    print("paintover: " + " ".join(message.split()), file=sys.stderr)
    return code


def _serve(order: Order, device: str | None, as_json: bool) -> None:
    from dataclasses import replace

    from paintover.editors.run import edit_one

    with _progress("editing" if order.request.picture else "imagining") as on_step:
        result = edit_one(replace(order, on_step=on_step), device=device)
    for warning in result.record["warnings"]:
        print(f"paintover: note: {warning}", file=sys.stderr)
    if as_json:
        _print_json(_described(result))
    else:
        print(result.path)


def _described(result: EditResult) -> dict[str, Any]:
    height, width = result.rgb_HWC.shape[:2]
    request: EditRequest = result.request
    out = str(result.path) if result.path is not None else None
    return {"out": out, "width": width, "height": height, "request": request.model_dump(mode="json"), "record": result.record}


def _free(name: str) -> Path:
    """A file name in the current folder that is not taken: photo.edited.png, photo.edited-2.png, ..."""
    stem, suffix = os.path.splitext(name)
    numbered = (Path(name) if n == 1 else Path(f"{stem}-{n}{suffix}") for n in range(1, 10_000))
    free = next((path for path in numbered if not os.path.lexists(path)), None)
    if free is None:
        raise RequestError(f"{name} and its numbered names are all taken; name the output with -o")
    return free


def _limits(pixels: int | None, size: int | None, frames: int | None) -> Limits:
    from paintover.picture.limits import Limits

    given = {"max_pixels": pixels, "max_bytes": size, "max_frames": frames}
    for name, value in given.items():
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
    return Limits(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def _progress(what: str) -> Iterator[Callable[[Any], None] | None]:
    """A bar on stderr where that is a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda report: bar.update(task, total=report.total, completed=report.i + 1)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _console() -> Any:
    from rich.console import Console

    return Console()
