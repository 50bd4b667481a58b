"""The commands that tell what there is: editors, doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paintover.cli.shared import AsJson, app, console, print_json
from paintover.editors import registry
from paintover.editors.editor import Editor
from paintover.editors.knobs import KnobInfo, describe


@app.command()
def editors(
    *,
    name: Annotated[str | None, typer.Argument(help="Show this editor, with its knobs.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Whose recommended values to show: builtin, or a model that is here.")] = "builtin",
    as_json: AsJson = False,
) -> None:
    """List the editors; or show one, and its knobs."""
    from paintover.models.listing import recommended

    shown = [registry.get(one) for one in ([name] if name is not None else registry.names())]
    advice = recommended(model)
    if as_json:
        told = [{**editor.card(), "told": editor.told, "recommended": dict(advice.get(editor.name, {}))} for editor in shown]
        print_json({"model": model, "editors": told})
    elif name is not None:
        _show(shown[0], model, advice.get(name, {}))
    else:
        table = _table("editor", "told", "what for")
        for editor in shown:
            table.add_row(editor.name, f"{'an' if editor.told[0] in 'aeiou' else 'a'} {editor.told}", editor.summary)
        console().print(table, markup=False)
        print("One of them, with its knobs: paintover editors NAME", file=sys.stderr)


def _show(editor: Editor[Any], model: str, advice: Mapping[str, Any]) -> None:
    """One editor's knobs, with the declared defaults and, where there are others, those that the model recommends."""
    from rich.markup import escape

    from paintover.models.description import NETWORKS

    steps = KnobInfo("steps", "a whole number 1 to 1000", editor.steps, "denoising steps")
    infos = [steps, *describe(editor.Knobs)]
    others = {info.name: advice[info.name] for info in infos if advice.get(info.name, info.default) != info.default}
    table = _table("flag", "takes", "default", *([f"with {model}"] if others else []), "what it does")
    for info in infos:
        other = [json.dumps(others[info.name]) if info.name in others else ""] if others else []
        table.add_row(info.flag, info.takes, json.dumps(info.default), *other, info.description)
    can = [word for word in editor.needs if word not in NETWORKS]
    kinds = [NETWORKS[word] for word in editor.needs if word in NETWORKS]
    needs = " and ".join([*(f"can {word}" for word in can), *(f"is {kind}" for kind in kinds)])
    console().print(f"[bold]{editor.name}[/bold]  {escape(editor.summary)}\n")
    console().print(table, markup=False)
    console().print(f"\n[dim]{escape(editor.paper)}; needs a bundle that {needs}[/dim]")


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for n, column in enumerate(columns):
        table.add_column(column, no_wrap=n == 0)
    return table


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Report versions, devices, memory, the built-in model and the cache."""
    from paintover.doctor import examine

    report = examine()
    if as_json:
        print_json(report)
        return
    for part, findings in report.items():
        print(f"{part}:")
        for name, value in findings.items():
            print(f"  {name}: {value}")
