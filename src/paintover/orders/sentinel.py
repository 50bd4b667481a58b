"""The sentinel: several candidates of one edit, of which the best is taken, if it is good enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover.editors.knobs import brief
from paintover.errors import RequestError

if TYPE_CHECKING:
    from paintover.editors.editor import Editor
    from paintover.request import EditRequest

MOST = 64
WEIGHT, MOST_WEIGHT = 1.0, 100.0
_SEEDS = 2**63
CHARACTERS = 130  # that the record takes for each candidate, generously


@dataclass(frozen=True, slots=True)
class Sentinel:
    """What is asked of the candidates of an order.

    candidates: how many there are: the request's seed, and the next ones. min_score: the best of them must score so much.
    scorer: who judges (`models.scorer`); None: the bundle's own encoder. weight: of the damage outside of the edit, see
    `scores`. keep: all of them are saved beside the best.
    """

    candidates: int = 1
    min_score: float | None = None
    scorer: str | None = None
    weight: float = WEIGHT
    keep: bool = False

    @classmethod
    def asked(
        cls,
        candidates: Any = None,
        min_score: Any = None,
        scorer: str | Path | None = None,
        weight: Any = None,
        keep: Any = False,
    ) -> Sentinel | None:
        """What was asked for; None if there is nothing to be judged. Raises RequestError for what cannot be."""
        count = 1 if candidates is None else candidates
        if type(count) is not int or not 1 <= count <= MOST:
            raise RequestError(f"candidates is {brief(candidates)}; expected a whole number 1 to {MOST}")
        least = _number("min-score", min_score, -math.inf, math.inf, "a number, such as 0: better than doing nothing")
        heavy = _number("preservation-weight", weight, 0, MOST_WEIGHT, f"a number 0 to {MOST_WEIGHT:g}")
        if scorer is not None and (not isinstance(scorer, (str, Path)) or not str(scorer).strip()):
            raise RequestError(f"scorer is {brief(scorer)}; name builtin, a folder, or owner/name of the hub")
        if not isinstance(keep, bool):
            raise RequestError(f"keep-candidates is {brief(keep)}; expected true or false")
        judged = count > 1 or least is not None or scorer is not None
        if (keep or heavy is not None) and not judged:
            flag = "--keep-candidates" if keep else "--preservation-weight"
            raise RequestError(f"{flag} is about candidates, and there is one alone; ask for several (--candidates 4)")
        if not judged:
            return None
        return cls(count, least, None if scorer is None else str(scorer), WEIGHT if heavy is None else heavy, keep)

    def check(self, request: EditRequest, editor: Editor[Any], saved: bool) -> None:
        """Raises RequestError where there is nothing to judge by, or no room for it."""
        if editor.told == "nothing":
            raise RequestError(f"{editor.name} takes no words, by which candidates could be judged; leave --candidates out")
        if request.seed + self.candidates > _SEEDS:
            raise RequestError(f"seed {request.seed} has not {self.candidates - 1} seeds above it; use a smaller seed")
        if self.keep and not saved:
            raise RequestError("candidates are kept beside the output; name it (out=...), or leave keep_candidates out")

    @property
    def names(self) -> list[str]:
        """Of what is saved beside the output."""
        return [f"candidate {n + 1}" for n in range(self.candidates)] if self.keep else []


def _number(name: str, value: Any, least: float, most: float, takes: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not least <= value <= most:
        raise RequestError(f"{name} is {brief(value)}; expected {takes}")
    return float(value)
