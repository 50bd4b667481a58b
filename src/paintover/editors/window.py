"""Counts of steps that a paper tells of its own number of steps, in those of a walk."""

from __future__ import annotations

from paintover.errors import KnobError


def in_steps(name: str, count: int, of: int, steps: int) -> int:
    """`count` of `of` steps, scaled to a walk of `steps` and rounded (a half goes up).

    Raises KnobError where it is some, but less than half a step.
    """
    scaled = (2 * count * steps + of) // (2 * of)
    if count and not scaled:
        enough = -(-of // (2 * count))
        raise KnobError(f"{name} {count} of {of} steps is less than half a step of {steps}; ask for {enough} steps or more")
    return scaled
