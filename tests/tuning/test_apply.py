from __future__ import annotations

import pytest
import torch

from paintover.errors import ModelError
from paintover.models.bundle import load
from paintover.models.tiny import tiny
from paintover.tuning.apply import applied


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"unet.x.lora_A.weight": torch.zeros(2, 4), "unet.x.lora_B.weight": torch.zeros(4, 2)},
            "needs a diffusion model with a UNet",
        ),
        ({"unet.conv_in.weight": torch.zeros(3)}, "needs a diffusion model with a UNet"),
        ({"words.zwx": torch.zeros(1, 32)}, "cannot be taught words"),
    ],
)
def test_a_flow_refuses_what_a_unet_learnt(tensors, message, tmp_path):
    flow = load(tiny(tmp_path / "sd3", "flow"), "cpu")
    with pytest.raises(ModelError, match=message) as raised:
        applied(flow, tensors, "digest")
    assert "\n" not in str(raised.value)
