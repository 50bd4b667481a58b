"""What `paintover doctor` reports: enough to tell why an edit is slow, wrong or impossible on this machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paintover import __version__

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "huggingface_hub", "numpy", "pillow", "pydantic")


def examine() -> dict[str, dict[str, Any]]:
    """Findings by part, as plain JSON. Loads no model and uses no network."""
    return {"versions": _versions(), "machine": _machine(), "built-in model": _builtin(), "cache": _cache()}


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {"paintover": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _machine() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cores": os.cpu_count(), "threads used": torch.get_num_threads()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = _bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if sys.platform == "linux":
        found["memory free"] = _bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    devices = ["cpu"]
    for n in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(n)
        devices.append(f"cuda:{n} ({about.name}, {_bytes(about.total_memory)})")
    if torch.backends.mps.is_available():
        devices.append("mps")
    found["devices"] = ", ".join(devices)
    return found


def _builtin() -> dict[str, Any]:
    from paintover.models.description import describe
    from paintover.models.files import fingerprint
    from paintover.models.listing import BUILTIN

    if not (BUILTIN / "model_index.json").is_file():
        return {"present": False, "what to do": "install paintover from a full package, or name a bundle with --model"}
    about = describe(BUILTIN, "builtin")
    return {
        "present": True,
        "fingerprint": fingerprint(BUILTIN),
        "can": ", ".join(sorted(about.capabilities)),
        "size": _bytes(_size(BUILTIN)),
    }


def _cache() -> dict[str, Any]:
    from paintover.engine.cache import PrepareCache

    folder = PrepareCache().folder
    return {"folder": str(folder), "size": _bytes(_size(folder))}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
