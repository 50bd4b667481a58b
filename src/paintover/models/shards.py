"""Weights as others keep them, in shards: tensors are read one at a time, and written as shards of half precision.

Here alone pickles are opened (.bin, .pt), where a command was told to: by torch's reader that admits nothing but tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.tensors import put

MOST = 2_000_000_000  # bytes of a shard, and about what memory a conversion needs
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
Plan = dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]]  # of what is to be written: each one's shape, and what makes it


class Shards(Mapping[str, Tensor]):
    """The tensors in the files, by name. A tensor is read when it is taken. Raises ModelError for what cannot be read."""

    def __init__(self, *files: Path) -> None:
        self._where: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            opened, shapes = _safetensors(file) if file.suffix == ".safetensors" else _pickle(file)
            self.shapes |= shapes
            self._where |= dict.fromkeys(shapes, opened)

    def __getitem__(self, name: str) -> Tensor:
        opened = self._where[name]
        return opened[name] if isinstance(opened, dict) else opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def of_folder(folder: Path) -> Shards:
    """A model's weights as transformers saves them: model.safetensors or pytorch_model.bin, whole or in shards."""
    if not folder.is_dir():
        raise ModelError(f"no folder {folder}; expected one with config.json and weights")
    for index in _INDEXES:
        if (folder / index).is_file():
            try:
                names = sorted({str(name) for name in json.loads((folder / index).read_text("utf-8"))["weight_map"].values()})
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ModelError(f"{folder / index} does not name the shards of a model; fetch it again") from None
            if any(Path(name).name != name for name in names):
                raise ModelError(f"{folder / index} names files outside its folder; they are not read")
            absent = [name for name in names if not (folder / name).is_file()]
            if absent:
                raise ModelError(f"{folder} has no {', '.join(absent)}, which {index} names; fetch what is missing")
            return Shards(*(folder / name for name in names))
    for name in _WHOLE:
        if (folder / name).is_file():
            return Shards(folder / name)
    raise ModelError(f"{folder} has no weights; expected one of {', '.join((*_WHOLE, *_INDEXES))}")


def fitting(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises ModelError, one line that names every tensor which `what` lacks, has too many of, or in another shape."""
    wrong = [f"no {name}" for name in expected if name not in found]
    wrong += [f"{name}, which is unknown" for name in found if name not in expected]
    wrong += [
        f"{name} of shape {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if wrong:
        raise ModelError(f"{what} does not fit: it has {'; '.join(wrong)}")


def write(
    folder: Path,
    stem: str,
    plan: Plan,
    told: Callable[[], None] = lambda: None,
    most: int = MOST,
) -> None:
    """Writes folder/stem.safetensors, or as many shards of `most` bytes as it takes and their index, in half precision.

    told: is called behind every tensor. No more than a shard is in memory.
    Raises ModelError where half precision cannot hold a value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = [[]]
    room = most
    for name, (shape, _) in plan.items():
        size = 2 * torch.Size(shape).numel()
        if size > room and shards[-1]:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        made = {}
        for name in names:
            made[name] = halved(plan[name][1](), name)
            told()
        with (folder / file).open("wb") as stream:
            put(stream, made, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(2 * torch.Size(shape).numel() for shape, _ in plan.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def counting(report: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    """What tells `report` how many tensors of `total` are done, each time that it is called."""
    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(done, total)

    return one


def halved(tensor: Tensor, name: str) -> Tensor:
    """In half precision. Raises ModelError where that cannot hold a value."""
    half = tensor.to(torch.float16)
    if not torch.isfinite(half).all():
        raise ModelError(f"{name} holds what half precision cannot (not a number, or above 65504); is the file damaged?")
    return half


def _safetensors(file: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    from safetensors import safe_open

    try:
        opened = safe_open(file, framework="pt")
        return opened, {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:
        raise ModelError(f"{file} cannot be read as safetensors ({_line(error)}); fetch it again") from None


def _pickle(file: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    try:
        opened = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise ModelError(f"there is no {file}") from None
    except Exception as error:
        raise ModelError(
            f"{file} cannot be read ({_line(error)}); expected what torch.save wrote since torch 1.6, with nothing but tensors"
        ) from None
    if isinstance(opened, dict):
        opened = _flat(opened)
    if not isinstance(opened, dict) or not all(isinstance(value, Tensor) for value in opened.values()):
        raise ModelError(f"{file} holds no named tensors; expected a state dict")
    return opened, {str(name): tuple(tensor.shape) for name, tensor in opened.items()}


def _flat(opened: dict[str, Any]) -> dict[str, Any]:
    """State dicts within the dict (IP-Adapter's files hold two of them) become part of it, their names joined by a dot."""
    made: dict[str, Any] = {}
    for name, value in opened.items():
        made |= {f"{name}.{inner}": tensor for inner, tensor in value.items()} if isinstance(value, dict) else {name: value}
    return made


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
