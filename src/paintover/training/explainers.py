"""Who explains a dataset's instructions: an untouched LLaVA that says at length what a picture would be like, and a T5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from paintover.errors import ModelError, PaintoverError
from paintover.models.files import complete, fingerprint
from paintover.models.hub import is_hub_name
from paintover.models.quiet import quiet
from paintover.models.wording import QUESTION, SYSTEM

# As MGIE asks: its own template, with the hint that makes the answer a paragraph; the system's words are Vicuna's (1.1).
PROMPT = f"{QUESTION} (in a short paragraph)"
VICUNA = f"{SYSTEM} USER: {{asked}}\n{{image}} ASSISTANT:"
SUMMARY = "summarize the following paragraph in 32 words:\n\n{text}"
SUMMARISED = {"num_beams": 5, "min_length": 5, "max_length": 64, "no_repeat_ngram_size": 3, "do_sample": False}
MOST_TOKENS = 1024
_T5_TOKENS = 512  # that a T5 was trained to read


class Speaker:
    """An untouched LLaVA in transformers' layout, asked what a picture will be like.

    name: what it was, with the hub's commit or the folder's fingerprint. Raises ModelError when it cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device, tokens: int = MOST_TOKENS) -> None:
        from transformers import LlavaForConditionalGeneration, LlavaProcessor

        self.tokens = tokens
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        self.model, self.processor, self.name = load(
            name, "a LLaVA model", LlavaForConditionalGeneration, LlavaProcessor, device, dtype
        )
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # what is said follows right behind each question
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.processor.patch_size is None:  # older editions leave it to the model's config
            config = self.model.config
            self.processor.patch_size = config.vision_config.patch_size
            self.processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            self.processor.num_additional_image_tokens = 1  # CLIP's first token

    def question(self, instruction: str) -> str:
        """The whole prompt, in the model's own form of conversation, or Vicuna's where it has none."""
        for token in self.processor.tokenizer.all_special_tokens:  # words are words
            instruction = instruction.replace(token, " ")
        image = self.processor.image_token
        asked = PROMPT.format(instruction=instruction.replace(image, " "))
        if not self.processor.chat_template:
            return VICUNA.format(asked=asked, image=image)
        content = [{"type": "text", "text": asked}, {"type": "image"}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @torch.no_grad()
    def say(self, instructions: Sequence[str], pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """What it says of each, greedily, untouched. pictures: rgb_HWC."""
        inputs = self.processor(
            images=[Image.fromarray(rgb_HWC) for rgb_HWC in pictures],
            text=[self.question(words) for words in instructions],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        ids_BL = generate(
            self.model,
            self.processor.tokenizer,
            inputs,
            max_new_tokens=self.tokens,
            do_sample=False,
            suppress_tokens=[self.model.config.image_token_id],  # it stands for a picture, and is nothing to say
        )
        said_BL = ids_BL[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(said_BL, skip_special_tokens=True)]


class Summariser:
    """A T5 that sums up in 32 words. name, errors: as Speaker's."""

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16  # float16 overflows in T5
        self.model, self.tokenizer, self.name = load(
            name, "a summariser", AutoModelForSeq2SeqLM, AutoTokenizer, device, dtype, trust_remote_code=False
        )

    @torch.no_grad()
    def sum_up(self, texts: Sequence[str]) -> list[str | None]:
        """The sum of each text; None for an empty one, of which there is nothing to say."""
        full = [text for text in texts if text]
        if not full:
            return [None] * len(texts)
        asked = [SUMMARY.format(text=text) for text in full]
        inputs = self.tokenizer(asked, padding=True, truncation=True, max_length=_T5_TOKENS, return_tensors="pt")
        ids_BL = generate(self.model, self.tokenizer, inputs.to(self.model.device), **SUMMARISED)
        said = iter(self.tokenizer.batch_decode(ids_BL, skip_special_tokens=True))
        return [" ".join(next(said).split()) or None if text else None for text in texts]


def generate(model: Any, tokenizer: Any, inputs: Any, **how: Any) -> torch.Tensor:
    """Token ids_BL. `how` alone says how: a model's own settings may ask for chance, penalties and other limits."""
    from transformers import GenerationConfig

    own = model.generation_config
    ends = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    start = getattr(own, "decoder_start_token_id", None)
    start = getattr(model.config, "decoder_start_token_id", None) if start is None else start
    settings = GenerationConfig(
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        **({} if start is None else {"decoder_start_token_id": start}),
        **how,
    )
    with quiet():
        return model.generate(**inputs, generation_config=settings)


def load(
    name: str, what: str, model_kind: Any, reader_kind: Any, device: torch.device, dtype: torch.dtype, **trust: bool
) -> tuple[Any, Any, str]:
    """A model in `dtype` on `device`, what reads for it, and a name that means the same later."""
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and not is_hub_name(name):
        raise ModelError(
            f"no folder {name!r}; for {what} name a folder in transformers' layout, or a hub name such as owner/name"
        )
    repo, _, revision = (str(folder), "", "") if local else name.partition("@")
    options: dict[str, Any] = {"local_files_only": local, **({"revision": revision} if revision else {}), **trust}
    try:
        with quiet():
            reader = reader_kind.from_pretrained(repo, **options)
            model, info = model_kind.from_pretrained(
                repo, use_safetensors=True, output_loading_info=True, attn_implementation="sdpa", dtype=dtype, **options
            )
            complete(info, name)
            model.to(device).eval().requires_grad_(False)
    except PaintoverError:
        raise
    except Exception as error:
        line = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise ModelError(f"{name} cannot be loaded as {what}, with safetensors and a tokenizer: {line}") from None
    commit = getattr(model.config, "_commit_hash", None) or revision
    return model, reader, f"{folder.resolve().name}@{fingerprint(folder)[:16]}" if local else f"{repo}@{commit}"
