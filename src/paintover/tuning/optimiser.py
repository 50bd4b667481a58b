"""Optimisers that step each weight as soon as its gradient is there, and let the gradient go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class InBackward:
    """Steps during the backward pass, so that never all gradients are in memory at once, only one weight's.

    That pays for the copy of the weights that is tuned: the model itself stays as it was, for others to use meanwhile. One
    backward pass is one step. `parameters` are named, as the state is on disk.

    The optimiser sees a convolution's kernel as the matrix that it is, (out, in x height x width). For Adafactor, which keeps
    a row and a column of each matrix, 3 x 3 kernels would be many small ones: two thirds of the weights' size to keep, and
    most of the time spent on them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: Make) -> None:
        self.parameters = dict(parameters)
        seen = {name: _as_matrix(parameter) for name, parameter in self.parameters.items()}
        self._each = {name: make([matrix]) for name, matrix in seen.items()}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(_step, self._each[name], seen[name]))
            for name, parameter in self.parameters.items()
        ]

    def state(self) -> dict[str, Tensor]:
        """Weights and what the optimiser knows of each, as named tensors."""
        state = {f"weight/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, one in self._each.items():
            known: dict[str, Any] = one.state_dict()["state"].get(0, {})
            state |= {f"{key}/{name}": torch.as_tensor(value) for key, value in known.items()}
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up such a state again."""
        known: dict[str, dict[str, Any]] = {}
        for full, tensor in state.items():
            key, name = full.split("/", 1)
            if key == "weight":
                self.parameters[name].copy_(tensor)
            else:  # counts are Python's own numbers, not tensors
                known.setdefault(name, {})[key] = tensor if tensor.is_floating_point() else int(tensor)
        for name, values in known.items():
            one = self._each[name]
            one.load_state_dict({"state": {0: values}, "param_groups": one.state_dict()["param_groups"]})

    def close(self) -> None:
        """Steps no more."""
        for hook in self._hooks:
            hook.remove()


def adafactor(rate: float) -> Make:
    """Adafactor (Shazeer & Stern 2018) with a fixed rate: no warm-up, nothing relative to step or weights (UniTune)."""
    from transformers.optimization import Adafactor

    class Lean(Adafactor):
        """Forgets what it has no use for: a number a weight, left all over the memory, that keep it from being used again."""

        def step(self, closure: Any = None) -> Any:
            answer = super().step(closure)
            for known in self.state.values():
                known["RMS"] = 0
            return answer

    return lambda parameters: Lean(
        parameters, lr=rate, relative_step=False, warmup_init=False, scale_parameter=False, beta1=None, weight_decay=0.0
    )


def adam(rate: float) -> Make:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def _as_matrix(parameter: nn.Parameter) -> nn.Parameter:
    """The same memory. Raises RuntimeError for a kernel whose memory is not in order of its indices."""
    if parameter.dim() <= 2:
        return parameter
    return nn.Parameter(parameter.detach().view(len(parameter), -1))


def _step(optimiser: torch.optim.Optimizer, seen: nn.Parameter, parameter: Tensor) -> None:
    gradient = parameter.grad
    assert gradient is not None, "called when there is one"
    parameter.grad = None
    seen.grad = gradient.reshape(seen.shape)
    optimiser.step()
    seen.grad = None
