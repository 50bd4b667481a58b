"""InstructAny2Pix's refinement prior as it was released, with a text encoder in it of which one answer is kept."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.any2pix_release import named_sizes
from paintover.models.prior import Prior, PriorConfig
from paintover.models.shards import Plan, Shards, fitting

_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$")  # GPT-2's causal masks
_VIDEO = 3  # the modality that InstructAny2Pix tells its language model's answers as
_TEXT = "cond_stage_models.0.model."  # CLIP ViT-H/14's text encoder, within the prior
# What the prior's parts were called. Inputs are numbered: source, embedding, text, score.
_PRIOR = {
    "start": "start_of_sequence_tokens",
    "end": "end_of_sequence_tokens",
    "modality": "modality_embedding",
    "media": "input_sequence_embed_linear.1",
    "text": "input_sequence_embed_linear.2",
    "score": "input_sequence_embed_linear.3",
}


def released_prior(file: Path) -> tuple[PriorConfig, Plan]:
    """The refinement prior, with what its text encoder says of the empty string in the place of that encoder."""
    found = Shards(file)
    own = {
        name: shape
        for name, shape in found.shapes.items()
        if not name.startswith("cond_stage_models.") and not _BUFFERS.search(name) and name != "model.wte.weight"
    }
    what = f"the refinement prior in {file}"
    media, text, kinds = named_sizes(own, what, (
        (f"{_PRIOR['media']}.weight", 2), (f"{_PRIOR['text']}.weight", 2), (f"{_PRIOR['modality']}.weight", 2),
    ))  # fmt: skip
    hidden = media[0]
    if any(size > 64 and size % 64 for size in (hidden, text[1])):
        raise ModelError(f"{what} is {hidden} wide, and its text {text[1]}; expected multiples of 64, its heads' width")
    layers = len({name.split(".")[2] for name in own if name.startswith("model.h.")})
    if kinds[0] <= _VIDEO:
        raise ModelError(f"{what} tells {kinds[0]} modalities apart, expected more than {_VIDEO}")
    config = PriorConfig(
        media[1], hidden, layers, max(1, hidden // 64), 100.0, kinds[0], _VIDEO, text=(2, text[1]), query=False
    )
    if config.hidden != config.width:
        raise ModelError(f"{what} is {config.hidden} wide, and its embeddings {config.width}; expected one width")
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Prior(config).state_dict().items()}
    plan: Plan = {}
    called = {}
    for name, shape in expected.items():
        part, _, rest = name.partition(".")
        if name == "text_LD":
            plan[name] = shape, partial(_silence, found, text[1], what)
        elif name == "model.wte.weight":
            plan[name] = shape, partial(torch.zeros, shape)  # it reads no words
        else:
            called[name] = f"{_PRIOR[part]}.{rest}" if part in _PRIOR else name
            plan[name] = shape, partial(found.__getitem__, called[name])
    fitting(own, {called[name]: shape for name, shape in expected.items() if name in called}, what)
    _text_encoder(found, text[1], what)
    return config, plan


def _text_encoder(found: Shards, width: int, what: str) -> tuple[Any, dict[str, str]]:
    """transformers' CLIPTextModel, without weights, and what its tensors are called in the file. Raises ModelError."""
    from transformers import CLIPTextConfig, CLIPTextModel

    def bare(name: str) -> str:
        return name.removeprefix(_TEXT).removeprefix("text_model.")

    names = {bare(name): name for name in found if name.startswith(_TEXT) and not name.endswith("position_ids")}
    shapes = {name: found.shapes[old] for name, old in names.items()}
    at = f"{what}, its text encoder,"
    words, places, inside = named_sizes(shapes, at, (
        ("embeddings.token_embedding.weight", 2), ("embeddings.position_embedding.weight", 2),
        ("encoder.layers.0.mlp.fc1.weight", 2),
    ))  # fmt: skip
    with torch.device("meta"):
        model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words[0],
                hidden_size=width,
                intermediate_size=inside[0],
                num_hidden_layers=len({name.split(".")[2] for name in names if name.startswith("encoder.layers.")}),
                num_attention_heads=max(1, width // 64),
                max_position_embeddings=places[0],
                hidden_act="gelu",
                bos_token_id=words[0] - 2,
                eos_token_id=words[0] - 1,
            )
        )
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitting(shapes, {bare(name): shape for name, shape in state.items()}, at)
    return model, {name: names[bare(name)] for name in state}


@torch.no_grad()
def _silence(found: Shards, width: int, what: str) -> Tensor:
    """text_LD: what the text encoder says of the empty string, which is a beginning and an end, the last of its words."""
    model, called = _text_encoder(found, width, what)
    model.load_state_dict({name: found[old].float() for name, old in called.items()}, assign=True)
    for module in model.modules():  # buffers that no file has
        if "position_ids" in module._buffers:
            module.position_ids = torch.arange(model.config.max_position_embeddings)[None]
    last = model.config.vocab_size - 1
    states: Tensor = model.eval()(input_ids=torch.tensor([[last - 1, last]])).last_hidden_state[0]
    return states
