"""A contest: an order's candidates, from their seeds to the best of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paintover.engine.cache import PrepareCache
from paintover.engine.memory import enough_memory
from paintover.errors import Cancelled, PaintoverError, RequestError, ScoreError
from paintover.models.bundle import load
from paintover.models.scorer import Scorer, load_scorer
from paintover.orders import scores
from paintover.orders.order import Checked
from paintover.orders.scores import Painted, Scored
from paintover.orders.sentinel import Sentinel
from paintover.orders.together import Number, walk
from paintover.orders.work import Made, Walked, Work, finish, make, save
from paintover.request import EditResult


def compete(checked: dict[int, Checked], cache: PrepareCache, device: str | None) -> dict[int, EditResult | Exception]:
    """Brings each order to its outcome: all candidates of all of them in shared denoiser calls, of each the best."""
    outcomes: dict[int, EditResult | Exception] = {}
    contests: dict[int, Contest] = {}
    entrants: dict[Number, Checked] = {}
    for n, one in checked.items():
        try:
            if one.order.sentinel is not None:
                contests[n] = Contest.of(one, device)
            own = contests[n].entrants() if n in contests else [one]
            entrants |= {(n, k): each for k, each in enumerate(own)}
        except Exception as error:
            outcomes[n] = error
    ended = walk(entrants, cache, device)
    for n in checked:
        mine = [ended.pop(key) for key in entrants if key[0] == n]
        try:
            if n in contests:
                outcomes[n] = contests[n].best(mine)
            elif n not in outcomes:
                outcomes[n] = _finished(mine[0])
        except Exception as error:
            outcomes[n] = error
    return outcomes


def _finished(ended: Walked | Exception) -> EditResult:
    if isinstance(ended, Exception):
        raise ended
    return finish(ended)


@dataclass(eq=False)
class Contest:
    """The candidates of an order that has a sentinel.

    seconds: that the scorer took to be loaded. heard: what the order's own `on_step` raised; nobody goes on then.
    """

    checked: Checked
    scorer: Scorer
    seconds: float
    heard: Exception | None = field(default=None, init=False)
    _sources: dict[tuple[str, str], float] = field(default_factory=dict, init=False)  # by digest, and words to be judged by

    @classmethod
    @enough_memory("the scorer was loaded")
    def of(cls, checked: Checked, device: str | None) -> Contest:
        """Raises ModelError where there is no scorer: before anything is painted."""
        bundle = load(checked.order.request.model, device=device)
        began = time.perf_counter()
        scorer = load_scorer(_sentinel(checked).scorer, bundle)
        return cls(checked, scorer, time.perf_counter() - began)

    def entrants(self) -> list[Checked]:
        """An order for each seed. They walk in step, so that the first tells the progress of all."""
        order = self.checked.order
        own = replace(order, sentinel=None, on_step=None, cancelled=self._stopped)
        requests = [
            order.request.model_copy(update={"seed": order.request.seed + n}) for n in range(_sentinel(self.checked).candidates)
        ]
        orders = [replace(own, request=request) for request in requests]
        if order.on_step is not None:
            orders[0] = replace(orders[0], on_step=self._tell)
        return [replace(self.checked, order=one) for one in orders]

    def best(self, ended: Sequence[Walked | Exception]) -> EditResult:
        """The best candidate, saved if that was asked. Raises what ended all of them, and ScoreError where the best is below
        the least score: nothing is saved then."""
        if self.heard is not None:
            raise self.heard
        began = time.perf_counter()
        sentinel = _sentinel(self.checked)
        tried = [self._tried(one) for one in ended]
        good = [one for one in tried if not isinstance(one, PaintoverError)]
        if not good:
            raise next(one for one in tried if isinstance(one, PaintoverError))
        judged: dict[int, float | None] = {}
        for source in {one.source for one in good}:  # the words may mean one of several pictures, and not always the same
            alike = [one for one in good if one.source == source and one.painted is not None]
            kept = scores.preservations([one.painted for one in alike if one.painted is not None])
            judged |= zip((id(one) for one in alike), kept, strict=True)
        first = self.checked.order.request.seed
        candidates = []
        for n, one in enumerate(tried):
            if isinstance(one, PaintoverError):
                candidates.append(Scored(first + n, failed=str(one)))
            else:
                preservation = judged.get(id(one))
                total = scores.score(one.agreement, preservation, sentinel.weight)
                candidates.append(Scored(first + n, total, one.agreement, preservation))
        place = scores.best_of(candidates)
        best = candidates[place]
        if sentinel.min_score is not None and best.score < sentinel.min_score:
            raise ScoreError(_refusal(sentinel, best))
        chosen = ended[place]
        assert isinstance(chosen, Walked)
        result = make(chosen).result  # again: only small things were kept of each, since pictures may be large
        spent = sum(one.evaluations for one in ended if isinstance(one, Walked))
        about = {
            "candidates": [one.record() for one in candidates],
            "chosen": best.seed,
            "why": scores.why(candidates, best),
            "scorer": {
                "asked": sentinel.scorer,
                "name": self.scorer.name,
                "fingerprint": self.scorer.fingerprint,
                "preservation_weight": sentinel.weight,
                "words": _words(chosen.work),
                "source": self._of_source(chosen.work),
            },
            "evaluations": spent,
        }
        warnings = [*result.record["warnings"], *self._notes(good)]
        seconds = result.record["seconds"] | {"scorer": round(self.seconds, 3)}
        others = self._others(ended, candidates) if sentinel.keep else {}
        seconds["score"] = round(time.perf_counter() - began, 3)
        result = replace(result, record=result.record | about | {"warnings": warnings, "seconds": seconds})
        return save(chosen.work, result, others)

    def _tried(self, one: Walked | Exception) -> _Tried | PaintoverError:
        if isinstance(one, PaintoverError):
            return one
        if isinstance(one, Exception):
            raise one
        if self._stopped():
            raise Cancelled("cancelled between two candidates")
        try:
            made = make(one)
        except PaintoverError as error:
            return error
        source = self._of_source(one.work)
        digest = hashlib.sha256(made.edited_hwC.tobytes()).hexdigest()
        picture = one.work.checked.picture
        edited = None if picture is None else picture.sha256
        return _Tried(self._of(one.work, made) - (source or 0.0), scores.painted(one.work, made), digest, edited)

    @enough_memory("the candidates were scored")
    def _of(self, work: Work, made: Made) -> float:
        return self.scorer.agreement([made.result.rgb_HWC], _words(work))[0]

    @enough_memory("the candidates were scored")
    def _of_source(self, work: Work) -> float | None:
        """cos(source, words), of a picture that was given; None where none was."""
        picture = work.checked.picture
        if picture is None:
            return None
        words = _words(work)
        if (picture.sha256, words) not in self._sources:
            native = picture.rgb_HWC if picture.native_rgb_HWC is None else picture.native_rgb_HWC  # as results are
            self._sources[picture.sha256, words] = self.scorer.agreement([native], words)[0]
        return self._sources[picture.sha256, words]

    def _notes(self, good: Sequence[_Tried]) -> list[str]:
        if len(good) > 1 and len({one.digest for one in good}) == 1:
            name = self.checked.editor.name
            return [f"all {len(good)} candidates are the same picture: with these settings {name} does not depend on the seed"]
        return []

    def _others(self, ended: Sequence[Walked | Exception], candidates: Sequence[Scored]) -> dict[str, EditResult]:
        """Every candidate that there is, by the name that it is saved under."""
        others = {}
        for name, one, scored in zip(_sentinel(self.checked).names, ended, candidates, strict=True):
            if isinstance(one, Walked) and scored.failed is None:
                result = make(one).result
                others[name] = replace(result, record=result.record | {"scores": scored.record()})
        return others

    def _tell(self, report: Any) -> None:
        assert self.checked.order.on_step is not None
        try:
            self.checked.order.on_step(report)
        except Exception as error:
            self.heard = error
            raise

    def _stopped(self) -> bool:
        cancelled = self.checked.order.cancelled
        return self.heard is not None or (cancelled is not None and cancelled())


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """What is kept of a candidate until the best is known. digest: of what the model painted; source: of what was edited."""

    agreement: float
    painted: Painted | None
    digest: str
    source: str | None


def _sentinel(checked: Checked) -> Sentinel:
    sentinel = checked.order.sentinel
    if sentinel is None:
        raise RequestError("this order has no candidates to choose from")
    return sentinel


def _words(work: Work) -> str:
    """What is wanted, in words: what a language model made of the instruction, or what was asked."""
    derived = work.context.derived
    said = [derived.get(name) for name in ("caption", "expressive")]
    found = next((words for words in said if isinstance(words, str) and words.strip()), None)
    return found if found is not None else work.context.request.instruction


def _refusal(sentinel: Sentinel, best: Scored) -> str:
    kept = "" if best.preservation is None else f", preservation {best.preservation:.4f}"
    count = sentinel.candidates
    of = f"the best of {count} candidates (seed {best.seed})" if count > 1 else f"the result (seed {best.seed})"
    return (
        f"{of} scores {best.score:.4g} (agreement {best.agreement:.4g}{kept}), below the {sentinel.min_score:g} that was asked "
        "for (--min-score), so nothing was written; try more candidates, other words or another editor, or ask for less"
    )
