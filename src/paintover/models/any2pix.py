"""InstructAny2Pix's language model: it reads instructions with pictures and sounds in them, and answers with vectors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from paintover.errors import ModelError
from paintover.models import any2pix_answering
from paintover.models.any2pix_wording import MENTION, Answer, Any2PixWording

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, eq=False)
class Sub:
    """An object that must appear: what it is called, and the state that is near its reference."""

    name: str
    state_E: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Understood:
    """What the language model made of an instruction.

    caption: of the picture that is wanted. base_E: the state that predicts the picture to be edited, about `norm` long; None:
    there is none. subs: the objects that must appear. gens: one or more states of what is wanted; their mean conditions.
    forced: control tokens were missing, or could not be meant, and were put there. silent: there was no caption, which is the
    instruction's own words now. cut: the instruction is longer than the model reads. unread: most of it is unknown words.
    """

    caption: str
    base_E: Tensor | None
    subs: tuple[Sub, ...]
    gens: tuple[Tensor, ...]
    forced: bool
    silent: bool = False
    cut: bool = False
    unread: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Token ids of questions and answers, padded on the right: ids_BL, mask_BL, labels_BL (-100 wherever no answer stands).

    Each of the N2 holds (row, place in it): slots_N2, where in the questions the references `named` stand; base_N2, gens_N2
    and subs_N2, whose states predict the base, what is to be generated, and the objects, in the order of the rows.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    labels_BL: Tensor
    slots_N2: Tensor
    named: tuple[str, ...]
    base_N2: Tensor
    gens_N2: Tensor
    subs_N2: Tensor


class Any2Pix:
    """A LLaMA with P_in and P_out, two-layer perceptrons with GELU, between it and a media encoder's space.

    References, as unit vectors of width E, are read `norm` long; so long are the answers that it learns. Token ids are looked
    up by name. Raises ModelError where tokenizer, model and projectors do not go together. methods.md D.1.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        projector_in: nn.Sequential,
        projector_out: nn.Sequential,
        wording: Any2PixWording,
        norm: float = 20.0,
    ) -> None:
        from transformers import GenerationConfig

        self.model, self.tokenizer, self.wording, self.norm = model, tokenizer, wording, norm
        self.projector_in, self.projector_out = projector_in, projector_out
        model.generation_config = GenerationConfig()
        self.length: int = model.config.max_position_embeddings
        self.width: int = _linear(projector_in).in_features
        vocabulary = tokenizer.get_vocab()
        wrong = next((f"has no {token}" for token in wording.tokens if token not in tokenizer.get_added_vocab()), None)
        end: int | None = tokenizer.eos_token_id
        if wrong is None and end is None:
            wrong = "has no token for the end of a text"
        rows = model.get_input_embeddings().num_embeddings
        if wrong is None and max(vocabulary.values()) >= rows:
            wrong = f"has {max(vocabulary.values()) + 1} tokens, the model {rows}"
        if wrong is not None:
            raise ModelError(f"the tokenizer of any2pix's language model {wrong}; it was made for another model")
        hidden = model.config.hidden_size
        shapes = (
            _linear(projector_in, -1).out_features, _linear(projector_out).in_features, _linear(projector_out, -1).out_features,
        )  # fmt: skip
        if shapes != (hidden, hidden, self.width):
            raise ModelError(
                f"any2pix's projectors go to width {shapes[0]}, and from {shapes[1]} to {shapes[2]}; with this language model "
                f"and their own width expected {hidden}, {hidden} and {self.width}"
            )
        self.slot_id: int = vocabulary[wording.slot]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.model, self.projector_in, self.projector_out

    def question(self, instruction: str, names: Collection[str], most: int | None = None) -> tuple[list[int], list[str]]:
        """Token ids of the prompt, and which reference each slot in it is.

        Each mention of one of `names`, [image1], is a slot ([image]: of the first picture); those that are not mentioned get
        one at the end. most: words are left out at the end, and never slots, until there are no more ids than that; ModelError
        where that is not possible.
        """
        called = {name.lower(): name for name in names}
        named: list[str] = []

        def slot(mention: re.Match[str]) -> str:
            kind, number = mention[1].lower(), mention[2]
            one = kind + number if number else next((name for name in called if name.startswith(kind)), "")
            if (name := called.get(one)) is None:
                return mention[0]
            named.append(name)
            return self.wording.slot

        words = MENTION.sub(slot, self.words(instruction))
        for name in names:
            if name not in named:
                words += f" {self.wording.slot}"
                named.append(name)
        before, behind = self.wording.prompt.split("{instruction}")
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids = [*start, *self.ids(f"{before}{words}{behind}")]
        if most is not None and len(ids) > most:
            first, last = len(start) + len(self.ids(before)), len(ids) - len(self.ids(behind))
            spare = [place for place in range(first, last) if ids[place] != self.slot_id][most - len(ids) :]
            if len(ids) - len(spare) > most:
                raise ModelError(
                    f"the language model reads {self.length} tokens, its answer among them: too few for the {len(named)} "
                    "references of this instruction; name fewer"
                )
            ids = [token for place, token in enumerate(ids) if place not in set(spare)]
        return ids, named

    def asked(
        self, instructions: Sequence[str], names: Sequence[Collection[str]], answers: Sequence[Answer | str], multiple: int = 1
    ) -> Asked:
        """Instructions with the references `names` of each, and what shall be answered: an `Answer`, or mere words.

        multiple: the length is one of it.
        """
        questions = [self.question(words, called) for words, called in zip(instructions, names, strict=True)]
        return self.joined(questions, answers, multiple)

    def joined(
        self, questions: Sequence[tuple[list[int], list[str]]], answers: Sequence[Answer | str], multiple: int = 1
    ) -> Asked:
        """As `asked`, the questions being given as `question` makes them."""
        rows, labels, named = [], [], []
        places: dict[str, list[tuple[int, int]]] = {"slots": [], "base": [], "gens": [], "subs": []}
        for row, ((ids, called), answer) in enumerate(zip(questions, answers, strict=True)):
            told = self.told(answer)
            rows.append(ids + told)
            labels.append([-100] * len(ids) + told)
            named += called
            places["slots"] += [(row, place) for place, token in enumerate(ids) if token == self.slot_id]
            if isinstance(answer, Answer):
                predicts = [(row, len(ids) + place - 1) for place, token in enumerate(told) if token == self.slot_id]
                gens = int(answer.base) + answer.gens
                places["base"] += predicts[: int(answer.base)]
                places["gens"] += predicts[int(answer.base) : gens]
                places["subs"] += predicts[gens:]
        slots_N2, base_N2, gens_N2, subs_N2 = (torch.tensor(found, dtype=torch.long).view(-1, 2) for found in places.values())
        return Asked(
            _padded(rows, self.pad, multiple), _padded([[1] * len(row) for row in rows], 0, multiple),
            _padded(labels, -100, multiple), slots_N2, tuple(named), base_N2, gens_N2, subs_N2,
        )  # fmt: skip

    def told(self, answer: Answer | str) -> list[int]:
        """Token ids of an answer and its end; special tokens in its words are no words."""
        if isinstance(answer, str):
            text = self.words(answer)
        else:
            clean = replace(answer, caption=self.words(answer.caption), subs=tuple(map(self.words, answer.subs)))
            text = self.wording.answer(clean)
        return [*self.ids(text), int(self.tokenizer.eos_token_id)]

    def embedded(self, ids_BL: Tensor, slots_N2: Tensor, media_NE: Tensor) -> Tensor:
        """inputs_embeds_BLD: the words', but at the slots P_in(norm e) of the references, unit vectors in the slots' order."""
        embeds_BLD: Tensor = self.model.get_input_embeddings()(ids_BL.to(self.device))
        if not len(slots_N2):
            return embeds_BLD
        rows_N, places_N = slots_N2.to(self.device).unbind(dim=1)
        read_ND = self.projector_in(self.norm * media_NE.to(_linear(self.projector_in).weight)).to(embeds_BLD.dtype)
        if self.wording.adds_slot:
            read_ND = read_ND + embeds_BLD[rows_N, places_N]
        return embeds_BLD.index_put((rows_N, places_N), read_ND)

    def hidden(self, asked: Asked, media_NE: Tensor) -> Tensor:
        """The last hidden states_BLD, after the final norm, with gradients where they are recorded."""
        return self.model.model(
            inputs_embeds=self.embedded(asked.ids_BL, asked.slots_N2, media_NE),
            attention_mask=asked.mask_BL.to(self.device),
            use_cache=False,
        ).last_hidden_state

    def project(self, states_BLD: Tensor, places_N2: Tensor) -> Tensor:
        """media_NE, about `norm` long: P_out of the states at these places."""
        rows_N, places_N = places_N2.to(states_BLD.device).unbind(dim=1)
        return self.projector_out(states_BLD[rows_N, places_N].to(_linear(self.projector_out).weight))

    def understand(self, instruction: str, media: Mapping[str, Tensor], temperature: float = 0.0, seed: int = 0) -> Understood:
        """What an instruction means, of which `media` are the references: their names, and their unit vectors of width E.

        A reference that the words do not name is read behind them. Names that begin with "image" are pictures, of which one
        may be the base. temperature: 0 says what is likeliest; more draws what is said, by the seed (0.3 in the release).
        Raises ModelError where there are more references than the model can read.
        """
        return any2pix_answering.understand(self, instruction, media, temperature, seed)

    @property
    def pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def ids(self, text: str) -> list[int]:
        """Of the text alone, with nothing before and behind it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def words(self, text: str) -> str:
        """The text without the names of special tokens: who writes <base> says nothing by that."""
        names = {*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens}
        return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), " ", text)


def projectors(media: int, width: int) -> tuple[nn.Sequential, nn.Sequential]:
    """New P_in and P_out: E -> width -> width and width -> width -> E."""
    return (
        nn.Sequential(nn.Linear(media, width), nn.GELU(), nn.Linear(width, width)),
        nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, media)),
    )


def retrieve(state_E: Tensor, media: Mapping[str, Tensor], among: Collection[str]) -> str:
    """The reference nearest to a state, by the cosine; of several that are as near, the first of `media`.

    Raises ModelError where there is none `among` them.
    """
    names = [name for name in media if name in among]
    if not names:
        raise ModelError("there is no reference to choose from")
    state_E = state_E.float().cpu()
    return max(names, key=lambda name: float(functional.cosine_similarity(state_E, media[name].float().cpu(), dim=0)))


def _linear(projector: nn.Sequential, place: int = 0) -> nn.Linear:
    layer = projector[place]
    assert isinstance(layer, nn.Linear)
    return layer


def _padded(rows: Sequence[Sequence[int]], value: int, multiple: int) -> Tensor:
    padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
    return functional.pad(padded, (0, -padded.shape[1] % multiple), value=value)
