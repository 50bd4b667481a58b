"""Answering: a multimodal language model is asked what instructions mean, and imagines what it said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from paintover.errors import ModelError

if TYPE_CHECKING:
    from paintover.models.mllm import Mllm, Pixels

MOST_TOKENS = 96  # of an expressive instruction, its [IMG] tokens included


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the language model made of an instruction.

    text: the expressive instruction. hidden_ND: the last hidden states at the positions behind it that predict [IMG0], [IMG1],
    ... forced: it did not say its [IMG] tokens in their order itself. cut: what it was asked, or given, has more tokens than it
    reads, and its end was left out. unread: what it was asked is mostly words that it does not know, or none at all.
    """

    text: str
    hidden_ND: Tensor
    forced: bool
    cut: bool = False
    unread: bool = False


@torch.no_grad()
def answer(
    mllm: Mllm, instructions: Sequence[str], pictures: Sequence[Pixels | None], given: Sequence[str | None] | None = None
) -> list[Answer]:
    """What each instruction means for its picture (None: for no picture at all), in one batch: see `Mllm.answer`.

    The states are those of one pass over the words as they are told, which repeats itself where the same words are given.
    """
    if not instructions:
        return []
    given = given or [None] * len(instructions)
    views = [None if picture is None else mllm.see(picture) for picture in pictures]
    asked = [question(mllm, words, view is not None) for words, view in zip(instructions, views, strict=True)]
    questions = [ids for ids, _ in asked]
    open_ = [i for i, text in enumerate(given) if text is None]
    said = dict(zip(open_, _say(mllm, [questions[i] for i in open_], [views[i] for i in open_]), strict=True))
    read = [beside(mllm, ids, said[i][0] if i in said else given[i] or "") for i, ids in enumerate(questions)]
    hidden_BND = _imagined(mllm, questions, read, views)
    return [
        Answer(text, hidden_ND, not said[i][1], cut, _unread(mllm, instructions[i]))
        if (told := given[i]) is None
        else Answer(told, hidden_ND, False, cut or text != _words(mllm, told))
        for i, (text, hidden_ND, (_, cut)) in enumerate(zip(read, hidden_BND, asked, strict=True))
    ]


def tidy(text: str) -> str:
    """An expressive instruction as people read it: at most two sentences, and of what is offered as an alternative nothing.

    A point inside a number ends no sentence.
    """
    text = re.split(r"(?<=\S)\s+\W*alternative", " ".join(text.split()), maxsplit=1, flags=re.IGNORECASE)[0]
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:2]).strip()


def _say(mllm: Mllm, questions: list[list[int]], views: list[Tensor | None]) -> list[tuple[str, bool]]:
    """For each question the words that are answered, tidy, and whether all [IMG] tokens are said, in their order."""
    if not questions:
        return []
    from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor

    longest, seen = max(map(len, questions)), [view for view in views if view is not None]
    ids_BL, mask_BL = (
        pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value, padding_side="left")
        for rows, value in ((questions, mllm.pad), ([[1] * len(q) for q in questions], 0))
    )
    ngram = NoRepeatNGramLogitsProcessor(mllm.wording.no_repeat_ngram)

    def once(ids_BL: Tensor, scores_BV: Tensor) -> Tensor:
        """Of the answer alone: what was asked for may be said in the same words."""
        return ngram(ids_BL[:, longest:], scores_BV)

    out_BL = mllm.model.generate(
        input_ids=ids_BL.to(mllm.device),
        attention_mask=mask_BL.to(mllm.device),
        **({"pixel_values": torch.stack(seen).to(mllm.device)} if seen else {}),
        do_sample=False,
        num_beams=1,
        max_new_tokens=MOST_TOKENS,
        eos_token_id=mllm.tokenizer.eos_token_id,
        pad_token_id=mllm.pad,
        logits_processor=LogitsProcessorList([once]),
    )
    images, end, said = mllm.image_ids, mllm.tokenizer.eos_token_id, []
    for row in out_BL[:, longest:].tolist():
        until = min((row.index(token) for token in {*images, end} if token in row), default=len(row))
        whole = row[until : until + len(images)] == images
        said.append((tidy(mllm.tokenizer.decode(row[:until], skip_special_tokens=True)), whole))
    return said


def _imagined(mllm: Mllm, questions: list[list[int]], texts: list[str], views: list[Tensor | None]) -> Tensor:
    """hidden_BND, in float32: the states behind each text that predict the [IMG] tokens, in one pass."""
    asked, seen = mllm.asked(questions, texts), [view for view in views if view is not None]
    states_BLD = mllm.hidden(asked, mllm.look(torch.stack(seen)) if seen else None)
    return mllm.at_images(states_BLD, asked).float()


def question(mllm: Mllm, words: str, shown: bool, length: int | None = None) -> tuple[list[int], bool]:
    """The question with as many of the words as leave the model room to answer, and whether that cut some off.

    length: of question and answer, if less than the model reads.
    """
    words, most = _words(mllm, words), (length or mllm.length) - MOST_TOKENS
    asked, cut = mllm.question(words, shown), False
    while len(asked) > most:
        if not words:
            raise ModelError(
                f"the language model reads {mllm.length} tokens; its own question takes {len(asked)} of them and the "
                f"answer {MOST_TOKENS}"
            )
        words, cut = _shorter(mllm, words, len(mllm.ids(words)) - (len(asked) - most)), True
        asked = mllm.question(words, shown)
    return asked, cut


def beside(mllm: Mllm, question: list[int], answer: str, length: int | None = None) -> str:
    """As much of an answer as the model reads after the question, with its [IMG] tokens and the end behind it."""
    answer, room = _words(mllm, answer), (length or mllm.length) - len(question) - len(mllm.image_ids) - 1
    while len(mllm.ids(answer)) > room:
        answer = _shorter(mllm, answer, room)
    return answer


def _shorter(mllm: Mllm, text: str, tokens: int) -> str:
    """The text up to the first character that is not whole in so many tokens; at least its last character is left out.

    The bytes that a rare character is spelt in are several tokens at one place.
    """
    places = mllm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    whole = min((start for start, _ in places[max(0, tokens) :]), default=len(text))
    return text[: min(whole, len(text) - 1)]


def _unread(mllm: Mllm, words: str) -> bool:
    """Whether most of the words' tokens are those of unknown words."""
    ids = mllm.ids(_words(mllm, words))
    return 2 * ids.count(mllm.tokenizer.unk_token_id) >= len(ids)


def _words(mllm: Mllm, text: str) -> str:
    """The text without the names of special tokens: who writes <im_patch> shows no picture by that."""
    names = {*mllm.tokenizer.get_added_vocab(), *mllm.tokenizer.all_special_tokens}
    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), " ", text)
