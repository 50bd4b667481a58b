"""What words name: [image1] and [audio2] in an instruction, and which picture or sound each of them is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from paintover.errors import RequestError
from paintover.request import Reference

KINDS = ("image", "audio")
FIRST = "image1"  # what the picture that was given to be edited is called, unless it has another name
MOST = 999

_BRACKETS = re.compile(r"\[\s*([a-z]+)\s*(\d*)\s*\]", re.IGNORECASE)
# What somebody meant as a reference, though there are none of the kind. Other words are words: a sign that says [open].
_KINDRED = ("img", "pic", "picture", "photo", "sound", "music", "video")


@dataclass(frozen=True, slots=True)
class Mention:
    """A reference in an instruction: its name, and where it stands, brackets included: words[start:end]."""

    name: str
    start: int
    end: int


def is_picture(name: str) -> bool:
    """Whether it is the name of a picture; otherwise it is a sound's."""
    return name.startswith("image")


def mentions(words: str, names: Collection[str] = ()) -> tuple[Mention, ...]:
    """What the words speak of, in order, each as often as it is named: "[image1]", "[AUDIO2]", or "[image]".

    A kind without a number is the first of its kind among `names`, or number 1 where there is none. Raises RequestError for a
    name in brackets that can be none: [video1], [image0].
    """
    found = []
    for match in _BRACKETS.finditer(words):
        kind, number = match[1].lower(), match[2]
        if kind not in KINDS and not number and kind not in _KINDRED:
            continue
        if number or kind not in KINDS:
            name = _name(kind, number, f"the instruction speaks of {match[0]}, which")
        else:
            name = next((name for name in names if name.startswith(kind)), f"{kind}1")
        found.append(Mention(name, match.start(), match.end()))
    return tuple(found)


def speaks(words: str) -> str | None:
    """The first reference with a number, as it stands in the words: what an editor that takes none is not to be told."""
    kinds = "|".join(KINDS)
    found = re.search(rf"\[\s*({kinds})\s*\d+\s*\]", words, re.IGNORECASE)
    return found[0] if found else None


def read_name(text: str) -> str:
    """ "image1" of "Image1", "[image1]" or "image". Raises RequestError for what can name no reference."""
    match = re.fullmatch(r"\s*\[?\s*([a-z]+)\s*(\d*)\s*\]?\s*", text, re.IGNORECASE)
    said = f"{text.strip()[:40]!r}"
    return _name(*(match[1].lower(), match[2] or "1") if match else ("", ""), said)


def _name(kind: str, number: str, said: str) -> str:
    name = f"{kind}{number}"
    if kind not in KINDS or not re.fullmatch(r"[1-9]\d{0,2}", number, re.ASCII):
        raise RequestError(f"{said} is no reference; call pictures image1, image2, ... and sounds audio1, audio2, ...")
    return name


def read(texts: Iterable[str]) -> tuple[Reference, ...]:
    """References of a command line's NAME=PATH. Raises RequestError for what is none."""
    found = []
    for text in texts:
        name, is_one, path = text.partition("=")
        if not is_one or not path.strip():
            raise RequestError(f"--ref is {text[:80]!r}; write it as NAME=FILE, for example --ref audio1=moo.ogg")
        found.append(Reference(name=read_name(name), path=path))
    return tuple(found)


def by_name(references: Iterable[Reference]) -> dict[str, Reference]:
    """Each name once. Raises RequestError for one that is given twice, for two files."""
    found: dict[str, Reference] = {}
    for reference in references:
        before = found.setdefault(reference.name, reference)
        if before.path != reference.path:
            raise RequestError(f"{reference.name} is given twice, as {before.path} and as {reference.path}; give one of them")
    return found


def check_names(words: str, given: Collection[str], has_picture: bool) -> None:
    """Raises RequestError where words and references do not go together, as far as that shows without opening any.

    given: the names that references have. has_picture: whether a picture was given to be edited, which is image1 if no
    reference is.
    """
    there = [*([FIRST] if has_picture and FIRST not in given else ()), *given]
    spoken = [mention.name for mention in mentions(words, there)]
    for name in spoken:
        if name not in there:
            some = f"; there is {', '.join(there)}" if there else ""
            raise RequestError(f"the instruction speaks of [{name}], which is not given{some}; add --ref {name}=FILE")
    for name in given:
        if name not in spoken and not (is_picture(name) and has_picture):
            raise RequestError(f"{name} is given, but the instruction does not speak of it; say [{name}] where it belongs")


def bound(words: str, given: Mapping[str, str], picture: str | None) -> dict[str, str]:
    """What each name is, of what the words speak of: in order of first mention, the picture to be edited among them.

    given: by name, what each reference is (a digest: what is alike is the same); picture: likewise the one that was given to be
    edited. That one is every name which is given as it, and image1 unless this is given as another. Raises RequestError where
    that leaves it without a name, where "[image]" may be several, and for a reference that the words do not speak of.
    """
    check_names(words, given, picture is not None)
    known = dict(given)
    own = [name for name, digest in given.items() if is_picture(name) and digest == picture]
    if picture is not None and FIRST not in given:
        known = {FIRST: picture, **known}
        own = [FIRST, *own]
    if picture is not None and not own:
        raise RequestError(
            f"{FIRST} is the picture that is edited, and is given as another one as well; call that image2, or give the one "
            "that is edited a name of its own (--ref image2=...)"
        )
    order = [*own, *(name for name in known if name not in own)]  # a bare [image] is the picture to be edited
    for kind in KINDS:
        several = list(dict.fromkeys(known[name] for name in order if name.startswith(kind)))
        if len(several) > 1 and re.search(rf"\[\s*{kind}\s*\]", words, re.IGNORECASE):
            names = ", ".join(sorted(f"[{name}]" for name in known if name.startswith(kind)))
            raise RequestError(f"[{kind}] may be any of {names}; say which one is meant")
    spoken = list(dict.fromkeys(mention.name for mention in mentions(words, order)))
    for name in given:
        if name not in spoken and name not in own:
            raise RequestError(f"{name} is given, but the instruction does not speak of it; say [{name}] where it belongs")
    unspoken = own[:1] if not set(own) & set(spoken) else []
    return {name: known[name] for name in (*spoken, *unspoken)}
