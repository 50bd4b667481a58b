"""A multimodal language model that looks at a picture, says in full what an instruction means, and guides the denoiser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from paintover.errors import ModelError
from paintover.models.edit_head import EditHead

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

MOST_TOKENS = 96  # of an expressive instruction, its [IMG] tokens included
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Wording:
    """How the language model is asked: `prompt` with {instruction} and {image} in it, and what the special tokens are called.

    image_tokens: the [IMG] tokens, in order. start, patch, end: what stands for the picture is one start, as many patches as
    the vision tower makes, one end. Where nothing is shown, {image} is empty. no_repeat_ngram: as many tokens in a row are
    never said twice in an answer.
    """

    prompt: str
    image_tokens: tuple[str, ...]
    patch: str = "<im_patch>"
    start: str = "<im_start>"
    end: str = "<im_end>"
    no_repeat_ngram: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the language model made of an instruction.

    text: the expressive instruction. hidden_ND: the last hidden states at the positions that predict [IMG0], [IMG1], ...
    forced: it did not say its [IMG] tokens itself; they were appended. cut: what it was asked, or given, has more tokens than
    it reads, and its end was left out.
    """

    text: str
    hidden_ND: Tensor
    forced: bool
    cut: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Token ids of prompts and answers, padded on the right: ids_BL, mask_BL, labels_BL (-100 wherever no answer stands).

    images_BN: the positions whose hidden states predict the [IMG] tokens.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    labels_BL: Tensor
    images_BN: Tensor


class Mllm:
    """LLaVA's layout (a vision tower, a projector W, a language model) with N [IMG] tokens in its vocabulary, and the head.

    mean, std: of the vision tower's input, for R, G and B in 0..1. Token ids are looked up by name. length: how many tokens the
    language model reads, its answer included. Raises ModelError where tokenizer and model do not go together.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        head: EditHead,
        wording: Wording,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        from transformers import GenerationConfig

        self.model, self.tokenizer, self.head, self.wording = model, tokenizer, head, wording
        model.generation_config = GenerationConfig()  # a model's own may ask for chance, penalties and other limits
        self.mean_C, self.std_C = torch.tensor(mean), torch.tensor(std)
        vision = model.config.vision_config
        self.size: int = vision.image_size  # pixels
        self.patches: int = (vision.image_size // vision.patch_size) ** 2
        self.length: int = model.config.text_config.max_position_embeddings
        vocabulary = tokenizer.get_vocab()
        for token in (*wording.image_tokens, wording.patch, wording.start, wording.end):
            if token not in vocabulary:
                raise ModelError(f"the language model's tokenizer has no {token}; it was made for another model")
        if tokenizer.eos_token_id is None:
            raise ModelError("the language model's tokenizer has no token for the end of a text; it was made for another model")
        rows = model.get_input_embeddings().num_embeddings
        if max(vocabulary.values()) >= rows:
            raise ModelError(
                f"the language model's tokenizer has {max(vocabulary.values()) + 1} tokens, the model {rows}; it was made for "
                "another model"
            )
        self.image_ids: list[int] = [vocabulary[token] for token in wording.image_tokens]
        if vocabulary[wording.patch] != model.config.image_token_id:
            raise ModelError(
                f"{wording.patch} is token {vocabulary[wording.patch]}, but the language model's config names "
                f"{model.config.image_token_id} as the picture's"
            )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def modules(self) -> tuple[nn.Module, nn.Module]:
        return self.model, self.head

    def see(self, rgb_HWC: Pixels) -> Tensor:
        """A picture as the vision tower's input, pixels_CHW: all of it, in the middle of a square of the mean colour."""
        image = Image.fromarray(rgb_HWC).convert("RGB")
        scale = self.size / max(image.size)
        fitted = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
        )
        square = Image.new("RGB", (self.size, self.size), tuple(round(float(m) * 255) for m in self.mean_C))
        square.paste(fitted, ((self.size - fitted.width) // 2, (self.size - fitted.height) // 2))
        pixels_CHW = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        return (pixels_CHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    def question(self, instruction: str, shown: bool, prompt: str | None = None) -> list[int]:
        """Token ids of the prompt (`wording`'s, if no other is given), with or without a picture in it."""
        w = self.wording
        image = f"\n{w.start}{w.patch * self.patches}{w.end}" if shown else ""
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return start + self._ids((prompt or w.prompt).format(instruction=instruction, image=image))

    def asked(self, questions: Sequence[list[int]], answers: Sequence[str], tokens: bool = True) -> Asked:
        """Questions and what shall be answered, to be learnt: the answer's words, its [IMG] tokens, the end.

        Without `tokens` the answers end after their words, and images_BN points nowhere.
        """
        rows, labels, images = [], [], []
        for question, answer in zip(questions, answers, strict=True):
            said = self._ids(answer)
            told = [*said, *(self.image_ids if tokens else ()), self.tokenizer.eos_token_id]
            rows.append(question + told)
            labels.append([-100] * len(question) + told)
            first = len(question) + len(said) - 1
            images.append(list(range(first, first + len(self.image_ids))) if tokens else [0] * len(self.image_ids))
        ids_BL = _padded(rows, self.pad)
        mask_BL = _padded([[1] * len(row) for row in rows], 0)
        return Asked(ids_BL, mask_BL, _padded(labels, -100), torch.tensor(images))

    def look(self, pixels_BCHW: Tensor) -> Any:
        """What the vision tower sees: its hidden states, and their projection, for `hidden`."""
        return self.model.model.get_image_features(pixels_BCHW.to(self.device), return_dict=True)

    def hidden(self, asked: Asked, looked: Any | None) -> Tensor:
        """The last hidden states_BLD, after the final norm, with gradients where they are recorded."""
        return self.model.model(
            input_ids=asked.ids_BL.to(self.device),
            attention_mask=asked.mask_BL.to(self.device),
            mm_encoder_outputs={"image": looked},
        ).last_hidden_state

    def at_images(self, states_BLD: Tensor, asked: Asked) -> Tensor:
        """hidden_BND: those of the hidden states that predict the [IMG] tokens."""
        rows_B1 = torch.arange(len(states_BLD), device=states_BLD.device)[:, None]
        return states_BLD[rows_B1, asked.images_BN.to(states_BLD.device)]

    @property
    def embeddings_ND(self) -> Tensor:
        """Word embeddings of the [IMG] tokens."""
        return self.model.get_input_embeddings().weight[self.image_ids]

    def guide(self, hidden_BND: Tensor) -> Tensor:
        """tokens_BLD for the denoiser, in the edit head's precision; of zeros: the null condition."""
        weight = self.head.llm2hid.weight
        return self.head(hidden_BND.to(weight.dtype), self.embeddings_ND.to(weight.dtype))

    @torch.no_grad()
    def answer(
        self, instructions: Sequence[str], pictures: Sequence[Pixels | None], given: Sequence[str | None] | None = None
    ) -> list[Answer]:
        """What each instruction means for its picture (None: for no picture at all), in one batch.

        Greedy, at most MOST_TOKENS tokens, `no_repeat_ngram` of them in a row never twice. given: expressive instructions that
        are already known; where there is one, nothing is generated. Missing [IMG] tokens are appended and the states computed
        in one more pass.
        Special tokens in the words are no words. Raises ModelError where the question alone is longer than the model reads.
        """
        given = given or [None] * len(instructions)
        shown = [None if picture is None else self.see(picture) for picture in pictures]
        questions, texts, cuts = [], [], []
        for words, view, text in zip(instructions, shown, given, strict=True):
            question, cut = self._fitting(words, view is not None)
            fitted = None if text is None else self._beside(question, text)
            questions.append(question)
            texts.append(fitted)
            cuts.append(cut or fitted != (None if text is None else self._words(text)))
        answers: dict[int, Answer] = {}
        open_ = [i for i, text in enumerate(texts) if text is None]
        if open_:
            views = [view for i in open_ if (view := shown[i]) is not None]
            for i, (text, hidden_ND) in zip(open_, self._generate([questions[i] for i in open_], views), strict=True):
                texts[i] = text
                if hidden_ND is not None:
                    answers[i] = Answer(text, hidden_ND.float(), False, cuts[i])
        left = [i for i in range(len(questions)) if i not in answers]
        if left:
            asked = self.asked([questions[i] for i in left], [self._beside(questions[i], texts[i] or "") for i in left])
            views = [view for i in left if (view := shown[i]) is not None]
            states_BLD = self.hidden(asked, self.look(torch.stack(views)) if views else None)
            for i, hidden_ND in zip(left, self.at_images(states_BLD, asked), strict=True):
                said = given[i]
                answers[i] = Answer((texts[i] or "") if said is None else said, hidden_ND.float(), said is None, cuts[i])
        return [answers[i] for i in range(len(questions))]

    def _fitting(self, words: str, shown: bool) -> tuple[list[int], bool]:
        """The question with as many of the words as leave the model room to answer, and whether that cut some off."""
        words, most = self._words(words), self.length - MOST_TOKENS
        question, cut = self.question(words, shown), False
        while len(question) > most:
            if not words:
                raise ModelError(
                    f"the language model reads {self.length} tokens; its own question takes {len(question)} of them and the "
                    f"answer {MOST_TOKENS}"
                )
            words, cut = self._shorter(words, len(self._ids(words)) - (len(question) - most)), True
            question = self.question(words, shown)
        return question, cut

    def _beside(self, question: list[int], answer: str) -> str:
        """As much of an answer as the model reads after the question, with its [IMG] tokens and the end behind it."""
        answer, room = self._words(answer), self.length - len(question) - len(self.image_ids) - 1
        while len(self._ids(answer)) > room:
            answer = self._shorter(answer, room)
        return answer

    def _shorter(self, text: str, tokens: int) -> str:
        """The text up to the first character that is not whole in so many tokens; at least its last character is left out.

        The bytes that a rare character is spelt in are several tokens at one place.
        """
        places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        whole = min((start for start, _ in places[max(0, tokens) :]), default=len(text))
        return text[: min(whole, len(text) - 1)]

    def _words(self, text: str) -> str:
        """The text without the names of special tokens: who writes <im_patch> shows no picture by that."""
        names = {*self.tokenizer.get_added_vocab(), *self.tokenizer.all_special_tokens}
        return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), " ", text)

    def _generate(self, questions: list[list[int]], views: list[Tensor]) -> list[tuple[str, Tensor | None]]:
        """For each question the words that are answered, and the states that predict its [IMG] tokens, if it says all."""
        from transformers import LogitsProcessorList

        longest = max(map(len, questions))
        ids_BL = torch.tensor([[self.pad] * (longest - len(q)) + q for q in questions], device=self.device)
        mask_BL = torch.tensor([[0] * (longest - len(q)) + [1] * len(q) for q in questions], device=self.device)
        out = self.model.generate(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            **({"pixel_values": torch.stack(views).to(self.device)} if views else {}),
            do_sample=False,
            num_beams=1,
            max_new_tokens=MOST_TOKENS,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.pad,
            logits_processor=LogitsProcessorList([NoRepeat(longest, self.wording.no_repeat_ngram)]),
            return_dict_in_generate=True,
            output_hidden_states=True,
        )
        # Step k's last position says the answer's k-th token.
        states_BLD = torch.stack([step[-1][:, -1] for step in out.hidden_states], dim=1)
        said: list[tuple[str, Tensor | None]] = []
        for row, states_LD in zip(out.sequences[:, longest:].tolist(), states_BLD, strict=True):
            first = row.index(self.image_ids[0]) if self.image_ids[0] in row else None
            whole = first is not None and row[first : first + len(self.image_ids)] == self.image_ids
            until = [row.index(i) for i in {*self.image_ids, self.tokenizer.eos_token_id} if i in row]
            text = tidy(self.tokenizer.decode(row[: min(until, default=len(row))], skip_special_tokens=True))
            said.append((text, states_LD[first : first + len(self.image_ids)] if first is not None and whole else None))
        return said

    @property
    def pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class NoRepeat:
    """For `generate`: no `size` tokens of an answer in a row are said twice. The question's are not counted: what was asked for
    may be said in the same words."""

    def __init__(self, question: int, size: int) -> None:
        self.question, self.before = question, size - 1

    def __call__(self, ids_BL: Tensor, scores_BV: Tensor) -> Tensor:
        scores_BV = scores_BV.clone()
        for row, scores_V in zip(ids_BL[:, self.question :].tolist(), scores_BV, strict=True):
            for i in range(len(row) - self.before):
                if row[i : i + self.before] == row[len(row) - self.before :]:
                    scores_V[row[i + self.before]] = -torch.inf
        return scores_BV


def tidy(text: str) -> str:
    """An expressive instruction as people read it: at most two sentences, nothing from "alternative" on (an old habit of
    language models that were asked for one). A point inside a number ends no sentence."""
    text = re.split(r"\balternative", " ".join(text.split()), maxsplit=1, flags=re.IGNORECASE)[0]
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:2]).strip()


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
