"""mgie/config.json: what is to be known of a bundle's multimodal language model beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paintover.errors import ModelError
from paintover.models.files import read_json
from paintover.models.wording import Wording

_FORMAT = 1
_FILE = "mgie/config.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """wording: how it is asked. edit_head: the arguments of `EditHead`. mean, std: see `Mllm`."""

    wording: Wording
    edit_head: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def write(self, folder: Path) -> None:
        """Into the bundle in `folder`, which has mgie/ already."""
        (folder / _FILE).write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Those of the bundle in `folder`. Raises ModelError."""
        told = read_json(folder, _FILE)
        if told.get("format") != _FORMAT:
            raise ModelError(
                f"{_FILE} in bundle {folder} has format {told.get('format')!r}, this version of paintover reads {_FORMAT}; "
                "use a newer one, or add the language model anew"
            )
        try:
            wording = Wording(**{**told["wording"], "image_tokens": tuple(told["wording"]["image_tokens"])})
            return cls(wording, dict(told["edit_head"]), tuple(told["mean"]), tuple(told["std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{_FILE} in bundle {folder} is damaged: {type(error).__name__}: {error}") from None
