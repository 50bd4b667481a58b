"""Answering: InstructAny2Pix's language model is asked what an instruction means, and its states are read off its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paintover.models.any2pix_wording import MENTION, Answer, parse

if TYPE_CHECKING:
    from paintover.models.any2pix import Any2Pix, Understood

MOST_TOKENS = 100  # of an answer that is generated
_FORCED = 16  # more that are put there


@torch.no_grad()
def understand(
    language: Any2Pix, instruction: str, media: Mapping[str, Tensor], temperature: float = 0.0, seed: int = 0
) -> Understood:
    """See `Any2Pix.understand`.

    What is said is brought into the order of `Any2PixWording.answer`, and the states are those of one pass over it: so they
    are the same however it came to be said, and what is missing is put where it belongs.
    """
    from paintover.models.any2pix import Sub, Understood

    whole, _ = language.question(instruction, list(media))
    ids, named = language.question(instruction, list(media), language.length - MOST_TOKENS - _FORCED)
    width = language.width
    media_NE = torch.stack([media[name].float().cpu() for name in named]) if named else torch.zeros(0, width)
    slots_N2 = torch.tensor([(0, place) for place, token in enumerate(ids) if token == language.slot_id]).view(-1, 2).long()
    embeds_1LD = language.embedded(torch.tensor([ids]), slots_N2, media_NE)
    said = parse(language.tokenizer.decode(_say(language, embeds_1LD, temperature, seed)), language.wording)
    pictures = any(name.startswith("image") for name in media)
    base = pictures if said.base is None else said.base and pictures
    forced = said.base is None or said.base != base or not said.gens
    own = " ".join(MENTION.sub(r"\1\2", language.words(instruction)).split())
    read = language.ids(MENTION.sub(" ", language.words(instruction)))
    caption = language.words(said.caption).strip() or own
    answer = _fitting(language, Answer(caption, base, said.subs, max(1, said.gens)), language.length - len(ids))
    asked = language.joined([(ids, named)], [answer])
    states_BLD = language.hidden(asked, media_NE)
    base_NE, gens_NE, subs_NE = (
        language.project(states_BLD, places_N2).float() for places_N2 in (asked.base_N2, asked.gens_N2, asked.subs_N2)
    )
    return Understood(
        caption=caption,
        base_E=base_NE[0] if base else None,
        subs=tuple(Sub(name, state_E) for name, state_E in zip(answer.subs, subs_NE, strict=True)),
        gens=tuple(gens_NE),
        forced=forced,
        silent=not said.caption,
        cut=len(ids) < len(whole),
        unread=bool(read or not media) and 2 * read.count(language.tokenizer.unk_token_id) >= len(read),
    )


def _say(language: Any2Pix, embeds_1LD: Tensor, temperature: float, seed: int) -> list[int]:
    """Token ids of the answer, without its end."""
    drawn, cache, said = torch.Generator().manual_seed(seed), None, list[int]()
    for _ in range(MOST_TOKENS):
        told = language.model(inputs_embeds=embeds_1LD, past_key_values=cache, use_cache=True)
        scores_V, cache = told.logits[0, -1].float().cpu(), told.past_key_values
        token = int(scores_V.argmax())
        if temperature > 0:
            token = int(torch.multinomial((scores_V / temperature).softmax(dim=0), 1, generator=drawn))
        if token == language.tokenizer.eos_token_id:
            break
        said.append(token)
        embeds_1LD = language.model.get_input_embeddings()(torch.tensor([[token]], device=language.device))
    return said


def _fitting(language: Any2Pix, answer: Answer, room: int) -> Answer:
    """As much of the answer as there is room for: its caption may be the instruction itself, which can be long."""
    while len(language.told(answer)) > room and (answer.caption or answer.subs):
        words = answer.caption.split()
        subs = answer.subs if words else answer.subs[:-1]
        answer = replace(answer, caption=" ".join(words[: len(words) * 3 // 4]), subs=subs)
    return answer
