"""A cascade's second stage bent to a picture, by the first stage's procedure (UniTune, Valevski et al. 2023)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from torch import Tensor

from paintover.models.denoiser import Denoiser
from paintover.path.predict import Condition
from paintover.path.report import Progress
from paintover.tuning import loss
from paintover.tuning.loop import tune
from paintover.tuning.names import UPSCALER
from paintover.tuning.optimiser import InBackward, adafactor
from paintover.tuning.weights import Kind, trainable, tuned_of

if TYPE_CHECKING:
    from paintover.models.upscaler import Upscaler
    from paintover.tuning.unfinished import Unfinished


def tuned(
    upscaler: Upscaler,
    low_BCHW: Tensor,
    large_BCHW: Tensor,
    told: Condition,
    *,
    kind: Kind,
    rank: int,
    rate: float,
    iterations: int,
    batch: int,
    unfinished: Unfinished,
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Part of a preparation: lowers `denoising` by Adafactor on `batch` copies of a picture, and returns what was learnt.

    low, large: the picture at the sizes of both stages (B = 1, pixels in [-1, 1]). told: the words, tokens alone.
    """
    base = upscaler.denoiser
    learner = trainable(base, kind, rank)
    weights = tuned_of(learner)
    low_BCHW, large_BCHW = (x_BCHW.expand(batch, -1, -1, -1) for x_BCHW in (low_BCHW, large_BCHW))
    optimiser = InBackward(weights, adafactor(rate))
    yield from tune(
        lambda i: denoising(learner, upscaler, low_BCHW, large_BCHW, told, i), optimiser, iterations, unfinished, "upscaler"
    )
    return {UPSCALER + name: parameter.detach().to(base.dtype) for name, parameter in weights.items()}


def denoising(learner: Denoiser, upscaler: Upscaler, low_BCHW: Tensor, large_BCHW: Tensor, told: Condition, i: int) -> Tensor:
    """The loss of iteration i: `tuning.loss.denoising` of the large pictures beside the small ones, stretched and noised.

    The noise of the small ones is of levels drawn evenly from all that there are, for each row its own, as the network was
    trained (noise conditioning augmentation, Ho et al. 2021): otherwise it would learn to copy what it is shown.
    """
    shape, device = tuple(large_BCHW.shape), upscaler.denoiser.device
    level_B, blurring_BCHW = loss.drawn(loss.Stream.BLURRING, i, shape, upscaler.levels, device)
    beside = upscaler.source(low_BCHW, blurring_BCHW, level_B)
    c = Condition(told.tokens_BLD, upscaler.told(level_B), beside)
    t_B, noise_BCHW = loss.drawn(loss.Stream.LARGE, i, shape, len(learner.alphas_cumprod), device)
    return loss.denoising(learner, large_BCHW, t_B, noise_BCHW, c)
