"""InstructAny2Pix before it is trained, of any size: parts beside a bundle that have not met yet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.any2pix import Any2Pix, projectors
from paintover.models.any2pix_file import Any2PixParts, save_any2pix
from paintover.models.any2pix_settings import Any2PixSettings, EncoderKind
from paintover.models.any2pix_wording import VICUNA, Any2PixWording
from paintover.models.beside import copy_base, whole
from paintover.models.files import files, read_json, weights
from paintover.models.mgie_tokens import read_tokenizer, with_tokens
from paintover.models.prior import PriorConfig
from paintover.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS, LENGTH = 256, 4, 4, 512  # of the built-in language model
_CARD = """\
---
license: other
tags: [any2pix, untrained]
---
# InstructAny2Pix before training

A media encoder, a language model, a prior and an adapter beside a diffusion model; none of them knows the others yet: what
`paintover train any2pix` starts from. Its edits mean nothing. The licences of all that it was made of bind whoever uses it.
"""


def fresh(base: Path, width: int, language: Path | None = None, encoder: EncoderKind = "small", seed: int = 0) -> Any2PixParts:
    """A language model with new projectors to a media encoder's space, of `width` E, and a new prior.

    language: a LLaMA in transformers' layout, whose weights keep their dtype and which is asked as Vicuna is. None: a small
    one, which reads words as the sentence encoder of `base` does and begins, where `base` has a language model of the same
    sizes for MGIE, with its weights. New tokens begin near the mean of the others. Raises ModelError.
    """
    from paintover.models.prior import Prior

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        wording = Any2PixWording() if language is None else Any2PixWording(VICUNA)
        model, tokenizer = _small(base, wording) if language is None else _given(language, wording)
        into, out = projectors(width, model.config.hidden_size)
        config = PriorConfig(width, 128, 2, 4, scale=20.0) if width < 1024 else PriorConfig(width, 1024, 24, 16)
        settings = Any2PixSettings(wording, config, encoder=encoder)
        return Any2PixParts(Any2Pix(model, tokenizer, into, out, wording, settings.norm), Prior(config), settings)


def new_any2pix(
    base: Path, out: Path, encoder: Path, language: Path | None = None, locals: int = 3, seed: int = 0, force: bool = False
) -> None:
    """Writes the bundle in `base` with untrained parts beside it: `fresh`, and a new adapter for its UNet.

    encoder: the folder of a media encoder, as bundles have it in any2pix/encoder. Raises ModelError.
    """
    from paintover.models.adapter import MediaAdapter
    from paintover.models.adapter_file import save_adapter
    from paintover.models.bundle import load
    from paintover.models.denoiser import Denoiser
    from paintover.models.encoder_file import describe_encoder, load_encoder

    kind, width = describe_encoder(encoder)
    weights(encoder, ".", "model")
    bundle = load(base, "cpu")
    if not isinstance(bundle.denoiser, Denoiser):
        raise ModelError(f"{base} has no UNet that could be told of pictures and sounds; name a Stable Diffusion model")
    if kind == "small" and bundle.text.pooled_width is None:
        raise ModelError(f"{encoder} reads words by a sentence encoder, which {base} has not; name another media encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = MediaAdapter.of(bundle.denoiser.unet, width, locals=locals)
    parts = fresh(base, width, language, kind, seed)
    with whole(out, force) as part:
        copy_base(base, part, unet=True)
        for name, path in files(base).items():
            if name.startswith("mgie/"):  # the UNet that it was taught beside is the same
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, part / name)
        for path in files(encoder).values():
            (part / "any2pix" / "encoder").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / "any2pix" / "encoder" / path.name)
        load_encoder(part, bundle.text, torch.device("cpu"))  # what does not go together fails here
        save_any2pix(parts, part)
        save_adapter(adapter, part)
        (part / "README.md").write_text(_CARD, encoding="utf-8")


def _small(base: Path, wording: Any2PixWording) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    file = base / "tokenizer" / "tokenizer.json"
    names = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), **names) if file.is_file() else None
    if tokenizer is None or not set(names.values()) <= set(json.loads(file.read_text())["model"]["vocab"]):
        raise ModelError(
            f"{base} has no sentence encoder's tokenizer, which a small language model reads words by; name a language model"
        )
    tokenizer.add_tokens(list(wording.tokens), special_tokens=True)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            hidden_size=WIDTH, intermediate_size=WIDTH * 11 // 4, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            tie_word_embeddings=True,  # they are most of it
        )
    )  # fmt: skip
    if (base / "mgie" / "config.json").is_file():
        _begin_from_mgie(base, model, tokenizer)
    return model, tokenizer


@torch.no_grad()
def _begin_from_mgie(base: Path, model: Any, tokenizer: Any) -> None:
    from paintover.models.mllm_file import load_mllm

    mllm = load_mllm(base, torch.device("cpu"), dtype=torch.float32)
    told, own = mllm.model.config.text_config, model.config
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    if any(getattr(told, size) != getattr(own, size) for size in sizes):
        return
    state = mllm.model.model.language_model.state_dict()
    rows_ND = state.pop("embed_tokens.weight")
    known = mllm.tokenizer.get_vocab()
    model.model.load_state_dict(state, strict=False)  # all but the embeddings
    _place(model.get_input_embeddings().weight, rows_ND, tokenizer.get_vocab(), known)


def _given(folder: Path, wording: Any2PixWording) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    from transformers import LlamaForCausalLM

    from paintover.models.files import complete

    config = read_json(folder, "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") != "llama" or {"auto_map", "quantization_config"} & set(config):
        raise ModelError(f"{folder} is no plain LLaMA in transformers' layout (config.json with model_type llama)")
    weights(folder, ".", "model")
    tokenizer = read_tokenizer(folder)
    known = dict(tokenizer.get_vocab())
    try:
        model, info = LlamaForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            attn_implementation="sdpa",
            dtype="auto",
        )
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"the language model in {folder} could not be loaded: {type(error).__name__}: {line}") from error
    complete(info, str(folder))
    tokenizer = with_tokens(tokenizer, wording.tokens)
    vocabulary = tokenizer.get_vocab()
    rows = model.get_input_embeddings().num_embeddings
    if max(vocabulary.values()) >= rows:
        model.resize_token_embeddings(max(vocabulary.values()) + 1, mean_resizing=False)
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            _place(
                module.weight,
                module.weight[:rows].clone(),
                vocabulary,
                {k: place for k, place in known.items() if place < rows},
            )
    return model, tokenizer


def _place(weight_ND: Tensor, rows_ND: Tensor, vocabulary: Mapping[str, int], known: Mapping[str, int]) -> None:
    """Rows by their tokens' names; tokens that have none get the mean of the others, and a little of their own."""
    shared = [token for token in vocabulary if token in known]
    mean_D = rows_ND[[known[token] for token in shared]].float().mean(dim=0)
    new = [place for token, place in vocabulary.items() if token not in known]
    weight_ND[[vocabulary[token] for token in shared]] = rows_ND[[known[token] for token in shared]].to(weight_ND.dtype)
    if new:
        spread = 0.1 * rows_ND.float().std()
        weight_ND[new] = (mean_D + spread * torch.randn(len(new), len(mean_D))).to(weight_ND.dtype)
