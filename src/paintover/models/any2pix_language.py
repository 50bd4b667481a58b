"""InstructAny2Pix's language model as it was released: a LLaMA with projectors among its weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.any2pix_wording import VICUNA, Any2PixWording
from paintover.models.llava_import import LLAMA
from paintover.models.mgie_tokens import arranged, read_tokenizer, with_tokens
from paintover.models.shards import Plan, Shards, fitting, of_folder

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

# How it was trained: a reference's embedding was added to that of its token, and <im_gen> is said behind a token of its own.
WORDING = Any2PixWording(VICUNA, start="<im_gen_start>", adds_slot=True)
_PROJECTORS = {"in": "model.vae_projector_image", "out": "model.vae_predictor_image"}
# Of earlier experiments, and never used by InstructAny2Pix: CLIP's tower and its projector, a codec, projectors for sound.
_UNUSED = re.compile(r"model\.(vision_tower|mm_projector|vae|vae_projector_audio|vae_predictor_audio)\.|rotary_emb\.inv_freq$")
_ROWS = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, eq=False)
class Language:
    """What is to be written. width: E of its projectors."""

    plan: Plan
    projectors: Plan
    config: LlamaConfig
    tokenizer: PreTrainedTokenizerFast
    width: int
    odd: list[str]


def language(folder: Path) -> Language:
    """Opens the folder, reads no weights. Raises ModelError, one line, for what is missing or does not fit."""
    from transformers import LlamaConfig, LlamaForCausalLM

    told = _json(folder / "config.json")
    found, what = of_folder(folder), f"the language model in {folder}"
    own = {name: shape for name, shape in found.shapes.items() if not _UNUSED.match(name) and "inv_freq" not in name}
    lacking = [name for name in (*_ROWS, f"{_PROJECTORS['in']}.0.weight") if len(own.get(name, ())) != 2]
    if lacking:
        raise ModelError(f"{what} does not fit: it has no {', no '.join(lacking)}; is it InstructAny2Pix's?")
    tokenizer = _tokenizer(folder)
    order, odd = _order(tokenizer, own[_ROWS[0]][0], what)
    try:
        text = {key: told[key] for key in LLAMA if told.get(key) is not None}
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        config = LlamaConfig(vocab_size=len(order), **ids, **text)
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"{folder / 'config.json'} describes no LLaMA ({type(error).__name__}: {line})") from None
    config.architectures, config.dtype = ["LlamaForCausalLM"], "float16"
    hidden, width = config.hidden_size, own[f"{_PROJECTORS['in']}.0.weight"][1]
    layers = {"in": ((hidden, width), (hidden, hidden)), "out": ((hidden, hidden), (width, hidden))}
    shapes = {
        f"{side}.{place}.{kind}": shape if kind == "weight" else shape[:1]
        for side, pair in layers.items()
        for place, shape in zip((0, 2), pair, strict=True)
        for kind in ("weight", "bias")
    }
    called = {name: _PROJECTORS[name.split(".")[0]] + name[name.index(".") :] for name in shapes}
    wanted = {name: shape for name, shape in expected.items() if name not in _ROWS}
    rows = dict.fromkeys(_ROWS, (own[_ROWS[0]][0], hidden))
    fitting(own, wanted | rows | {called[name]: shape for name, shape in shapes.items()}, what)
    plan: Plan = {
        name: (shape, partial(_rows, found, name, order) if name in _ROWS else partial(found.__getitem__, name))
        for name, shape in expected.items()
    }
    projectors: Plan = {name: (shape, partial(found.__getitem__, called[name])) for name, shape in shapes.items()}
    return Language(plan, projectors, config, tokenizer, width, odd)


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """That of the folder, whose control tokens must be there: their ids are looked up by name, never made.

    Where it does not say what they do with the spaces around them, they take these along, as those of that time did.
    """
    place = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    tokenizer = read_tokenizer(place)
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in WORDING.tokens if token not in vocabulary]:
        raise ModelError(
            f"the tokenizer in {place} has no {', no '.join(missing)}; take the one that was released with the model"
        )
    config = _json(place / "tokenizer_config.json") if (place / "tokenizer_config.json").is_file() else {}
    told = (place / "tokenizer.json").is_file() or "added_tokens_decoder" in config
    return with_tokens(tokenizer, () if told else WORDING.tokens)


def _order(tokenizer: PreTrainedTokenizerFast, rows: int, what: str) -> tuple[list[int | None], list[str]]:
    """Which of the release's rows each id has: that of the same number, as the tokenizer was saved with it."""
    vocabulary = tokenizer.get_vocab()
    without = sorted(token for token, place in vocabulary.items() if place >= rows)
    if control := [token for token in WORDING.tokens if token in without]:
        raise ModelError(f"{what} has embeddings of {rows} tokens, too few for {', '.join(control)} of its tokenizer")
    odd = (
        [f"the release has no row for {', '.join(without[:5])} of the tokenizer; they got the mean of the others"]
        if without
        else []
    )
    return [place if place < rows else None for place in range(max(vocabulary.values()) + 1)], odd


def _rows(found: Shards, name: str, order: list[int | None]) -> Tensor:
    return arranged(found[name], order)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON: {(str(error).splitlines() or [''])[0]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a {type(value).__name__}; expected a JSON object")
    return value
