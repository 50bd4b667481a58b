"""A path through another network: closed forms that tell whose answer it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paintover.engine.engine import Engine, run
from paintover.errors import Cancelled
from paintover.path.guidance import classifier_free, plain
from paintover.path.predict import Condition, Predict
from paintover.path.report import Progress
from paintover.path.schedule import Schedule
from paintover.path.start import noise
from paintover.path.through import through
from paintover.path.walk import walk

SCHEDULE = Schedule.stable_diffusion()
SHAPE = (1, 4, 8, 8)
TOLD = Condition(torch.zeros(1, 2, 3))


class Answers:
    """A network that answers its own number, and counts the rows of each call."""

    def __init__(self, number: float) -> None:
        self.number, self.sizes = number, []

    def __call__(self, x: Tensor, *_) -> Tensor:
        self.sizes.append(len(x))
        return torch.full_like(x, self.number)


def asking(*networks):
    """One round that asks a row of each (None: of whoever drives it); the numbers that came back, as its value."""
    answers = yield [Predict(noise(0, SHAPE), 500, TOLD, network=network) for network in networks]
    return [answer.mean().item() for answer in answers]


def test_rows_reach_the_network_that_they_name_and_never_share_a_call():
    first, second, own = Answers(1), Answers(2), Answers(3)
    engine = Engine(own)
    jobs = [
        engine.add(asking(first, None, second, first)),
        engine.add(asking(second)),
        engine.add(through(first, asking(None, second))),
        engine.add(asking(None)),
    ]
    engine.run()
    assert [engine.result(job) for job in jobs] == [[1, 3, 2, 1], [2], [1, 2], [3]]
    assert (first.sizes, second.sizes, own.sizes) == ([3], [3], [2])  # one call each: all who ask the same share it
    assert engine.counters.rows == 8
    assert engine.counters.calls == 3


def test_what_rows_are_told_is_put_together_for_each_network_apart():
    """In the network's own type, though another was told the same in the same round."""
    seen = {}

    class Typed:
        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

        def __call__(self, x: Tensor, t: Tensor, tokens: Tensor, *_) -> Tensor:
            seen.setdefault(self.dtype, []).append(tokens)
            return x

    engine = Engine(Typed(torch.float32))
    steps = SCHEDULE.steps(4)
    engine.add(walk(noise(0, SHAPE), steps, plain(TOLD)))
    engine.add(through(Typed(torch.bfloat16), walk(noise(0, SHAPE), steps, plain(TOLD))))
    engine.run()
    for dtype in (torch.float32, torch.bfloat16):
        assert {tokens.dtype for tokens in seen[dtype]} == {dtype}
        assert len({id(tokens) for tokens in seen[dtype]}) == 1


def test_a_walk_through_a_network_is_that_networks_walk():
    steps, x = SCHEDULE.steps(5), noise(1, SHAPE)

    def guided():
        return walk(x, steps, classifier_free(TOLD, Condition(torch.ones(1, 2, 3)), 2.0))

    told: list[int] = []
    end = run(through(Answers(0.25), guided()), Answers(0.5), on_step=lambda report: told.append(report.i))
    assert torch.equal(end, run(guided(), Answers(0.25)))
    assert not torch.equal(end, run(guided(), Answers(0.5)))
    assert told == [0, 1, 2, 3, 4]


def test_the_innermost_network_counts():
    inner, outer = Answers(1), Answers(2)
    assert run(through(outer, through(inner, asking(None))), Answers(3)) == [1]


def test_what_rows_ask_besides_is_left_alone():
    x, taps = noise(0, SHAPE), object()
    path = through(Answers(1), (p for p in [[Predict(x, 17, TOLD, taps=taps)]]))
    [asked] = next(path)
    assert (asked.x_BCHW, asked.t, asked.condition, asked.taps) == (x, 17, TOLD, taps)


class Closing:
    """A path that notes how it ends."""

    def __init__(self) -> None:
        self.ended = ""

    def path(self, rounds: int):
        try:
            for i in range(rounds):
                yield [Predict(noise(0, SHAPE), 500, TOLD)]
                yield Progress(i, rounds)
            self.ended = "end"
        except GeneratorExit:
            self.ended = "closed"
            raise


def test_cancelling_closes_the_path_within():
    closing, seen = Closing(), []
    with pytest.raises(Cancelled):
        run(through(Answers(1), closing.path(5)), Answers(2), on_step=seen.append, cancelled=lambda: len(seen) == 2)
    assert closing.ended == "closed"
    assert len(seen) == 2


def test_what_the_network_cannot_do_closes_the_path_within():
    closing = Closing()

    def broken(*_):
        raise ValueError("the network itself broke")

    engine = Engine(Answers(1))
    job, other = engine.add(through(broken, closing.path(3))), engine.add(asking(None))
    engine.run()
    with pytest.raises(ValueError, match="network itself"):
        engine.result(job)
    assert closing.ended == "closed"
    assert engine.result(other) == [1]


def test_a_path_that_fails_fails_through():
    def broken():
        yield [Predict(noise(0, SHAPE), 500, TOLD)]
        raise ValueError("the path itself broke")

    with pytest.raises(ValueError, match="path itself"):
        run(through(Answers(1), broken()), Answers(2))


def test_a_path_that_ends_at_once_has_its_value():
    closing = Closing()
    assert run(through(Answers(1), closing.path(0)), Answers(2)) is None
    assert closing.ended == "end"
