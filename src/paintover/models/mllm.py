"""A multimodal language model that looks at a picture, says in full what an instruction means, and guides the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from paintover.errors import ModelError
from paintover.models import answering
from paintover.models.answering import Answer
from paintover.models.edit_head import EditHead
from paintover.models.wording import Wording

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

Pixels = NDArray[np.uint8]


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
        named = (*wording.image_tokens, *wording.picture_tokens)
        rows = model.get_input_embeddings().num_embeddings
        wrong = next((f"has no {token}" for token in named if token not in vocabulary), None)
        if wrong is None:
            words = [token for token in named if token not in tokenizer.get_added_vocab()]
            wrong = f"has {words[0]} for a word" if words else None
        if wrong is None and tokenizer.eos_token_id is None:
            wrong = "has no token for the end of a text"
        if wrong is None and max(vocabulary.values()) >= rows:
            wrong = f"has {max(vocabulary.values()) + 1} tokens, the model {rows}"
        if wrong is not None:
            raise ModelError(f"the language model's tokenizer {wrong}; it was made for another model")
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
        return start + self.ids((prompt or w.prompt).replace("{image}", image).replace("{instruction}", instruction))

    def asked(
        self, questions: Sequence[list[int]], answers: Sequence[str], tokens: Sequence[bool] | None = None, multiple: int = 1
    ) -> Asked:
        """Questions and what shall be answered, to be learnt: the answer's words, its [IMG] tokens, the end.

        Where a row has no `tokens`, its answer ends after its words, and images_BN points nowhere. multiple: the length is one
        of it.
        """
        rows, labels, images = [], [], []
        for question, answer, has in zip(questions, answers, tokens or [True] * len(questions), strict=True):
            said = self.ids(answer)
            told = [*said, *(self.image_ids if has else ()), self.tokenizer.eos_token_id]
            rows.append(question + told)
            labels.append([-100] * len(question) + told)
            first = len(question) + len(said) - 1
            images.append(list(range(first, first + len(self.image_ids))) if has else [0] * len(self.image_ids))
        ids_BL = _padded(rows, self.pad, multiple)
        mask_BL = _padded([[1] * len(row) for row in rows], 0, multiple)
        return Asked(ids_BL, mask_BL, _padded(labels, -100, multiple), torch.tensor(images))

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

    def answer(
        self, instructions: Sequence[str], pictures: Sequence[Pixels | None], given: Sequence[str | None] | None = None
    ) -> list[Answer]:
        """What each instruction means for its picture (None: for no picture at all), in one batch.

        Greedy, at most MOST_TOKENS tokens, `no_repeat_ngram` of them in a row never twice. given: expressive instructions that
        are already known; where there is one, nothing is generated. Special tokens in the words are no words. Raises ModelError
        where the question alone is longer than the model reads.
        """
        return answering.answer(self, instructions, pictures, given)

    @property
    def pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def ids(self, text: str) -> list[int]:
        """Of the text alone, with nothing before and behind it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _padded(rows: Sequence[Sequence[int]], value: int, multiple: int) -> Tensor:
    padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
    return functional.pad(padded, (0, -padded.shape[1] % multiple), value=value)
