"""`paintover evaluate ...`: how well a model edits, where the truth is known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from paintover.cli.shared import (
    EDITORS_OF_PICTURES,
    AsJson,
    Device,
    Force,
    Model,
    Photos,
    Recordings,
    Seed,
    Sides,
    Steps,
    World,
    app,
    counted,
    print_json,
    with_knobs,
)
from paintover.errors import RequestError

group = typer.Typer(no_args_is_help=True, help="Measure how well a model edits, where the truth is known.")
app.add_typer(group, name="evaluate")


@group.command()
@with_knobs(*EDITORS_OF_PICTURES)
def scenes(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report: report.json, index.html, sheet.png.")],
    count: Annotated[int, typer.Option(min=1, help="How many edits.")] = 300,
    model: Model = "builtin",
    editor: Annotated[str, typer.Option(help=f"{', '.join(EDITORS_OF_PICTURES)}.")] = EDITORS_OF_PICTURES[0],
    steps: Steps = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side (default: the model's own).")] = None,
    sides: Sides = None,
    seed: Seed = 1,
    world: World = Path("world"),
    photos: Photos = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
    knobs: dict[str, str],
) -> None:
    """Edit held-out scenes of the built-in world and compare with the true targets.

    Beside doing nothing and the codec alone, for each kind of edit. Run it again to go on after an interruption.
    """
    from rich.console import Console

    from paintover.evaluation import report
    from paintover.evaluation.scenes import run
    from paintover.scenes.edits import SIDES

    with counted("evaluating") as progress:
        outcomes, found = run(
            world,
            photos,
            model=model,
            editor=editor,
            count=count,
            size=size,
            sides=sides or SIDES,
            seed=seed,
            steps=steps,
            knobs=knobs,
            out=out,
            force=force,
            device=device,
            progress=progress,
        )
    page = report.write(out, outcomes, found)
    if as_json:
        print_json({**found, "page": str(page)})
        return
    wide = Console()
    Console(width=max(wide.width, report.WIDTH)).print(report.table(found))
    print(page)


@group.command()
def editors(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for the report: report.json, table.md, index.html, sheet.jpg.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many scenes; 16 are a full round.")] = 16,
    editors: Annotated[
        str | None,
        typer.Option(
            help="Which, as a,b,c (default: all that need no tuning, and published forms such as mdp-noise+null-text)."
        ),
    ] = None,
    model: Model = "builtin",
    steps: Steps = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side (default: the model's own).")] = None,
    seed: Seed = 1,
    world: World = Path("world"),
    photos: Photos = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Edit the same held-out scenes with every editor, told captions, and compare: errors, costs, wall time.

    Each editor runs with the knobs that the model recommends. Run it again to go on after an interruption.
    """
    from paintover.evaluation import comparison
    from paintover.evaluation.editors import run

    names = _names(editors)
    with counted("evaluating") as progress:
        outcomes, found = run(
            world,
            photos,
            model=model,
            names=names,
            count=count,
            size=size,
            seed=seed,
            steps=steps,
            out=out,
            force=force,
            device=device,
            progress=progress,
        )
    page = comparison.write(out, outcomes, found)
    if as_json:
        print_json({**found, "page": str(page)})
        return
    _print(comparison.tables(comparison.listings(found)))
    for finding in found["claim"]:
        print("\n".join(finding["says"]))
    for line in comparison.failed(found):
        print(line)
    print(page)


@group.command()
def inversion(
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write the findings as JSON.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many held-out scenes.")] = 20,
    inversions: Annotated[str | None, typer.Option(help="Names with commas between (default: all).")] = None,
    guidance: Annotated[float, typer.Option(min=-50, max=50, help="Of the walks back.")] = 7.5,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    inner: Annotated[int, typer.Option(min=1, help="null-text: most optimiser steps at each step.")] = 10,
    iterations: Annotated[int, typer.Option(min=1, help="fixed-point: most corrections of each step.")] = 5,
    model: Model = "builtin",
    seed: Seed = 1,
    world: World = Path("world"),
    photos: Photos = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Invert held-out scenes by every inversion, walk back, and compare: PSNR, evaluations, seconds."""
    from paintover.evaluation import inversion as evaluation
    from paintover.path.inversion import INVERSIONS

    names = _names(inversions) or list(INVERSIONS)
    for name in names:
        if name not in INVERSIONS:
            raise RequestError(f"there is no inversion {name!r}; choose of {', '.join(INVERSIONS)}")
    if out is not None and out.exists() and not force:
        raise RequestError(f"{out} exists; choose another name, or --force")
    with counted("inverting") as progress:
        found = evaluation.run(
            world,
            photos,
            model=model,
            inversions=names,
            count=count,
            guidance=guidance,
            steps=steps,
            inner=inner,
            iterations=iterations,
            seed=seed,
            device=device,
            progress=progress,
        )
    if out is not None:
        evaluation.write(out, found)
    if as_json:
        print_json(found)
    else:
        print(evaluation.table(found))


@group.command()
def tuning(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report: report.json, table.md, curves.jpg.")],
    count: Annotated[int, typer.Option(min=2, help="How many scenes; each method is tuned on every one.")] = 8,
    methods: Annotated[str | None, typer.Option(help="Which, as a,b,c (default: all of unitune and its rivals).")] = None,
    values: Annotated[int | None, typer.Option(min=2, help="Settings of each dial (default: all 5).")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the scenes, and the cores.")] = 1,
    model: Model = "builtin",
    steps: Steps = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side (default: the model's own).")] = None,
    seed: Seed = 1,
    world: World = Path("world"),
    photos: Photos = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Tune on held-out scenes by each method, turn its dial from the picture to the words, and compare the curves.

    Fidelity (what the true edit leaves alone) against expressiveness (how near the rest comes to the true target). Run it
    again to go on after an interruption.
    """
    from paintover.evaluation import comparison, tuning_page
    from paintover.evaluation.tuning import run

    names = _names(methods)
    with counted("tuning and editing") as progress:
        outcomes, found = run(
            world,
            photos,
            out=out,
            model=model,
            names=names,
            values=values,
            count=count,
            size=size,
            seed=seed,
            steps=steps,
            force=force,
            device=device,
            jobs=jobs,
            progress=progress,
        )
    picture = tuning_page.write(out, outcomes, found)
    if as_json:
        print_json({**found, "picture": str(picture)})
        return
    _print(comparison.tables(tuning_page.listings(found)))
    for line in [*(claim["says"] for claim in found["claims"]), *tuning_page.failed(found)]:
        print(line)
    print(picture)


@group.command()
def mgie(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report: report.json, table.md, sheet.jpg.")],
    count: Annotated[int, typer.Option(min=2, help="How many cases; every kind in turn.")] = 160,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the noise, each for all cases.")] = 5,
    columns: Annotated[
        str | None, typer.Option(help="Which, as a,b,c (default: instruct, lgie, mgie, their variants, an oracle).")
    ] = None,
    ablation: Annotated[
        list[str] | None, typer.Option(metavar="NAME=BUNDLE", help="Another bundle, edited by mgie. Can be repeated.")
    ] = None,
    model: Model = "builtin",
    steps: Steps = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side (default: the model's own).")] = None,
    seed: Annotated[int, typer.Option(help="Of the cases.")] = 3,
    world: World = Path("world"),
    photos: Photos = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Edit held-out ambiguous instructions by mgie, its baselines and its variants, and compare with the exact answers.

    Pictures against the goal, and what the expressive instructions name. Run it again to go on after an interruption.
    """
    from paintover.evaluation import comparison, mgie_page
    from paintover.evaluation.mgie import run

    with counted("evaluating") as progress:
        cases, made, found = run(
            world,
            photos,
            out=out,
            model=model,
            names=_names(columns),
            others=ablation or (),
            count=count,
            seeds=seeds,
            size=size,
            seed=seed,
            steps=steps,
            force=force,
            device=device,
            progress=progress,
        )
    sheet = mgie_page.write(out, cases, made, found)
    if as_json:
        print_json({**found, "sheet": str(sheet)})
        return
    _print(comparison.tables(mgie_page.listings(found)))
    print(sheet)


@group.command()
def sentinel(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report: report.json and the pictures.")],
    candidates: Annotated[int, typer.Option(min=2, max=64, help="How many seeds of each case.")] = 8,
    scorer: Annotated[str | None, typer.Option(help="Who judges (default: the model's own encoder).")] = None,
    weights: Annotated[str, typer.Option(help="Weights of preservation to choose under, with commas between.")] = "0,0.3,1,3",
    count: Annotated[int, typer.Option(min=2, help="How many cases; 24 are a full round.")] = 96,
    model: Model = "builtin",
    editor: Annotated[str, typer.Option(help=f"{', '.join(EDITORS_OF_PICTURES)}.")] = EDITORS_OF_PICTURES[0],
    steps: Steps = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side (default: the model's own).")] = None,
    seed: Seed = 1,
    world: World = Path("world"),
    photos: Photos = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Edit held-out scenes with several candidates, and compare whom the score chooses with the first seed and the truth.

    Run it again to go on after an interruption.
    """
    from paintover.evaluation import comparison
    from paintover.evaluation import sentinel as evaluation

    with counted("evaluating") as progress:
        found = evaluation.run(
            world,
            photos,
            out=out,
            model=model,
            editor=editor,
            scorer=scorer,
            candidates=candidates,
            weights=_numbers(weights),
            count=count,
            size=size,
            seed=seed,
            steps=steps,
            force=force,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(found)
        return
    _print(comparison.tables(evaluation.listings(found)))
    print(out / "report.json")


@group.command()
def retrieval(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report: report.json, table.md.")],
    count: Annotated[int, typer.Option(min=1, help="How many pictures of each thing.")] = 8,
    scenes: Annotated[int, typer.Option(min=2, help="How many whole pictures, for their captions.")] = 100,
    model: Model = "builtin",
    seed: Seed = 1,
    world: World = Path("world"),
    photos: Photos = None,
    recordings: Recordings = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Do held-out pictures, sounds and words of one thing find each other in the model's media encoder?

    Recall at 1 and 5 in every direction, against chance.
    """
    from paintover.evaluation import comparison
    from paintover.evaluation import retrieval as evaluation

    found = evaluation.run(
        world, photos, recordings, out=out, model=model, count=count, scenes=scenes, seed=seed, force=force, device=device
    )
    if as_json:
        print_json(found)
        return
    _print(comparison.tables([evaluation.listing(found)]))
    print(out / "report.json")


@group.command()
def any2pix(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report: report.json, table.md, sheet.jpg.")],
    count: Annotated[int, typer.Option(min=1, help="How many cases in the largest groups; every kind in turn.")] = 20,
    groups: Annotated[
        str | None, typer.Option(help="Which, as a,b,c: ways, two, refinement, control, whole (default: all).")
    ] = None,
    model: Model = "builtin",
    steps: Steps = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side (default: the model's own).")] = None,
    seed: Annotated[int, typer.Option(help="Of the cases.")] = 5,
    world: World = Path("world"),
    photos: Photos = None,
    recordings: Recordings = None,
    force: Force = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Edit held-out scenes as instructions with pictures and sounds say, and compare with the exact answers.

    Told by words, pictures and sounds; two operations at once; refinement; alpha and guidance; styles and pictures made. Run it
    again to go on after an interruption.
    """
    from paintover.evaluation import any2pix_page, comparison
    from paintover.evaluation.any2pix import run

    with counted("evaluating") as progress:
        made, found = run(
            world,
            photos,
            recordings,
            out=out,
            model=model,
            groups=_names(groups),
            count=count,
            size=size,
            seed=seed,
            steps=steps,
            force=force,
            device=device,
            progress=progress,
        )
    sheet = any2pix_page.write(out, made, found)
    if as_json:
        print_json({**found, "sheet": str(sheet)})
        return
    _print(comparison.tables(any2pix_page.listings(found)))
    print(sheet)


def _numbers(listed: str) -> list[float]:
    try:
        return [float(number) for number in listed.split(",")]
    except ValueError:
        raise RequestError(f"weights is {listed!r}; expected numbers with commas between, such as 0,1") from None


def _names(listed: str | None) -> list[str] | None:
    """Of "a, b,c"; None where nothing is listed."""
    return [name.strip() for name in listed.split(",")] if listed else None


def _print(tables: Iterable[Any]) -> None:
    """As wide as they need, where the terminal is narrower: it breaks lines better than cells are broken."""
    from rich.console import Console

    from paintover.evaluation.comparison import WIDTH

    wide = Console(width=max(Console().width, WIDTH))
    for table in tables:
        wide.print(table)
