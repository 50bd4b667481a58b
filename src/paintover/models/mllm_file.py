"""A bundle's multimodal language model on disk: mgie/, in transformers' layout, with an edit head beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from paintover.errors import ModelError
from paintover.models.edit_head import EditHead
from paintover.models.files import STEMS, complete, read_json, weights
from paintover.models.mllm import Mllm
from paintover.models.mllm_settings import Settings
from paintover.models.quiet import quiet

_LARGE = 1_000_000_000  # parameters: from here on a CPU computes in bfloat16, since float32 would need twice the memory


def save_mllm(mllm: Mllm, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes folder/mgie: language_model/, tokenizer/, edit_head/ and config.json, which says how the model is asked."""
    part = folder / "mgie"
    part.mkdir(parents=True, exist_ok=True)
    with quiet():
        # Not `model.to(dtype)`, which would change the one that is saved.
        state = {name: tensor.detach().to(dtype) for name, tensor in mllm.model.state_dict().items()}
        mllm.model.save_pretrained(part / "language_model", state_dict=state)
        mllm.tokenizer.save_pretrained(part / "tokenizer")
    (part / "edit_head").mkdir(exist_ok=True)
    state = {name: tensor.detach().to(dtype).contiguous().cpu() for name, tensor in mllm.head.state_dict().items()}
    save_file(state, part / "edit_head" / "model.safetensors")
    Settings(mllm.wording, mllm.head.config, tuple(mllm.mean_C.tolist()), tuple(mllm.std_C.tolist())).write(folder)


def load_mllm(folder: Path, device: torch.device, bits: int = 16, dtype: torch.dtype | None = None) -> Mllm:
    """The multimodal language model of the bundle in `folder`, the caller's own: `Bundle.mllm` is the one that is shared.

    dtype: of its weights; None means float32 on a CPU while it is small, bfloat16 there from a billion parameters on, and
    float16 on an accelerator. bits: 8 or 4 loads them quantised, which needs bitsandbytes. Raises ModelError, and what torch
    does where the memory is not enough.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

    import paintover.models.conv_tower  # noqa: F401 (makes the built-in model's vision tower known to transformers)

    part = "mgie/language_model"
    config = read_json(folder, f"{part}/config.json")
    if config.get("model_type") != "llava" or "auto_map" in config or "quantization_config" in config:
        raise ModelError(
            f"{part}/config.json in {folder} describes no plain LLaVA model; import it with `paintover models import`"
        )
    _, variant = weights(folder, part, STEMS[part])
    own = Settings.read(folder)
    try:
        head = EditHead(**own.edit_head)
        options: dict[str, Any] = {} if bits == 16 else quantised(bits)
        if bits != 16 or (device.type != "cpu" and find_spec("accelerate") is not None):
            options["device_map"] = {"": str(device)}  # straight to it
        with quiet():
            model, info = LlavaForConditionalGeneration.from_pretrained(
                folder / part,
                config=LlavaConfig.from_dict(config),
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                dtype=dtype_for(folder, part, device) if dtype is None else dtype,
                **options,
            )
            complete(info, part)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "mgie" / "tokenizer", local_files_only=True)
        files, _ = weights(folder, "mgie/edit_head", STEMS["mgie/edit_head"])
        head.load_state_dict({name: tensor.float() for file in files for name, tensor in load_file(file).items()})
        mllm = Mllm(model, tokenizer, head, own.wording, own.mean, own.std)
        if "device_map" not in options:
            model.to(device)
        head.to(model.device)
        for module in mllm.modules:
            module.eval().requires_grad_(False)
        _try(mllm)
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the language model of bundle {folder} could not be loaded: {type(error).__name__}: {line}"
        ) from error
    return mllm


@torch.no_grad()
def _try(mllm: Mllm) -> None:
    """Shows it a grey picture: what does not go together fails here, and not in an edit."""
    if mllm.model.config.text_config.num_hidden_layers < 1:
        raise ValueError("it has no layers")
    view_CHW = mllm.see(np.full((8, 8, 3), 127, np.uint8))
    asked = mllm.asked([mllm.question("", True)], [""])
    states_BLD = mllm.hidden(asked, mllm.look(view_CHW[None]))
    if not mllm.guide(mllm.at_images(states_BLD, asked)).isfinite().all():
        raise ValueError("what it computes is not finite; its weights are broken")


def dtype_for(folder: Path, part: str, device: torch.device) -> torch.dtype:
    """What a language model's weights are loaded in, unless somebody says."""
    if device.type != "cpu":
        return torch.float16
    files, _ = weights(folder, part, STEMS[part])
    return torch.bfloat16 if sum(file.stat().st_size for file in files) > 2 * _LARGE else torch.float32


def quantised(bits: int) -> dict[str, Any]:
    """How transformers is asked for weights of 4 or 8 bits."""
    if bits not in (4, 8):
        raise ModelError(f"bits is {bits}; expected 16, 8 or 4")
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"loading the language model in {bits} bits needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)}
