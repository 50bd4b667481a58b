"""What an instruction with pictures and sounds in it means, and what the denoiser is told of that (InstructAny2Pix)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from paintover.errors import ModelError
from paintover.models.any2pix import Understood, retrieve
from paintover.references import is_picture
from paintover.sound.open import Sound

if TYPE_CHECKING:
    from paintover.models.any2pix_file import Any2PixParts
    from paintover.models.bundle import Bundle
    from paintover.models.media import MediaEncoder
    from paintover.picture.open import Picture

FIRM = 0.2  # by so much nearer than any reference an object's own name must be, for it to be none of them
_KEEP = 64


@dataclass(frozen=True, slots=True, eq=False)
class Meaning:
    """media: the references by name, in order of mention, as unit vectors E on the CPU. `understood`: of the instruction."""

    media: Mapping[str, Tensor]
    understood: Understood


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """An object that must appear: its name, which reference it is (None: none, it is known by its name), its unit vector."""

    name: str
    reference: str | None
    e_E: Tensor


_known: WeakKeyDictionary[Any2PixParts, OrderedDict[tuple[object, ...], Meaning]] = WeakKeyDictionary()


@torch.no_grad()
def meaning(
    bundle: Bundle, words: str, media: Mapping[str, Picture | Sound], bits: int = 16, temperature: float = 0.0, seed: int = 0
) -> Meaning:
    """What the bundle's language model makes of the words; the last ones are kept. Raises ModelError."""
    parts = bundle.any2pix(bits)
    key = (words, tuple((name, one.sha256) for name, one in media.items()), temperature, seed if temperature else 0)
    kept = _known.setdefault(parts, OrderedDict())
    if key not in kept:
        vectors = embedded(bundle.encoder(), media)
        if not all(e_E.isfinite().all() for e_E in vectors.values()):
            raise ModelError(f"what the media encoder of bundle {bundle.name} says is not finite; its weights are broken")
        kept[key] = Meaning(vectors, parts.language.understand(words, vectors, temperature, seed))
    kept.move_to_end(key)
    while len(kept) > _KEEP:
        kept.popitem(last=False)
    return kept[key]


def embedded(encoder: MediaEncoder, media: Mapping[str, Picture | Sound]) -> dict[str, Tensor]:
    """Each as a unit vector E on the CPU, one by one: what one is must not depend, even by rounding, on its neighbours."""
    found = {}
    for name, one in media.items():
        told_1E = encoder.hear([one.at(encoder.rate)]) if isinstance(one, Sound) else encoder.see([one.rgb_HWC])
        found[name] = told_1E[0].float().cpu()
    return found


def base_of(meaning: Meaning) -> str | None:
    """The picture that is edited: the nearest to the state of [base], or the only one; None where there is none.

    methods.md D.4; sounds are never chosen.
    """
    state_E, pictures = meaning.understood.base_E, [name for name in meaning.media if is_picture(name)]
    if state_E is None or not pictures:
        return None
    return pictures[0] if len(pictures) == 1 else retrieve(state_E, meaning.media, pictures)


@torch.no_grad()
def things(meaning: Meaning, base: str | None, encoder: MediaEncoder) -> list[Thing]:
    """For each state of [sub] the reference that it retrieves, the picture to be edited apart: any kind may be meant by any.

    Where the encoder reads words, an object may be known by its name alone: if there is no other reference, or it is nearer to
    its state than any by FIRM.
    """
    rest = {name: e_E for name, e_E in meaning.media.items() if name != base}
    found = []
    for sub in meaning.understood.subs:
        state_E = sub.state_E.float().cpu()
        reference = retrieve(state_E, rest, rest) if rest else None
        spoken_E = _read(encoder, sub.name)
        if spoken_E is not None and (
            reference is None or _cosine(state_E, spoken_E) > _cosine(state_E, rest[reference]) + FIRM
        ):
            found.append(Thing(sub.name, None, spoken_E))
        elif reference is not None:
            found.append(Thing(sub.name, reference, rest[reference]))
    return found


@torch.no_grad()
def wanted(
    meaning: Meaning,
    parts: Any2PixParts,
    base: str | None,
    h: Sequence[float],
    norm: float,
    score: float,
    prior_guidance: float,
) -> Tensor:
    """c_E = unit(h0 H_k + h1 H_gen + h2 20 unit(y)) norm, on the CPU: the base's embedding, the language model's, the refined.

    y = R(H_gen, score), guided away from a low score; 20 is the language model's own norm. Without a base there is no H_k.
    """
    settings = parts.settings
    gen_E = torch.stack(list(meaning.understood.gens)).mean(dim=0)
    c_E = h[1] * gen_E.float().cpu()
    if h[0] and base is not None:
        c_E = c_E + h[0] * settings.norm * meaning.media[base]
    if h[2]:
        [y_E] = parts.prior.guided(gen_E[None].float(), score, settings.low_score, prior_guidance)
        c_E = c_E + h[2] * settings.norm * functional.normalize(y_E.float().cpu(), dim=0)
    return functional.normalize(c_E, dim=0) * norm


def slots(c_E: Tensor | None, locals_: Sequence[Tensor], count: int, width: int) -> Tensor:
    """media_BSE (B = 1) of 1 + `count` slots: the whole, and each object's vector; zeros where there is none."""
    media_BSE = torch.zeros(1, 1 + count, width)
    if c_E is not None:
        media_BSE[0, 0] = c_E
    for n, e_E in enumerate(locals_[:count]):
        media_BSE[0, 1 + n] = e_E
    return media_BSE


def _read(encoder: MediaEncoder, name: str) -> Tensor | None:
    try:
        return encoder.read([name])[0].float().cpu()
    except ModelError:  # it reads no words
        return None


def _cosine(a_E: Tensor, b_E: Tensor) -> float:
    return float(functional.cosine_similarity(a_E, b_E, dim=0))
