"""What the commands share: the app, options, an editor's knobs as flags, progress and printing."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from paintover.editors import registry
from paintover.editors.knobs import describe
from paintover.errors import RequestError

if TYPE_CHECKING:
    from paintover.picture.limits import Limits

app = typer.Typer(
    help="Edit a picture by saying what should change.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

LIMITS_PANEL = "Limits"
CANDIDATES_PANEL = "Candidates (several seeds, of which the best is taken)"
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
KNOBS_PANEL = "Knobs (each editor's own: see `paintover editors NAME`)"

Model = Annotated[str, typer.Option(help="builtin, a folder, or owner/name of the hub.")]
ModelOrTuned = Annotated[
    str | None, typer.Option(help="builtin, a folder, or owner/name of the hub (default: builtin, or what was tuned).")
]
TunedName = Annotated[
    str | None, typer.Option("--tuned", metavar="NAME", help="A tuning that `paintover tune` made, or a folder of one.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to save (.png, .webp, .jpg, .tiff).")]
Seed = Annotated[int, typer.Option(help="Of the noise: another seed, another variant.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps (default: what the model recommends).")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps ... (default: the fastest there is).")]
MaxPixels = Annotated[
    int | None, typer.Option(rich_help_panel=LIMITS_PANEL, help="Most pixels of a picture (default 100000000).")
]
MaxBytes = Annotated[
    int | None, typer.Option(rich_help_panel=LIMITS_PANEL, help="Most bytes of a picture file (default 209715200).")
]
MaxFrames = Annotated[
    int | None, typer.Option(rich_help_panel=LIMITS_PANEL, help="Most frames of an animation (default 1000).")
]
Candidates = Annotated[
    int | None, typer.Option(rich_help_panel=CANDIDATES_PANEL, help="How many seeds are tried, from --seed on (1 to 64).")
]
MinScore = Annotated[
    float | None,
    typer.Option(rich_help_panel=CANDIDATES_PANEL, help="Write nothing if the best scores less (0: as much as doing nothing)."),
]
ScorerName = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        metavar="NAME",
        rich_help_panel=CANDIDATES_PANEL,
        help="Who judges: builtin, or a CLIP's folder or owner/name of the hub (default: the model's own encoder).",
    ),
]
PreservationWeight = Annotated[
    float | None,
    typer.Option(rich_help_panel=CANDIDATES_PANEL, help="Of the damage outside of the edit, against the words (default 1)."),
]
KeepCandidates = Annotated[
    bool,
    typer.Option("--keep-candidates", rich_help_panel=CANDIDATES_PANEL, help="Save all of them: OUT.candidate-1.png, ..."),
]
World = Annotated[Path, typer.Option(envvar="PAINTOVER_WORLD", help="The built-in world, from `train fetch-world`.")]
Photos = Annotated[
    Path | None, typer.Option(envvar="PAINTOVER_PHOTOS", help="Photographs to use too: a folder with a sub-folder a subject.")
]
Recordings = Annotated[
    Path | None,
    typer.Option(envvar="PAINTOVER_RECORDINGS", help="Recordings to use too: a folder with a sub-folder a class (ESC-10)."),
]
Sides = Annotated[
    tuple[float, float] | None,
    typer.Option(
        min=0.01, max=1, metavar="FROM TO", help="Longer side of the things, in frames (default: as the world has it)."
    ),
]

Refs = Annotated[
    list[str] | None,
    typer.Option(
        "--ref",
        metavar="NAME=FILE",
        help="A picture or sound that the words speak of: audio1=moo.ogg for [audio1]. Repeatable.",
    ),
]

EDITORS_OF_PICTURES = [name for name in registry.names() if registry.get(name).picture != "never"]
EDITORS_OF_WORDS = [name for name in registry.names() if registry.get(name).picture in ("never", "optional")]
EDITORS_OF_MADE = [name for name in registry.names() if registry.get(name).picture == "either"]


def with_knobs(*editors: str, of: str = "Knobs") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for each knob of the editors (each's model `of`); the command receives those that were used as
    `knobs`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        told = _told_of(editors, of)
        flags = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, typer.Option(rich_help_panel=KNOBS_PANEL, help=text, metavar="VALUE")],
            )
            for name, text in told.items()
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


def _told_of(editors: tuple[str, ...], of: str) -> dict[str, str]:
    """Each knob of the editors, and what it is: said once for all that take it alike, with their names where not all do."""
    takers: dict[str, dict[tuple[str, str], dict[str, list[str]]]] = {}  # by knob, what it is, and default
    for editor in editors:
        for info in describe(getattr(registry.get(editor), of)):
            alike = takers.setdefault(info.name, {}).setdefault((info.description, info.takes), {})
            alike.setdefault(json.dumps(info.default), []).append(editor)
    return {
        knob: "\n\n".join(_line(about, defaults, editors) for about, defaults in alike.items())
        for knob, alike in takers.items()
    }


def _line(about: tuple[str, str], defaults: dict[str, list[str]], editors: tuple[str, ...]) -> str:
    usual, *others = sorted(defaults, key=lambda default: -len(defaults[default]))
    all_who = [name for name in editors if any(name in names for names in defaults.values())]
    told = [usual, *(f"{', '.join(defaults[default])}: {default}" for default in others)]
    return f"{_named(all_who, editors)}{'; '.join(about)} (default {'; '.join(told)})"


def _named(names: list[str], editors: tuple[str, ...]) -> str:
    """Who, as a head of a line, in as few words as that takes: nobody for all, "all but ...", or "mdp-*" for a family."""
    others = [name for name in editors if name not in names]
    if not others:
        return ""
    few = others if 2 * len(others) < len(names) else names
    heads: list[str] = []
    for name in few:
        family = [other for other in editors if "-" in name and other.startswith(name.partition("-")[0] + "-")]
        head = f"{name.partition('-')[0]}-*" if len(family) > 1 and set(family) <= set(few) else name
        if head not in heads:
            heads.append(head)
    return f"{'all but ' if few is others else ''}{', '.join(heads)}: "


def refs_of(texts: list[str] | None) -> dict[str, str]:
    """--ref NAME=FILE as files by name. Raises RequestError for what is none, and for a name that is given for two files."""
    from paintover.references import by_name, read

    return {name: str(reference.path) for name, reference in by_name(read(texts or ())).items()}


def limits_of(pixels: int | None, size: int | None, frames: int | None) -> Limits:
    from paintover.picture.limits import Limits

    given = {"max_pixels": pixels, "max_bytes": size, "max_frames": frames}
    for name, value in given.items():
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
    return Limits(**{name: value for name, value in given.items() if value is not None})


def plain(text: str) -> str:
    """Without control characters: what a file says must not steer the terminal."""
    return text.translate(_CONTROLS)


def tell(message: str) -> None:
    """One line on stderr."""
    print(plain(" ".join(message.split())), file=sys.stderr)


def understood(*records: dict[str, Any] | None) -> None:
    """Tells what a language model took the instruction to mean, once for all edits that it took alike."""
    said = [str(record["expressive"]) for record in records if record and record.get("expressive")]
    for text in dict.fromkeys(said):
        tell(f"understood: {text}")


class MissingParameter(typer.BadParameter):
    """An argument that is lacking where it may be left out otherwise."""

    def format_message(self) -> str:
        return self.message


class Interrupted(Exception):
    """Ctrl-C, where there is more to say than that nothing is half-written: what becomes of what was done."""


class Counted(NamedTuple):
    """Step i of `total`, as a path's report says it."""

    i: int
    total: int


@contextmanager
def progress(what: str) -> Iterator[Callable[[Any], None] | None]:
    """A bar on stderr where that is a terminal, anew for each stage; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task, stage = bar.add_task(what, total=None), ""

        def tell(report: Any) -> None:
            nonlocal stage
            if getattr(report, "what", "") != stage:  # with a clock of its own: its steps take another time
                stage = report.what
                bar.reset(task, description=stage or what)
            bar.update(task, total=report.total, completed=report.i + 1)

        yield tell


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Likewise, for a callback that is told how many of how many are done."""
    with progress(what) as tell:
        yield (lambda done, count: tell(Counted(done - 1, count))) if tell else None


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def console() -> Any:
    from rich.console import Console

    return Console()
