"""The tuning loop. Whatever is bent to a picture, weights or words, is bent by this one."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from paintover.errors import NotFiniteError
from paintover.path.report import Progress
from paintover.tuning.optimiser import InBackward
from paintover.tuning.unfinished import Unfinished

Tuning = Generator[Progress, None, None]


def tune(
    loss: Callable[[int], Tensor], optimiser: InBackward, iterations: int, unfinished: Unfinished, what: str = "tuning"
) -> Tuning:
    """Lowers loss(i) for i = 0 .. iterations - 1, a backward pass (and so a step of the optimiser) each.

    Part of a preparation: it yields a Progress after each iteration, where it can be cancelled. It goes on where the state in
    `unfinished` ended, bit-equal on a CPU; `what` tells the stages of one tuning apart, there and to people. What is cancelled
    leaves its state as well. Raises NotFiniteError when the loss overflows, which smaller rates mend.
    """
    first, before = 0, unfinished.read()
    if before is not None and before[1].get("what") == what:
        # Weights are copied into their places; the optimiser's own numbers would be views of all that was read.
        optimiser.load({name: t if name.startswith("weight/") else t.clone() for name, t in before[0].items()})
        first = int(before[1]["i"]) + 1
    del before  # as large as the model, or larger
    i = first - 1
    try:
        for i in range(first, iterations):
            with torch.enable_grad():
                error = loss(i)
                if not error.isfinite():
                    raise NotFiniteError(f"tuning diverged at iteration {i + 1} of {iterations}; use a smaller rate")
                error.backward()
            if unfinished.due():
                unfinished.write(optimiser.state(), {"what": what, "i": str(i)})
            yield Progress(i, iterations, what)
    except GeneratorExit:  # cancelled between two iterations
        unfinished.write(optimiser.state(), {"what": what, "i": str(i)})
        raise
    finally:
        optimiser.close()
