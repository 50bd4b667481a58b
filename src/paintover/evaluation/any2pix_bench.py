"""The bench of any2pix's comparison: the cases of a group, edited by one column after another, each edit kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paintover.engine.cache import PrepareCache
from paintover.errors import ModelError
from paintover.evaluation.any2pix_cases import Held
from paintover.evaluation.any2pix_columns import Column
from paintover.evaluation.compare import Picture, as_uint8
from paintover.evaluation.kept import Kept
from paintover.evaluation.paired import Values
from paintover.models.bundle import Bundle
from paintover.models.media import MediaEncoder
from paintover.orders.order import Order, check, request_for, resolve
from paintover.orders.run import edit_many
from paintover.references import mentions
from paintover.request import EditResult, Reference
from paintover.scenes.referring import Medium, Referring, Shown
from paintover.scenes.sounds import RATE

MEASURES = ("l1", "l1_inside", "l1_outside", "l2_inside", "clip_im", "clip_out", "clip_dir")
UNDERSTOOD = ("caption", "base", "subs", "forced")
TOGETHER = 8  # edits that share denoiser calls


@dataclass(eq=False)
class Made:
    """What a column came to: values_N1 by measure, what was understood (by UNDERSTOOD), pictures and captions."""

    values: dict[str, Values]
    understood: dict[str, Values]
    pictures: list[Picture]
    captions: list[str]
    settings: dict[str, Any]


@dataclass(eq=False, kw_only=True)
class Bench:
    """What all columns share."""

    bundle: Bundle
    model: str
    out: Path
    about: dict[str, Any]
    steps: int | None
    size: int
    force: bool
    device: str | None
    on_edits: Callable[[int], None]
    # In memory: the inversion of a picture serves all columns that invert it alike.
    cache: PrepareCache = field(default_factory=lambda: PrepareCache(max_bytes=0))

    def nothing(self, cases: Sequence[Held]) -> Made:
        """The source itself; grey where there is none."""
        pictures = [np.full_like(one.target, 128) if one.source is None else one.source for one in cases]
        return Made(self.measured(cases, pictures), {}, pictures, [""] * len(cases), {"editor": None})

    def column(self, group: str, column: Column, cases: Sequence[Held]) -> Made:
        settings = self.settings(column, cases[0])
        kept = Kept(self.out / "columns" / group / column.name, self.about | settings, self.force)
        found = {one.n: kept.get(one.n) for one in cases}
        self.on_edits(sum(known is not None for known in found.values()))
        missing = [one for one in cases if found[one.n] is None]
        before: dict[int, Picture | None] = {one.n: one.source for one in missing}
        for number in range(2 if column.apart else 1):
            orders = [self.order(column, one, number, before[one.n]) for one in missing]
            results = edit_many(orders, together=TOGETHER, cache=self.cache, device=self.device)
            for one, result in zip(missing, results, strict=True):
                if not isinstance(result, EditResult):
                    raise result
                before[one.n] = result.rgb_HWC
                if number == int(column.apart):
                    kept.put(one.n, result)
                    found[one.n] = (result.rgb_HWC, result.record)
                    self.on_edits(1)
        known = [one for one in found.values() if one is not None]
        pictures, records = [pixels for pixels, _ in known], [record for _, record in known]
        told = {} if column.apart or column.editor != "any2pix" else understood(cases, column, records)
        return Made(
            self.measured(cases, pictures), told, pictures, [str(record.get("caption") or "") for record in records], settings
        )

    def settings(self, column: Column, one: Held) -> dict[str, Any]:
        """What the column's edits are made with, as plain JSON. Raises PaintoverError where that cannot be."""
        request, _ = resolve(check(self.order(column, one, 0, one.source)), self.bundle)
        return {"editor": request.editor, "knobs": request.knobs, "steps": request.steps, "told": column.told}

    def order(self, column: Column, one: Held, number: int, picture: Picture | None) -> Order:
        """Each case has noise of its own, the same in every column. number: of the operation, where they are told apart."""
        told, apart = one.told[column.told], column.apart
        editor = column.editor if column.editor != "words" else "imagine" if picture is None else "instruct"
        steps = self.steps
        if column.editor != "any2pix":
            instruction = told.parts[number] if apart else told.words
            request = request_for(
                instruction=instruction, editor=editor, model=self.model, seed=one.n, steps=steps, knobs=column.knobs
            )
            return Order(request, picture=picture)
        instruction = told.said[number] if apart else told.instruction
        references = self.references(told, instruction, picture)
        request = request_for(
            instruction=instruction, editor=editor, model=self.model, seed=one.n, steps=steps, knobs=column.knobs,
            references=tuple(Reference(name=name) for name in references),
        )  # fmt: skip
        return Order(request, picture=picture, references=references)

    def references(self, told: Referring, instruction: str, picture: Picture | None) -> dict[str, Any]:
        """What the instruction speaks of; the base is the picture as it is by now."""
        spoken = {mention.name for mention in mentions(instruction, tuple(told.media))}
        return {
            name: picture if name == told.base else self.opened(medium)
            for name, medium in told.media.items()
            if name in spoken or name == told.base
        }

    def opened(self, medium: Medium) -> Any:
        return as_uint8(medium.scene.render(self.size)) if isinstance(medium, Shown) else (medium.wave, RATE)

    def measured(self, cases: Sequence[Held], pictures: Sequence[Picture]) -> dict[str, Values]:
        rows = [one.measure(picture) for one, picture in zip(cases, pictures, strict=True)]
        values = {name: np.array([[row[name]] for row in rows]) for name in rows[0]}
        return values | clip(self.bundle.encoder(), cases, pictures)


def understood(cases: Sequence[Held], column: Column, records: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    """Of each case 1 or 0: the caption is what is meant, word for word; the base, and the references of what must appear, are
    the right ones; control tokens had to be put in."""
    rows = []
    for one, record in zip(cases, records, strict=True):
        told = one.told[column.told]
        shown = Counter(sub["reference"] for sub in record["subs"])
        rows.append(
            {
                "caption": record["caption"].strip(" .").casefold() == told.words.casefold(),
                "base": record["base"] == told.base,
                "subs": shown == Counter(reference for _, reference in told.subs),
                "forced": bool(record["control_tokens_forced"]),
            }
        )
    return {name: np.array([[float(row[name])] for row in rows]) for name in UNDERSTOOD}


@torch.no_grad()
def clip(encoder: MediaEncoder, cases: Sequence[Held], pictures: Sequence[Picture]) -> dict[str, Values]:
    """clip_im: cosine of source and edit; clip_out: of edit and target caption; clip_dir: of what changed in both.

    methods.md D.5, by the bundle's own encoder. nan without a source, where nothing changed, and where it reads no words.
    """
    made_NE = _see(encoder, pictures)
    there = [n for n, one in enumerate(cases) if one.source is not None]
    found = {name: np.full((len(cases), 1), np.nan) for name in ("clip_im", "clip_out", "clip_dir")}
    source_NE = _see(encoder, [one.source for one in cases if one.source is not None])
    found["clip_im"][there, 0] = _cosine(made_NE[there], source_NE)
    try:
        before_NE, after_NE = (encoder.read([one.captions[i] for one in cases]).float().cpu() for i in (0, 1))
    except ModelError:
        return found
    found["clip_out"][:, 0] = _cosine(made_NE, after_NE)
    found["clip_dir"][there, 0] = _cosine(made_NE[there] - source_NE, after_NE[there] - before_NE[there])
    return found


def _see(encoder: MediaEncoder, pictures: Sequence[Picture]) -> Tensor:
    return encoder.see(pictures).float().cpu() if pictures else torch.zeros(0, encoder.width)


def _cosine(a_NE: Tensor, b_NE: Tensor) -> Values:
    """nan where either is next to nothing: between two copies of a picture there is no direction."""
    short_N = (a_NE.norm(dim=1) < 1e-4) | (b_NE.norm(dim=1) < 1e-4)
    return np.asarray(functional.cosine_similarity(a_NE, b_NE, dim=1).masked_fill(short_N, torch.nan).double().numpy())
