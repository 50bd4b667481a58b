"""The tuning loss against diffusers' own arithmetic, and against networks whose error is known."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from paintover.conditions.prompt import prompts
from paintover.models.bundle import Bundle, load
from paintover.models.denoiser import Denoiser
from paintover.models.tiny import tiny
from paintover.path.predict import Condition
from paintover.tuning import loss
from paintover.tuning.loss import denoising, drawn
from paintover.tuning.weights import trainable, tuned_of

SHAPE = (3, 4, 8, 8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return load(tiny(tmp_path_factory.mktemp("sd"), "text-to-image"), "cpu")


@pytest.fixture(scope="module")
def x0() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def plain(monkeypatch) -> None:
    """float32 throughout, as on machines that have no bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


class Fixed:
    """In a UNet's place: it answers what it was told to."""

    def __init__(self, bundle: Bundle, answer: Tensor) -> None:
        self.config, self.device = bundle.denoiser.unet.config, torch.device("cpu")
        self.conv_in, self.answer = bundle.denoiser.unet.conv_in, answer

    def __call__(self, *_, **__) -> tuple[Tensor]:
        return (self.answer,)


def at(bundle: Bundle, t_B: Tensor) -> Tensor:
    return bundle.denoiser.alphas_cumprod[t_B].view(-1, 1, 1, 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_it_is_what_diffusers_trains_with(bundle, x0, prediction, plain):
    """`add_noise`, `get_velocity` and the mean squared error, as in diffusers' training scripts."""
    scheduler = DDIMScheduler.from_config(dict(bundle.scheduler_config))
    t_B, noise = drawn(3, 1, SHAPE, 1000, x0.device)
    [told] = prompts(bundle.text, ["a cow"])
    noisy = scheduler.add_noise(x0, noise, t_B)
    answer = bundle.denoiser.unet(noisy, t_B, told.tokens_BLD.expand(3, -1, -1)).sample
    wanted = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, t_B)}[prediction]
    mine = denoising(Denoiser(bundle.denoiser.unet, prediction, bundle.denoiser.alphas_cumprod), x0, t_B, noise, told)
    torch.testing.assert_close(mine, torch.nn.functional.mse_loss(answer, wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_who_knows_the_picture_has_no_error(bundle, x0, prediction):
    t_B, noise = drawn(0, 0, SHAPE, 1000, x0.device)
    a = at(bundle, t_B)
    known = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x0, "sample": x0}[prediction]
    knowing = Denoiser(Fixed(bundle, known), prediction, bundle.denoiser.alphas_cumprod)
    assert denoising(knowing, x0, t_B, noise, Condition(torch.zeros(1, 77, 32))) < 1e-12
    other = Denoiser(Fixed(bundle, known + 0.5), prediction, bundle.denoiser.alphas_cumprod)
    assert denoising(other, x0, t_B, noise, Condition(torch.zeros(1, 77, 32))).item() == pytest.approx(0.25, rel=1e-4)


def test_a_guess_is_asked_for_what_it_becomes(bundle, x0):
    """Where a guess is off by exactly as much as the noise misleads, what is made of both is the picture."""
    t_B, noise = drawn(0, 0, SHAPE, 1000, x0.device)
    a, sd = at(bundle, t_B), 0.4
    guess = x0 - sd**2 * (a / (1 - a)).sqrt() * noise
    knowing = Denoiser(Fixed(bundle, guess), "sample", bundle.denoiser.alphas_cumprod, sigma_data=sd)
    assert denoising(knowing, x0, t_B, noise, Condition(torch.zeros(1, 77, 32))) < 1e-10


def test_a_network_that_blends_is_asked_for_its_picture(tiny_bundle):
    """Its further channels say how much of a source is hidden; there is none."""
    bundle = load(tiny_bundle, "cpu")
    shape = (2, bundle.codec.channels, 8, 8)
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    [told] = prompts(bundle.text, ["a cow"])
    t_B, noise = drawn(0, 0, shape, 1000, x0.device)
    a = at(bundle, t_B)
    noisy = a.sqrt() * x0 + (1 - a).sqrt() * noise
    rows = told.tokens_BLD.expand(2, -1, -1), told.pooled_BD.expand(2, -1)
    answer = bundle.denoiser.output(noisy, t_B, *rows)[:, : bundle.codec.channels]
    assert denoising(bundle.denoiser, x0, t_B, noise, told).item() == pytest.approx(
        (answer - x0).square().mean().item(), rel=0.02
    )


def test_rows_may_be_told_different_things(bundle, x0, plain):
    """The error of many rows is the mean of each one's."""
    conditions = prompts(bundle.text, ["a cow", "a horse", "beikkpic"])
    t_B, noise = drawn(1, 2, SHAPE, 1000, x0.device)
    together = denoising(bundle.denoiser, x0, t_B, noise, Condition(torch.cat([c.tokens_BLD for c in conditions])))
    alone = [
        denoising(bundle.denoiser, x0[n : n + 1], t_B[n : n + 1], noise[n : n + 1], told) for n, told in enumerate(conditions)
    ]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)


def test_half_precision_changes_little(bundle, x0, monkeypatch):
    """The losses of the first iterations of a tuning agree to a hundredth, whichever machine it is."""
    from paintover.tuning.optimiser import InBackward, adafactor

    [told] = prompts(bundle.text, ["beikkpic"])
    losses = []
    for supported in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        learner, dtypes, taken = trainable(bundle.denoiser), set(), []
        learner.unet.conv_out.register_forward_hook(lambda *called, dtypes=dtypes: dtypes.add(called[2].dtype))
        InBackward(tuned_of(learner), adafactor(1e-3))
        for i in range(4):
            error = denoising(learner, x0, *drawn(0, i, SHAPE, 1000, x0.device), told)
            error.backward()
            taken.append(error.item())
        losses.append(taken)
        assert dtypes == {torch.bfloat16 if supported else torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] != losses[1]
    assert loss.autocast(torch.device("mps")).__class__.__name__ == "nullcontext"


def test_what_is_drawn_is_its_iterations_own(x0):
    """So that a resumed tuning draws what an uninterrupted one does, and another seed other things."""
    t_B, noise = drawn(5, 7, SHAPE, 1000, x0.device)
    again_B, again = drawn(5, 7, SHAPE, 1000, x0.device)
    assert torch.equal(t_B, again_B)
    assert torch.equal(noise, again)
    for other in ((5, 8), (6, 7)):
        assert not torch.equal(noise, drawn(*other, SHAPE, 1000, x0.device)[1])
    assert noise.shape == SHAPE
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_every_timestep_is_as_likely():
    t_N = torch.cat([drawn(0, i, (50, 1, 1, 1), 1000, torch.device("cpu"))[0] for i in range(200)])
    assert (int(t_N.min()), int(t_N.max())) == (0, 999)
    tenths = torch.bincount(t_N // 100, minlength=10) / len(t_N)
    assert (tenths - 0.1).abs().max() < 0.012  # 4 standard deviations


def test_bfloat16_where_the_machine_computes_in_it_alone(monkeypatch):
    """A card of before 2020 knows it by emulation, which is slower than float32."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert isinstance(loss.autocast(cuda), nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert not isinstance(loss.autocast(cuda), nullcontext)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert isinstance(loss.autocast(torch.device("cpu")), nullcontext)
