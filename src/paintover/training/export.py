"""A trained run becomes a bundle: half-precision safetensors in the diffusers layout, with a card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from paintover.errors import PaintoverError
from paintover.models.bundle import load
from paintover.models.codec import PixelUnshuffleCodec
from paintover.models.files import fingerprint, read_json
from paintover.models.mllm_file import save_mllm
from paintover.models.text import SentenceText
from paintover.training import checkpoint, recipe
from paintover.training.language_network import as_module, build
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.network import SCHEDULER, averaged_weights, build_unet


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
    _take_place(part, out)
    return fingerprint(out)


def add_language(run: Path, folder: Path) -> tuple[str, int]:
    """Puts what `train language` taught into the bundle in `folder`: mgie/, in half precision, from the averaged weights.

    An older mgie/ there is replaced; all else stays. For mgie and lgie the bundle recommends what it does for instruct, where
    it says nothing of them yet. Returns the bundle's new fingerprint, and the bytes of mgie/. As with `export` the bundle
    stays whole whenever this is killed. Raises PaintoverError where run and bundle do not go together.
    """
    trained = recipe.read(run, LanguageRecipe)
    if trained is None or checkpoint.latest(run / "state") is None:
        raise PaintoverError(f"{run} holds no checkpoint; train there first")
    folder = folder.resolve()
    text = load(folder, device="cpu").text
    if not isinstance(text, SentenceText):
        raise PaintoverError(f"{folder} reads words otherwise than {run} does; name a bundle that `train export` made")
    mllm = build(folder / "tokenizer" / "tokenizer.json", text, trained)
    state = {key: value for key, value in averaged_weights(run).items() if not key.startswith("patches.")}
    try:
        as_module(mllm).load_state_dict(state)
    except RuntimeError as error:
        raise PaintoverError(f"{folder} has other words than {run} was taught with, or another width of them") from error
    part = _copied(folder)
    save_mllm(mllm, part)
    settings = read_json(part, "paintover.json")
    defaults = settings.get("defaults", {})
    settings["defaults"] = {name: defaults.get("instruct", {}) for name in ("mgie", "lgie")} | defaults
    _write(part / "paintover.json", settings)
    _take_place(part, folder)
    return fingerprint(folder), sum(file.stat().st_size for file in (folder / "mgie").rglob("*") if file.is_file())


def _copied(folder: Path) -> Path:
    """A copy of a bundle beside it, without a language model."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part, ignore=lambda at, names: ["mgie"] if Path(at) == folder and "mgie" in names else [])
    return part


def _take_place(part: Path, out: Path) -> None:
    """The new edition takes the place of the old one."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
