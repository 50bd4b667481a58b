"""The built-in multimodal language model, before it has learnt anything: LLaVA's layout, small enough to ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from paintover.errors import PaintoverError
from paintover.models.conv_tower import ConvTowerConfig
from paintover.models.edit_head import EditHead
from paintover.models.mllm import Mllm
from paintover.models.quiet import quiet
from paintover.models.text import SentenceText
from paintover.models.wording import SHORT, Wording, image_tokens
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.network import averaged_weights

NO_REPEAT = 6  # "paint the lemon white and paint the grapes white" says "and paint the" more than once
HEADS = 4  # of every attention
_OWN = ("head.", "model.model.language_model.embed_tokens.", "model.lm_head.")  # what a run may have another one of


def build(tokenizer_file: Path, text: SentenceText, recipe: LanguageRecipe) -> Mllm:
    """A model that reads words as `text` does, its word embeddings `text`'s (their first principal components).

    What the sentence encoder knows of which words are alike is where it starts from; all else is random.
    """
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

    wording = Wording(SHORT, image_tokens(recipe.image_tokens), no_repeat_ngram=NO_REPEAT)
    with quiet():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer_file), bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
        )
        tokenizer.add_tokens([*wording.picture_tokens, *wording.image_tokens], special_tokens=True)
    language = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        hidden_size=recipe.width, intermediate_size=recipe.width * 11 // 4, num_hidden_layers=recipe.layers,
        num_attention_heads=HEADS,
    )  # fmt: skip
    vision = ConvTowerConfig(recipe.size, recipe.vision)
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids(wording.patch),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model: Any = LlavaForConditionalGeneration(config)
    words_VD = text.model.get_input_embeddings().weight.detach().float()
    centred_VD = words_VD - words_VD.mean(0)
    _, _, axes_DD = torch.linalg.svd(centred_VD, full_matrices=False)
    reduced_VD = centred_VD @ axes_DD[: recipe.width].T
    with torch.no_grad():
        rows, columns = reduced_VD.shape  # a wider model's other columns stay random
        model.get_input_embeddings().weight[:rows, :columns] = reduced_VD * (0.02 / reduced_VD.std())
        model.lm_head.weight.copy_(model.get_input_embeddings().weight)
    head = EditHead(
        recipe.width, recipe.head_width, recipe.queries, text.width, recipe.head_layers, HEADS, 4 * recipe.head_width
    )
    return Mllm(model, tokenizer, head, wording, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def as_module(mllm: Mllm) -> nn.ModuleDict:
    return nn.ModuleDict({"model": mllm.model, "head": mllm.head})


def begin_from(net: nn.ModuleDict, source: Path) -> None:
    """Fills the network with the averaged weights of another run of this kind.

    That may have other [IMG] tokens, or another edit head: then vocabulary or head stay as they are. Raises PaintoverError
    where anything else does not fit.
    """
    own, found = net.state_dict(), averaged_weights(source)
    other = {name for name in own.keys() & found.keys() if own[name].shape != found[name].shape}
    if own.keys() != found.keys() or not all(name.startswith(_OWN) for name in other):
        raise PaintoverError(f"{source} holds another network than this recipe's; name a run of `train language`")
    net.load_state_dict({name: found[name] for name in own if name not in other}, strict=False)
