"""Half precision against torch's own autocast: the same numbers, and none of its copies of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from paintover.tuning.half import half


class Layers(nn.Module):
    """Both kinds of layer, one of them used twice, and a norm between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8)
        self.twice, self.out = nn.Linear(8, 8), nn.Linear(8, 2, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        rows = functional.silu(self.norm(self.conv(x_BCHW))).mean(dim=(2, 3))
        return self.out(self.twice(functional.silu(self.twice(rows)))).float()


X = torch.randn(4, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def gradients(layers: Layers, precision) -> list[Tensor]:
    with precision:
        loss = layers(X).square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(layers.parameters()))]


def test_it_computes_what_autocast_computes():
    layers = Layers()
    ours, theirs = gradients(layers, half("cpu")), gradients(layers, torch.autocast("cpu", torch.bfloat16))
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=2e-2, atol=1e-4)  # autocast adds up both uses of a layer in bfloat16
    assert torch.equal(ours[0], theirs[0])
    for k in (1, 2, 3, 4, 7):  # those of layers that are used once
        assert torch.equal(ours[k], theirs[k])
    assert not torch.equal(ours[1], gradients(layers, torch.enable_grad())[1])


def test_no_copy_of_a_weight_outlives_its_layer(monkeypatch):
    """What the graph keeps in half precision are inputs; in autocast's, weights too."""
    from paintover.tuning.half import _Casting

    layers, packed = Layers(), []
    pack = _Casting.pack
    monkeypatch.setattr(_Casting, "pack", lambda self, tensor: packed.append(pack(self, tensor)) or packed[-1])
    with half("cpu"):
        layers(X)
    again = [one[0] for one in packed if isinstance(one, tuple)]
    assert {id(weight) for weight in again} == {id(layers.conv.weight), id(layers.twice.weight), id(layers.out.weight)}
    sizes = {tuple(one.shape) for one in packed if isinstance(one, Tensor) and one.dtype is torch.bfloat16}
    assert not sizes & {tuple(layers.conv.weight.shape), (8, 8), (2, 8), (8, 2)}


def test_layers_that_learn_nothing_still_hand_gradients_on():
    """As the weights beneath a LoRA do, and those of a whole network when only a word is learnt."""
    layers = Layers().requires_grad_(False)
    x = X.clone().requires_grad_()
    found = []
    for precision in (half("cpu"), torch.autocast("cpu", torch.bfloat16)):
        with precision:
            loss = layers(x).square().mean()
        found += torch.autograd.grad(loss, [x])
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=1e-5)
    assert found[0].abs().max() > 0


def test_other_types_are_left_alone():
    layer = nn.Linear(4, 4).double()
    with half("cpu"):
        answer = layer(torch.ones(1, 4, dtype=torch.float64))
    assert answer.dtype is torch.float64
