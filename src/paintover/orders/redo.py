"""Redo: repeat an edit from what its picture says of it, and compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paintover import picture as pictures
from paintover.errors import PictureError, RequestError
from paintover.models import hub
from paintover.orders import media
from paintover.orders import tuned as of_tuning
from paintover.orders.order import Order
from paintover.orders.run import edit_one
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult, Reference

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache
    from paintover.tuning.store import Tuning


@dataclass(frozen=True, slots=True)
class Redone:
    """A repeated edit beside the first one.

    largest_difference: between the pixels of both, 0 to 255, None where their sizes differ. A lossy file (JPEG) never
    compares identical, only alike. same_source, same_mask, same_tuning: by sha256; same_model: by fingerprint. differing: names
    of the references that are not what they were, by sha256.
    """

    result: EditResult
    identical: bool
    largest_difference: int | None
    same_source: bool
    same_mask: bool
    same_model: bool
    same_tuning: bool
    differing: tuple[str, ...] = ()

    @property
    def same_references(self) -> bool:
        return not self.differing


def request_in(path: str | Path, limits: Limits = Limits()) -> EditRequest:
    """The request that a picture of ours carries. Raises PictureError if it carries none that we can read."""
    found = pictures.read_provenance(path, limits)
    if "sweep" in found:
        raise PictureError(f"{path}: is a sheet of several edits; make it again (sweep, compare), or repeat one of them")
    try:
        return EditRequest.model_validate(found["request"])
    except (KeyError, ValueError):
        raise PictureError(f"{path}: its request is of another edition of paintover; ask for the edit anew") from None


def redo(
    path: str | Path,
    *,
    picture: Any = None,
    mask: Any = None,
    references: Mapping[str, Any] | None = None,
    model: str | None = None,
    tuned: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    limits: Limits = Limits(),
    cache: PrepareCache | None = None,
    device: str | None = None,
    on_step: Callable[[Any], None] | None = None,
) -> Redone:
    """Repeats the edit that made `path`, from the picture, mask and references that it names, or from `picture`, `mask` and
    those of `references`, by name, and compares the pixels.

    A relative name is looked for in the current folder, then beside `path`. `model` names the bundle where it now lives
    elsewhere, `tuned` likewise what it was bent by; a file never makes us download a bundle that only it names. Raises
    PaintoverError, for example when the source is gone, or the tuning.
    """
    before = request_in(path, limits)
    first = pictures.open(path, limits)
    known = os.path.isdir(before.model) or not hub.is_hub_name(before.model) or before.model in dict(hub.cached())
    if model is None and not known:
        raise RequestError(f"{path} asks for {before.model}, which is not in the local cache; name it (--model) to fetch it")
    tuning = _tuning(before, tuned, path)
    asked = before.model_copy(update={"model": model or before.model})
    its_own = tuning is not None and before.picture is None and picture is None and before.picture_sha256 is not None
    places = {
        "picture": None if its_own else _place("picture", before.picture, before.picture_sha256, picture, path),
        "mask": _place("mask", before.mask, before.mask_sha256, mask, path),
        "references": _references(before, references, path),
    }
    order = Order(
        asked.model_copy(update=places),
        picture=of_tuning.picture_of(tuning, limits) if its_own and tuning is not None else picture,
        mask=mask,
        limits=limits,
        tuning=tuning,
        out=Path(out) if out is not None else None,
        force=force,
        on_step=on_step,
        references=media.in_memory(references),
    )
    result = edit_one(order, cache, device)
    return Redone(
        result,
        *_compare(first, result),
        same_source=result.request.picture_sha256 == before.picture_sha256,
        same_mask=result.request.mask_sha256 == before.mask_sha256,
        same_model=result.request.model_fingerprint == before.model_fingerprint,
        same_tuning=result.request.tuned_sha256 == before.tuned_sha256,
        differing=tuple(name for name, sha256 in _digests(result.request).items() if sha256 != _digests(before)[name]),
    )


def _tuning(before: EditRequest, tuned: str | Path | None, made: str | Path) -> Tuning | None:
    """What bent the model, where it is now. Raises RequestError where it is gone."""
    if before.tuned is None:
        if tuned is not None:
            raise RequestError(f"{made} was made without a tuning; leave --tuned out")
        return None
    try:
        return of_tuning.found(tuned or before.tuned)
    except RequestError as error:
        if tuned is not None:
            raise
        of_it = f"{before.editor} with " if before.editor != "imagine" else ""
        raise RequestError(f"{made} was made by {of_it}a tuning that is gone: {error}; or name another one (--tuned)") from None


def _place(what: str, name: str | None, sha256: str | None, given: Any, made: str | Path) -> str | None:
    """Where the picture or mask lies now; one that is `given` needs no place."""
    if given is not None or sha256 is None:
        return name
    if name is None:
        raise RequestError(f"{made} was made from a {what} in memory; give it again (--{what})")
    near = Path(made).parent / name
    return str(near) if not os.path.exists(name) and os.path.exists(near) else name


def _references(before: EditRequest, given: Mapping[str, Any] | None, made: str | Path) -> tuple[Reference, ...]:
    """The references, where they lie now. Raises RequestError for one that is gone, and for one that there was not."""
    again = {one.name: one for one in media.told(given)}
    was = [one.name for one in before.references]
    for name in again:
        if name not in was:
            had = f"; it was made with {', '.join(was)}" if was else ""
            raise RequestError(f"{made} was made without {name}{had}; leave --ref {name}=... out")
    return tuple(again.get(one.name) or _lying(one, made) for one in before.references)


def _lying(one: Reference, made: str | Path) -> Reference:
    if one.path is None:
        raise RequestError(f"{made} was made with {one.name} in memory; give it again (--ref {one.name}=FILE)")
    near = Path(made).parent / one.path
    place = one.path if os.path.exists(one.path) or not os.path.exists(near) else str(near)
    if not os.path.exists(place):
        raise RequestError(
            f"{made} was made with {one.name} = {one.path}, which is not there now; say where it is (--ref {one.name}=FILE)"
        )
    return one.model_copy(update={"path": place})


def _digests(request: EditRequest) -> dict[str, str | None]:
    return {one.name: one.sha256 for one in request.references}


def _compare(first: pictures.Picture, again: EditResult) -> tuple[bool, int | None]:
    """As the file holds them: in its own colour space where it carries a profile."""
    rgb_HWC = first.native_rgb_HWC if first.native_rgb_HWC is not None else first.rgb_HWC
    if rgb_HWC.shape != again.rgb_HWC.shape or (first.alpha_HW is None) != (again.alpha_HW is None):
        return False, None
    largest = int(np.abs(rgb_HWC.astype(np.int16) - again.rgb_HWC).max())
    if first.alpha_HW is not None and again.alpha_HW is not None:
        largest = max(largest, int(np.abs(first.alpha_HW.astype(np.int16) - again.alpha_HW).max()))
    return largest == 0, largest
