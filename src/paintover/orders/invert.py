"""A picture inverted and brought back: what an edit beside it will start from, and how much of it that start still holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover.editors.invert import Invert
from paintover.orders.order import Checked, Order, check, path_of, pixels_of, request_for
from paintover.picture.limits import Limits
from paintover.request import EditResult

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from paintover.engine.cache import PrepareCache


@dataclass(frozen=True, slots=True, eq=False)
class Inverted:
    """result: the reconstruction, at the picture's size. cached: whether the inversion was found in the cache.

    psnr: dB of the reconstruction against the picture; psnr_codec: against what the codec alone makes of it; codec: of that
    against the picture, which no inversion can beat. All at the size that the model works at, in floating point.
    """

    result: EditResult
    cached: bool
    psnr: float
    psnr_codec: float
    codec: float


def invert(
    picture: Any,
    *,
    source_prompt: str | None = None,
    model: str | Path = "builtin",
    seed: int | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    keep_location: bool = False,
    limits: Limits = Limits(),
    device: str | None = None,
    on_step: Callable[[Any], None] | None = None,
    cache: PrepareCache | None = None,
    **knobs: Any,
) -> Inverted:
    """Inverts a picture, told its caption, and brings it back. The knobs are those of the editors that do so.

    The inversion is kept in the cache, where every edit finds it that inverts the same picture likewise. Arguments and errors
    otherwise as for `edit`; `out` is where the reconstruction is saved, as large as the picture.
    """
    request = request_for(
        picture=path_of(picture),
        instruction="",
        source_prompt=source_prompt,
        editor=Invert.name,
        knobs=knobs,
        model=str(model),
        seed=seed or 0,
        steps=steps,
        preserve=False,
    )
    target = Path(out) if out is not None else None
    order = Order(request, pixels_of(picture), None, target, force, keep_location, limits, on_step)
    return _inverted(check(order), cache, device)


def _inverted(checked: Checked, cache: PrepareCache | None, device: str | None) -> Inverted:
    import time

    import torch

    from paintover.engine.cache import shared
    from paintover.engine.engine import Engine
    from paintover.models.bundle import load
    from paintover.orders.work import Walked, begin, finish

    order, picture = checked.order, checked.picture
    bundle = load(order.request.model, device=device)
    cache = cache or shared()
    work, engine = begin(checked, bundle, cache), Engine(bundle.denoiser)
    assert work.key is not None
    assert picture is not None
    assert work.reconstruction_hwC is not None
    prepared = cache.find(work.key)
    cached = prepared is not None
    if prepared is None:
        prepared = cache.keep(work.key, engine.result(engine.add(work.preparation(), order.on_step, order.cancelled)))
    ready = time.perf_counter()
    latents_BCHW = engine.result(engine.add(work.path(prepared), order.on_step, order.cancelled))
    result = finish(Walked(work, latents_BCHW, engine.counters.rows, ready, time.perf_counter()))
    with torch.no_grad():
        pixels_CHW = (bundle.codec.decode(latents_BCHW)[0].float().cpu() + 1) / 2
    crop = work.geometry.crop
    back = crop(pixels_CHW.clamp(0, 1).permute(1, 2, 0).contiguous().numpy())
    seen, codec = crop(work.geometry.apply(picture.rgb_HWC)), crop(work.reconstruction_hwC)
    return Inverted(result, cached, _psnr(back, seen), _psnr(back, codec), _psnr(codec, seen))


def _psnr(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """In dB of pictures 0..1, at most 150: closer than that is the rounding of the arithmetic."""
    import numpy as np

    return round(-10 * math.log10(max(float(np.square(a.astype(np.float64) - b).mean()), 1e-15)), 2)
