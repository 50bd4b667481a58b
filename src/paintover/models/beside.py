"""A bundle made from another: written beside its place, which it takes when it is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paintover.errors import ModelError
from paintover.models.files import STEMS, files, read_json, weights

_GUIDES = ("mgie", "any2pix")  # they were taught beside one UNet


@contextmanager
def whole(out: Path, force: bool = False, mark: str = "model_index.json") -> Iterator[Path]:
    """An empty folder to be filled, which then becomes `out`; if anything fails, nothing of it is left.

    Raises ModelError where `out` exists and `force` is not given, or it has no `mark` and is therefore no model to be replaced.
    """
    if out.exists() or out.is_symlink():
        if not force:
            raise ModelError(f"{out} exists; name another folder, or replace it with --force")
        if not (out / mark).is_file() or out.is_symlink():
            raise ModelError(f"{out} is no model, so it is not replaced; name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise ModelError(f"{out} cannot be made: {error.strerror}") from None
    try:
        yield part
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o777 & ~mask)
        take_place(part, out)
    except OSError as error:
        name = str(error.filename or part)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or Path(name).is_relative_to(part):
            raise ModelError(f"{out} could not be written: {error.strerror or error}") from None
        raise ModelError(f"{name} cannot be read: {error.strerror or error}; nothing was made") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copied(folder: Path, without: str = "") -> Path:
    """A copy of a bundle beside it, to take its place once it is changed; without this sub-folder."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part, ignore=lambda at, names: {without} & {*names} if Path(at) == folder else ())
    return part


def take_place(part: Path, out: Path) -> None:
    """The folder X.part becomes `out`, whose old edition is X.old meanwhile, and stays where this fails. Raises ModelError."""
    old = part.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if out.exists():
            out.rename(old)
        try:
            part.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise ModelError(f"{out} could not be written: {error.strerror}") from None
    shutil.rmtree(old, ignore_errors=True)


def copy_base(base: Path, folder: Path, unet: bool = False) -> None:
    """Copies a bundle without its UNet's weights (with them: `unet`), its card, and language models that it may have.

    What model_index.json names and is no part of a bundle here (a safety checker) is named no more.
    """
    names = files(base)
    chosen = {file for part, stem in STEMS.items() if _has(names, part) for file in weights(base, part, stem)[0]}
    for name, path in names.items():
        part = name.rpartition("/")[0]
        weighty = path.suffix == ".safetensors" and part in STEMS
        stale = weighty and path not in chosen
        if part.split("/")[0] in _GUIDES or stale or (part == "unet" and not unet and name != "unet/config.json"):
            continue
        (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    index = read_json(base, "model_index.json")
    for part, entry in index.items():
        if isinstance(entry, list) and not (folder / part).is_dir():
            index[part] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _has(names: dict[str, Path], part: str) -> bool:
    return not part.startswith(_GUIDES) and any(name.startswith(f"{part}/") and name.endswith(".safetensors") for name in names)
