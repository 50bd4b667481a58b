"""The engine: drives many paths at once and puts what they ask for at the same moment into shared denoiser calls."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from paintover.engine.memory import out_of_memory
from paintover.errors import Cancelled, RequestError
from paintover.path.predict import Condition, Network, Path, Predict, Preparation
from paintover.path.report import Progress


@dataclass(slots=True)
class Counters:
    """What an engine spent: denoiser rows (one latent evaluated once), calls, and seconds inside these calls.

    gradients: how many of the rows recorded gradients (their backward passes are the path's own affair).

    On an accelerator that works asynchronously, seconds is the time to launch the work, not to do it.
    """

    rows: int = 0
    calls: int = 0
    gradients: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Job:
    """A path in an engine. Once `done` it has its value, or an error (Cancelled is one). rows: evaluations so far."""

    path: Path | Preparation
    on_step: Callable[[Progress], None] | None = None
    cancelled: Callable[[], bool] | None = None
    value: Any = None
    error: Exception | None = None
    rows: int = 0
    done: bool = False
    asked: Sequence[Predict] = ()
    answers: list[Tensor] | None = None  # None before the path has started, as a generator wants it


@dataclass(slots=True, eq=False)
class _Row:
    """One prediction to make, and where its answer goes."""

    job: Job
    predict: Predict
    answers: list[Tensor]
    k: int


Asked = tuple[Network, tuple[Condition, ...]]
# tokens_BLD, pooled_BD, image_BCHW, media_BSE of the rows of one call
Told = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


class Engine:
    """Runs paths together over one denoiser: `add` paths, then `run`, or ask for one's `result`.

    denoiser: answers what names no network of its own. max_rows: the most rows in one call, which bounds memory; running out
    of it halves this and goes on.

    Paths may be added at any time, from `on_step` too. Rows of equal shapes, and of one network, share a call whatever path,
    step or editor they come from. A path that fails or is cancelled ends alone. A result does not depend on its neighbours
    beyond rounding.
    """

    def __init__(self, denoiser: Network, max_rows: int = 16) -> None:
        if max_rows < 1:
            raise RequestError(f"max_rows is {max_rows}; expected 1 or more")
        self.denoiser, self.max_rows = denoiser, max_rows
        self.counters = Counters()
        self._jobs: list[Job] = []
        self._told: dict[Asked, Told] = {}

    def add(
        self,
        path: Path | Preparation,
        on_step: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Job:
        """Takes a path in. on_step gets a Progress after each step (of a walk, a Report); cancelled is asked before each, and
        True ends the path.
        """
        job = Job(path, on_step, cancelled)
        self._jobs.append(job)
        return job

    def run(self) -> None:
        """Drives every path to its end. A path's failure is kept in its job, for `result` to raise."""
        while self.round():
            pass

    def result(self, job: Job) -> Any:
        """What the job's path returns (a Path: its final latents), all paths being driven until then.

        Raises what ended it: Cancelled, or its error.
        """
        while not job.done and self.round():
            pass
        if job.error is not None:
            raise job.error
        return job.value

    @torch.no_grad()
    def round(self) -> bool:
        """Takes every path one round of predictions further; False once no path is left."""
        jobs = list(self._jobs)
        for job in jobs:
            _advance(job)
        told, self._told = self._told, {}
        for rows in self._calls(jobs):
            self._evaluate(rows, told)
        self._jobs = [job for job in self._jobs if not job.done]
        return bool(self._jobs)

    def _calls(self, jobs: list[Job]) -> list[list[_Row]]:
        """All rows asked for, in calls of equal shapes and of about equal size, none over max_rows."""
        groups: dict[tuple[object, ...], list[_Row]] = {}
        for job in jobs:
            if job.done:
                continue
            job.rows += len(job.asked)
            job.answers = [ask.x_BCHW for ask in job.asked]  # places for the answers
            for k, ask in enumerate(job.asked):
                c = ask.condition
                told = (c.pooled_BD, c.media_BSE)  # what a call's rows have all, or none of them
                shapes = (ask.x_BCHW.shape, c.tokens_BLD.shape, *(None if said is None else said.shape for said in told))
                # Apart from others' where gradients are recorded: a call's graph is gone after one backward pass.
                alone = id(job) if _wants_gradients(c) else None
                groups.setdefault((shapes, alone, id(ask.network)), []).append(_Row(job, ask, job.answers, k))
        calls = []
        for rows in groups.values():
            count = -(-len(rows) // self.max_rows)
            edges = [len(rows) * n // count for n in range(count + 1)]
            calls += [rows[a:b] for a, b in pairwise(edges)]
        return calls

    def _evaluate(self, rows: list[_Row], told: dict[Asked, Told]) -> None:
        """One call, its answers given to the jobs. Out of memory: two halves. Failure: each job's rows apart, to find whose."""
        try:
            eps = self._call([row.predict for row in rows], told)
        except Exception as error:
            failure = error.with_traceback(None)  # the traceback would keep the call's tensors alive
        else:
            for row, answer in zip(rows, eps, strict=True):
                row.answers[row.k] = answer
            return
        jobs = list(dict.fromkeys(row.job for row in rows))
        if out_of_memory(failure):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            half = len(rows) // 2
            if half:
                self.max_rows = min(self.max_rows, half)
                parts = [rows[:half], rows[half:]]
            else:
                shape = "x".join(str(n) for n in rows[0].predict.x_BCHW.shape[1:])
                failure = RequestError(f"out of memory for one row of latents {shape}; ask for a smaller picture or model")
                parts = []
        else:
            parts = [[row for row in rows if row.job is job] for job in jobs] if len(jobs) > 1 else []
        for part in parts:
            self._evaluate(part, told)
        if not parts:
            _fail(jobs[0], failure)

    def _call(self, asked: list[Predict], told: dict[Asked, Told]) -> Sequence[Tensor]:
        x = torch.cat([ask.x_BCHW for ask in asked])
        t_B = torch.tensor([ask.t for ask in asked], device=x.device)
        taps = [ask.taps for ask in asked]
        gradients = _wants_gradients(asked[0].condition)
        network = asked[0].network or self.denoiser
        with torch.set_grad_enabled(gradients):
            conditions = network, tuple(ask.condition for ask in asked)
            tokens, pooled, image, media = told.get(conditions) or _put_together(asked, network)
            if not gradients:  # the same conditions meet again at every step: what they say is put together once
                self._told[conditions] = tokens, pooled, image, media
            began = time.perf_counter()
            # Not every denoiser can be tapped or shown media: those who are asked for nothing need not know of them.
            asked_for: dict[str, Any] = {"taps": taps} if any(tap is not None for tap in taps) else {}
            if media is not None:
                asked_for["media_BSE"] = media
            eps = network(x, t_B, tokens, pooled, image, **asked_for).split(1)
        self.counters.seconds += time.perf_counter() - began
        self.counters.gradients += len(asked) if gradients else 0
        self.counters.rows += len(asked)
        self.counters.calls += 1
        return eps


def run(
    path: Path,
    denoiser: Network,
    on_step: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    max_rows: int = 16,
) -> Any:
    """One path alone, to what it returns: an Engine with one job."""
    engine = Engine(denoiser, max_rows)
    return engine.result(engine.add(path, on_step, cancelled))


def _put_together(asked: list[Predict], network: Network) -> Told:
    """What the rows are told, as batches. A row without a picture among rows with one gets zeros: they mean the same."""
    conditions = [ask.condition for ask in asked]
    # Cast here, once: the network would cast at every step, and keys and values are kept by the tensor they are of.
    tokens = torch.cat([c.tokens_BLD for c in conditions]).to(dtype=getattr(network, "dtype", None))
    pooled = [c.pooled_BD for c in conditions if c.pooled_BD is not None]
    media = [c.media_BSE for c in conditions if c.media_BSE is not None]
    image = None
    if any(c.image_BCHW is not None for c in conditions):
        nothing = torch.zeros_like(asked[0].x_BCHW)
        image = torch.cat([nothing if c.image_BCHW is None else c.image_BCHW for c in conditions])
    return tokens, torch.cat(pooled) if pooled else None, image, torch.cat(media) if media else None


def _wants_gradients(condition: Condition) -> bool:
    told = condition.tokens_BLD, condition.pooled_BD, condition.media_BSE
    return any(said is not None and said.requires_grad for said in told)


def _advance(job: Job) -> None:
    """Hands the path its answers and takes what it asks next, past the reports on the way; notes its end."""
    while not job.done:
        try:
            if job.cancelled is not None and job.cancelled():
                raise Cancelled("cancelled between two steps")
            try:
                job.asked = job.path.send(job.answers)  # type: ignore[arg-type]
            except StopIteration as end:
                job.value, job.asked, job.done = end.value, (), True
                return
            job.answers = []
            if job.asked:
                return
            if job.on_step is not None and isinstance(job.asked, Progress):
                job.on_step(job.asked)
        except Exception as error:
            _fail(job, error)


def _fail(job: Job, error: Exception) -> None:
    if not job.done:
        job.error, job.asked, job.done = error, (), True
        job.path.close()
