"""Counts of steps that a paper tells of its own number of steps, in those of a walk."""

from __future__ import annotations

import math

from paintover.errors import KnobError


def rounded(count: float, of: int, steps: int) -> int:
    """`count` of `of` steps, scaled to a walk of `steps` and rounded (a half goes up)."""
    return int((2 * count * steps + of) // (2 * of))


def in_steps(name: str, count: float, of: int, steps: int) -> int:
    """As `rounded`. Raises KnobError where it is some, but less than half a step."""
    scaled = rounded(count, of, steps)
    if count and not scaled:
        enough = math.ceil(of / (2 * count))
        raise KnobError(f"{name} {count:g} of {of} steps is less than half a step of {steps}; ask for {enough} steps or more")
    return scaled


def check_strength(strength: float, steps: int) -> None:
    """Raises KnobError for a late start (`path.start.late`) so late that no step is left to walk."""
    if not int(steps * strength):
        least = math.ceil(1000 / steps) / 1000
        raise KnobError(
            f"strength {strength:g} of {steps} steps is less than one step, which would change nothing; "
            f"use a strength of {least:g} or more, or more steps"
        )
