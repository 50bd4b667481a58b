"""The state of a run on disk: whole or not at all, so that a kill at any moment costs the steps since the last one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paintover.errors import PaintoverError


def save(
    folder: Path, step: int, model: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer, facts: dict[str, Any]
) -> None:
    """Writes folder/step-N and then removes the older ones. `facts` is plain JSON kept beside the tensors."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "writing"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    (part / "facts.json").write_text(json.dumps({"step": step, **facts}, indent=1))
    save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part / "state.safetensors")
    for file in part.iterdir():  # on the disk before the name says so
        with file.open("rb") as written:
            os.fsync(written.fileno())
    part.rename(folder / f"step-{step:08d}")
    for old in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    return max(folder.glob("step-*"), default=None)


def load(checkpoint: Path, model: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Fills all three from the checkpoint and returns its facts. Raises PaintoverError when they do not fit."""
    tensors = load_file(checkpoint / "state.safetensors")
    try:
        model.load_state_dict(_below(tensors, "model."))
        ema.load_state_dict(_below(tensors, "ema."))
    except RuntimeError as error:
        raise PaintoverError(f"the checkpoint {checkpoint} is of another network; start in another folder") from error
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimiser.").items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return facts(checkpoint)


def facts(checkpoint: Path) -> dict[str, Any]:
    """What was kept beside the tensors: the step, the recipe, and what else the run had to say."""
    kept: dict[str, Any] = json.loads((checkpoint / "facts.json").read_text())
    return kept


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
