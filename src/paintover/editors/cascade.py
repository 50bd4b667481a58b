"""What every editor's path is followed by on a cascade: the second stage, told the same caption."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paintover.editors.editor import Context, Editor

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.codec import Codec
    from paintover.models.upscaler import Upscaler
    from paintover.path.predict import Path


def upscaler_of(editor: Editor[Any], context: Context[Any]) -> Upscaler | None:
    """The second stage that follows this editor's path; None where none does: its result is as the first stage made it."""
    return context.bundle.upscaler if editor.told == "caption" else None


def codec_of(editor: Editor[Any], context: Context[Any]) -> Codec:
    """What decodes the latents that this editor's way ends with."""
    upscaler = upscaler_of(editor, context)
    return context.bundle.codec if upscaler is None else upscaler.codec


def onward(editor: Editor[Any], context: Context[Any], prepared: dict[str, Tensor]) -> Path:
    """The editor's path, and the second stage after it, by the tuned weights where `prepared` has some of its own."""
    path, upscaler = editor.path(context, prepared), upscaler_of(editor, context)
    return path if upscaler is None else _both(path, upscaler, editor, context, prepared)


def _both(path: Path, upscaler: Upscaler, editor: Editor[Any], context: Context[Any], prepared: dict[str, Tensor]) -> Path:
    from paintover.conditions.prompt import prompts
    from paintover.path.start import noises
    from paintover.path.upscale import upscale
    from paintover.tuning.apply import network
    from paintover.tuning.names import UPSCALER, below

    low_BCHW = yield from path
    knobs, about, learnt = context.knobs.model_dump(), upscaler.about, below(prepared, UPSCALER)
    if learnt:
        upscaler = replace(upscaler, denoiser=network(upscaler.denoiser, learnt, knobs.get("share", 1.0)))
    wanted, unwanted = prompts(context.bundle.text, [editor.caption(context), knobs.get("negative_prompt", "")])
    shape = (1, low_BCHW.shape[1], *(about.factor * side for side in low_BCHW.shape[2:]))
    draw = noises(_seed(context.request.seed), shape, context.device)
    larger = upscale(low_BCHW, upscaler, wanted, unwanted, about.guidance, about.noise_level, context.steps, draw)
    return (yield from larger)


def _seed(seed: int) -> int:
    """Of another stream than the first stage's noises, which are the seed's own."""
    import numpy as np

    return int(np.random.SeedSequence([seed, 2]).generate_state(1, np.uint64)[0] >> 1)
