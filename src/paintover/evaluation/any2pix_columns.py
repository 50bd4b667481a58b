"""The columns of any2pix's comparison: what edits, with which knobs, told what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from paintover.evaluation.any2pix_cases import MIXED

NOTHING = "doing nothing"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
GUIDANCES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Column:
    """An editor with some knobs. told: which telling of the case it gets, in references by any2pix and in words by the others.

    apart: one operation after the other, each told alone.
    """

    name: str
    editor: str = "any2pix"
    knobs: dict[str, Any] = field(default_factory=dict)
    told: str = MIXED
    apart: bool = False


def _seen(see_base: bool) -> str:
    return "seen" if see_base else "not seen"


COLUMNS: dict[str, tuple[Column, ...]] = {
    "ways": (
        Column("by words", told="text"),
        Column("by a picture", told="image"),
        Column("by a sound", told="audio"),
        Column("instruct, by words", "instruct", told="text"),
    ),
    "two": (
        Column("words, one pass", told="text"),
        Column("words, two passes", told="text", apart=True),
        Column("mixed, one pass"),
        Column("mixed, two passes", apart=True),
        Column("instruct, one pass", "instruct", told="text"),
        Column("instruct, two passes", "instruct", told="text", apart=True),
    ),
    "refinement": tuple(
        Column(f"prior {'on' if h2 else 'off'}, second walk {'on' if again else 'off'}", knobs={"h2": h2, "refinement": again})
        for h2 in (0.0, 0.4) for again in (0.0, 0.5)
    ),
    "control": (
        *(
            Column(f"alpha {alpha:g}, base {_seen(see)}", knobs={"alpha": alpha, "see_base": see})
            for see in (True, False) for alpha in ALPHAS
        ),
        *(Column(f"guidance {guidance:g}", knobs={"guidance": guidance}) for guidance in GUIDANCES),
    ),
    "whole": (Column("any2pix"), Column("told in words", "words")),
}  # fmt: skip
# Lines of the trade-off: name, columns in order.
CURVES: dict[str, tuple[str, ...]] = {
    **{f"alpha 0..1, base {_seen(see)}": tuple(f"alpha {a:g}, base {_seen(see)}" for a in ALPHAS) for see in (True, False)},
    "guidance 1, 2, 4": tuple(f"guidance {g:g}" for g in GUIDANCES),
}
# Differences of interest, by group: mine and theirs.
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "ways": (
        *((name, NOTHING) for name in ("by words", "by a picture", "by a sound")),
        ("by a picture", "by words"), ("by a sound", "by words"), ("by words", "instruct, by words"),
    ),
    "two": (
        ("words, one pass", NOTHING), ("words, one pass", "words, two passes"), ("mixed, one pass", "mixed, two passes"),
        ("words, one pass", "instruct, one pass"), ("words, one pass", "instruct, two passes"),
    ),
    "refinement": (
        ("prior on, second walk off", "prior off, second walk off"),
        ("prior off, second walk on", "prior off, second walk off"),
        ("prior on, second walk on", "prior on, second walk off"),
    ),
    "control": (),
    "whole": (("any2pix", NOTHING), ("any2pix", "told in words")),
}  # fmt: skip
