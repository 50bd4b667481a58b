"""The bench of MGIE's comparison: the same cases, edited by one column after another, each edit kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paintover.editors import registry
from paintover.engine.cache import PrepareCache
from paintover.evaluation.ambiguous import MEASURES, Eye, Held
from paintover.evaluation.compare import Picture
from paintover.evaluation.kept import Kept
from paintover.evaluation.mgie_columns import Column
from paintover.evaluation.paired import Values
from paintover.models.bundle import load
from paintover.orders.order import Order, check, request_for, resolve
from paintover.orders.run import edit_many
from paintover.request import EditResult

TOGETHER = 8  # edits that share denoiser calls, and instructions that the language model answers at once


@dataclass(eq=False)
class Made:
    """What a column came to: values_NS by measure, the expressive instruction of each case, and the first seed's pictures."""

    values: dict[str, Values]
    texts: list[str]
    pictures: list[Picture]
    settings: dict[str, Any]


@dataclass(eq=False, kw_only=True)
class Bench:
    """The cases and the settings that all columns share."""

    cases: list[Held]
    seeds: int
    out: Path
    about: dict[str, Any]
    eye: Eye | None
    steps: int | None
    force: bool
    device: str | None
    on_edits: Callable[[int], None]  # told how many edits more there are
    # In memory: what the language model said of a picture serves all seeds, and all columns that ask it alike.
    cache: PrepareCache = field(default_factory=lambda: PrepareCache(max_bytes=0))

    def nothing(self) -> Made:
        values = self.blank(1)
        for first in range(0, len(self.cases), TOGETHER):
            here = self.cases[first : first + TOGETHER]
            self.fill(values, 0, here, [one.source for one in here])
        return Made(values, [""] * len(self.cases), [one.source for one in self.cases], {"editor": None})

    def column(self, column: Column) -> Made:
        """Every case under every seed: batches of cases, and each batch under all seeds before the next."""
        model = column.model or str(self.about["model"])
        settings = self.settings(column)
        about = self.about | settings
        folder = self.out / "columns" / column.name
        kept = [Kept(folder / f"seed {s}", about | {"noise": s}, self.force) for s in range(self.seeds)]
        values, texts, shown = self.blank(self.seeds), [""] * len(self.cases), list[Picture]()
        for first in range(0, len(self.cases), TOGETHER):
            here = self.cases[first : first + TOGETHER]
            for s in range(self.seeds):
                made = self.edits(column, model, kept[s], here, s)
                self.fill(values, s, here, [pixels for pixels, _ in made])
                if s == 0:
                    shown += [pixels for pixels, _ in made]
                    texts[first : first + len(here)] = [str(record.get("expressive") or "") for _, record in made]
                self.on_edits(len(here))
        return Made(values, texts, shown, settings)

    def settings(self, column: Column) -> dict[str, Any]:
        """What the column's edits are made with, as plain JSON. Raises PaintoverError where that cannot be."""
        model = column.model or str(self.about["model"])
        bundle = load(model, device=self.device)
        bundle.require(*registry.get(column.editor).needs, editor=column.editor)
        request, _ = resolve(check(self.order(column, model, self.cases[0], 0)), bundle)
        return {
            "editor": column.editor, "knobs": request.knobs, "steps": request.steps, "model": model,
            "fingerprint": bundle.fingerprint, "meant": column.meant,
        }  # fmt: skip

    def edits(self, column: Column, model: str, kept: Kept, here: list[Held], s: int) -> list[tuple[Picture, dict[str, Any]]]:
        """Picture and record of each case: as they are kept, or made now and kept."""
        found = {one.n: kept.get(one.n) for one in here}
        missing = [one for one in here if found[one.n] is None]
        orders = [self.order(column, model, one, s) for one in missing]
        for one, result in zip(
            missing, edit_many(orders, together=TOGETHER, cache=self.cache, device=self.device), strict=True
        ):
            if not isinstance(result, EditResult):
                raise result
            kept.put(one.n, result)
            found[one.n] = (result.rgb_HWC, result.record)
        return [known for known in found.values() if known is not None]

    def order(self, column: Column, model: str, one: Held, s: int) -> Order:
        """Each case has noise of its own, the same in every column."""
        words, noise = one.case.meant if column.meant else one.case.instruction, s * 1_000_000 + one.n
        request = request_for(
            instruction=words, editor=column.editor, model=model, seed=noise, steps=self.steps, knobs=column.knobs
        )
        return Order(request, picture=one.source)

    def blank(self, seeds: int) -> dict[str, Values]:
        return {name: np.full((len(self.cases), seeds), np.nan) for name in MEASURES}

    def fill(self, values: dict[str, Values], s: int, here: list[Held], made: Sequence[Picture]) -> None:
        for one, picture in zip(here, made, strict=True):
            for name, value in one.measure(picture).items():
                values[name][one.n, s] = value
        if self.eye is not None:
            rows = [one.n for one in here]
            values["similarity"][rows, s] = self.eye.alike(made, [one.target for one in here])
