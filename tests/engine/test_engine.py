"""The engine over a small real UNet, and over denoisers that fail in known ways."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from paintover.engine.engine import Engine, run
from paintover.errors import Cancelled, ModelError, RequestError
from paintover.models.denoiser import Denoiser
from paintover.models.kept import KeptLinear, keep_text
from paintover.path.guidance import classifier_free, dual, plain
from paintover.path.predict import Condition, Path, Predict
from paintover.path.schedule import Schedule
from paintover.path.start import noise
from paintover.path.walk import invert, walk

SCHEDULE = Schedule.stable_diffusion()
SHAPE = (1, 4, 8, 8)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=12,
    )
    return Denoiser(unet.eval(), "epsilon", torch.tensor(SCHEDULE.alphas_cumprod))


def told(seed: int, length: int = 5, image: bool = True) -> Condition:
    draw = torch.Generator().manual_seed(seed)
    picture = torch.randn(SHAPE, generator=draw) if image else None
    return Condition(torch.randn(1, length, 12, generator=draw), None, picture)


NULL = told(99, image=False)


def small_walk(seed: int, steps: int = 4) -> Path:
    return walk(noise(seed, SHAPE), SCHEDULE.steps(steps), dual(told(seed), NULL, 7.5, 1.5))


def mixed() -> list[Path]:
    """Eight paths of different lengths, starts, guidance, text lengths and sizes."""
    paths = [small_walk(seed, steps=2 + seed) for seed in range(4)]
    paths.append(walk(noise(4, SHAPE), SCHEDULE.steps(5, start=0.6), classifier_free(told(4, image=False), NULL, 3)))
    paths.append(invert(noise(5, SHAPE), SCHEDULE.steps(3), plain(told(5))))
    paths.append(walk(noise(6, SHAPE), SCHEDULE.steps(3), plain(told(6, length=9))))
    paths.append(walk(noise(7, (1, 4, 8, 16)), SCHEDULE.steps(3), plain(told(7, image=False))))
    return paths


class Watched:
    """Passes calls on, noting the rows of each; `fault(rows, x)` may raise."""

    def __init__(self, denoiser, fault=lambda x: None):
        self.denoiser, self.fault, self.sizes = denoiser, fault, []

    def __call__(self, x: Tensor, *rest):
        self.sizes.append(len(x))
        self.fault(x)
        return self.denoiser(x, *rest)


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_together_is_as_alone(denoiser, max_rows):
    alone = [run(path, denoiser) for path in mixed()]
    watched = Watched(denoiser)
    engine = Engine(watched, max_rows)
    jobs = [engine.add(path) for path in mixed()]
    engine.run()
    for job, expected in zip(jobs, alone, strict=True):
        torch.testing.assert_close(engine.result(job), expected, rtol=1e-4, atol=1e-4)
    assert max(watched.sizes) == min(max_rows, 15)
    assert engine.counters.rows == sum(watched.sizes) == sum(job.rows for job in jobs)
    assert engine.counters.calls == len(watched.sizes)
    assert engine.counters.seconds > 0


def test_paths_at_different_steps_share_calls(denoiser):
    watched = Watched(denoiser)
    engine = Engine(watched)
    first = engine.add(small_walk(0, 4))
    engine.round()
    engine.round()
    late = engine.add(small_walk(1, 4))
    engine.run()
    assert watched.sizes == [3, 3, 6, 6, 3, 3]
    torch.testing.assert_close(engine.result(late), run(small_walk(1, 4), denoiser), rtol=1e-4, atol=1e-4)
    assert first.done


def test_calls_are_of_about_equal_size(denoiser):
    watched = Watched(denoiser)
    engine = Engine(watched, max_rows=8)
    for seed in range(3):
        engine.add(small_walk(seed, 1))
    engine.run()
    assert watched.sizes == [4, 5]


def test_one_path_is_cancelled_within_one_step_and_the_other_goes_on(denoiser):
    engine = Engine(denoiser)
    seen = []
    doomed = engine.add(small_walk(0, 6), on_step=lambda report: seen.append(report.i), cancelled=lambda: 2 in seen)
    other = engine.add(small_walk(1, 6))
    engine.run()
    assert seen == [0, 1, 2]
    assert doomed.rows == 9
    with pytest.raises(Cancelled):
        engine.result(doomed)
    torch.testing.assert_close(engine.result(other), run(small_walk(1, 6), denoiser), rtol=1e-4, atol=1e-4)


def test_cancelled_before_it_began_costs_nothing(denoiser):
    engine = Engine(denoiser)
    job = engine.add(small_walk(0), cancelled=lambda: True)
    with pytest.raises(Cancelled):
        engine.result(job)
    assert engine.counters.rows == 0


def broken_path() -> Path:
    yield from walk(noise(0, SHAPE), SCHEDULE.steps(2), plain(told(0)))
    raise RuntimeError("the path itself broke")


def listener(report) -> None:
    raise RuntimeError("the listener broke")


def test_what_fails_fails_alone(denoiser):
    engine = Engine(denoiser)
    narrow = Condition(torch.zeros(1, 5, 12), None, torch.zeros(1, 4, 4, 4))  # a picture of another size
    good = engine.add(small_walk(1, 5))
    jobs = {
        "path itself": engine.add(broken_path()),
        "listener": engine.add(small_walk(2), on_step=listener),
        "Sizes of tensors": engine.add(walk(noise(3, SHAPE), SCHEDULE.steps(3), plain(narrow))),
    }
    engine.run()
    for words, job in jobs.items():
        with pytest.raises(RuntimeError, match=words):
            engine.result(job)
    torch.testing.assert_close(engine.result(good), run(small_walk(1, 5), denoiser), rtol=1e-4, atol=1e-4)


def test_a_fault_of_the_denoiser_hits_only_whose_rows_cause_it(denoiser):
    def fault(x: Tensor) -> None:
        if (x == 0).all(dim=(1, 2, 3)).any():
            raise ModelError("zeros are not welcome")

    engine = Engine(Watched(denoiser, fault))
    good, bad, other = (
        engine.add(path) for path in [small_walk(0), walk(torch.zeros(SHAPE), SCHEDULE.steps(3), plain(told(1))), small_walk(2)]
    )
    engine.run()
    with pytest.raises(ModelError, match="not welcome"):
        engine.result(bad)
    for job, seed in [(good, 0), (other, 2)]:
        torch.testing.assert_close(engine.result(job), run(small_walk(seed), denoiser), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory"),
        RuntimeError("MPS backend Out of Memory (allocated: 17.9 GB)"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_met_with_smaller_calls(denoiser, error):
    def fault(x: Tensor) -> None:
        if len(x) > 4:
            raise error

    watched = Watched(denoiser, fault)
    engine = Engine(watched)
    jobs = [engine.add(small_walk(seed)) for seed in range(4)]
    engine.run()
    for seed, job in enumerate(jobs):
        torch.testing.assert_close(engine.result(job), run(small_walk(seed), denoiser), rtol=1e-4, atol=1e-4)
    assert engine.max_rows == 3
    assert sum(size > 4 for size in watched.sizes) == 3  # 12 rows, then both halves; never again


def test_out_of_memory_for_one_row_says_so_and_the_engine_lives(denoiser):
    def fault(x: Tensor) -> None:
        if x.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine = Engine(Watched(denoiser, fault))
    big = engine.add(walk(noise(0, (1, 4, 8, 16)), SCHEDULE.steps(2), plain(told(0, image=False))))
    small = engine.add(small_walk(1))
    with pytest.raises(RequestError, match="4x8x16"):
        engine.result(big)
    assert engine.result(small).isfinite().all()


def test_what_rows_are_told_is_put_together_once(denoiser):
    seen = []
    engine = Engine(lambda x, t, tokens, pooled, image: seen.append((tokens, image)) or x)
    engine.add(small_walk(0, 5))
    engine.run()
    assert len({id(tokens) for tokens, _ in seen}) == len({id(image) for _, image in seen}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_made_once_in_a_run_and_let_go_after_it(denoiser, dtype, monkeypatch):
    unet = copy.deepcopy(denoiser.unet).to(dtype).requires_grad_(False)
    keep_text(unet)
    kept = [module for module in unet.modules() if isinstance(module, KeptLinear)]
    made, forward = [], torch.nn.Linear.forward

    def counting(self, x):
        if self in kept:
            made.append(self)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", counting)
    run(small_walk(0), Denoiser(unet, "epsilon", denoiser.alphas_cumprod))
    assert len(made) == len(kept) > 4
    assert not any(len(module._answers) for module in kept)


def test_pooled_vectors_and_times_reach_their_rows():
    rows = {}

    def noting(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
        for k in range(len(x)):
            rows[t[k].item()] = (tokens[k], None if pooled is None else pooled[k])
        return x

    engine = Engine(noting)
    conditions = [Condition(torch.full((1, 2, 3), float(n)), torch.full((1, 3), float(n)) if n else None) for n in range(3)]
    for c, steps in zip(conditions, (5, 7, 9), strict=True):
        engine.add(walk(noise(0, SHAPE), SCHEDULE.steps(steps)[:1], plain(c)))
    engine.run()
    for n, steps in enumerate((5, 7, 9)):
        tokens, pooled = rows[SCHEDULE.steps(steps)[0].t]
        assert tokens.eq(n).all()
        assert pooled is None if n == 0 else pooled.eq(n).all()


def test_no_gradients_and_no_leaks(denoiser):
    engine = Engine(denoiser)
    job = engine.add(small_walk(0))
    path = weakref.ref(job.path)
    assert not engine.result(job).requires_grad
    del job
    gc.collect()
    assert path() is None


def test_a_path_without_steps_ends_at_its_start(denoiser):
    x = noise(0, SHAPE)
    assert run(walk(x, [], plain(NULL)), denoiser) is x


def test_an_engine_needs_room_for_a_row(denoiser):
    with pytest.raises(RequestError, match="max_rows is 0"):
        Engine(denoiser, max_rows=0)


def descending(seed: int, rates: list[float]):
    """A path that fits its condition to a target by gradient descent: the losses, as its value."""
    x, target = noise(seed, SHAPE), noise(seed + 100, SHAPE)
    tokens = told(seed, image=False).tokens_BLD.clone().requires_grad_()
    losses = []
    for rate in rates:
        [eps] = yield [Predict(x, 400, Condition(tokens, told(seed).pooled_BD))]
        assert eps.requires_grad
        with torch.enable_grad():
            loss = (eps - target).square().mean()
            loss.backward()
        losses.append(loss.item())
        tokens.data -= rate * tokens.grad
        tokens.grad = None
    return losses


def test_rows_whose_tokens_require_gradients_have_them_even_among_others(denoiser):
    engine = Engine(denoiser)
    rates = [0.0, 3.0, 3.0, 0.0]
    alone = [run(descending(seed, rates), denoiser) for seed in (0, 1)]
    jobs = [engine.add(descending(0, rates)), engine.add(small_walk(2)), engine.add(descending(1, rates))]
    engine.run()
    for losses, job in zip(alone, (jobs[0], jobs[2]), strict=True):
        assert engine.result(job) == pytest.approx(losses, rel=1e-5)
        assert losses[3] < losses[2] < losses[1] == losses[0]
    torch.testing.assert_close(engine.result(jobs[1]), run(small_walk(2), denoiser), atol=1e-5, rtol=1e-5)
    assert not engine.result(jobs[1]).requires_grad
    assert engine.counters.gradients == 8
