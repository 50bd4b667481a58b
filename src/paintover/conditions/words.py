"""The words of a caption: the tokens that each became, and what in one caption corresponds to what in another."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paintover.errors import KnobError

if TYPE_CHECKING:
    from paintover.models.text import TextEncoder


MOST_WEIGHT = 100  # far more than any picture bears; float16 overflows at 65504


def words(text: str) -> list[str]:
    """Words and, apart from them, punctuation; in lower case, which is how the encoders read them."""
    return re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]+", text.lower())


def tokens(encoder: TextEncoder, text: str) -> list[list[int]]:
    """For each of the words, the places of its tokens; none for what lies beyond the encoder's length."""
    found, place, end = [], 1, 1 + encoder.count(text)
    for word in words(text):
        count = encoder.count(word)
        found.append([n for n in range(place, place + count) if n < end])
        place += count
    return found


def find(encoder: TextEncoder, text: str, wanted: Sequence[str], knob: str) -> list[int]:
    """The places of all tokens of the wanted words, wherever they stand in the text. Raises KnobError for one that does not."""
    there = words(text)
    places = tokens(encoder, text)
    found: list[int] = []
    for word in (part for one in wanted for part in words(one)):
        if word not in there:
            known = ", ".join(dict.fromkeys(there)) or "none"
            raise KnobError(f"{knob}: the word {word!r} is not in the caption {text!r}; its words are: {known}")
        found += [n for place, other in zip(places, there, strict=True) if other == word for n in place]
    if not found:
        raise KnobError(f"{knob}: {' '.join(wanted)!r} stands beyond the {encoder.length} tokens that the model reads")
    return sorted(set(found))


def pair(encoder: TextEncoder, source: str, wanted: str, told: str, knob: str) -> tuple[list[int], list[int]]:
    """ "cat/dog": tokens of the words left of the slash in the source caption, and of those right of it in the wanted one.

    "cat" alone is looked for in both.
    """
    left, slash, right = told.partition("/")
    right = right if slash else left
    if not left.strip() or not right.strip():
        raise KnobError(f'{knob} is {told!r}; expected words of the source prompt, a slash, words of the caption: "cat/dog"')
    return find(encoder, source, [left], knob), find(encoder, wanted, [right], knob)


def weights(encoder: TextEncoder, text: str, told: str, knob: str) -> Tensor:
    """ "word=2,other=0.5" as a weight for each token, 1 where nothing is said. Raises KnobError for what cannot be read."""
    weights_L = torch.ones(encoder.length)
    parts = [part.strip() for part in told.split(",") if part.strip()]
    if told.strip() and not parts:
        raise KnobError(f'{knob}: {told!r} names no words; expected words and their weights: "snow=2,cow=0.5"')
    weighed: set[int] = set()
    for part in parts:
        word, equals, number = (side.strip() for side in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (equals and words(word) and math.isfinite(weight)):
            raise KnobError(f'{knob}: cannot read {part!r}; expected words and their weights: "snow=2,cow=0.5"')
        if abs(weight) > MOST_WEIGHT:
            raise KnobError(f"{knob}: {part!r} is out of bounds; a weight is from -{MOST_WEIGHT} to {MOST_WEIGHT}")
        places = find(encoder, text, [word], knob)
        if not weighed.isdisjoint(places):
            raise KnobError(f"{knob}: {part!r} names a word that has a weight already; give each word one")
        weighed.update(places)
        weights_L[places] = weight
    return weights_L


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Where a caption's tokens find themselves in another one's, L tokens each.

    mapper_LL: mapper[s, t] is how much of the other's token s goes to token t.
    takes_L:   whether token t takes what the mapper gives it (1), or keeps its own (0): it is new.
    """

    mapper_LL: Tensor
    takes_L: Tensor

    def to(self, device: torch.device) -> Alignment:
        return Alignment(self.mapper_LL.to(device), self.takes_L.to(device))

    def take(self, other_L: Tensor, own_L: Tensor) -> Tensor:
        """Values for each token (the last axis): the other caption's where they correspond, one's own where they do not."""
        return torch.lerp(own_L, other_L @ self.mapper_LL, self.takes_L)


def align(encoder: TextEncoder, source: str, wanted: str, mode: str) -> Alignment:
    """As `mode` says: "replace", "refine", or "auto": replace if there are as many words, or else refine."""
    if mode == "auto":
        mode = "replace" if len(words(source)) == len(words(wanted)) else "refine"
    return (replaced if mode == "replace" else refined)(encoder, source, wanted)


def replaced(encoder: TextEncoder, source: str, wanted: str) -> Alignment:
    """Word n corresponds to word n (Prompt-to-Prompt's word swap). Raises KnobError for captions of different lengths.

    Words of as many tokens do so token by token; otherwise each token of the new word gets an equal share of the old one.
    """
    before, after = words(source), words(wanted)
    if len(before) != len(after):
        raise KnobError(
            f"mode replace needs captions of as many words, but the source prompt has {len(before)} ({' '.join(before)}) and "
            f"the caption {len(after)} ({' '.join(after)}); reword one, or use --mode refine"
        )
    pairs = zip(tokens(encoder, source), tokens(encoder, wanted), strict=True)
    return _aligned(encoder, source, wanted, list(pairs))


def refined(encoder: TextEncoder, source: str, wanted: str) -> Alignment:
    """The same words in the same order correspond, new words to nothing (Prompt-to-Prompt's prompt refinement)."""
    before, after = tokens(encoder, source), tokens(encoder, wanted)
    same = SequenceMatcher(None, words(source), words(wanted), autojunk=False).get_matching_blocks()
    pairs = [(before[block.a + n], after[block.b + n]) for block in same for n in range(block.size)]
    return _aligned(encoder, source, wanted, pairs)


def _aligned(encoder: TextEncoder, source: str, wanted: str, pairs: list[tuple[list[int], list[int]]]) -> Alignment:
    """From pairs of words' tokens. The marks of start and end correspond too, and the padding behind, place by place."""
    length = encoder.length
    mapper, takes = torch.zeros(length, length), torch.zeros(length)
    ends = [min(1 + encoder.count(text), length - 1) for text in (source, wanted)]
    padding = [([max(place, ends[0])], [place]) for place in range(ends[1] + 1, length)]
    for before, after in [([0], [0]), *pairs, ([ends[0]], [ends[1]]), *padding]:
        if before and after:
            takes[after] = 1
            if len(before) == len(after):
                mapper[before, after] = 1
            else:
                mapper[torch.tensor(before)[:, None], torch.tensor(after)] = 1 / len(after)
    return Alignment(mapper, takes)
