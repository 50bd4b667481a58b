"""What words name, and which picture or sound each name is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintover import references
from paintover.errors import RequestError
from paintover.references import bound, by_name, mentions, read, read_name, speaks

NAMES = st.builds("{}{}".format, st.sampled_from(references.KINDS), st.integers(1, 999))
WORDS = st.text(st.characters(exclude_characters="[]"), max_size=20)


def written(name: str, loud: bool, spaced: bool) -> str:
    kind, number = re.fullmatch(r"([a-z]+)(\d+)", name).groups()  # type: ignore[union-attr]
    return f"[{' ' if spaced else ''}{kind.upper() if loud else kind}{' ' if spaced else ''}{number}]"


@given(st.lists(st.tuples(WORDS, NAMES, st.booleans(), st.booleans()), max_size=6), WORDS)
def test_every_mention_is_found_where_it_stands(parts, end):
    words = "".join(f"{before}{written(name, loud, spaced)}" for before, name, loud, spaced in parts) + end
    found = mentions(words)
    assert [mention.name for mention in found] == [name for _, name, *_ in parts]
    assert [words[m.start : m.end] for m in found] == [written(name, loud, spaced) for _, name, loud, spaced in parts]
    assert (speaks(words) is not None) == bool(parts)


@pytest.mark.parametrize(
    "words",
    ["add a cow", "a sign that says [open]", "image1", "[image1", "image1]", "[]", "[+ a cow]", "[a cow]", "", "[[]]", "[sub]"],
)
def test_other_words_are_words(words):
    assert mentions(words) == ()
    assert speaks(words) is None


@pytest.mark.parametrize(
    "words", ["[video1]", "[Video]", "[img2]", "[sound]", "[image0]", "[image01]", "[audio1000]", "[audio٣]", "[picture]"]
)
def test_what_was_meant_as_a_name_and_is_none(words):
    with pytest.raises(RequestError, match=r"image1, image2, \.\.\. and sounds audio1") as told:
        mentions(f"put {words} there")
    assert words in str(told.value)


@given(NAMES)
def test_names_as_people_write_them(name):
    assert read_name(name) == read_name(f" [{name.upper()}] ") == name


def test_a_kind_alone_is_the_first():
    assert (read_name("image"), read_name("AUDIO")) == ("image1", "audio1")
    assert [m.name for m in mentions("[image] and [audio]")] == ["image1", "audio1"]
    assert [m.name for m in mentions("[image] and [audio]", ["audio3", "image2"])] == ["image2", "audio3"]


@pytest.mark.parametrize("text", ["", "moo.ogg", "audio1=", "audio1= ", "=moo.ogg", "video1=a", "image0=a", "a=b", "image1x=a"])
def test_a_flag_that_names_nothing(text):
    with pytest.raises(RequestError, match=r"audio1") as told:
        read([text])
    assert "\n" not in str(told.value)


def test_flags():
    found = read(["audio1=a=b.ogg", "Image2=c.png"])
    assert [(one.name, one.path) for one in found] == [("audio1", "a=b.ogg"), ("image2", "c.png")]
    assert list(by_name(read(["audio1=a", "audio1=a"]))) == ["audio1"]
    with pytest.raises(RequestError, match="audio1 is given twice, as a and as b"):
        by_name(read(["audio1=a", "audio=b"]))


@pytest.mark.parametrize(
    ("words", "given", "picture", "expected"),
    [
        ("add [audio1] to [image1]", {"audio1": "moo"}, "p", ["audio1", "image1"]),
        ("add [audio1]", {"audio1": "moo"}, "p", ["audio1", "image1"]),  # not spoken of: last
        ("[audio2], [IMAGE1], [audio2] and [audio1]", {"audio1": "a", "audio2": "b"}, "p", ["audio2", "image1", "audio1"]),
        ("[image2] like [image1]", {"image2": "q"}, "p", ["image2", "image1"]),
        ("[image2] like [image1]", {"image2": "p", "image1": "q"}, "p", ["image2", "image1"]),
        ("[image1] like [image1]", {"image1": "p"}, "p", ["image1"]),
        ("make it night", {"image1": "p"}, "p", ["image1"]),
        ("[image3]", {"image3": "p"}, "p", ["image3"]),
        ("[image3] and [image1]", {"image3": "p"}, "p", ["image3", "image1"]),  # both are it
        ("put [image] on [image2]", {"image2": "p"}, "p", ["image1", "image2"]),  # there is but one
        ("[image]", {}, "p", ["image1"]),
        ("a [image] with [audio]", {"image2": "q", "audio7": "moo"}, None, ["image2", "audio7"]),
        ("the sea", {}, None, []),
        ("make it night", {}, "p", ["image1"]),
    ],
)
def test_which_is_which(words, given, picture, expected):
    found = bound(words, given, picture)
    assert list(found) == expected
    for name, digest in found.items():
        assert digest == given.get(name, picture)
    assert picture is None or picture in found.values()


@pytest.mark.parametrize(
    ("words", "given", "picture", "says"),
    [
        ("add [audio1]", {}, "p", r"\[audio1\], which is not given; there is image1; add --ref audio1=FILE"),
        ("add [audio2]", {"audio1": "moo"}, "p", "audio2.*there is image1, audio1"),
        ("[image1]", {}, None, "image1.*not given; add --ref"),
        ("a cow", {"audio1": "moo"}, "p", r"audio1 is given, but .* say \[audio1\]"),
        ("a cow", {"image2": "q"}, "p", "image2 is given, but"),
        ("a cow", {"image1": "q"}, None, "image1 is given, but"),
        ("[image1]", {"image1": "q"}, "p", "image1 is the picture that is edited"),
        ("[image1] and [image2]", {"image1": "q", "image2": "r"}, "p", "image1 is the picture that is edited"),
        ("[image] and [image2]", {"image2": "q"}, "p", r"\[image\] may be any of \[image1\], \[image2\]"),
        ("[audio] and [audio2]", {"audio1": "a", "audio2": "b"}, None, r"\[audio\] may be any of"),
        ("add [video1]", {"audio1": "a"}, "p", "video1"),
    ],
)
def test_what_does_not_go_together(words, given, picture, says):
    with pytest.raises(RequestError, match=says) as told:
        bound(words, given, picture)
    assert "\n" not in str(told.value)


DIGESTS = st.sampled_from("pqr")


@given(st.lists(NAMES, max_size=4), st.dictionaries(NAMES, DIGESTS, max_size=3), st.none() | DIGESTS)
def test_whatever_is_given_it_is_a_line_or_every_name_is_bound(spoken, given, picture):
    words = " and ".join(f"[{name}]" for name in spoken)
    try:
        found = bound(words, given, picture)
    except RequestError as error:
        assert "\n" not in str(error)  # noqa: PT017 (it may go together as well)
        return
    assert [name for name in found if name in spoken] == list(dict.fromkeys(spoken))
    assert len(found) <= len(set(spoken)) + (picture is not None)
    assert all(found[name] == digest for name, digest in given.items() if name in found)
    assert picture is None or picture in {digest for name, digest in found.items() if references.is_picture(name)}
