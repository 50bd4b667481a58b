"""How a multimodal language model is asked: its prompts and the names of its special tokens, each said here alone."""

from __future__ import annotations

from dataclasses import dataclass

# MGIE's question, the way the built-in model is asked it, and the conversation that Vicuna 1.1 and LLaVA were trained with.
QUESTION = "what will this image be like if '{instruction}'"
SHORT = QUESTION + "{image} :"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions."
)
VICUNA = f"{SYSTEM} USER: {QUESTION}{{image}} ASSISTANT:"


def image_tokens(count: int) -> tuple[str, ...]:
    """Names of the [IMG] tokens, in order."""
    return tuple(f"[IMG{i}]" for i in range(count))


@dataclass(frozen=True, slots=True)
class Wording:
    """How the language model is asked: `prompt` with {instruction} and {image} in it, and what the special tokens are called.

    image_tokens: the [IMG] tokens, in order. start, patch, end: what stands for the picture is one start, as many patches as
    the vision tower makes, one end. Where nothing is shown, {image} is empty. no_repeat_ngram: as many tokens in a row are
    never said twice in an answer.
    """

    prompt: str
    image_tokens: tuple[str, ...]
    patch: str = "<im_patch>"
    start: str = "<im_start>"
    end: str = "<im_end>"
    no_repeat_ngram: int = 3

    @property
    def picture_tokens(self) -> tuple[str, str, str]:
        return self.patch, self.start, self.end
