"""The loop over least squares with a known answer: it lowers, reports, stops, and goes on bit-equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paintover.engine.engine import Engine, run
from paintover.errors import Cancelled, NotFiniteError
from paintover.tuning.loop import tune
from paintover.tuning.optimiser import InBackward, adafactor, adam
from paintover.tuning.unfinished import Unfinished

WANTED = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


class Fit:
    """A weight, its optimiser, and the loss of iteration i, with noise that is the iteration's own."""

    def __init__(self, make=None, rate: float = 0.1) -> None:
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.optimiser = InBackward({"weight": self.weight}, make or adafactor(rate))
        self.asked: list[int] = []

    def loss(self, i: int) -> Tensor:
        self.asked.append(i)
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(i))
        return (x @ (self.weight - WANTED)).square().mean()

    def tune(self, iterations: int, unfinished: Unfinished | None = None, what: str = "tuning"):
        return tune(self.loss, self.optimiser, iterations, unfinished or Unfinished(None), what)


def nobody(*_):
    raise AssertionError("tuning asks nothing of the engine's denoiser")


def test_it_lowers_the_loss_and_tells_each_iteration():
    fit, told = Fit(adam(0.1)), []
    run(fit.tune(150), nobody, on_step=lambda p: told.append((p.i, p.total, p.what)))
    torch.testing.assert_close(fit.weight.detach(), WANTED, rtol=0, atol=0.05)
    assert told == [(i, 150, "tuning") for i in range(150)]
    assert fit.asked == list(range(150))


def test_it_can_be_watched_beside_other_paths_and_cancelled_within_an_iteration():
    doomed, other = Fit(), Fit()
    engine = Engine(nobody)
    seen: list[int] = []
    job = engine.add(doomed.tune(9), on_step=lambda p: seen.append(p.i), cancelled=lambda: len(seen) == 4)
    beside = engine.add(other.tune(9))
    engine.run()
    with pytest.raises(Cancelled):
        engine.result(job)
    engine.result(beside)
    assert (doomed.asked, other.asked) == (list(range(4)), list(range(9)))
    before = doomed.weight.clone()
    doomed.loss(0).backward()  # nothing steps any more
    assert torch.equal(doomed.weight, before)


@pytest.mark.parametrize("make", [adafactor(0.1), adam(0.1)], ids=["adafactor", "adam"])
def test_what_was_cancelled_goes_on_where_it_was_bit_for_bit(tmp_path, make):
    whole = Fit(make)
    run(whole.tune(9), nobody)
    file = tmp_path / "some" / "where.unfinished"
    first, seen = Fit(make), []
    with pytest.raises(Cancelled):
        run(first.tune(9, Unfinished(file)), nobody, on_step=seen.append, cancelled=lambda: len(seen) == 5)
    assert file.is_file()
    second, seen = Fit(make), []
    run(second.tune(9, Unfinished(file)), nobody, on_step=seen.append)
    assert (first.asked, second.asked) == ([0, 1, 2, 3, 4], [5, 6, 7, 8])
    assert [report.i for report in seen] == [5, 6, 7, 8]
    assert torch.equal(second.weight, whole.weight)


def test_what_was_killed_goes_on_from_what_was_written_last(tmp_path):
    """A kill leaves no chance to write: what counts is what was written when it was due."""
    file = tmp_path / "killed.unfinished"
    killed, often = Fit(), Unfinished(file, every=0)
    tuning = killed.tune(9, often)
    for _ in range(3):
        next(tuning)
        often._took = 0  # so that it is due again at once
    often.path = None  # as if the process were gone
    tuning.close()
    whole, second = Fit(), Fit()
    run(whole.tune(9), nobody)
    run(second.tune(9, Unfinished(file)), nobody)
    assert second.asked == list(range(3, 9))
    assert torch.equal(second.weight, whole.weight)


def test_the_state_of_another_stage_is_not_taken_up(tmp_path):
    file = tmp_path / "stages.unfinished"
    first = Fit().tune(9, Unfinished(file), what="words")
    next(first)
    first.close()
    second = Fit()
    run(second.tune(2, Unfinished(file), what="weights"), nobody)
    assert second.asked == [0, 1]


def test_a_damaged_state_is_no_state(tmp_path):
    file = tmp_path / "damaged.unfinished"
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{}      and then nothing that fits")
    fit = Fit()
    run(fit.tune(2, Unfinished(file)), nobody)
    assert fit.asked == [0, 1]


def test_a_tuning_that_diverges_says_so_and_keeps_no_state(tmp_path):
    file = tmp_path / "diverged.unfinished"
    fit = Fit(rate=1e30)
    with pytest.raises(NotFiniteError, match=r"tuning diverged at iteration 2 of 9; use a smaller rate"):
        run(fit.tune(9, Unfinished(file)), nobody)
    assert fit.weight.isfinite().all()
    assert not file.exists()


def test_gradients_are_recorded_in_the_loss_alone():
    """The engine drives paths without gradients, and so must what comes after the tuning be."""
    fit, seen = Fit(), []

    def path():
        yield from fit.tune(1)
        seen.append(torch.is_grad_enabled())

    run(path(), nobody)
    assert seen == [False]
