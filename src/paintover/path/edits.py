"""Several edits at once (LEdits++): each with its own words, direction, strength, window of steps and mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from paintover.path.guidance import Guided
from paintover.path.masks import WordsSeen, strongest
from paintover.path.predict import Condition, Path, Predict
from paintover.path.schedule import Step

MaskFrom = Literal["both", "attention", "noise"]
_NOISY = 800  # timesteps (of 1000) above which differences of predictions do not yet say where something is


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One of the edits.

    condition, words: its text, and how many tokens that has of its own.
    scale:     of its guidance; below 0 leads away from the text.
    threshold: the part of the picture that its mask leaves out (0.9: it covers the tenth where most happens).
    first, last: it works at the steps i with first <= i < last (warm-up, cool-down).
    """

    condition: Condition
    words: int
    scale: float
    threshold: float
    first: int
    last: int

    def at(self, step: Step) -> bool:
        return self.scale != 0 and self.first <= step.i < self.last


@dataclass(frozen=True, slots=True, eq=False)
class Edits:
    """A guide (LEdits++, Brack et al. 2024, equations 6 to 9): eps = base + sum_k M_k scale_k [e(c_k) - e(null)].

    M_k = M1_k M2_k: M1 the strongest places of its words' cross-attention, M2 those of its guidance itself, summed over
    channels. At the noisiest steps M1 stands alone. `mask_from` may leave one of them out.
    base:  the guide of the picture's own walk, so that where no mask is, the walk is the picture's.
    within_HW: the user's mask, beyond which no edit is at work.
    masks: of each edit, (how often it was at work, the sum of its masks_HW); filled as the walk goes.
    """

    base: Guided
    null: Condition
    edits: Sequence[Edit]
    mask_from: MaskFrom = "both"
    within_HW: Tensor | None = None
    masks: dict[int, tuple[int, Tensor]] = field(default_factory=dict)

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        """Asks for the base, "" and the edits at work in one round; where no edit is at work, for the base alone."""
        size_HW = x_BCHW.shape[2], x_BCHW.shape[3]
        at_work = [(k, edit) for k, edit in enumerate(self.edits) if edit.at(step)]
        seen = [WordsSeen(edit.words, size_HW) if self.mask_from != "noise" else None for _, edit in at_work]
        told = [c for c, _ in self.base.terms]
        if at_work and self.null not in told:
            told.append(self.null)
        asks = [Predict(x_BCHW, step.t, c) for c in told]
        asks += [Predict(x_BCHW, step.t, edit.condition, taps) for (_, edit), taps in zip(at_work, seen, strict=True)]
        answers = yield asks
        eps = sum((e * w for e, (_, w) in zip(answers, self.base.terms, strict=False)), start=0 * x_BCHW)
        for (k, edit), taps, answer in zip(at_work, seen, answers[len(told) :], strict=True):
            guidance = edit.scale * (answer - answers[told.index(self.null)])
            if self.within_HW is not None:
                guidance = guidance * self.within_HW
            mask_HW = self._mask(edit, guidance, taps, step)
            if self.within_HW is not None:
                mask_HW = mask_HW * self.within_HW
            count, total = self.masks.get(k, (0, 0 * mask_HW))
            self.masks[k] = count + 1, total + mask_HW
            eps = eps + mask_HW * guidance
        return eps

    def mean_masks(self) -> dict[int, Tensor]:
        """Of each edit that was at work, mask_HW: how often each place was in its mask, 0 to 1."""
        return {k: total / count for k, (count, total) in sorted(self.masks.items())}

    def _mask(self, edit: Edit, guidance_BCHW: Tensor, taps: WordsSeen | None, step: Step) -> Tensor:
        attended_HW = None if taps is None else taps.mask(edit.threshold)
        if attended_HW is not None and (self.mask_from == "attention" or step.t > _NOISY):
            return attended_HW
        felt_HW = strongest(guidance_BCHW.abs().sum(dim=1)[0], edit.threshold)
        return felt_HW if attended_HW is None else felt_HW * attended_HW
