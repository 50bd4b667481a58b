"""Bundles by hub name: from the local cache when they are there, else fetched once, at a revision that is then fixed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from paintover.errors import ModelError
from paintover.models.description import describe
from paintover.models.files import PARTS, STEMS, weights

_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
_SECONDS = 10.0


def is_hub_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name


def fetch(name: str) -> tuple[Path, str]:
    """The folder of the bundle "owner/name" or "owner/name@revision", and the name with the commit that it was resolved to.

    See `snapshot`.
    """
    return snapshot(name, "bundle", choose, _complete, "or give a folder, or use --model builtin")


def snapshot(
    name: str, what: str, choose: Callable[[list[str], str], list[str]], complete: Callable[[Path], bool], instead: str
) -> tuple[Path, str]:
    """The folder of `what` the hub calls "owner/name" or "owner/name@revision", and the name with the commit it is of.

    A `complete` cached copy is used without asking the network, so that an edit can be repeated and works offline; name a
    revision to get another one. Only what is chosen (`choose`: of all names) is downloaded, an interrupted download is resumed.
    Raises ModelError when the hub cannot be reached or knows no such thing, saying what to do `instead`; what `choose` raises.
    """
    match = _NAME.fullmatch(name)
    if match is None or ".." in name:
        raise ModelError(f"{name!r} is no hub name; expected owner/name or owner/name@revision")
    repo, revision = match["repo"], match["revision"]
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if complete(folder):
            return folder, f"{repo}@{folder.name}"
    except Exception:
        pass  # Not cached, or not wholly: whatever the reason, asking the hub is the remedy.
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_SECONDS)
    except Exception as error:
        raise ModelError(
            f"{what} {name} is not in the local cache and could not be found on the hub ({type(error).__name__}); "
            f"check the name and the network, {instead}"
        ) from None
    chosen = choose([file.rfilename for file in info.siblings or []], name)
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=chosen, etag_timeout=_SECONDS))
    except Exception as error:
        raise ModelError(
            f"downloading {what} {name} failed ({type(error).__name__}); run the command again to resume it"
        ) from None
    return folder, f"{repo}@{folder.name}"


def choose(names: list[str], bundle: str) -> list[str]:
    """Which of a repository's files make the bundle: no pickles, one precision of each part, no stray checkpoints."""
    chosen = [name for name in names if name in ("model_index.json", "paintover.json", "README.md")]
    if "model_index.json" not in chosen:
        raise ModelError(f"{bundle} on the hub has no model_index.json: it is no bundle in the diffusers layout")
    for part in PARTS:
        inside = [name for name in names if name.rpartition("/")[0] == part]
        chosen += [name for name in inside if name.endswith((".json", ".txt")) and ".index." not in name]
        stored = [name for name in inside if name.endswith(".safetensors") or ".safetensors.index." in name]
        stem = STEMS.get(part)
        if stem is None:
            chosen += stored
            continue
        # "stem.safetensors", "stem-00001-of-00002.safetensors" and "stem.safetensors.index.json", else the same with fp16.
        full = [name for name in stored if re.fullmatch(rf"{part}/{stem}(-\d+-of-\d+)?\.safetensors(\.index\.json)?", name)]
        half = [
            name
            for name in stored
            if re.fullmatch(
                rf"{part}/{stem}\.fp16(-\d+-of-\d+)?\.safetensors|{part}/{stem}\.safetensors\.index\.fp16\.json", name
            )
        ]
        if inside and not (full or half):
            raise ModelError(f"{bundle} on the hub has no safetensors in {part}/; pickled weights are never loaded")
        chosen += full or half
    return chosen


def cached() -> list[tuple[str, Path]]:
    """(name, folder) of every bundle in the hub's cache that can be used as it is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = []
    for index in sorted(Path(HF_HUB_CACHE).glob("models--*--*/snapshots/*/model_index.json")):
        if _complete(index.parent):
            _, owner, name = index.parents[2].name.split("--", 2)
            found.append((f"{owner}/{name}@{index.parent.name}", index.parent))
    return found


def _complete(folder: Path) -> bool:
    """Every part of the bundle is there, so that a download that was interrupted is not taken for a broken bundle."""
    try:
        about = describe(folder, folder.name)
        for part in about.weighty:
            weights(folder, part, STEMS[part])
    except ModelError:
        return False
    return all((folder / tokenizer).is_dir() for tokenizer in about.tokenizers)
