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
            read = cls(wording, dict(told["edit_head"]), tuple(told["mean"]), tuple(told["std"]))
            wrong = read._wrong()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            raise ModelError(f"{_FILE} in bundle {folder} is damaged: {wrong[:200]}")
        return read

    def _wrong(self) -> str | None:
        """What cannot be so, in a few words."""
        w, tokens = self.wording, (*self.wording.image_tokens, *self.wording.picture_tokens)
        if not isinstance(w.prompt, str) or any(w.prompt.count(place) != 1 for place in ("{instruction}", "{image}")):
            return "its prompt is no text with {instruction} and {image} in it, each of them once"
        if not w.image_tokens or not all(isinstance(token, str) and token for token in tokens) or len({*tokens}) < len(tokens):
            return "its image_tokens, patch, start and end are no names that differ"
        if type(w.no_repeat_ngram) is not int or w.no_repeat_ngram < 1:
            return f"no_repeat_ngram is {w.no_repeat_ngram!r}, expected a whole number, 1 or more"
        numbers = (*self.mean, *self.std)
        sizes = len(self.mean) == len(self.std) == 3 and all(type(number) in (int, float) for number in numbers)
        if not sizes or not all(abs(number) <= 10 for number in numbers) or min(self.std) <= 0:
            return "mean and std are not three numbers each, within 10, std above 0"
        return None
