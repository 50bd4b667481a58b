"""The card of what was learnt: what it is, on what model and under whose licence, and how it is put to use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover.models.hub import is_hub_name
from paintover.tuning import word_file

if TYPE_CHECKING:
    from paintover.models.bundle import Bundle

_LICENCE = ("license", "license_name", "license_link")  # as the hub's cards call them


def card(
    name: str, base: Bundle, about: Mapping[str, Any], *, whole: bool, lora: bool, words: Sequence[str], other: bool
) -> str:
    """A README.md in the hub's form for a folder of what was learnt on `base`. about: what else is known of the tuning."""
    parts = [
        *(["a whole model"] if whole else []),
        *(["a LoRA"] if lora else []),
        *([f"the learnt word{'s' if len(words) > 1 else ''} {', '.join(words)}"] if words else []),
        *(["paintover's own paintover.safetensors"] if other else []),
    ]
    called, hub = _called(base)
    licence = {key: base.card.data[key] for key in _LICENCE if base.card.data.get(key)}
    front = {
        **({"base_model": called.split("@")[0]} if hub else {}),  # a folder's name means nothing there
        **licence,
        "library_name": "diffusers",
        "tags": ["paintover", *(["lora"] if lora else []), *(["textual_inversion"] if words else [])],
    }
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())  # JSON is YAML
    rows = {"base model": called, "its fingerprint": base.fingerprint, **about}
    rows["licence"] = f"that of the base model: {licence.get('license', 'see there; its card names none')}"
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items() if value not in (None, ""))
    what = " and ".join(parts)
    return (
        f"---\n{head}\n---\n# {name}\n\n"
        f"{what[0].upper()}{what[1:]}, bent to a few pictures by paintover. What it makes resembles these pictures: "
        f"share it only where you may share them.\n\n| | |\n|---|---|\n{table}\n\n## Use\n\n"
        f"{_use(base, whole, lora, words)}"
    )


def _use(base: Bundle, whole: bool, lora: bool, words: Sequence[str]) -> str:
    flag = "--model FOLDER" if whole else f"--model {_called(base)[0]} --tuned FOLDER"
    use = f'```bash\npaintover imagine "..." {flag} -o out.png\n```\n'
    if base.description.encoder != "CLIPTextModel":  # diffusers has no pipeline for it
        return use
    steps = [f'pipe = DiffusionPipeline.from_pretrained("{"FOLDER" if whole else _called(base)[0].split("@")[0]}")']
    steps += ['pipe.load_lora_weights("FOLDER")'] if lora else []
    imports = ["from diffusers import DiffusionPipeline"]
    if words and "text_encoder_2" in base.description.weighty:
        imports.append("from safetensors.torch import load_file")
        steps += [step for n, word in enumerate(words) for step in _told_twice(n, word)]
    else:
        steps += ['pipe.load_textual_inversion("FOLDER")'] if words else []
    code = "\n".join([*imports, "", *steps])
    return f"{use}\nFOLDER is this one. With diffusers alone:\n\n```python\n{code}\n```\n"


def _told_twice(n: int, word: str) -> list[str]:
    """How SDXL's two encoders are taught the n-th word."""
    readers = zip(word_file.XL, ("", "_2"), strict=True)
    return [f'word = load_file("FOLDER/{word_file.name(n)}")'] + [
        f'pipe.load_textual_inversion(word["{part}"], token={json.dumps(word)}, text_encoder=pipe.text_encoder{number}, '
        f"tokenizer=pipe.tokenizer{number})"
        for part, number in readers
    ]


def _called(base: Bundle) -> tuple[str, bool]:
    """The base's name, and whether it is the hub's. Of a path the last part alone: cards are shared."""
    if Path(base.name).is_dir():
        return Path(base.name).resolve().name, False
    return base.name, is_hub_name(base.name)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
