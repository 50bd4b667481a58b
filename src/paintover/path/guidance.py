"""Guidance: which conditions are asked about at each step, and how the answers combine into one noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from paintover.errors import KnobError
from paintover.path.predict import Condition, Path, Predict
from paintover.path.schedule import Step


class Guide(Protocol):
    """Whatever says which noise a walk follows at each of its steps."""

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        """Part of a path: asks for the predictions it needs (or none) and returns the step's eps_BCHW."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Guided:
    """A weighted sum of noise predictions, eps = sum_k weight_k e(condition_k): every guidance here is one.

    Terms of equal conditions are merged and those of weight zero are never evaluated, so that for example
    classifier-free guidance at scale 1 costs one evaluation a step.
    """

    terms: tuple[tuple[Condition, float], ...]

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        """One round of a path: asks for the terms together and returns the guided eps_BCHW; no terms are no noise."""
        if not self.terms:
            return torch.zeros_like(x_BCHW)
        answers = yield [Predict(x_BCHW, step.t, condition) for condition, _ in self.terms]
        weights = [weight for _, weight in self.terms]
        eps = answers[0] if weights[0] == 1 else answers[0] * weights[0]
        for answer, weight in zip(answers[1:], weights[1:], strict=True):
            eps = torch.add(eps, answer, alpha=weight)
        return eps


@dataclass(frozen=True, slots=True, eq=False)
class PerStep:
    """Another guide at each step of the walk: step i follows guides[i]."""

    guides: Sequence[Guide]

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        return self.guides[step.i].noise(x_BCHW, step)


def plain(c: Condition) -> Guided:
    """e(c)."""
    return Guided(((c, 1.0),))


def classifier_free(c: Condition, null: Condition, g: float) -> Guided:
    """e(null) + g [e(c) - e(null)] (Ho & Salimans 2022); g = 1 is plain c, g = 0 is plain null. Any finite g."""
    scale = _exact("guidance", g)
    return _merged((c, scale), (null, 1 - scale))


def dual(c: Condition, null: Condition, g_text: float, g_image: float) -> Guided:
    """InstructPix2Pix's two scales (Brooks et al. 2023, equation 3), any finite values:

    e(0, null) + g_image [e(v, null) - e(0, null)] + g_text [e(v, c) - e(v, null)], v being c's image. `null` brings the
    text states of "no instruction" and, where it has them, the media of none; its image is not used.
    """
    text, image = _exact("text guidance", g_text), _exact("image guidance", g_image)
    image_only = Condition(null.tokens_BLD, null.pooled_BD, c.image_BCHW, null.media_BSE)
    nothing = Condition(null.tokens_BLD, null.pooled_BD, None, null.media_BSE)
    return _merged((c, text), (image_only, image - text), (nothing, 1 - image))


def prompt_guidance(c_edit: Condition, c_base: Condition, w: float) -> Guided:
    """UniTune's e(base) + w [e(edit) - e(base)]: away from another prompt instead of away from no prompt. Any finite w."""
    return classifier_free(c_edit, c_base, w)


def blended(*parts: tuple[Guided, Fraction]) -> Guided:
    """sum_k share_k guided_k, as one sum of predictions: a condition that several of them ask about is asked about once."""
    return _merged(*((c, Fraction(weight) * share) for guided, share in parts if share for c, weight in guided.terms))


def _exact(name: str, value: float) -> Fraction:
    """Scales are summed as exact fractions: weights that cancel do so to zero, not to 1e-17."""
    try:
        return Fraction(value)
    except (OverflowError, ValueError):
        raise KnobError(f"{name} is {value}; expected a finite number") from None


def _merged(*terms: tuple[Condition, Fraction]) -> Guided:
    kept: list[tuple[Condition, Fraction]] = []
    for condition, weight in terms:
        for k, (other, sum_so_far) in enumerate(kept):
            if same(condition, other):
                kept[k] = (other, sum_so_far + weight)
                break
        else:
            kept.append((condition, weight))
    return Guided(tuple((condition, float(weight)) for condition, weight in kept if weight))


def same(a: Condition, b: Condition) -> bool:
    """Whether two conditions say the same, so that one evaluation answers for both."""
    pairs = (
        (a.tokens_BLD, b.tokens_BLD),
        (a.pooled_BD, b.pooled_BD),
        (a.image_BCHW, b.image_BCHW),
        (a.media_BSE, b.media_BSE),
    )
    return a is b or all(p is q or (p is not None and q is not None and torch.equal(p, q)) for p, q in pairs)
