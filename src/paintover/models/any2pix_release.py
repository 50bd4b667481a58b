"""InstructAny2Pix's release: which files it is, and what of ImageBind and of its adapter is called what here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch

from paintover.errors import ModelError
from paintover.models.adapter import MediaAdapter
from paintover.models.imagebind_trunk import Branch, ImageBind, Sizes
from paintover.models.shards import Plan, Shards, fitting

_LANGUAGE = ("llm-retrained", "llm-instance", "llm")
_PIECES = {
    "imagebind": ("ImageBind", ("imagebind_huge.pth", "imagebind_huge.safetensors")),
    "prior": ("the refinement prior", ("prior/model.bin", "prior/model.safetensors")),
    "adapter": (
        "the adapter",
        ("sdxl/ip_adapter_global_local_2_view.bin", "sdxl/ip_adapter_global_local_2_view.safetensors"),
    ),
}
_HEADS = {"vision": 16, "audio": 12}  # of ImageBind-huge's attentions: tensors do not tell


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where they lie: language is a folder, all others are files."""

    language: Path
    imagebind: Path
    prior: Path
    adapter: Path


def find_pieces(folders: Sequence[Path]) -> Pieces:
    """Each in the first folder that has it. Raises ModelError, one line, that names all that are in none of them."""
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ModelError(f"no folder {', '.join(absent)}")
    found: dict[str, Path] = {}
    for folder in folders:
        for place in (folder, *(folder / name for name in _LANGUAGE)):
            if "language" not in found and _is_language(place):
                found["language"] = place
        for piece, (_, names) in _PIECES.items():
            for name in names:
                if piece not in found and (folder / name).is_file():
                    found[piece] = folder / name
    missing = [] if "language" in found else [f"the language model ({_LANGUAGE[0]}/ with config.json)"]
    missing += [f"{what} ({names[0]})" for piece, (what, names) in _PIECES.items() if piece not in found]
    if missing:
        has = " and ".join(map(str, folders))
        older = any((folder / "sdxl" / "unet").is_dir() for folder in folders) and "adapter" not in found
        hint = "; sdxl/unet is of the first release, whose UNet is another: use the one that was trained again" if older else ""
        raise ModelError(f"{has} lack{'s' if len(folders) == 1 else ''} {', '.join(missing)}; name every folder you have{hint}")
    return Pieces(**found)


def _is_language(folder: Path) -> bool:
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("model_type") == "instructany2pix"


def imagebind(file: Path) -> tuple[Sizes, Plan]:
    """Its image and audio branches; the other four are left out, as is the audio branch's fixed scale."""
    found = Shards(file)
    of = {
        name: shape
        for name, shape in found.shapes.items()
        if re.match(r"modality_(preprocessors|trunks|heads)\.(vision|audio)\.", name)
    }
    conv, pos, strip, out, heard = named_sizes(of, f"ImageBind in {file}", (
        ("modality_preprocessors.vision.rgbt_stem.proj.1.weight", 5),
        ("modality_preprocessors.vision.pos_embedding_helper.pos_embed", 3),
        ("modality_preprocessors.audio.rgbt_stem.proj.weight", 4),
        ("modality_heads.vision.2.weight", 2),
        ("modality_heads.audio.2.weight", 2),
    ))  # fmt: skip
    layers = {name: len({n.split(".")[3] for n in of if n.startswith(f"modality_trunks.{name}.blocks.")}) for name in _HEADS}
    sizes = Sizes(
        out=out[0],
        vision=Branch(out[1], layers["vision"], _HEADS["vision"]),
        size=isqrt(max(pos[1] - 1, 0)) * conv[-1],
        patch=conv[-1],
        frames=conv[2],
        audio=Branch(heard[1], layers["audio"], _HEADS["audio"]),
        audio_patch=strip[-1],
    )
    if any(branch.width % branch.heads for branch in (sizes.vision, sizes.audio)):
        raise ModelError(f"{file} is no ImageBind-huge: its widths are {sizes.vision.width} and {sizes.audio.width}")
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in ImageBind(sizes).state_dict().items()}
    fitting(of, expected, f"ImageBind in {file}")
    return sizes, {name: (shape, partial(found.__getitem__, name)) for name, shape in expected.items()}


def adapter(file: Path) -> tuple[dict[str, Any], Plan]:
    """MediaAdapter's arguments and tensors: for one embedding of the whole, and one of an object."""
    found = Shards(file)
    what = f"the adapter in {file}"
    proj, slots = named_sizes(found.shapes, what, (("image_proj.proj.weight", 2), ("image_proj.raw_embed", 2)))
    numbers = sorted(int(n) for name in found if (n := name.split(".")[1]).isdigit() and name.endswith("to_k_ip.weight"))
    hidden = [found.shapes[f"ip_adapter.{number}.to_k_ip.weight"][0] for number in numbers]
    width, text = proj[1], slots[1]
    with torch.device("meta"):
        made = MediaAdapter(width, text, hidden, tokens=proj[0] // text, locals=1)
    called = {name: "image_proj.raw_embed" if name == "slots" else name for name in made.state_dict()}
    expected = {called[name]: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    fitting(found.shapes, expected, what)
    return made.config, {
        name: (tuple(tensor.shape), partial(found.__getitem__, called[name])) for name, tensor in made.state_dict().items()
    }


def named_sizes(shapes: dict[str, tuple[int, ...]], what: str, asked: Sequence[tuple[str, int]]) -> list[tuple[int, ...]]:
    """Shapes by which all others are told, each of so many axes. Raises ModelError."""
    wrong = [name for name, axes in asked if len(shapes.get(name, ())) != axes]
    if wrong:
        raise ModelError(f"{what} does not fit: it has no {', no '.join(wrong)}, or in another form; is it InstructAny2Pix's?")
    return [shapes[name] for name, _ in asked]
