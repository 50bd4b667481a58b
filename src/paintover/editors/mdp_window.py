"""The window of steps in which the MDP editors borrow from the picture: its knobs, told as the paper tells them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field, field_validator

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs
from paintover.editors.window import rounded
from paintover.errors import KnobError

if TYPE_CHECKING:
    from paintover.path.mdp import Toward

_NAMED = ("constant", "linear", "cosine", "exponential")


class MDPKnobs(TwoBranchKnobs):
    t_max: int = Field(47, ge=0, le=50, description="when the window opens: steps that remain, of 50 (less: larger change)")
    t_m: int = Field(26, ge=0, le=50, description="how long the window is, of 50 steps (more: closer to the picture)")
    schedule: str = Field(
        "constant",
        max_length=25_000,  # a share for each of 1000 steps, with all its digits
        description="how the picture's share falls within the window; or the shares, one for each of its steps",
        examples=["linear"],
        json_schema_extra={"choices": [*_NAMED, "1,0.8,0.5"]},
    )
    share: float = Field(1.0, ge=0, le=1, description="the picture's share in the window: multiplies the schedule")
    amplify: float = Field(1.0, ge=0, le=4, description="multiplies what is borrowed from the picture")

    @field_validator("schedule", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> str:
        """A name, or shares in 0..1: a list of numbers, or these as text. As text, so that one edit is told in one way."""
        if value in _NAMED:
            return str(value)
        try:
            own = [float(w) for w in (value.split(",") if isinstance(value, str) else value)]
        except (TypeError, OverflowError):
            raise ValueError("neither a name nor numbers") from None
        if not own or not all(math.isfinite(w) and 0 <= w <= 1 for w in own):
            raise ValueError("shares are numbers from 0 to 1")
        return ",".join(repr(w).removesuffix(".0") for w in own)


def scaled(t_max: int, t_m: int, steps: int) -> tuple[int, int]:
    """A window told for 50 steps, as the MDP paper tells it, in steps of a walk of `steps`: how many remain when it opens,
    and how many it covers.

    Both are rounded; but a window that closes before the last of 50 steps closes before the last of these, too, one step
    earlier than rounding would have it if need be. Raises KnobError where it does not lie within 50 steps, or would vanish.
    """
    if not 0 <= t_m <= t_max <= 50:
        raise KnobError(f"the window of t_m {t_m} steps opens when t_max {t_max} are left; expected t_m 0 to {t_max}")
    opens, length = _nearest(t_max, t_m, steps)
    if t_m and not length:
        enough = next(n for n in range(steps + 1, 51) if _nearest(t_max, t_m, n)[1])
        raise KnobError(f"a window of {t_m} of 50 steps is less than one of {steps} steps; ask for {enough} steps or more")
    return opens, length


def _nearest(t_max: int, t_m: int, steps: int) -> tuple[int, int]:
    opens, length = rounded(t_max, 50, steps), rounded(t_m, 50, steps)
    return opens, length - 1 if 0 < length == opens and t_m < t_max else length


K = TypeVar("K", bound=MDPKnobs)


class MDP(TwoBranch[K]):
    """An edit that borrows from the source's own walk inside a window of steps, and else follows the words."""

    paper = "MDP (Wang et al. 2023)"
    steps = 50
    swept: ClassVar[dict[str, tuple[int, ...]]] = {"t_max": (50, 48, 46, 44), "t_m": (10, 20, 26, 30)}

    def check(self, context: Context[K]) -> None:
        self.shares(context)

    def notes(self, context: Context[K]) -> list[str]:
        told = self.told_of(self.shares(context))
        return [*super().notes(context), *([told] if told else [])]

    def told_of(self, shares: list[float]) -> str | None:
        """What may surprise about the window; None: nothing."""
        if all(w == 1 for w in shares):
            return "the window covers every step, so that the words have no effect; use a smaller t_m"
        return None

    def shares(self, context: Context[K]) -> list[float]:
        """The picture's share at each step. Raises KnobError for a window that does not fit."""
        from paintover.path.mdp import weights

        knobs = context.knobs
        t_max, length = scaled(knobs.t_max, knobs.t_m, context.steps)
        schedule = knobs.schedule if knobs.schedule in _NAMED else [float(w) for w in knobs.schedule.split(",")]
        return weights(context.steps, t_max, length, schedule, knobs.share)

    def toward(self, branches: Branches) -> Toward:
        """Classifier-free guidance towards any condition, held at each step against what the inversion found for it."""
        from paintover.path.guidance import classifier_free

        return lambda c, i: classifier_free(c, branches.nulls(i), branches.guidance)
