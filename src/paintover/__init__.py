"""Edit pictures by saying what should change.

    import paintover
    result = paintover.edit("photo.jpg", "make it look like dusk", out="dusk.png")

Names are loaded when first used, so that `import paintover` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paintover.models.bundle import load as load
    from paintover.orders.batch import batch as batch
    from paintover.orders.compare import compare as compare
    from paintover.orders.invert import invert as invert
    from paintover.orders.redo import redo as redo
    from paintover.orders.run import edit as edit
    from paintover.orders.run import imagine as imagine
    from paintover.orders.sweep import sweep as sweep
    from paintover.orders.tune import TunedModel as TunedModel
    from paintover.orders.tune import tune as tune
    from paintover.picture.limits import Limits as Limits
    from paintover.request import EditRequest as EditRequest
    from paintover.request import EditResult as EditResult

__version__ = "0.1.0"

_HOME = {
    "edit": "paintover.orders.run",
    "imagine": "paintover.orders.run",
    "invert": "paintover.orders.invert",
    "redo": "paintover.orders.redo",
    "batch": "paintover.orders.batch",
    "sweep": "paintover.orders.sweep",
    "compare": "paintover.orders.compare",
    "tune": "paintover.orders.tune",
    "TunedModel": "paintover.orders.tune",
    "load": "paintover.models.bundle",
    "Limits": "paintover.picture.limits",
    "EditRequest": "paintover.request",
    "EditResult": "paintover.request",
    "PaintoverError": "paintover.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'paintover' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
