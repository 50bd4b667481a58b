"""A trained run becomes a bundle: half-precision safetensors in the diffusers layout, with a card."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paintover.errors import PaintoverError
from paintover.models.beside import copied, take_place
from paintover.models.bundle import Bundle, load
from paintover.models.codec import PixelUnshuffleCodec
from paintover.models.denoiser import Denoiser
from paintover.models.files import fingerprint, read_json
from paintover.models.mllm_file import load_mllm, save_mllm
from paintover.models.text import SentenceText
from paintover.training import checkpoint, recipe
from paintover.training.language_network import as_module, build
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.mgie_network import frozen
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.network import SCHEDULER, averaged_weights, build_unet

_LANGUAGE: tuple[type[LanguageRecipe | MgieRecipe], ...] = (LanguageRecipe, MgieRecipe)  # what runs teach language models by


def export(run: Path, text: Path, out: Path, *, card: str, size: int, defaults: dict[str, dict[str, Any]]) -> str:
    """Writes the bundle `out` from a run's averaged weights and the sentence encoder in `text`; returns its fingerprint.

    `text` is what `paintover train text` made: text_encoder/, tokenizer/ and text.json. `card` is the README.md. `size`:
    the bundle works on pictures of about size * size pixels. `defaults`: recommended steps and knobs for each editor.

    The bundle is made whole beside `out` and then takes its place; a kill between the two leaves both, OUT.part the new
    one and OUT.old the old one. Raises PaintoverError when there is no checkpoint or no sentence encoder.
    """
    trained = recipe.read(run, recipe.Recipe)
    if trained is None or checkpoint.latest(run / "state") is None:
        raise PaintoverError(f"{run} holds no checkpoint; train there first")
    if not (text / "text.json").is_file():
        raise PaintoverError(f"no sentence encoder in {text}: make one with `paintover train text --out {text}`")
    settings = json.loads((text / "text.json").read_text(encoding="utf-8"))
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for folder in ("text_encoder", "tokenizer"):
        shutil.copytree(text / folder, part / folder)
    width = json.loads((text / "text_encoder" / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    unet: Any = build_unet(trained, width)
    unet.load_state_dict(averaged_weights(run))
    unet.half().save_pretrained(part / "unet")
    PixelUnshuffleCodec(trained.factor).save(part / "codec")
    _write(part / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write(
        part / "model_index.json",
        {
            "_class_name": "PaintoverPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "BertModel"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        },
    )
    _write(
        part / "paintover.json",
        {
            "format": 1,
            "name": out.name,
            "capabilities": ["text-to-image", "instruct"],
            "size": size,
            "prediction": trained.prediction,
            **({} if trained.sigma_data is None else {"sigma_data": trained.sigma_data}),
            "text": {key: settings[key] for key in ("length", "token_scale")},
            "defaults": defaults,
        },
    )
    (part / "README.md").write_text(card, encoding="utf-8")
    take_place(part, out)
    return fingerprint(out)


def add_language(run: Path, folder: Path, share: float = 1.0) -> tuple[str, int]:
    """Puts what `train language` or `train mgie` taught into the bundle in `folder`: averaged weights, in half precision.

    Of the former mgie/, which replaces an older one; of the latter what learnt of mgie/, and the denoiser, in a bundle that
    has what the run began with: `share` of the way from its weights to the run's (Wortsman et al. 2022), which keeps more of
    what it could do before. All else stays. For mgie and lgie the bundle recommends what it does for instruct, where it
    says nothing of them yet. Returns the bundle's new fingerprint, and the bytes of mgie/. As with `export` the bundle stays
    whole whenever this is killed. Raises PaintoverError where run and bundle do not go together.
    """
    folder = folder.resolve()
    trained = recipe.read(run, *_LANGUAGE)
    last = checkpoint.latest(run / "state")
    if trained is None or last is None:
        raise PaintoverError(f"{run} holds no checkpoint; train there first")
    bundle = load(folder, device="cpu")
    modules = _taught(bundle, trained) if isinstance(trained, LanguageRecipe) else _learnt(bundle, trained)
    mllm, unet = modules.pop("mllm"), modules.get("unet")
    try:
        for name, state in _by_part(averaged_weights(run), modules).items():
            module = modules[name].float()
            if unet is not None and module is unet:
                state = {key: torch.lerp(before, state[key], share) for key, before in module.state_dict().items()}
            module.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise PaintoverError(f"{folder} has another network, or other words, than {run} was taught with") from error
    learnt_beside = checkpoint.facts(last).get("frozen")
    if isinstance(trained, MgieRecipe) and learnt_beside not in (None, frozen(mllm, trained)):
        raise PaintoverError(f"{folder} has another language model than the bundle that {run} began with ({trained.init})")
    part = copied(folder, without="mgie")
    save_mllm(mllm, part)
    if unet is not None:
        shutil.rmtree(part / "unet")
        unet.half().save_pretrained(part / "unet")
    said = (part / "paintover.json").is_file()
    settings: dict[str, Any] = read_json(part, "paintover.json") if said else {"format": 1}
    defaults = settings.get("defaults", {})
    if "instruct" in defaults:
        settings["defaults"] = {**dict.fromkeys(("mgie", "lgie"), defaults["instruct"]), **defaults}
    _write(part / "paintover.json", settings)
    take_place(part, folder)
    return fingerprint(folder), sum(file.stat().st_size for file in (folder / "mgie").rglob("*") if file.is_file())


def _taught(bundle: Bundle, trained: LanguageRecipe) -> dict[str, Any]:
    """The language model of `train language`, as yet untaught, and its modules by the names that its checkpoints have."""
    if not isinstance(bundle.text, SentenceText):
        raise PaintoverError(f"{bundle.name} reads words otherwise than the run does; name a bundle that `train export` made")
    mllm = build(bundle.folder / "tokenizer" / "tokenizer.json", bundle.text, trained)
    return {"mllm": mllm, **as_module(mllm)}


def _learnt(bundle: Bundle, trained: MgieRecipe) -> dict[str, Any]:
    """A bundle's language model, and copies of what `train mgie` teaches of bundles, by the names that its checkpoints have."""
    bundle.require("mgie", "unet")
    assert isinstance(bundle.denoiser, Denoiser)
    mllm = load_mllm(bundle.folder, torch.device("cpu"), dtype=torch.float16)  # as stored: what never learnt stays as it was
    unet = copy.deepcopy(bundle.denoiser.unet)
    llava = mllm.model
    modules = {"unet": unet, "embeddings": llava.get_input_embeddings(), "lm_head": llava.lm_head, "head": mllm.head}
    return {"mllm": mllm, **modules, **({"projector": llava.model.multi_modal_projector} if trained.projector else {})}


def _by_part(state: dict[str, Tensor], modules: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the first word of their names; those of parts that only training has are left out."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    for key, value in state.items():
        part, name = key.split(".", 1)
        if part in parts:
            parts[part][name] = value
    return parts


def _write(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
