"""What a tuning learnt, in the files that diffusers loads anywhere: a LoRA, learnt words, or a whole model."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from paintover.errors import ModelError, RequestError
from paintover.models.files import PARTS, STEMS, files, read_json, weights
from paintover.tuning import lora_file, word_file
from paintover.tuning.card import card
from paintover.tuning.names import UNET, UPSCALER, WORDS, below
from paintover.tuning.weights import LORA, with_weights
from paintover.tuning.words import widths

if TYPE_CHECKING:
    from paintover.models.bundle import Bundle
    from paintover.models.denoiser import Denoiser

LORA_FILE = "pytorch_lora_weights.safetensors"
WORD_FILE = word_file.name(0)
OTHER_FILE = "paintover.safetensors"
_OURS = {LORA_FILE, OTHER_FILE, "README.md", "model_index.json", "paintover.json", *PARTS}


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    base: Bundle,
    about: Mapping[str, Any] | None = None,
    *,
    beside: Mapping[str, bytes] | None = None,
    force: bool = False,
) -> Path:
    """Writes what was learnt (named as in `tuning.weights` and `tuning.words`) into a new folder, and returns it.

    A LoRA becomes pytorch_lora_weights.safetensors (`pipe.load_lora_weights(folder)`); words become learned_embeds.safetensors
    (`pipe.load_textual_inversion(folder)`; of SDXL as the card says), of several one file each; whole weights become a bundle,
    the parts that were not tuned being linked or copied from `base`, which `--model FOLDER` and diffusers' `from_pretrained`
    load. What diffusers knows nothing of (Imagic's target) goes into paintover.safetensors. A card, README.md, says what it is,
    `about` among it. beside: further files of ours, by their names.

    The folder is there whole or not at all. Raises RequestError where it exists (with `force`, only where it holds anything
    else than this writes), ModelError for weights that do not fit `base`.
    """
    folder = check_target(folder, force, beside or {})
    lora = {name: tensor for name, tensor in tensors.items() if name.startswith(UNET) and name.endswith(LORA)}
    whole = {name: tensor for name, tensor in tensors.items() if name.startswith(UNET) and name not in lora}
    words = below(tensors, WORDS)
    second = {name: tensor for name, tensor in below(tensors, UPSCALER).items() if whole and not name.endswith(LORA)}
    apart = {*lora, *whole, *(WORDS + word for word in words), *(UPSCALER + name for name in second)}
    other = {name: tensor for name, tensor in tensors.items() if name not in apart}
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir(parents=True)
    try:
        if whole:
            bent = {"unet": with_weights(_unet(base), whole)}
            if second and base.upscaler is not None:
                bent["upscaler/unet"] = with_weights(base.upscaler.denoiser, second)
            _bundle(part, bent, base, folder.name)
        if lora:
            with_weights(_unet(base), lora)  # says what does not fit
            lora_file.write(part / LORA_FILE, lora)
        for n, (word, vectors_ND) in enumerate(words.items()):
            word_file.write(part / word_file.name(n), word, vectors_ND, widths(base.text))
        if other:
            lora_file.save(part / OTHER_FILE, other)
        text = card(folder.name, base, about or {}, whole=bool(whole), lora=bool(lora), words=list(words), other=bool(other))
        (part / "README.md").write_text(text, encoding="utf-8")
        for plain, data in (beside or {}).items():
            (part / plain).write_bytes(data)
        _put(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def read(path: Path) -> dict[str, Tensor]:
    """The named tensors of a folder that `write` wrote, or that diffusers' own scripts did, or of one such file.

    CPU tensors; a LoRA's scale (alpha / rank) is in its B. Whether they fit a model shows when they are put in their places.
    Raises ModelError, in one line, for what is nothing of this kind, or pickled, which is never opened.
    """
    path = Path(path)
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        raise ModelError(f"there is no {path}; expected a folder or a safetensors file of tuned weights or words")
    found: dict[str, Tensor] = {}
    if (path / "model_index.json").is_file() and (path / "unet").is_dir():
        for of, prefix in (("unet", UNET), ("upscaler/unet", UPSCALER + UNET)):
            parts = weights(path, of, STEMS[of])[0] if (path / of).is_dir() else []
            found |= {prefix + name: tensor for one in parts for name, tensor in lora_file.load(one)[0].items()}
    single = sorted(one for one in path.iterdir() if one.suffix == ".safetensors" and one.is_file())
    named = [one for one in single if one.name in (LORA_FILE, OTHER_FILE) or one.name.startswith("learned_embeds")]
    # A file of another name is the one that is meant where it is the only one, as a folder of a download has it.
    for one in named or (single if len(single) == 1 and not found else []):
        found |= _file(one)
    if not found:
        pickles = sorted(one.name for one in path.iterdir() if one.suffix in lora_file.PICKLES)
        if pickles:
            raise ModelError(lora_file.refusal(path / pickles[0]))
        raise ModelError(f"{path} holds no {LORA_FILE}, no {WORD_FILE} and no model; name the file that is meant")
    return found


def _file(path: Path) -> dict[str, Tensor]:
    tensors, facts = lora_file.load(path)
    if path.name == OTHER_FILE:
        return tensors
    if lora_file.is_lora(tensors):
        return lora_file.named(tensors, facts, path)
    return {WORDS + word: vectors_ND for word, vectors_ND in word_file.named(tensors, facts, path).items()}


def _unet(base: Bundle) -> Any:
    base.require("unet")
    return base.denoiser


def _bundle(part: Path, bent: Mapping[str, Denoiser], base: Bundle, name: str) -> None:
    """The base's folder with other weights in the parts that were bent: what is large is linked, if on the same disk."""
    for of, denoiser in bent.items():
        unet: Any = denoiser.unet
        unet.save_pretrained(part / of)
        _without_place(part / of / "config.json")
    for file, path in files(base.folder).items():
        of, _, plain = file.rpartition("/")
        if (of and of not in bent and path.suffix != ".safetensors") or file == "paintover.json":
            (part / of).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / of / plain)
    for of in (of for of in PARTS if of not in bent and (base.folder / of).is_dir()):
        stored = sorted((base.folder / of).glob("*.safetensors"))
        (part / of).mkdir(parents=True, exist_ok=True)  # one may hold weights alone
        if stored and of in STEMS:
            stored, variant = weights(base.folder, of, STEMS[of])
            if variant is not None and len(stored) == 1:  # as its only edition it needs no name for it
                _link(stored[0], part / of / f"{STEMS[of]}.safetensors")
                continue
        for one in stored:
            _link(one, part / of / one.name)
    index = read_json(base.folder, "model_index.json")
    index.pop("_name_or_path", None)
    for of, entry in index.items():  # as with a bundle from the hub: parts that paintover never fetches
        if isinstance(entry, list) and not (part / of).is_dir():
            index[of] = [None, None]
    if "safety_checker" in index:
        index["requires_safety_checker"] = False
    lora_file.write_json(part / "model_index.json", index)
    if (part / "paintover.json").is_file():
        lora_file.write_json(part / "paintover.json", {**read_json(part, "paintover.json"), "name": name})


def _without_place(config: Path) -> None:
    """Without where it lay on one's own machine, which diffusers notes."""
    said = read_json(config.parent, config.name)
    lora_file.write_json(config, {key: value for key, value in said.items() if key != "_name_or_path"})


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)  # resolved: a link out of the bundle would be refused
    except OSError:
        shutil.copyfile(source, target)


def check_target(folder: Path, force: bool, beside: Iterable[str] = ()) -> Path:
    """The folder that is to be written, in full. Raises RequestError where it cannot be, as far as can be told before.

    beside: names of further files that are ours.
    """
    folder = Path(folder).resolve()  # "." has no name of its own
    if os.path.lexists(folder) and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder for what was learnt")
    above = next(one for one in folder.parents if os.path.lexists(one))
    if not above.is_dir():
        raise RequestError(f"{folder} cannot be made, for {above} is a file; name another folder")
    if not folder.name or not os.access(above, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written to; name another folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not force:
        raise RequestError(f"{folder} exists already; choose another folder, or replace it with --force")
    strangers = [one.name for one in folder.iterdir() if not (_ours(one.name) or one.name in beside)]
    if strangers:
        raise RequestError(f"{folder} holds other things ({sorted(strangers)[0]}) and is not replaced; choose another folder")
    return folder


def _ours(name: str) -> bool:
    return name in _OURS or (name.startswith("learned_embeds") and name.endswith(".safetensors"))


def _put(part: Path, folder: Path) -> None:
    """`part` in the place of `folder`; what was there goes last."""
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
