"""A bundle's files, read with suspicion: only JSON, plain text and safetensors, only from inside the folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paintover.errors import ModelError

# The sub-folders a bundle may have. A name in model_index.json never becomes a path.
PARTS = (
    *("unet", "transformer", "vae", "codec", "scheduler"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
    *("upscaler", "upscaler/unet", "upscaler/scheduler", "upscaler/image_noising_scheduler"),  # a second stage
    *("refiner", "refiner/unet", "refiner/scheduler"),  # SDXL's
    *("mgie", "mgie/language_model", "mgie/tokenizer", "mgie/edit_head"),  # a multimodal language model
    *("any2pix", "any2pix/encoder", "any2pix/language_model", "any2pix/tokenizer"),  # what tells of pictures and sounds
    *("any2pix/projectors", "any2pix/prior", "any2pix/adapter"),
)
# What the weights are called in each part that has some.
STEMS = {
    **dict.fromkeys(("unet", "transformer", "vae", "upscaler/unet", "refiner/unet"), "diffusion_pytorch_model"),
    **dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3", "mgie/language_model", "mgie/edit_head"), "model"),
    **dict.fromkeys((f"any2pix/{part}" for part in ("encoder", "language_model", "projectors", "prior", "adapter")), "model"),
}
_READ = (".json", ".txt", ".safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_CACHE_FROM_BYTES = 16 << 20


def files(folder: Path) -> dict[str, Path]:
    """Everything in the bundle that decides what it paints, as relative name -> path, sorted by name.

    Raises ModelError when the folder is missing, or a file is a link that leads out of it.
    """
    if not folder.is_dir():
        raise ModelError(f"no bundle at {folder}: expected a folder in the diffusers layout (model_index.json, unet/, ...)")
    found = {}
    for place in (folder, *(folder / part for part in PARTS)):
        if place.is_dir():
            for path in place.iterdir():
                if path.suffix in (*_READ, ".md") and path.is_file():
                    found[path.relative_to(folder).as_posix()] = path
    home = _home(folder)
    for name, path in found.items():
        if not path.resolve().is_relative_to(home):
            raise ModelError(f"{name} in bundle {folder} is a link to outside the bundle; copy the file in instead")
    return {name: path for name, path in sorted(found.items()) if path.suffix in _READ}


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in folder/name. Raises ModelError when it is missing, broken, or no object."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"bundle {folder} has no {name}; is it complete and in the diffusers layout?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name} in bundle {folder} is not readable JSON: {_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{name} in bundle {folder} holds a {type(value).__name__}; expected a JSON object")
    return value


def weights(folder: Path, part: str, stem: str) -> tuple[list[Path], str | None]:
    """The part's safetensors (several when sharded) and their variant ("fp16" or None, full precision preferred).

    Raises ModelError when there are none, naming the pickles that were found instead and will not be opened.
    """
    place = folder / part
    for variant in (None, "fp16"):
        name = stem if variant is None else f"{stem}.{variant}"
        if (place / f"{name}.safetensors").is_file():
            return [place / f"{name}.safetensors"], variant
        index = f"{stem}.safetensors.index.json" if variant is None else f"{stem}.safetensors.index.{variant}.json"
        if (place / index).is_file():
            shards = read_json(place, index).get("weight_map")
            names = sorted(set(shards.values())) if isinstance(shards, dict) else []
            if not names or any(not isinstance(n, str) or Path(n).name != n or Path(n).suffix != ".safetensors" for n in names):
                raise ModelError(f"{part}/{index} in bundle {folder} does not name safetensors files beside it")
            if absent := [n for n in names if not (place / n).is_file()]:
                raise ModelError(f"bundle {folder} has no {part}/{absent[0]}, which {part}/{index} names")
            return [place / n for n in names], variant
    pickles = sorted(path.name for path in place.glob("*") if path.suffix in _PICKLES)
    if pickles:
        raise ModelError(
            f"bundle {folder} has only pickled weights ({part}/{pickles[0]}), which can run code and are never opened; "
            "use an edition with safetensors, or convert it first"
        )
    raise ModelError(f"bundle {folder} has no {part}/{stem}.safetensors; is it complete?")


def complete(info: Mapping[str, Any], part: str) -> None:
    """Raises ModelError where a library's loading info says that it would only warn and go on with random weights."""
    missing = sorted([*info["missing_keys"], *(str(key) for key in info.get("mismatched_keys", ()))])
    if missing:
        raise ModelError(
            f"the weights in {part}/ lack {len(missing)} tensors that config.json asks for, {missing[0]} among them"
        )


def fingerprint(folder: Path) -> str:
    """sha256 over the sorted (relative name, sha256 of the file): the same for the same bytes wherever they lie."""
    total = hashlib.sha256()
    known = _Known()
    for name, path in files(folder).items():
        total.update(f"{name}\0{known.sha256(path)}\n".encode())
    known.write()
    return total.hexdigest()


def cache_folder() -> Path:
    """Where paintover keeps what it may make again: $PAINTOVER_CACHE or ~/.cache/paintover."""
    return Path(os.environ.get("PAINTOVER_CACHE") or Path.home() / ".cache" / "paintover")


def signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, bytes, modification time) of each file: cheap, and different whenever a file was replaced."""
    return tuple((name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in files(folder).items())


class _Known:
    """sha256 sums of large files, remembered on disk by path, size and modification time: gigabytes take seconds."""

    def __init__(self) -> None:
        self.path = cache_folder() / "fingerprints.json"
        try:
            self.sums = dict(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.sums = {}
        self.changed = False

    def sha256(self, path: Path) -> str:
        path = path.resolve()
        stat = path.stat()
        entry = [stat.st_size, stat.st_mtime_ns]
        remembered = self.sums.get(str(path))
        if isinstance(remembered, list) and remembered[:2] == entry:
            return str(remembered[2])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if stat.st_size >= _CACHE_FROM_BYTES:
            self.sums[str(path)] = [*entry, digest]
            self.changed = True
        return digest

    def write(self) -> None:
        """Best effort: a cache that cannot be written costs time, nothing else."""
        if not self.changed:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False, encoding="utf-8") as stream:
                json.dump(self.sums, stream)
            os.replace(stream.name, self.path)


def _home(folder: Path) -> Path:
    """Where a bundle's files may lie: its folder, or for a snapshot in the hub's cache the repository's store of blobs."""
    folder = folder.resolve()
    return folder.parent.parent if folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir() else folder


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
