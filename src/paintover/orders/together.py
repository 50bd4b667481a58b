"""Checked orders, walked together: what they prepare and what they edit goes through shared denoiser calls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from paintover.engine.cache import PrepareCache
from paintover.engine.engine import Engine, Job
from paintover.errors import PaintoverError
from paintover.models.bundle import load
from paintover.models.tensors import size
from paintover.orders.order import Checked, Order
from paintover.orders.work import Walked, Work, begin
from paintover.path.report import Progress

Number = tuple[int, int]  # of an order, and of its candidate
Outcomes = dict[Number, Walked | Exception]


@dataclass(slots=True, eq=False)
class _Way:
    """An order on its way. spent: denoiser evaluations of a preparation that was made for it."""

    order: Order
    work: Work
    engine: Engine
    spent: int = 0


@dataclass(slots=True, eq=False)
class _Waiting:
    """The orders, by number, that wait for one preparation. failed: what their own `on_step` raised; these hear no more."""

    orders: dict[Number, Order]
    failed: dict[Number, Exception] = field(default_factory=dict)

    def tell(self, report: Progress) -> None:
        for n, order in self.orders.items():
            if order.on_step is not None and n not in self.failed:
                try:
                    order.on_step(report)
                except Exception as error:
                    self.failed[n] = error

    def nobody(self) -> bool:
        """Whether nobody waits any more."""
        return all(n in self.failed or (o.cancelled is not None and o.cancelled()) for n, o in self.orders.items())


def walk(checked: dict[Number, Checked], cache: PrepareCache, device: str | None) -> Outcomes:
    """Brings each order to the end of its path; what fails, fails alone. What several prepare alike is prepared once."""
    outcomes: Outcomes = {}
    engines: dict[str, Engine] = {}
    ways: dict[Number, _Way] = {}
    for n, one in checked.items():
        with _failing(outcomes, n):
            bundle = load(one.order.request.model, device=device)
            work = begin(one, bundle, cache)
            bundle = work.context.bundle  # which may be another one now, bent by a tuning
            engine = engines.setdefault(bundle.fingerprint, Engine(bundle.denoiser))
            ways[n] = _Way(one.order, work, engine)
    prepared = _prepare(ways, cache, outcomes)
    ready = time.perf_counter()
    jobs: dict[Number, Job] = {}
    for n, way in ways.items():
        if n not in outcomes:
            with _failing(outcomes, n):
                own = way.work.prepared
                path = way.work.path(prepared.get(way.work.key, {}) if own is None else own)
                jobs[n] = way.engine.add(path, way.order.on_step, way.order.cancelled)
    for engine in engines.values():
        engine.run()
    walked = time.perf_counter()
    for n, job in jobs.items():
        with _failing(outcomes, n):
            way = ways[n]
            outcomes[n] = Walked(way.work, way.engine.result(job), way.spent + job.rows, ready, walked)
    return outcomes


def _prepare(ways: dict[Number, _Way], cache: PrepareCache, outcomes: Outcomes) -> dict[str | None, dict[str, Tensor]]:
    """What the orders depend on beyond their words, by key: found in the cache, or made now for all who want it."""
    prepared: dict[str | None, dict[str, Tensor]] = {}
    wanted: dict[str, list[Number]] = {}
    for n, way in ways.items():
        key = way.work.key
        if key is None or key in prepared:
            continue
        found = None if key in wanted else cache.find(key)
        if found is not None:
            prepared[key] = found
        else:
            wanted.setdefault(key, []).append(n)
    waiting = {key: _Waiting({n: ways[n].order for n in numbers}) for key, numbers in wanted.items()}
    at_once: dict[str, dict[str, Tensor]] = {}
    for keys in _groups({key: ways[numbers[0]].work for key, numbers in wanted.items() if not waiting[key].nobody()}):
        with _failing(outcomes, *(n for key in keys for n in wanted[key])):
            at_once |= _at_once([ways[wanted[key][0]].work for key in keys], keys)
    jobs: dict[str, Job] = {}
    for key, who in waiting.items():
        if key not in at_once and wanted[key][0] not in outcomes:
            first = ways[wanted[key][0]]
            jobs[key] = first.engine.add(first.work.preparation(), who.tell, who.nobody)
    for engine in {id(way.engine): way.engine for way in ways.values()}.values():
        engine.run()
    for key, who in waiting.items():
        if key not in at_once and key not in jobs:
            continue
        first = ways[next((n for n in who.orders if n not in who.failed), wanted[key][0])]
        with _failing(outcomes, *who.orders):
            if key in jobs:
                first.spent = jobs[key].rows
            prepared[key] = cache.keep(key, at_once[key] if key in at_once else first.engine.result(jobs[key]))
            if not cache.takes(prepared[key]):
                told = _too_large(size(prepared[key]), cache.max_bytes)
                for n in who.orders:
                    ways[n].work = replace(ways[n].work, notes=(*ways[n].work.notes, told))
        outcomes.update(who.failed)
    return prepared


def _groups(works: dict[str, Work]) -> list[list[str]]:
    """Keys of what may be prepared at once: of one bundle, by editors that prepare alike; no key is alone."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key, work in works.items():
        groups.setdefault((work.checked.editor.prepared_by, work.context.bundle.fingerprint), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _at_once(works: list[Work], keys: list[str]) -> dict[str, dict[str, Tensor]]:
    """What an editor prepares at once for several, by key. What is refused, or too much, is left to be prepared one by one."""
    with contextlib.suppress(PaintoverError):
        found = works[0].checked.editor.prepare_together([work.context for work in works])
        return {} if found is None else dict(zip(keys, found, strict=True))
    return {}


def _too_large(made: int, limit: int) -> str:
    return (
        f"what was prepared ({made / 1e9:.1f} GB) is more than the cache keeps ({limit / 1e9:.1f} GB), so the next edit makes "
        "it again; to keep it, give it a name (paintover tune), or tune less (--tune lora)"
    )


@contextmanager
def _failing(outcomes: Outcomes, *numbers: Number) -> Iterator[None]:
    """What is raised inside is the outcome of these orders."""
    try:
        yield
    except Exception as error:
        outcomes.update(dict.fromkeys(numbers, error))
