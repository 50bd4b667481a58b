"""Stepping within the backward pass, against the same optimisers stepped after it, as they are meant to be used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.optimization import Adafactor

from paintover.tuning.optimiser import InBackward, Make, adafactor, adam

MAKERS: dict[str, Make] = {"adafactor": adafactor(0.01), "adam": adam(0.01)}
EACH = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class Small(nn.Module):
    """What a denoiser has, in small: a convolution, a norm, a layer used twice, and a parameter that no one asks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.twice = nn.Linear(6, 6)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        rows = self.norm(self.conv(x_BCHW)).mean(dim=(2, 3))
        return self.twice(functional.silu(self.twice(rows)))


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def loss(network: Small, i: int) -> Tensor:
    draw = torch.Generator().manual_seed(i)
    return (network(torch.randn(2, 3, 5, 4, generator=draw)) - torch.randn(2, 6, generator=draw)).square().mean()


def stepped(network: Small, make: Make, count: int) -> InBackward:
    optimiser = InBackward(dict(network.named_parameters()), make)
    for i in range(count):
        loss(network, i).backward()
    return optimiser


@EACH
def test_it_steps_as_the_optimiser_does_once_all_gradients_are_there(make):
    ours, theirs = small(), small()
    stepped(ours, make, 5)
    # A kernel is a matrix to the optimiser: here the whole layer's is, from the start.
    kernel = nn.Parameter(theirs.conv.weight.detach().flatten(1))
    others = [parameter for name, parameter in theirs.named_parameters() if name != "conv.weight"]
    plain = make([kernel, *others])
    for i in range(5):
        theirs.conv.weight = nn.Parameter(kernel.detach().view_as(theirs.conv.weight))
        loss(theirs, i).backward()
        kernel.grad = theirs.conv.weight.grad.flatten(1)
        plain.step()
        plain.zero_grad()
        theirs.conv.weight.grad = None
    theirs.conv.weight = nn.Parameter(kernel.detach().view_as(theirs.conv.weight))
    for (name, mine), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, wanted), name
    assert not torch.equal(ours.conv.weight, small().conv.weight)
    assert torch.equal(ours.idle, torch.ones(3))


def test_gradients_are_let_go_at_once():
    """When the first layer's gradient arrives, last of all, no other is in memory any more."""
    network, held = small(), []
    InBackward(dict(network.named_parameters()), adafactor(0.01))
    network.conv.weight.register_post_accumulate_grad_hook(
        lambda _: held.append([name for name, p in network.named_parameters() if p.grad is not None])
    )
    loss(network, 0).backward()
    assert held == [[]]
    assert all(parameter.grad is None for parameter in network.parameters())


@EACH
def test_its_state_is_all_there_is_to_know(make):
    """Six steps are three, the state taken to another network and optimiser, and three more: bit for bit."""
    whole = small()
    stepped(whole, make, 6)
    state = {name: tensor.clone() for name, tensor in stepped(small(), make, 3).state().items()}
    rest = small(seed=1)
    optimiser = InBackward(dict(rest.named_parameters()), make)
    optimiser.load(state)
    for i in range(3, 6):
        loss(rest, i).backward()
    for (name, mine), wanted in zip(rest.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(mine, wanted[1]), name


def test_a_kernels_state_is_a_row_and_a_column():
    network = small()
    state = stepped(network, adafactor(0.01), 1).state()
    assert state["exp_avg_sq_row/conv.weight"].shape == (6,)
    assert state["exp_avg_sq_col/conv.weight"].shape == (27,)
    assert state["weight/conv.weight"].shape == network.conv.weight.shape


def test_closed_it_steps_no_more():
    network = small()
    optimiser = InBackward(dict(network.named_parameters()), adam(0.1))
    optimiser.close()
    loss(network, 0).backward()
    assert torch.equal(network.conv.weight, small().conv.weight)
    assert network.conv.weight.grad is not None


def test_adafactors_rate_is_what_is_asked_for():
    """Nothing of it grows with the step or the weights: UniTune's and methods.md E.2's settings."""
    [group] = adafactor(0.25)([nn.Parameter(torch.ones(2))]).param_groups
    settings = {key: group[key] for key in ("lr", "relative_step", "warmup_init", "scale_parameter", "beta1", "weight_decay")}
    assert settings == {
        "lr": 0.25,
        "relative_step": False,
        "warmup_init": False,
        "scale_parameter": False,
        "beta1": None,
        "weight_decay": 0.0,
    }
    first = nn.Parameter(torch.tensor([100.0, -3.0]))
    optimiser = InBackward({"w": first}, adafactor(0.25))
    (first * torch.tensor([2.0, -0.5])).sum().backward()
    torch.testing.assert_close(first.detach(), torch.tensor([99.75, -2.75]))  # the first update is the gradient's sign
    optimiser.close()
    assert isinstance(adafactor(0.25)([first]), Adafactor)
