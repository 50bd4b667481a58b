"""Words to conditions. A bundle's text encoder reads each text once: "" is asked for by nearly every edit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from paintover.path.predict import Condition

if TYPE_CHECKING:
    from paintover.models.text import TextEncoder

_KEEP = 256
_read: WeakKeyDictionary[TextEncoder, OrderedDict[str, tuple[Tensor, Tensor | None]]] = WeakKeyDictionary()


@torch.no_grad()
def prompts(encoder: TextEncoder, texts: Sequence[str], image_BCHW: Tensor | None = None) -> list[Condition]:
    """One condition (B = 1) for each text, in order, each with `image_BCHW` (unscaled source latents) on extra channels."""
    known = _read.setdefault(encoder, OrderedDict())
    new = [text for text in dict.fromkeys(texts) if text not in known]
    # One by one: a text's states must not depend, even by rounding, on what it was encoded beside.
    for text in new:
        known[text] = encoder.encode([text])
    conditions = []
    for text in texts:
        known.move_to_end(text)
        tokens_BLD, pooled_BD = known[text]
        conditions.append(Condition(tokens_BLD, pooled_BD, image_BCHW))
    while len(known) > _KEEP:
        known.popitem(last=False)
    return conditions
