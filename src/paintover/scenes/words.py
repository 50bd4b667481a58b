"""The world's language: instructions in many phrasings, and captions.

Every list ends with phrasings that are held out: training draws from all but the last HELD_OUT of a list, evaluation
only from those. `{a}` is the thing there is, `{b}` the thing there shall be, `{c}` a colour, `{w}` a place in the frame.
"""

from __future__ import annotations

import numpy as np

from paintover.scenes.assets import Split
from paintover.scenes.scene import Object, Scene

HELD_OUT = 2

PHRASES: dict[str, tuple[str, ...]] = {
    "remove": (
        "remove the {a}", "take the {a} away", "get rid of the {a}", "delete the {a}", "erase the {a}", "take away the {a}",
        "make the {a} disappear", "take out the {a}", "i don't want the {a}", "no {a}", "the {a} should be gone",
        "drop the {a}",
        "without the {a}", "hide the {a}", "clear the {a} away", "let the {a} vanish", "cut the {a} out", "wipe out the {a}",
        "there should be no {a} here", "lose the {a}",
    ),
    "replace": (
        "replace the {a} with a {b}", "swap the {a} for a {b}", "turn the {a} into a {b}", "change the {a} to a {b}",
        "change the {a} into a {b}", "put a {b} where the {a} is", "a {b} instead of the {a}", "exchange the {a} for a {b}",
        "substitute a {b} for the {a}", "make the {a} a {b}", "transform the {a} into a {b}", "convert the {a} to a {b}",
        "let the {a} become a {b}", "i want a {b} instead of the {a}", "replace {a} by {b}", "use a {b} in place of the {a}",
        "swap the {a} with a {b}", "the {a} should be a {b}", "the {a} must become a {b}", "switch the {a} to a {b}",
    ),
    "recolour": (
        "make the {a} {c}", "paint the {a} {c}", "colour the {a} {c}", "color the {a} {c}", "turn the {a} {c}",
        "change the colour of the {a} to {c}", "change the {a}'s color to {c}", "a {c} {a}", "the {a} should be {c}",
        "dye the {a} {c}", "i want the {a} in {c}", "give the {a} a {c} colour", "recolour the {a} in {c}",
        "let the {a} be {c}",
        "tint the {a} {c}", "make it a {c} {a}",
    ),
    "add": (
        "add a {b} {w}", "put a {b} {w}", "place a {b} {w}", "draw a {b} {w}", "insert a {b} {w}", "i want a {b} {w}",
        "there should be a {b} {w}", "show a {b} {w}", "include a {b} {w}", "set a {b} {w}", "paint a {b} {w}",
        "give me a {b} {w}",
    ),
    "place": (
        "change the background to {p}", "put it in front of {p}", "make the background {p}", "replace the background with {p}",
        "move everything to {p}", "the background should be {p}", "use {p} as the background", "set the scene in {p}",
    ),
    "nothing": (
        "do nothing", "leave it as it is", "keep the picture as it is", "change nothing", "no changes please",
        "don't change anything",
        "leave everything the same", "keep it unchanged",
    ),
    "brighter": (
        "make it brighter", "brighten the picture", "more light", "lighten it up", "make the image lighter",
        "increase the brightness",
        "it is too dark", "turn up the brightness", "brighten it up", "it should be brighter", "i want more light",
        "make the photo bright",
    ),
    "darker": (
        "make it darker", "darken the picture", "less light", "it is too bright", "make the image darker",
        "decrease the brightness",
        "turn down the brightness", "reduce the brightness", "lower the light", "darken it", "i want it darker",
        "make the photo dark",
    ),
    "contrast": (
        "more contrast", "increase the contrast", "make the contrast stronger", "boost the contrast", "raise the contrast",
        "it needs more contrast", "add contrast", "high contrast", "a stronger contrast", "turn up the contrast",
    ),
    "saturated": (
        "make the colours stronger", "more colourful", "increase the saturation", "boost the colors", "more saturated",
        "make the colors more vivid", "vivid colours", "richer colors", "raise the saturation", "make it more colorful",
    ),
    "black-and-white": (
        "make it black and white", "turn it into a black and white photo", "remove the colour from the picture", "greyscale",
        "make it monochrome", "convert to grayscale", "a black and white picture", "desaturate it", "no colours, just grey",
        "turn the image grey", "black-and-white please", "make the photo monochrome",
    ),
    "sepia": (
        "make it sepia", "give it a sepia tone", "like an old photograph", "make it look like an old photo", "sepia",
        "a vintage look",
        "turn it into an old brown photograph", "apply a sepia filter", "vintage photo", "make it look antique",
        "an old sepia photo",
    ),
    "warmer": (
        "make it warmer", "warmer colours", "a warmer tone", "make the colors warm", "add warmth", "give it a warm tint",
        "warm it up", "more yellow light", "warm light", "make the picture feel warm", "a warm mood",
    ),
    "cooler": (
        "make it cooler", "colder colours", "a cooler tone", "make the colors cold", "make it look cold", "give it a blue tint",
        "cool it down", "more blue light", "cold light", "make the picture feel cold", "a cold mood",
    ),
    "dusk": (
        "make it look like dusk", "make it dusk", "turn it into a sunset", "at dusk", "make it evening", "sunset light",
        "as if the sun was setting", "evening light", "make it look like sunset", "a dusk scene", "let the sun go down",
    ),
    "night": (
        "make it night", "turn day into night", "make it look like night", "at night", "as if it was night", "night time",
        "make it a night scene", "in the middle of the night", "set it at night", "let it be night", "it should be night",
        "moonlight",
    ),
    "fog": (
        "add fog", "make it foggy", "put fog over it", "in the fog", "make it misty", "add mist", "a foggy day",
        "cover it in fog",
        "let fog roll in", "thick fog", "make it hazy", "fill the scene with mist",
    ),
    # Ambiguous ones: see `ambiguous`.
    "alike": (
        "make the small one like the big one", "the small one should be like the big one", "make the two alike",
        "turn the small one into what the big one is", "make both the same as the big one", "two of the big one",
        "the little one should be the same as the large one", "let the small one become another big one",
        "make the little one match the large one", "both should be what the big one is",
    ),
    "feed": (
        "give it something to eat", "feed the animal", "it is hungry", "give it food", "bring it some food",
        "give the animal what it likes to eat", "it wants to eat", "put its food beside it",
        "it needs a meal", "serve it dinner",
    ),
    "ripe": (
        "make it ripe", "let the fruit ripen", "it is not ripe yet", "make the fruit ripe", "ripen it",
        "as it looks when it is ripe", "it should be ripe", "make the fruit ready to eat",
        "what would it look like when it is ripe?", "wait until the fruit is ripe",
    ),
    "frost": (
        "what would it be like after the first frost?", "make it winter", "after a frosty night", "let it freeze",
        "as if it was freezing", "make it frosty", "cover it in frost", "a freezing winter morning",
        "what would it be in winter?", "after a cold winter night",
    ),
    "festive": (
        "make it festive", "decorate it", "make it look festive", "get it ready for the feast", "for a celebration",
        "make it fit for a party", "dress it up for the holiday", "give it a festive touch",
        "prepare it for the party", "make it more festive",
    ),
    "later": (
        "a few hours later", "let some hours pass", "later that day", "what would it be like some hours later?",
        "move the time on", "some time later", "let time pass", "make it later",
        "several hours later", "later in the day",
    ),
    "fix": (
        "fix the photo", "make this picture look better", "correct the colours", "it does not look right", "repair the light",
        "improve the photo", "correct the picture", "make it look natural",
        "enhance the photo", "the light is wrong",
    ),
}  # fmt: skip
# What an instruction means, said in full: one wording for each kind of edit.
MEANT: dict[str, str] = {
    "remove": "remove the {a}", "replace": "replace the {a} with a {b}", "recolour": "paint the {a} {c}",
    "add": "add a {b} {w}", "place": "change the background to {p}", "nothing": "change nothing",
    "brighter": "make it brighter", "darker": "make it darker", "contrast": "increase the contrast",
    "saturated": "make the colours stronger", "black-and-white": "make it black and white", "sepia": "make it sepia",
    "warmer": "make it warmer", "cooler": "make it cooler", "dusk": "make it look like dusk",
    "night": "make it look like night", "fog": "add fog", "rain": "make it rain", "firelight": "light it by a fire",
}  # fmt: skip

WHERE: dict[str, tuple[float, float]] = {
    "on the left": (0.25, 0.55), "on the right": (0.75, 0.55), "in the middle": (0.5, 0.5), "in the centre": (0.5, 0.5),
    "at the top": (0.5, 0.25), "at the bottom": (0.5, 0.75), "in the top left corner": (0.24, 0.24),
    "in the top right corner": (0.76, 0.24), "in the bottom left corner": (0.24, 0.76),
    "in the bottom right corner": (0.76, 0.76),
}  # fmt: skip

PLACE_WORDS: dict[str, str] = {
    "meadow": "a meadow", "forest": "a forest", "leaves": "leaves", "sky": "the sky", "lake": "a lake", "beach": "a beach",
    "mountains": "mountains", "wood": "a wooden wall",
}  # fmt: skip
CAPTION_PLACE: dict[str, str] = {
    "meadow": "in a meadow", "forest": "in a forest", "leaves": "among leaves", "sky": "in the sky", "lake": "at a lake",
    "beach": "on a beach", "mountains": "in the mountains", "wood": "on wood",
}  # fmt: skip
LOOK_WORDS: dict[str, str] = {
    "brighter": "in bright light", "darker": "in dim light", "contrast": "with strong contrast",
    "saturated": "in vivid colours", "black-and-white": "in black and white", "sepia": "in sepia",
    "warmer": "in warm light", "cooler": "in cold light", "dusk": "at dusk", "night": "at night", "fog": "in the fog",
    "rain": "in the rain", "firelight": "by firelight",
}  # fmt: skip


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def instruction(kind: str, rng: np.random.Generator, split: Split, **words: str) -> str:
    """One phrasing of `kind` in the split, dressed as people write: capitals, full stops, politeness, now and then a typo."""
    phrases = PHRASES[kind]
    pool = phrases[:-HELD_OUT] if split == "train" else phrases[-HELD_OUT:]
    return dressed(_filled(pool[int(rng.integers(len(pool)))], words), rng, 0.05 if split == "train" else 0.0)


def dressed(text: str, rng: np.random.Generator, typos: float = 0.0) -> str:
    """A phrasing as people write it: see `instruction`. typos: share of those with one."""
    if rng.random() < 0.15:
        text = str(rng.choice(["please {}", "{} please", "{}, please", "could you {}", "can you {}?", "now {}"])).format(text)
    if typos and rng.random() < typos:
        text = _typo(text, rng)
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.15 and text[-1].isalpha() else text


def meant(kind: str, **words: str) -> str:
    """What an instruction of `kind` means, said in full and always alike."""
    return _filled(MEANT[kind], words)


def _filled(phrase: str, words: dict[str, str]) -> str:
    if words.get("b", "x")[0] in "aeiou":
        phrase = phrase.replace("a {b}", "an {b}")
    return " ".join(phrase.format(**words).split())


def _typo(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters swapped, or one dropped."""
    i = int(rng.integers(1, max(2, len(text) - 2)))
    if rng.random() < 0.5 and i + 1 < len(text):
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i + 1 :]


def place_words(label: str) -> str:
    """ "plain blue" -> "plain blue", "beach" -> "a beach"."""
    return label if label.startswith("plain") else PLACE_WORDS[label]


def opening(rng: np.random.Generator) -> str:
    """How a caption begins. The captions before and after an edit share theirs: they differ in what the edit changes alone."""
    return str(rng.choice(["", "", "a photo of ", "a picture of ", "there is "]))


def caption(scene: Scene, opening: str = "") -> str:
    """What is to be seen: things, where, and under which look."""
    things, label = [_thing(o) for o in scene.objects], scene.backdrop.label
    if not things:
        seen, where = "something" if label is None else _ground(label), ""
    else:
        seen = " and ".join(filter(None, (", ".join(things[:-1]), things[-1])))
        where = "" if label is None else place_of(label)
    return " ".join(f"{opening}{seen} {where} {LOOK_WORDS.get(scene.look or '', '')}".split())


def place_of(label: str) -> str:
    """Where a picture of something is made: "plain blue" -> "on a plain blue background", "beach" -> "on a beach"."""
    return f"on {_ground(label)}" if label.startswith("plain") else CAPTION_PLACE[label]


def _ground(label: str) -> str:
    """ "plain blue" -> "a plain blue background", "beach" -> "a beach"."""
    return f"a {label} background" if label.startswith("plain") else PLACE_WORDS[label]


def _thing(thing: Object) -> str:
    return noun(f"{thing.colour} {thing.cls}" if thing.colour else thing.cls)


def noun(name: str) -> str:
    """ "dog" -> "a dog"; what is many, or no thing, has no article: "grapes", "rain"."""
    return name if name.endswith("s") or name in ("rain", "crackling fire") else article(name)
