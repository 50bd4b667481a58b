"""Checked orders, walked together: what they prepare and what they edit goes through shared denoiser calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from paintover.engine.cache import PrepareCache
from paintover.engine.engine import Engine, Job
from paintover.models.bundle import load
from paintover.orders.order import Checked, Order
from paintover.orders.work import Work, begin, finish
from paintover.path.report import Report
from paintover.request import EditResult

Outcomes = dict[int, EditResult | Exception]


@dataclass(slots=True, eq=False)
class _Way:
    """An order on its way. spent: denoiser evaluations of a preparation that was made for it."""

    order: Order
    work: Work
    engine: Engine
    spent: int = 0


def walk(checked: dict[int, Checked], cache: PrepareCache, device: str | None) -> Outcomes:
    """Brings each order to its outcome; what fails, fails alone. What several prepare alike is prepared once."""
    outcomes: Outcomes = {}
    engines: dict[str, Engine] = {}
    ways: dict[int, _Way] = {}
    for n, one in checked.items():
        with _failing(outcomes, n):
            bundle = load(one.order.request.model, device=device)
            engine = engines.setdefault(bundle.fingerprint, Engine(bundle.denoiser))
            ways[n] = _Way(one.order, begin(one, bundle, cache), engine)
    prepared = _prepare(ways, cache, outcomes)
    ready = time.perf_counter()
    jobs: dict[int, Job] = {}
    for n, way in ways.items():
        if n not in outcomes:
            with _failing(outcomes, n):
                path = way.work.path(prepared.get(way.work.key, {}))
                jobs[n] = way.engine.add(path, way.order.on_step, way.order.cancelled)
    for engine in engines.values():
        engine.run()
    for n, job in jobs.items():
        with _failing(outcomes, n):
            way = ways[n]
            outcomes[n] = finish(way.work, way.engine.result(job), way.spent + job.rows, ready)
    return outcomes


def _prepare(ways: dict[int, _Way], cache: PrepareCache, outcomes: Outcomes) -> dict[str | None, dict[str, Tensor]]:
    """What the orders depend on beyond their words, by key: found in the cache, or made now for all who want it."""
    prepared: dict[str | None, dict[str, Tensor]] = {}
    waiting: dict[str, list[int]] = {}
    for n, way in ways.items():
        key = way.work.key
        if key is None or key in prepared:
            continue
        found = None if key in waiting else cache.find(key)
        if found is not None:
            prepared[key] = found
        else:
            waiting.setdefault(key, []).append(n)
    jobs: dict[str, Job] = {}
    for key, numbers in waiting.items():
        first, orders = ways[numbers[0]], [ways[n].order for n in numbers]
        jobs[key] = first.engine.add(first.work.preparation(), partial(_tell, orders), partial(_all_cancelled, orders))
    for engine in {id(way.engine): way.engine for way in ways.values()}.values():
        engine.run()
    for key, job in jobs.items():
        first = ways[waiting[key][0]]
        first.spent = job.rows
        with _failing(outcomes, *waiting[key]):
            prepared[key] = cache.keep(key, first.engine.result(job))
    return prepared


@contextmanager
def _failing(outcomes: Outcomes, *numbers: int) -> Iterator[None]:
    """What is raised inside is the outcome of these orders."""
    try:
        yield
    except Exception as error:
        outcomes.update(dict.fromkeys(numbers, error))


def _tell(orders: list[Order], report: Report) -> None:
    for order in orders:
        if order.on_step is not None:
            order.on_step(report)


def _all_cancelled(orders: list[Order]) -> bool:
    """Nobody waits for it any more."""
    return all(order.cancelled is not None and order.cancelled() for order in orders)
