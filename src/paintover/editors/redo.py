"""Redo: repeat an edit from what its picture says of it, and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paintover import picture as pictures
from paintover.editors.order import Order
from paintover.editors.run import edit_one
from paintover.errors import PictureError, RequestError
from paintover.models import hub
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache


@dataclass(frozen=True, slots=True)
class Redone:
    """A repeated edit beside the first one.

    largest_difference: between the pixels of both, 0 to 255, None where their sizes differ. A lossy file (JPEG) never
    compares identical, only alike. same_source, same_model: by sha256 and by fingerprint.
    """

    result: EditResult
    identical: bool
    largest_difference: int | None
    same_source: bool
    same_model: bool


def request_in(path: str | Path, limits: Limits = Limits()) -> EditRequest:
    """The request that a picture of ours carries. Raises PictureError if it carries none that we can read."""
    found = pictures.read_provenance(path, limits)
    try:
        return EditRequest.model_validate(found["request"])
    except (KeyError, ValueError):
        raise PictureError(f"{path}: its request is of another edition of paintover; ask for the edit anew") from None


def redo(
    path: str | Path,
    *,
    picture: Any = None,
    model: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    limits: Limits = Limits(),
    cache: PrepareCache | None = None,
    device: str | None = None,
    on_step: Callable[[Any], None] | None = None,
) -> Redone:
    """Repeats the edit that made `path`, from the source that it names or from `picture`, and compares the pixels.

    A relative name of the source is looked for in the current folder, then beside `path`. `model` names the bundle where
    it now lives elsewhere; a file never makes us download a bundle that only it names. Raises PaintoverError, for example
    when the source is gone.
    """
    before = request_in(path, limits)
    first = pictures.open(path, limits)
    known = Path(before.model).is_dir() or not hub.is_hub_name(before.model) or before.model in dict(hub.cached())
    if model is None and not known:
        raise RequestError(f"{path} asks for {before.model}, which is not in the local cache; name it (--model) to fetch it")
    asked = before.model_copy(update={"model": model or before.model})
    order = Order(
        asked, picture=picture, limits=limits, out=Path(out) if out is not None else None, force=force, on_step=on_step
    )
    if picture is None and before.picture_sha256 is not None:
        if before.picture is None:
            raise RequestError(f"{path} was made from a picture in memory; name the picture it was made from (--picture)")
        places = {
            "picture": str(_beside(Path(before.picture), Path(path))),
            "mask": None if before.mask is None else str(_beside(Path(before.mask), Path(path))),
        }
        order = replace(order, request=asked.model_copy(update=places))
    result = edit_one(order, cache, device)
    return Redone(
        result,
        *_compare(first, result),
        same_source=result.request.picture_sha256 == before.picture_sha256,
        same_model=result.request.model_fingerprint == before.model_fingerprint,
    )


def _beside(name: Path, made: Path) -> Path:
    near = made.parent / name
    return near if not name.exists() and near.exists() else name


def _compare(first: pictures.Picture, again: EditResult) -> tuple[bool, int | None]:
    """As the file holds them: in its own colour space where it carries a profile."""
    rgb_HWC = first.native_rgb_HWC if first.native_rgb_HWC is not None else first.rgb_HWC
    if rgb_HWC.shape != again.rgb_HWC.shape or (first.alpha_HW is None) != (again.alpha_HW is None):
        return False, None
    largest = int(np.abs(rgb_HWC.astype(np.int16) - again.rgb_HWC).max())
    if first.alpha_HW is not None and again.alpha_HW is not None:
        largest = max(largest, int(np.abs(first.alpha_HW.astype(np.int16) - again.alpha_HW).max()))
    return largest == 0, largest
