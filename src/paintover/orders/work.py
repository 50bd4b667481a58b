"""Work: a checked order on a model. `begin` brings it to its path, `finish` brings the path's latents to a picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from paintover import picture as pictures
from paintover.editors import cascade
from paintover.editors.editor import Context
from paintover.engine.cache import PrepareCache, cache_key
from paintover.engine.memory import enough_memory
from paintover.errors import NotFiniteError, RequestError
from paintover.orders import media
from paintover.orders import tuned as of_tuning
from paintover.orders.code import code
from paintover.orders.order import Checked, beside, of_source, resolve
from paintover.path.predict import Path, Preparation
from paintover.picture.geometry import Geometry
from paintover.request import EditRequest, EditResult
from paintover.tuning import store
from paintover.tuning.apply import applied
from paintover.tuning.names import UNET

if TYPE_CHECKING:
    from paintover.models.bundle import Bundle
    from paintover.models.codec import Codec
    from paintover.picture.open import Picture


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """An edit under way. `reconstruction_hwC` is the codec's own picture of the source: what "no change" looks like.

    key: of what the editor prepares, in the prepare cache; None where it prepares nothing, or has it: `prepared`.
    codec_keys: of the encoded pictures, in the cache.
    """

    checked: Checked
    context: Context[Any]
    key: str | None
    geometry: Geometry
    reconstruction_hwC: NDArray[np.float32] | None
    began: float
    prepared: dict[str, Tensor] | None = None
    codec_keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def preparation(self) -> Preparation:
        """The path to what depends on the picture alone."""
        return self.checked.editor.prepare(self.context)

    @enough_memory("the edit was prepared")
    def path(self, prepared: dict[str, Tensor]) -> Path:
        """The path to the edited latents."""
        # Weights stay where they are until a network is made of them, once for all who share it.
        here = {name: tensor if UNET in name else tensor.to(self.context.device) for name, tensor in prepared.items()}
        return cascade.onward(self.checked.editor, self.context, here)


@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """An edit whose path has come to its end, at the latents_BCHW of the edited picture.

    evaluations: of the denoiser, spent on it. prepared, walked: when (perf_counter) its preparation was ready, and its path.
    """

    work: Work
    latents_BCHW: Tensor
    evaluations: int
    prepared: float
    walked: float


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A finished picture that is not saved yet, and edited_hwC, what the model painted, at the padded working size."""

    result: EditResult
    edited_hwC: NDArray[np.float32]


@enough_memory("the edit was prepared")
def begin(checked: Checked, bundle: Bundle, cache: PrepareCache) -> Work:
    """Resolves the request and encodes the picture, or takes it from the cache where it is known. Raises PaintoverError."""
    began = time.perf_counter()
    editor, picture, tuning = checked.editor, checked.picture, checked.tuning
    bundle.require(*editor.needs, editor=editor.name)
    request, knobs = resolve(checked, bundle)
    notes: list[str] = []
    prepared, untuned = None, bundle.fingerprint
    if tuning is not None:
        of_tuning.check_model(tuning, bundle)
        notes = of_tuning.note(tuning, editor, request.instruction)
        tensors = tuning.tensors()
        if of_tuning.is_own(tuning, editor):
            prepared = tensors
        else:
            bundle = applied(bundle, tensors, tuning.record.sha256)
        store.touch(tuning)
    checked, base = _on_base(checked, bundle, request)
    picture = checked.picture
    notes += media.notes(checked.media, picture)
    codec = bundle.codec
    native_HW = (bundle.size, bundle.size) if picture is None else picture.size_HW
    geometry = Geometry.fit(native_HW, bundle.size**2, bundle.multiple)
    if bundle.most is not None and max(geometry.padded_HW) > bundle.most:
        raise RequestError(
            f"{bundle.name} works on at most {bundle.most} pixels a side, and a picture of these proportions would take "
            f"{max(geometry.padded_HW)}; crop it to be less elongated"
        )
    height, width = (side // codec.factor for side in geometry.padded_HW)
    shape = (1, codec.channels, height, width)
    mask_HW = None if checked.mask_HW is None else _on_grid(checked.mask_HW, geometry, codec.factor).to(bundle.denoiser.device)
    context: Context[Any] = Context(bundle, request, knobs, shape, mask_HW=mask_HW, picture=picture, media=checked.media)
    if base is not None:
        context.derived["base"] = base
    editor.check(context)
    about: dict[str, Any] = {
        "code": code(),  # other code may prepare the same thing differently
        "picture": None if picture is None else picture.sha256,
        "geometry": geometry.record(),
        "model": bundle.fingerprint,
    }
    reconstruction = None
    codec_keys: tuple[str, ...] = ()
    if picture is not None:
        codec_keys = (cache_key(**about | {"model": untuned}, part="codec"),)  # which no tuning changes
        encoded = cache.get(codec_keys[0], lambda: encode(bundle, geometry.apply(picture.rgb_HWC)))
        context = replace(context, source_BCHW=encoded["latents_BCHW"].to(context.device))
        reconstruction = encoded["reconstruction_hwC"].numpy()
        if "large_BCHW" in encoded:
            context = replace(context, large_BCHW=encoded["large_BCHW"].to(context.device))
            if (upscaler := cascade.upscaler_of(editor, context)) is not None:
                reconstruction = _decode(upscaler.codec, encoded["large_BCHW"])
    if checked.examples:
        context, more = _with_examples(context, checked.examples, about | {"model": untuned}, cache)
        codec_keys += more
    depends = editor.prepared_from(context) if prepared is None else None
    key = None
    if depends is not None:
        if len(checked.examples) > 1:
            about["examples"] = [example.sha256 for example in checked.examples]
        key = cache_key(**about, dtype=str(bundle.denoiser.dtype), part=editor.prepared_by, of=depends)
        context = replace(context, unfinished=cache.unfinished(key))
    return Work(checked, context, key, geometry, reconstruction, began, prepared, codec_keys, tuple(notes))


def _on_base(checked: Checked, bundle: Bundle, request: EditRequest) -> tuple[Checked, str | None]:
    """The order with the picture that is to be edited, and its name, where the words may speak of several pictures."""
    order, editor, spoken = checked.order, checked.editor, checked.media
    if not editor.takes_references or checked.picture is None:
        return checked, None
    given = {name: medium for name, medium in spoken.items() if isinstance(medium, pictures.Picture)}
    base: str | None = next(name for name, picture in given.items() if picture is checked.picture)
    if checked.mask_HW is None and len({picture.sha256 for picture in given.values()}) > 1:
        base = editor.base(bundle, request, spoken)
    picture = None if base is None else given[base]
    if picture is not None and picture is not checked.picture and order.out is not None:
        transparent = picture.alpha_HW is not None and int(picture.alpha_HW.min()) < 255
        pictures.check_target(order.out, order.force, transparent, picture.size_HW)
    return replace(checked, picture=picture), base


def _with_examples(
    context: Context[Any], examples: tuple[Picture, ...], about: dict[str, Any], cache: PrepareCache
) -> tuple[Context[Any], tuple[str, ...]]:
    """The pictures to learn from, each encoded at a size of its own; and their keys in the cache."""
    bundle, latents, keys = context.bundle, [], []
    for example in examples:
        geometry = Geometry.fit(example.size_HW, bundle.size**2, bundle.multiple)
        of_it = about | {"picture": example.sha256, "geometry": geometry.record()}
        keys.append(cache_key(**of_it, part="codec"))
        encoded = cache.get(keys[-1], partial(encode, bundle, geometry.apply(example.rgb_HWC)))
        latents.append(encoded["latents_BCHW"].to(context.device))
    return replace(context, examples=tuple(latents)), tuple(keys)


def finish(walked: Walked) -> EditResult:
    """Makes the picture, and saves it if that was asked."""
    return save(walked.work, make(walked).result)


@enough_memory("the edit was put into the picture")
def make(ended: Walked) -> Made:
    """Decodes the edited latents, and puts the edit back into the picture that was opened.

    Raises NotFiniteError for latents that are not finite (an overflow in half precision, weights that are broken).
    """
    began = time.perf_counter()
    work, latents_BCHW = ended.work, ended.latents_BCHW
    picture, request, bundle = work.checked.picture, work.context.request, work.context.bundle
    computed = {"device": str(bundle.denoiser.device), "dtype": str(bundle.denoiser.dtype).removeprefix("torch.")}
    edited_hwC = _decode(cascade.codec_of(work.checked.editor, work.context), latents_BCHW)
    if not (latents_BCHW.isfinite().all() and np.isfinite(edited_hwC).all()):
        raise NotFiniteError(
            f"the model's answer is not finite ({computed['dtype']} on {computed['device']}), so there is no picture; use "
            "smaller guidance or other steps, or --device cpu, which computes in float32"
        )
    record: dict[str, Any] = {}
    if picture is None or work.reconstruction_hwC is None:
        rgb_HWC, alpha_HW = np.rint(work.geometry.inverse(edited_hwC) * 255).astype(np.uint8), None
    else:
        own = work.context.shown.get("mask") if work.checked.editor.confined else None
        closed = pictures.close(
            picture,
            edited_hwC,
            work.reconstruction_hwC,
            work.geometry,
            mask_HW=work.checked.mask_HW,
            within_hw=None if own is None else _at_working_size(work, own),
            preserve=request.preserve,
        )
        rgb_HWC, alpha_HW, record = closed.rgb_HWC, closed.alpha_HW, dict(closed.record)
    record |= computed
    record["evaluations"] = ended.evaluations
    record["working_size"] = [work.geometry.padded_HW[1], work.geometry.padded_HW[0]]
    seen = picture.warnings if picture is not None else ()
    record |= work.context.derived
    record["warnings"] = [*seen, *work.notes, *work.checked.editor.notes(work.context)]
    record["seconds"] = {
        "prepare": round(ended.prepared - work.began, 3),
        "walk": round(ended.walked - ended.prepared, 3),
        "close": round(time.perf_counter() - began, 3),
        **{name: round(seconds, 3) for name, seconds in work.context.seconds.items()},  # of them, within "prepare"
    }
    shown = {name: _shown(work, tensor) for name, tensor in work.context.shown.items()}
    return Made(EditResult(rgb_HWC, alpha_HW, request, record, shown=shown), edited_hwC)


@enough_memory("the edit was saved")
def save(work: Work, result: EditResult, others: Mapping[str, EditResult] | None = None) -> EditResult:
    """The result, saved if that was asked; and beside it other results of the same picture, by what they are called."""
    order, shown = work.checked.order, result.shown
    if order.out is None:
        return result
    others = others or {}
    metadata = work.checked.picture.metadata if work.checked.picture is not None else None
    files, source = [pictures.File(order.out, result, metadata, _provenance(result))], {}
    if order.out_source is not None:
        computed = {name: result.record[name] for name in ("device", "dtype")}
        by_words = {"request": of_source(result.request).model_dump(mode="json"), "record": computed}
        files.append(pictures.File(order.out_source, shown["source"], None, by_words))
        source = {"source": order.out_source}
    masks = {name: beside(order.out, name) for name, pixels in shown.items() if order.show and pixels.ndim == 2}
    files += [pictures.File(path, shown[name]) for name, path in masks.items()]
    besides = {name: beside(order.out, name) for name in others}
    files += [pictures.File(besides[name], other, metadata, _provenance(other)) for name, other in others.items()]
    saved, *_ = pictures.save_all(files, force=order.force, keep_location=order.keep_location)
    return replace(result, path=saved, files=source | masks | besides)


def _provenance(result: EditResult) -> dict[str, Any]:
    return {"request": result.request.model_dump(mode="json"), "record": result.record}


def _shown(work: Work, tensor: Tensor) -> NDArray[np.uint8]:
    """Latents as a picture, or a mask of the latents' grid, at the size of the result."""
    if tensor.ndim == 4:
        return np.rint(work.geometry.inverse(_decode(work.context.bundle.codec, tensor)) * 255).astype(np.uint8)
    mask_hw = _at_working_size(work, tensor)
    return np.rint(work.geometry.inverse(mask_hw[:, :, None])[:, :, 0] * 255).astype(np.uint8)


def _at_working_size(work: Work, mask_HW: Tensor) -> NDArray[np.float32]:
    """A mask on the latents' grid as one of the padded working picture."""
    grid = functional.interpolate(mask_HW[None, None].float().cpu(), size=work.geometry.padded_HW, mode="nearest")
    return grid[0, 0].numpy()


def _on_grid(mask_HW: NDArray[np.float32], geometry: Geometry, factor: int) -> Tensor:
    """The user's mask on the latents' grid: 1 where it lets any pixel change. (`close` keeps to the pixels.)"""
    mask_hw = torch.from_numpy(np.ascontiguousarray(geometry.apply(mask_HW[:, :, None])[:, :, 0]))
    return (functional.max_pool2d(mask_hw[None], factor)[0] > 1 / 255).float()


@torch.no_grad()
def encode(bundle: Bundle, working_hwC: NDArray[np.float32]) -> dict[str, Tensor]:
    """A working picture (float32 0..1) as scaled latents_BCHW and the codec's reconstruction_hwC, on the CPU.

    For a cascade also as large_BCHW, its second stage's latents.
    """
    pixels_BCHW = torch.from_numpy(np.ascontiguousarray(working_hwC)).permute(2, 0, 1)[None] * 2 - 1
    latents_BCHW = bundle.codec.encode(pixels_BCHW.to(bundle.denoiser.device))
    reconstruction = torch.from_numpy(_decode(bundle.codec, latents_BCHW))
    encoded = {"latents_BCHW": latents_BCHW.cpu(), "reconstruction_hwC": reconstruction}
    if bundle.upscaler is not None:
        encoded["large_BCHW"] = bundle.upscaler.codec.encode(pixels_BCHW).cpu()
    return encoded


@torch.no_grad()
def _decode(codec: Codec, latents_BCHW: Tensor) -> NDArray[np.float32]:
    """Latents, B = 1 -> float32 hwC in 0..1."""
    pixels_BCHW = codec.decode(latents_BCHW)
    return ((pixels_BCHW[0].permute(1, 2, 0).float().cpu() + 1) / 2).clamp(0, 1).contiguous().numpy()
