"""any2pix/config.json: what is to be known of a bundle's any2pix beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from paintover.errors import ModelError
from paintover.models.any2pix_wording import Any2PixWording
from paintover.models.files import read_json
from paintover.models.prior import PriorConfig

_FORMAT = 1
_FILE = "any2pix/config.json"
EncoderKind = Literal["small", "imagebind"]


@dataclass(frozen=True, slots=True)
class Any2PixSettings:
    """wording: how the language model is asked. norm: how long its embeddings are, and those that condition the denoiser.

    prior: its sizes. score, low_score: what is asked of it, and what it is guided away from. encoder: whose kind.
    """

    wording: Any2PixWording
    prior: PriorConfig
    norm: float = 20.0
    score: float = 6.5
    low_score: float = 2.0
    encoder: EncoderKind = "small"

    def write(self, folder: Path) -> None:
        """Into the bundle in `folder`, which has any2pix/ already."""
        (folder / _FILE).write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Any2PixSettings:
        """Those of the bundle in `folder`. Raises ModelError."""
        told = read_json(folder, _FILE)
        if told.pop("format", None) != _FORMAT:
            raise ModelError(
                f"{_FILE} in bundle {folder} is not of format {_FORMAT}, which this version of paintover reads; use a newer "
                "one, or add any2pix anew"
            )
        try:
            prior = {**told["prior"], "text": None if told["prior"].get("text") is None else tuple(told["prior"]["text"])}
            read = cls(**{**told, "wording": Any2PixWording(**told["wording"]), "prior": PriorConfig(**prior)})
            wrong = read._wrong()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            raise ModelError(f"{_FILE} in bundle {folder} is damaged: {wrong[:200]}")
        return read

    def _wrong(self) -> str | None:
        """What cannot be so, in a few words."""
        w, prior = self.wording, self.prior
        if not isinstance(w.prompt, str) or w.prompt.count("{instruction}") != 1:
            return "its prompt is no text with {instruction} in it once"
        if not all(isinstance(token, str) and token for token in w.tokens) or len({*w.tokens}) < len(w.tokens):
            return "its slot, base, base_null, gen and start are no names that differ"
        numbers = {"norm": self.norm, "score": self.score, "low_score": self.low_score, "prior's scale": prior.scale}
        for name, number in numbers.items():
            if type(number) not in (int, float) or not abs(number) <= 1000 or (number <= 0 and "score" not in name):
                return f"{name} is {number!r}, expected a number, at most 1000"
        sizes = (prior.width, prior.hidden, prior.layers, prior.heads, *(prior.text or ()))
        if not all(type(size) is int and 0 < size <= 65536 for size in sizes) or prior.hidden % prior.heads:
            return "its prior's sizes are no whole numbers, 1 or more, hidden a multiple of heads"
        if type(prior.modalities) is not int or not 0 <= prior.modalities <= 1000:
            return f"modalities is {prior.modalities!r}"
        if type(prior.source) is not int or not 0 <= prior.source < max(prior.modalities, 1):
            return f"its prior's source is {prior.source!r}, of {prior.modalities} modalities"
        if self.encoder not in get_args(EncoderKind):
            return f"its encoder is {self.encoder!r}, expected one of {', '.join(get_args(EncoderKind))}"
        return None
