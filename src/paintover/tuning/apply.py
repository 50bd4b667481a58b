"""What was learnt, put to use: a bundle with tuned weights and learnt words in their places, shared by all who use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch import Tensor

from paintover.models.denoiser import Denoiser
from paintover.tuning.names import UNET, UPSCALER, WORDS, below
from paintover.tuning.weights import part, with_weights
from paintover.tuning.words import with_words

if TYPE_CHECKING:
    from paintover.models.bundle import Bundle

T = TypeVar("T")
_lock = threading.RLock()
_shared: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
_made_of: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()  # lives as long, so that no id is used again
_latest: list[Any] = []  # one: edits that come one after the other find it, and memory holds no more than that


def applied(bundle: Bundle, tensors: Mapping[str, Tensor], digest: str) -> Bundle:
    """The bundle bent by what was learnt: `unet.` and `upscaler.unet.` weights, and `words.`; what no bundle has (Imagic's
    target) is left out.

    Nothing of `bundle` is changed, and what was not tuned is shared. digest: of the tensors, which makes the fingerprint
    another one. Raises ModelError for tensors that do not fit, and for a model whose kind cannot be bent by them.
    """

    def make() -> Bundle:
        denoiser: Any = bundle.denoiser
        if any(name.startswith(UNET) for name in tensors):
            bundle.require("unet")
            denoiser = network(denoiser, tensors)
        upscaler, learnt = bundle.upscaler, below(tensors, UPSCALER)
        if upscaler is not None and learnt:
            upscaler = replace(upscaler, denoiser=network(upscaler.denoiser, learnt))
        text = with_words(bundle.text, below(tensors, WORDS))
        return replace(bundle, denoiser=denoiser, text=text, upscaler=upscaler, tuned=digest)

    return _once((id(bundle), digest), (bundle,), make)


def network(denoiser: Denoiser, tensors: Mapping[str, Tensor], share: float = 1.0) -> Denoiser:
    """`with_weights` of a `share` of what was tuned (`part`), made once for the same tensors (these very objects) and the same
    share while it is in use; the latest stays a while longer.

    So many edits after one tuning share their denoiser calls, and the memory.
    """
    weights = {name: tensor for name, tensor in sorted(tensors.items()) if name.startswith(UNET)}
    key = (id(denoiser), share, *((name, id(tensor)) for name, tensor in weights.items()))
    return _once(key, (denoiser, *weights.values()), lambda: with_weights(denoiser, part(denoiser, weights, share)))


def forget() -> None:
    """Gives up the latest; what is in use stays with those who use it."""
    with _lock:
        _latest.clear()


def _once(key: tuple[Any, ...], made_of: tuple[Any, ...], make: Callable[[], T]) -> T:
    with _lock:
        made = _shared.get(key)
        if made is None:
            _latest.clear()  # before there is another one
            made = make()
            _shared[key], _made_of[made] = made, made_of
        _latest[:] = [made]
    return made
