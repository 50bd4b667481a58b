"""LLaVA in its first layout (LlavaLlamaForCausalLM, 2023), read as transformers' LlavaForConditionalGeneration."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.beside import whole
from paintover.models.mgie_tokens import arranged, read_tokenizer, sources, with_tokens
from paintover.models.quiet import quiet
from paintover.models.shards import Plan, Shards, counting, fitting, of_folder, write
from paintover.models.wording import Wording

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedTokenizerFast

LLAMA = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act"),
    *("max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "initializer_range"),
)
_VISION = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "hidden_act"),
    *("image_size", "patch_size", "layer_norm_eps", "projection_dim", "initializer_range"),
)
_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|position_ids$")  # made anew by whoever loads the model
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # CLIP's mean and standard deviation
_ROWS = ("model.embed_tokens.weight", "lm_head.weight")
_INSIDE = re.compile(r"model\.vision_tower\.(?:0\.)?(?:vision_model\.)?")


def import_llava(
    folder: Path,
    out: Path,
    *,
    llama: Path | None = None,
    vision: Path | None = None,
    force: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Writes LLaVA as transformers' folder `out`, in half precision: what `mgie_new` starts from. Arguments: see `import_mgie`.

    `out` appears when it is complete. Raises ModelError, one line, for what is missing, broken or does not fit.
    """
    old = read_llava(folder, llama, vision)
    lacking = [name for name in _ROWS if name not in old.weights]
    if lacking:
        raise ModelError(f"LLaVA in {folder} does not fit: it has no {', no '.join(lacking)}")
    tokenizer = read_tokenizer(folder)
    known = dict(tokenizer.get_vocab())
    wording = Wording("", ())
    tokenizer = with_tokens(tokenizer, wording.picture_tokens)
    vocabulary = tokenizer.get_vocab()
    order = sources(known, vocabulary, old.weights.shapes[_ROWS[0]][0], wording)
    config = config_of(old, len(order), vocabulary[wording.patch], tokenizer)
    plan = plan_of(old, config)
    for name, of in (("model.language_model.embed_tokens.weight", _ROWS[0]), ("lm_head.weight", _ROWS[1])):
        plan[name] = (len(order), old.config["hidden_size"]), partial(_rows, old, of, order)
    mean, std = mean_and_std(old.vision)
    with whole(out, force, mark="config.json") as part:
        write(part, "model", plan, counting(report, len(plan)))
        with quiet():
            config.save_pretrained(part)
            tokenizer.save_pretrained(part)
        (part / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class OldLlava:
    """A LLaVA folder of the first layout, the LLaMA that it is a delta to (if it is one), and its vision tower's folder."""

    folder: Path
    config: dict[str, Any]
    weights: Shards
    llama: Shards | None
    vision: Path

    def tensor(self, name: str) -> Tensor:
        """A weight of LLaVA; of a delta, LLaMA's is added, in half precision (LLaVA's rule).

        Embeddings and the head have more rows in the delta than LLaMA has: the sum is of the first ones. What LLaMA does not
        have is the delta's own. Raises ModelError where shapes do not fit.
        """
        delta = self.weights[name]
        if self.llama is None or name not in self.llama:
            return delta
        base = self.llama[name].to(torch.float16)
        made = delta.to(torch.float16, copy=True)
        fits = base.shape == made.shape or (name in _ROWS and base.shape[1] == made.shape[1] and len(base) <= len(made))
        if not fits:
            raise ModelError(f"{name} is {list(made.shape)} in the delta {self.folder}, but {list(base.shape)} in its LLaMA")
        made[: len(base)] += base
        return made


def read_llava(folder: Path, llama: Path | None = None, vision: Path | None = None) -> OldLlava:
    """Opens the folders, reads no weights. Raises ModelError, one line, for what is missing or of another kind."""
    config = _json(folder / "config.json")
    if "mm_hidden_size" not in config or "hidden_size" not in config:
        raise ModelError(
            f"{folder / 'config.json'} describes no LLaVA of the first layout (LlavaLlamaForCausalLM with mm_hidden_size)"
        )
    tower = Path(str(config.get("mm_vision_tower", "")))
    vision = vision or next((place for place in (folder / tower, tower) if str(tower) != "." and place.is_dir()), None)
    if vision is None:
        raise ModelError(f"name the folder of the vision tower with --vision; this LLaVA was made with {tower}")
    return OldLlava(folder, config, of_folder(folder), None if llama is None else of_folder(llama), vision)


def config_of(llava: OldLlava, rows: int, image_token: int, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Its config in transformers' words, for a vocabulary of so many rows. image_token: what stands for the picture."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    seen = _json(llava.vision / "config.json")
    seen = seen.get("vision_config", seen)
    if not all(key in seen for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size")):
        raise ModelError(f"{llava.vision / 'config.json'} describes no CLIP vision tower")
    tower = CLIPVisionConfig(**{key: seen[key] for key in _VISION if seen.get(key) is not None})
    text = {key: llava.config[key] for key in LLAMA if llava.config.get(key) is not None}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlavaConfig(
        vision_config=tower,
        text_config=LlamaConfig(vocab_size=rows, **ids, **text),
        image_token_index=image_token,
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        projector_hidden_act="linear",
        vision_feature_layer=llava.config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default",
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = "float16"
    return config


def plan_of(llava: OldLlava, config: LlavaConfig) -> Plan:
    """Every tensor of transformers' model: its shape, and what makes it. Raises ModelError that names what does not fit.

    The projector was one linear layer W; here it is linear_1, with no activation behind it and linear_2 the identity.
    Embeddings and head are LLaVA's own, with as many rows as it has: see `mgie_import` for those that replace them.
    """
    expected = shapes(config)
    width = config.text_config.hidden_size
    weights, tower = llava.weights, _tower(llava)
    names = {name: old for name in expected if (old := _old(name)) is not None}
    inside = {name for name in weights.shapes if _INSIDE.match(name)}
    found = {name: shape for name, shape in weights.shapes.items() if not _BUFFERS.search(name) and name not in inside}
    wanted = {names[name]: shape for name, shape in expected.items() if name in names and names[name] not in _ROWS}
    fitting({name: shape for name, shape in found.items() if name not in _ROWS}, wanted, f"LLaVA in {llava.folder}")
    seen = {name: shape for name, shape in expected.items() if name.startswith("model.vision_tower.")}
    fitting(
        {name: shapes_of.shapes[old] for name, (shapes_of, old) in tower.items()}, seen, f"the vision tower in {llava.vision}"
    )
    if llava.llama is not None:
        without = [name for name in wanted if "mm_projector" not in name and name not in llava.llama]
        fitting({name: wanted[name] for name in wanted if name not in without}, wanted, "the LLaMA that the delta is added to")
    plan: Plan = {}
    for name, shape in expected.items():
        if name in tower:
            place, old = tower[name]
            plan[name] = shape, partial(place.__getitem__, old)
        elif name in names:
            plan[name] = shape, partial(llava.tensor, names[name])
        elif name.endswith("linear_2.weight"):
            plan[name] = shape, partial(torch.eye, width)
        else:
            plan[name] = shape, partial(torch.zeros, width)
    return plan


def shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of transformers' model."""
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def mean_and_std(vision: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the vision tower's input: what its folder says, or CLIP's own."""
    file = vision / "preprocessor_config.json"
    told = _json(file) if file.is_file() else {}
    return tuple(told.get("image_mean", _OPENAI[0])), tuple(told.get("image_std", _OPENAI[1]))


def _rows(llava: OldLlava, name: str, order: list[int | None]) -> Tensor:
    return arranged(llava.tensor(name), order)


def _old(name: str) -> str | None:
    """What a tensor was called in the first layout; None where it had none, or the vision tower has it."""
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    projector = re.fullmatch(r"model\.multi_modal_projector\.linear_1\.(weight|bias)", name)
    if projector:
        return f"model.mm_projector.{projector[1]}"
    return name if name == "lm_head.weight" else None


def _tower(llava: OldLlava) -> dict[str, tuple[Shards, str]]:
    """Where each tensor of the vision tower lies: its folder's (a whole CLIP or its vision tower), or LLaVA's own if it has."""
    seen = of_folder(llava.vision)
    whole = any(name.startswith("vision_model.") for name in seen)  # newer editions of transformers leave the prefix out
    found = {
        "model.vision_tower." + name.removeprefix("vision_model."): (seen, name)
        for name in seen
        if (name.startswith("vision_model.") or not whole) and not _BUFFERS.search(name)
    }
    own = {
        "model.vision_tower." + _INSIDE.sub("", name): (llava.weights, name)
        for name in llava.weights
        if _INSIDE.match(name) and not _BUFFERS.search(name)
    }
    return found | own


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"there is no {file}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON: {(str(error).splitlines() or [''])[0]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a {type(value).__name__}; expected a JSON object")
    return value
