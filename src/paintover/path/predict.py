"""The one question a path asks: what noise does the denoiser see here?"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from paintover.models.taps import Taps


class Network(Protocol):
    """What answers: noisy rows, each at its own timestep, to the noise in them (`models.denoiser.Denoiser`).

    Where it has a `dtype`, its tokens come in that, and in the same tensor at every step of the same conditions.
    """

    def __call__(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        tokens_BLD: Tensor,
        pooled_BD: Tensor | None,
        image_BCHW: Tensor | None,
        taps: Sequence[Taps | None] | None = None,
        media_BSE: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What the denoiser is told, for one row (B = 1).

    tokens_BLD: text states for cross-attention.
    pooled_BD:  one vector for the whole text, or None where the model takes none.
    image_BCHW: unscaled source latents on extra channels (InstructPix2Pix's convention); None means zeros there
                where the model has such channels.
    media_BSE:  embeddings of pictures and sounds, the first of them for the whole, the others each for an object; zeros
                where there is none. None: the denoiser's adapter takes no part.
    """

    tokens_BLD: Tensor
    pooled_BD: Tensor | None = None
    image_BCHW: Tensor | None = None
    media_BSE: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Predict:
    """ "Evaluate the denoiser here": noisy latents x_BCHW (B = 1) at timestep t, told `condition`.

    taps: what is recorded and replaced inside the network for this row alone; None: nothing.
    network: whose weights answer (tuned ones, a second stage's); None: the engine's own.
    Where the condition's tokens or media require gradients, so does the answer.
    """

    x_BCHW: Tensor
    t: float
    condition: Condition
    taps: Taps | None = None
    network: Network | None = None


# A path yields the evaluations it wants made together, is sent each one's eps_BCHW, and returns the final latents.
Path = Generator[Sequence[Predict], Sequence[Tensor], Tensor]
# A preparation is a path that returns named tensors, to be kept for every later edit of the same picture.
Preparation = Generator[Sequence[Predict], Sequence[Tensor], dict[str, Tensor]]
