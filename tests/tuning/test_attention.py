"""Attention that learns: on grids of every size the fused kernel's answer, and no maps kept where they are large."""

from __future__ import annotations

import pytest
import torch

from paintover.models.bundle import load
from paintover.models.tiny import tiny
from paintover.tuning.attention import FEW
from paintover.tuning.weights import learner, trainable


@pytest.mark.parametrize("make", [trainable, learner])
@pytest.mark.parametrize(("side", "large"), [(8, False), (20, True)])
def test_maps_are_kept_of_small_grids_alone(tmp_path, side, large, make):
    bundle = load(tiny(tmp_path, "text-to-image"), "cpu")
    learning = make(bundle.denoiser)
    draw = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(1, 4, side, side, generator=draw), torch.randn(1, 77, 32, generator=draw)
    x.requires_grad_()
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(t.shape[-2:]) or t, lambda t: t):
        answer = learning.output(x, torch.tensor([500]), tokens)
    pixels = side * side
    assert (pixels > FEW) == large
    assert (torch.Size([pixels, pixels]) in kept) != large
    torch.testing.assert_close(answer, bundle.denoiser.output(x, torch.tensor([500]), tokens), rtol=1e-4, atol=1e-5)
