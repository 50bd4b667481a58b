"""The built-in multimodal language model, before it has learnt anything: LLaVA's layout, small enough to ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from paintover.models.edit_head import EditHead
from paintover.models.mllm import Mllm, Wording
from paintover.models.quiet import quiet
from paintover.models.text import SentenceText

PROMPT = "what will this image be like if '{instruction}'{image} :"
WIDTH = 256  # of the language model
QUERIES = 16  # token states that the edit head makes: more than the longest meaning has words
VISION = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
LANGUAGE = {"hidden_size": WIDTH, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
HEAD = {"hidden": 192, "layers": 4, "heads": 4, "feedforward": 768}


def build(tokenizer_file: Path, text: SentenceText, image_tokens: int = 8, size: int = 128, patch: int = 16) -> Mllm:
    """A model that reads words as `text` does, its word embeddings `text`'s (their first WIDTH principal components).

    What the sentence encoder knows of which words are alike is where it starts from; all else is random.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

    names = ("<im_patch>", "<im_start>", "<im_end>", *(f"[IMG{i}]" for i in range(image_tokens)))
    with quiet():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer_file), bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
        )
        tokenizer.add_tokens(list(names), special_tokens=True)
    wording = Wording(PROMPT, names[3:])
    language = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **LANGUAGE,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=size, patch_size=patch, **VISION),
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids("<im_patch>"),
        image_seq_length=(size // patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model: Any = LlavaForConditionalGeneration(config)
    words_VD = text.model.get_input_embeddings().weight.detach().float()
    centred_VD = words_VD - words_VD.mean(0)
    _, _, axes_DD = torch.linalg.svd(centred_VD, full_matrices=False)
    reduced_VD = centred_VD @ axes_DD[:WIDTH].T
    with torch.no_grad():
        model.get_input_embeddings().weight[: len(reduced_VD)] = reduced_VD * (0.02 / reduced_VD.std())
        model.lm_head.weight.copy_(model.get_input_embeddings().weight)
    head = EditHead(WIDTH, queries=QUERIES, out=text.width, **HEAD)
    return Mllm(model, tokenizer, head, wording, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def as_module(mllm: Mllm) -> nn.ModuleDict:
    return nn.ModuleDict({"model": mllm.model, "head": mllm.head})
