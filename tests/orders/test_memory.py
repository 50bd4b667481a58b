"""Memory that runs out beside the denoiser's calls is met with one line."""

from __future__ import annotations

import pytest

from paintover.errors import RequestError
from paintover.models.bundle import load
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one


@pytest.mark.parametrize("part", ["encode", "decode"])
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: Out of memory\nhere and there"), MemoryError()])
def test_the_codec_runs_out_of_memory(part, error, tiny_bundle, photo, monkeypatch):
    def run_out(_):
        raise error

    monkeypatch.setattr(load(tiny_bundle, device="cpu").codec, part, run_out)
    order = Order(request_for(picture=str(photo), instruction="make it night", model=str(tiny_bundle), steps=1))
    with pytest.raises(RequestError, match=r"^out of memory while .*; ask for a smaller picture or model$"):
        edit_one(order, device="cpu")


def test_another_fault_of_the_codec_stays_itself(tiny_bundle, photo, monkeypatch):
    def fail(_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(load(tiny_bundle, device="cpu").codec, "decode", fail)
    order = Order(request_for(picture=str(photo), instruction="make it night", model=str(tiny_bundle), steps=1))
    with pytest.raises(RuntimeError, match="no such kernel"):
        edit_one(order, device="cpu")
