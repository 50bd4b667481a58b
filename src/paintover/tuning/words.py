"""Words that a text encoder is taught: vectors of one's own at its door, everything behind it as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from paintover.conditions.alone import alone
from paintover.errors import ModelError
from paintover.models.text import CLIPText, SentenceText, TextEncoder
from paintover.models.text_sdxl import SDXLText

Teachable = CLIPText | SentenceText | SDXLText


class WithWords:
    """A text encoder that knows some words more. `words`: each with its vectors_ND, which are read as N tokens.

    A word is found wherever it stands alone ("zwx", not "zwxy"), in any case, and goes before what the encoder took it for.
    SDXL's encoder is two in one: a vector is what the first is to read, and behind it what the second is.
    """

    def __init__(self, base: Teachable, words: Mapping[str, Tensor]) -> None:
        self.base, self.words = base, dict(words)
        self.length, self.width, self.pooled_width = base.length, base.width, base.pooled_width
        # Each vector has a mark of its own in the tokenizer's vocabulary, that no text holds by chance.
        marks = {word: [f"<|{n}:{k}|>" for k in range(len(own))] for n, (word, own) in enumerate(self.words.items())}
        taught, begin = [], 0
        for model, tokenizer in _readers(base):
            tokenizer, table = _knowing(tokenizer, list(chain(*marks.values()))), model.get_input_embeddings()
            first, model = tokenizer.get_vocab()["<|0:0|>"], _sharing(model)
            model.set_input_embeddings(_Door(table, first, list(self.words.values()), begin))
            taught.append((model, tokenizer))
            begin += table.embedding_dim
        self._inner = _read_by(base, taught)
        ordered = sorted(self.words, key=len, reverse=True)
        self._pattern = re.compile("|".join(f"({alone(word)})" for word in ordered), re.IGNORECASE)
        self._spelt = [f" {' '.join(marks[word])} " for word in ordered]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self._inner.encode([self._marked(text) for text in texts])

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """As `encode`, with gradients for those of the words' vectors that ask for them."""
        return self._inner.states([self._marked(text) for text in texts])

    def cuts(self, text: str) -> bool:
        return self._inner.cuts(self._marked(text))

    def count(self, text: str) -> int:
        return self._inner.count(self._marked(text))

    def rare(self) -> Iterator[str]:
        return (word for word in self.base.rare() if not self.says(word))

    def says(self, text: str) -> bool:
        """Whether one of the new words is in the text."""
        return bool(self._pattern.search(text))

    def _marked(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._spelt[(found.lastindex or 1) - 1], text)


def with_words(text: TextEncoder, words: Mapping[str, Tensor]) -> TextEncoder:
    """The encoder, and these words: each with vectors_ND of the width of its input embeddings, read as N tokens in a row.

    Nothing of `text` is changed, and its weights are shared; texts without the words become the very states that it gives
    them. Where it knows new words already, it knows both, these before those. Without words it is `text` itself. Raises
    ModelError for an encoder that cannot be taught, and for vectors that do not fit it.
    """
    if not words:
        return text
    if isinstance(text, WithWords):
        base, words = text.base, {**text.words, **words}
    else:
        base = teachable(text)
    width = sum(widths(base))
    for word, vectors_ND in words.items():
        if not word.strip():
            raise ModelError("a learnt word has no letters; give it a name")
        if vectors_ND.ndim != 2 or not len(vectors_ND) or vectors_ND.shape[1] != width:
            shape = "x".join(str(n) for n in vectors_ND.shape)
            raise ModelError(f"the word {word!r} has vectors {shape}, but this model's words are vectors of {width}")
    return WithWords(base, words)


def teachable(text: TextEncoder) -> Teachable:
    """The encoder itself. Raises ModelError for one that cannot be taught words."""
    if isinstance(text, Teachable):
        return text
    raise ModelError(
        "this model's text encoder cannot be taught words; use a model of the Stable Diffusion 1 or 2 family, or SDXL's"
    )


def widths(text: TextEncoder) -> list[int]:
    """Of what each of the encoder's readers is taught of a word, in order: of SDXL two, of others one."""
    base = text.base if isinstance(text, WithWords) else teachable(text)
    return [model.get_input_embeddings().embedding_dim for model, _ in _readers(base)]


def vectors(text: TextEncoder, words: str, count: int) -> Tensor:
    """What words are at the encoder's door, as vectors_ND for N = count: each token's own, and where there are more tokens or
    fewer than that, means of neighbours, or the same ones again. Raises ModelError for a text without tokens."""
    base = text.base if isinstance(text, WithWords) else teachable(text)
    n = base.count(words)
    if not n:
        raise ModelError(f"{words!r} is no word to this model; name one that it knows")
    known = []
    for model, tokenizer in _readers(base):
        if isinstance(base, SentenceText):
            ids = tokenizer.encode(words).ids
        else:
            ids = tokenizer(words, truncation=True, max_length=base.length)["input_ids"]
        known.append(model.get_input_embeddings().weight.detach()[ids[1 : n + 1]])
    known_KD = torch.cat(known, dim=1)
    return nn.functional.adaptive_avg_pool1d(known_KD.T[None].float(), count)[0].T.contiguous()


def _readers(text: Teachable) -> list[tuple[Any, Any]]:
    """Models and their tokenizers."""
    return list(text.clips) if isinstance(text, SDXLText) else [(text.model, text.tokenizer)]


def _read_by(text: Any, readers: list[tuple[Any, Any]]) -> Any:
    """The encoder once more, with these in the places of its own."""
    made = copy.copy(text)
    if isinstance(text, SDXLText):
        made.clips = readers
    else:
        [(made.model, made.tokenizer)] = readers
    return made


class _Door(nn.Module):
    """An embedding table and, from the number `first` on, vectors of one's own: beside it, so that they alone may learn.

    Of the words' vectors what begins at `begin` is meant, as wide as the table's.
    """

    def __init__(self, table: nn.Embedding, first: int, words: Sequence[Tensor], begin: int) -> None:
        super().__init__()
        self.table, self.first, self.begin = table, first, begin
        self._own = list(words)  # no parameters of the model

    def forward(self, ids_BL: Tensor) -> Tensor:
        own_ND = torch.cat(self._own)[:, self.begin : self.begin + self.table.embedding_dim].to(self.table.weight)
        known_BL1 = (ids_BL < self.first)[..., None]
        known_BLD = self.table(ids_BL.clamp(max=self.table.num_embeddings - 1))
        return torch.where(known_BL1, known_BLD, own_ND[(ids_BL - self.first).clamp(min=0)])


def _knowing(tokenizer: Any, marks: list[str]) -> Any:
    """A copy of a tokenizer in which each mark is a token, numbered in a row."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return tokenizer


def _sharing(model: nn.Module) -> Any:
    """The model once more, around the same tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
