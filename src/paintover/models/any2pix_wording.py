"""How InstructAny2Pix's language model is asked and answers: its prompt, its special tokens, and the order they are said in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from paintover.models.wording import SYSTEM

PROMPT = "{instruction} :"  # of the built-in model
VICUNA = f"{SYSTEM} USER: {{instruction}} ASSISTANT:"
MENTION = re.compile(r"\[\s*([a-z]+)\s*(\d*)\s*\]", re.IGNORECASE)  # [image1] in an instruction


@dataclass(frozen=True, slots=True)
class Answer:
    """What an instruction means. base: whether a picture of the instruction is edited; subs: names of the objects that must
    appear, each of them one of its references; gens: how many [gen] states there are.
    """

    caption: str
    base: bool = True
    subs: tuple[str, ...] = ()
    gens: int = 1


@dataclass(frozen=True, slots=True)
class Any2PixWording:
    """prompt: with {instruction} in it. The rest names special tokens; start: what is said before `gen` (the release has one).

    slot: what stands for any picture or sound, in an instruction as in an answer. adds_slot: the embedding of a reference is
    added to that of its slot token, as in the release, and does not replace it.
    """

    prompt: str = PROMPT
    slot: str = "<video>"
    base: str = "<base>"
    base_null: str = "<base_null>"
    gen: str = "<im_gen>"
    start: str | None = None
    adds_slot: bool = False

    @property
    def tokens(self) -> tuple[str, ...]:
        return (self.slot, self.base, self.base_null, self.gen, *(() if self.start is None else (self.start,)))

    def answer(self, answer: Answer) -> str:
        """In the release's order: `<base><video><im_gen>[caption]<video>additions:name:<video>.name:<video>.`

        The states that predict its slots are what is projected: of the base, of what is to be generated, of each object.
        """
        base = f"{self.base}{self.slot}" if answer.base else self.base_null
        caption = answer.caption.translate({ord("["): "(", ord("]"): ")"})
        named = [" ".join(re.sub(r"[:.]", " ", name).split()) or "it" for name in answer.subs]
        additions = "additions:" + "".join(f"{name}:{self.slot}." for name in named) if named else ""
        return f"{base}{self.start or ''}{self.gen}[{caption}]{self.slot * answer.gens}{additions}"


@dataclass(frozen=True, slots=True)
class Said:
    """What was said, in parts, as far as it is there. None: the token is missing."""

    base: bool | None
    caption: str
    gens: int
    subs: tuple[str, ...]


def parse(text: str, wording: Any2PixWording) -> Said:
    """Reads an answer, whatever it is: the inverse of `Any2PixWording.answer` but for white space."""
    w = wording
    base: bool | None = None
    if (place := text.find(w.base)) >= 0 and text[place + len(w.base) :].lstrip().startswith(w.slot):
        base = True
    elif w.base_null in text:
        base = False
    *before, after = text.split(w.gen)
    *ends, _ = after.split(w.slot)
    if not before or not ends:  # nothing is generated: what stands in brackets may be the caption all the same
        return Said(base, _caption(text, w), 0, ())
    gens, subs = 1, []
    for end in ends[1:]:
        name = re.sub(r"^[\s.]*(additions\s*:)?", "", end).strip().removesuffix(":").strip()
        if name:
            subs.append(name)
        elif not subs:
            gens += 1
    return Said(base, _caption(ends[0], w) or _caption(text, w), gens, tuple(subs))


def _caption(text: str, wording: Any2PixWording) -> str:
    found = re.search(r"\[([^\]]*)\]", text)
    words = "" if found is None else found[1]
    for token in wording.tokens:
        words = words.replace(token, " ")
    return " ".join(words.split())
