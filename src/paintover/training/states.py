"""The text encoder's states of the texts that batches are told."""

from __future__ import annotations

from torch import Tensor

from paintover.models.text import TextEncoder

_REMEMBERED = 20_000  # texts


class States:
    """Of one text: tokens_LD, and pooled_D where the encoder makes one. As many texts as fit are remembered.

    A text is read alone, never with others: its numbers would differ in their last bits with its neighbours in a batch.
    """

    def __init__(self, text: TextEncoder) -> None:
        self.text = text
        self._known: dict[str, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, text: str) -> tuple[Tensor, Tensor | None]:
        if text not in self._known:
            tokens_BLD, pooled_BD = self.text.encode([text])
            self._known[text] = tokens_BLD[0], None if pooled_BD is None else pooled_BD[0]
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
        return self._known[text]
