"""Every editor walks at any aspect ratio, number of steps and precision, and with guidance off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.editors.tuned import Tuned
from paintover.engine.engine import Engine
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import Kind, tiny
from paintover.orders.order import request_for
from paintover.path.inversion import INVERSIONS
from paintover.path.start import noise

EVERY = pytest.mark.parametrize("name", registry.names())


def latents(
    name: str,
    bundle: Bundle,
    steps: int,
    size_HW: tuple[int, int] = (8, 8),
    made: bool = False,
    words: str = "a cow",
    **knobs: Any,
) -> tuple[Tensor, int]:
    """What the editor makes of a picture of random latents (or of a made one), and the evaluations it took."""
    editor = registry.get(name)
    shape = (1, bundle.codec.channels, *size_HW)
    source = None if made or editor.picture == "never" else noise(3, shape) * 0.7
    prompt = "a pig" if editor.takes_source_prompt else None
    request = request_for(instruction=words, source_prompt=prompt, editor=name, seed=1, steps=steps)
    settled = editor.settled(editor.Knobs(**{**brief(name), **knobs}), bundle)
    context = Context(bundle, request, settled, shape, source)
    editor.check(context)
    engine = Engine(bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    end = engine.result(engine.add(editor.path(context, prepared)))
    return end, engine.counters.rows


def brief(name: str) -> dict[str, Any]:
    """Knobs that make an editor's tuning as short as their first examples are."""
    editor = registry.get(name)
    fields = editor.Tuning.model_fields if isinstance(editor, Tuned) else {}
    return {knob: field.examples[0] for knob, field in fields.items() if field.annotation is int and field.examples}


BESIDE_A_SOURCE = [name for name in registry.names() if registry.get(name).picture == "either"]


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return load(tiny_bundle, "cpu")


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size_HW", [(4, 14), (12, 6)])
def test_any_aspect_ratio_in_any_precision(name, size_HW, dtype, tiny_bundle):
    end, _ = latents(name, load(tiny_bundle, "cpu", dtype), 6, size_HW)
    assert end.shape[-2:] == size_HW
    assert end.dtype == torch.float32
    assert end.isfinite().all()


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> list[Bundle]:
    """Two encoders, sizes told as numbers, transformers of several blocks: to edit by captions, and by instructions."""
    kinds: tuple[Kind, ...] = ("sdxl", "sdxl-instruct")
    return [load(tiny(tmp_path_factory.mktemp(kind), kind), "cpu") for kind in kinds]


@EVERY
def test_sdxl(name, sdxl):
    bundle = next((one for one in sdxl if {*registry.get(name).needs} <= one.capabilities), None)
    if bundle is None:
        pytest.skip("needs what SDXL alone has not")
    for words in ("a cow", "the sea"):
        end, rows = latents(name, bundle, 4, (4, 14), words=words)
        assert end.shape == (1, 4, 4, 14)
        assert end.isfinite().all()
        assert rows
        if words == "a cow":
            first = end
    assert not torch.equal(first, end)


@EVERY
def test_any_number_of_steps(name, bundle):
    for steps in (2, 3, 11):
        assert latents(name, bundle, steps)[0].isfinite().all()


@EVERY
def test_two_hundred_steps(name, bundle):
    end, rows = latents(name, bundle, 200)
    assert end.isfinite().all()
    assert rows <= 200 * 8  # nobody here asks more of the denoiser, the preparation included


@EVERY
def test_guidance_off(name, bundle):
    if "guidance" not in registry.get(name).Knobs.model_fields:
        pytest.skip("has no guidance")
    _, most = latents(name, bundle, 6, guidance=7.5)
    for guidance in (1.0, 0.0):
        end, rows = latents(name, bundle, 6, guidance=guidance)
        assert end.isfinite().all()
        assert rows <= most


@pytest.mark.parametrize("name", BESIDE_A_SOURCE)
def test_any_inversion(name, bundle):
    if "inversion" not in registry.get(name).Knobs.model_fields:
        pytest.skip("inverts in its own way")
    ends = [latents(name, bundle, 4, inversion=way, inner=1, iterations=1)[0] for way in INVERSIONS]
    assert all(end.isfinite().all() for end in ends)
    assert len({end.sum().item() for end in ends}) > 2


@pytest.mark.parametrize("name", BESIDE_A_SOURCE)
def test_edits_a_made_picture_too(name, bundle):
    end, _ = latents(name, bundle, 6, made=True)
    other, _ = latents(name, bundle, 6, made=True, words="the sea")
    assert end.isfinite().all()
    assert not torch.equal(end, other)
