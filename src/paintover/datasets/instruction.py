"""An instruction that speaks of pictures and sounds, as a dataset has it: what is said, what is meant, and the media."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paintover.datasets.collection import Kind
from paintover.datasets.sample import RowError, reason
from paintover.models.any2pix_wording import Answer


@dataclass(frozen=True, slots=True)
class Given:
    """A picture or a sound of a sample. key: what it is called in brackets. file: None where its embedding alone is there."""

    key: str
    kind: Kind
    caption: str
    file: Path | None
    embedding: Path | None = None
    array: str = "clip"

    def embedded_E(self) -> NDArray[np.float32] | None:
        """What was kept of it by whoever encoded it (for MM-Inst: ImageBind), as long as it was; None where nothing was."""
        if self.embedding is None:
            return None
        try:
            with np.load(self.embedding, allow_pickle=False) as arrays:
                return np.asarray(arrays[self.array], np.float32).reshape(-1)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RowError(f"{self.embedding} holds no embedding {self.array!r} ({reason(error)})") from None


@dataclass(frozen=True, slots=True)
class Instruction:
    """A sample: what is said, what the language model is to answer, and the media by the names that the instruction has.

    media: [image1], [audio1], ... in the order of first mention, but that the picture which is edited is image1; it comes last
    where the instruction does not speak of it. base: that one's name; None where there is none. subs: what must appear, by its
    noun and its reference; `answer.subs` are the nouns. target: the picture that is wanted, where there is one; where there is
    none, what is wanted is known as `answer.caption` alone.
    """

    id: str
    where: str
    instruction: str
    answer: Answer
    media: Mapping[str, Given]
    base: str | None
    subs: tuple[tuple[str, str], ...]
    target: Given | None

    def reworded(self, rng: np.random.Generator, base: float = 0.2, others: float = 0.2) -> Instruction:
        """The same with some references said by their captions, which are then no references any more.

        base, others: how likely that is for the picture that is edited, which leaves none, and for each of the others.
        """
        lost = {name for name in self.media if rng.random() < (base if name == self.base else others)}
        said = self.instruction
        for name in lost:
            said = said.replace(f"[{name}]", self.media[name].caption)
        subs = tuple((noun, name) for noun, name in self.subs if name not in lost)
        kept = None if self.base in lost else self.base
        answer = replace(self.answer, base=kept is not None, subs=tuple(noun for noun, _ in subs))
        media = {name: given for name, given in self.media.items() if name not in lost}
        return replace(self, instruction=said, answer=answer, media=media, base=kept, subs=subs)
