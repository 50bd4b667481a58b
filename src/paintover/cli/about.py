"""The commands that tell what there is: editors, models, doctor."""

from __future__ import annotations

import json
import sys

from paintover.cli.shared import AsJson, app, console, print_json
from paintover.editors import registry
from paintover.editors.knobs import describe


@app.command()
def editors(*, as_json: AsJson = False) -> None:
    """List the editors and their knobs."""
    cards = [registry.get(name).card() for name in registry.names()]
    if as_json:
        print_json({"editors": cards})
        return
    from rich.table import Table

    from paintover.models.description import NETWORKS

    for name in registry.names():
        editor = registry.get(name)
        table = Table(title=f"[bold]{name}[/bold]  {editor.summary}", title_justify="left", box=None, pad_edge=False)
        for column in ("flag", "takes", "default", "what it does"):
            table.add_column(column, no_wrap=column == "flag")
        for info in describe(editor.Knobs):
            table.add_row(info.flag, info.takes, json.dumps(info.default), info.description)
        console().print(table)
        can = [word for word in editor.needs if word not in NETWORKS]
        kinds = [NETWORKS[word] for word in editor.needs if word in NETWORKS]
        needs = " and ".join([*(f"can {word}" for word in can), *(f"is {kind}" for kind in kinds)])
        console().print(f"[dim]{editor.paper}; needs a bundle that {needs}[/dim]\n")


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
        print_json({"models": rows})
        return
    for m in listings:  # no table: names are long, and to be copied
        print(f"{m.name}\n    {m.where}; can {', '.join(sorted(m.capabilities))}; licence {m.licence or 'not stated'}")
        if m.summary:
            print(f"    {m.summary}")
    print("Any folder in the diffusers layout works too: --model ./folder", file=sys.stderr)


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
