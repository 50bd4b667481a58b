"""`textual-inversion`: a new word is learnt from the picture, the model itself left as it is; captions may say it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from paintover.conditions.alone import alone, says
from paintover.editors import window
from paintover.editors.editor import Context
from paintover.editors.knobs import Knobs
from paintover.editors.tuned import Tuned
from paintover.errors import KnobError
from paintover.tuning.names import WORDS

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.text import TextEncoder
    from paintover.path.predict import Path, Preparation

HERE = "*"  # stands for the word in a caption, as in the paper
# What the paper calls neutral contexts: told beside the pictures, the word in the place of {}.
TEMPLATES = {
    "object": [
        "a photo of a {}",
        "a rendering of a {}",
        "a cropped photo of the {}",
        "the photo of a {}",
        "a photo of a clean {}",
        "a photo of my {}",
        "a photo of the cool {}",
        "a close-up photo of a {}",
        "a bright photo of the {}",
        "a photo of one {}",
        "a good photo of the {}",
        "a rendition of a {}",
        "a photo of a nice {}",
    ],
    "style": [
        "a painting in the style of {}",
        "a rendering in the style of {}",
        "a cropped painting in the style of {}",
        "the painting in the style of {}",
        "a clean painting in the style of {}",
        "a close-up painting in the style of {}",
        "a good painting in the style of {}",
        "a nice painting in the style of {}",
        "a large painting in the style of {}",
    ],
}


class TextualInversionTuning(Knobs):
    word: str = Field("newthing", max_length=40, examples=["zwx"], description="the name of the new word")
    initial: str = Field("object", max_length=40, examples=["cow"], description="what it means before: a word that comes near")
    vectors: int = Field(
        1, ge=1, le=16, examples=[2, 1], description="how many tokens it is (more: more faithful, less pliable)"
    )
    learn: Literal["object", "style"] = Field("object", description="whether it names a thing or a style")
    iterations: int = Field(3000, ge=1, le=20_000, examples=[2, 3], description="tuning steps (more: more faithful)")
    batch: int = Field(4, ge=1, le=64, examples=[2, 1], description="copies of a picture in each tuning step")
    rate: float = Field(5e-3, ge=1e-8, le=1, examples=[0.01], description="learning rate")


class TextualInversionKnobs(TextualInversionTuning):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    strength: float = Field(0.8, ge=0, le=1, description="late start: how far the picture is noised (1: nothing is left)")


class TextualInversion(Tuned[TextualInversionKnobs]):
    """v* = argmin over v of E | eps - eps_theta(x_t, t, c(template, the word in it being v)) |^2 (Gal et al. 2023, equation 2).

    By AdamW as diffusers does it, from the vectors of `initial` on; denoiser and text encoder stay as they are. Then SDEdit's
    late start, told the caption with the word in it.
    """

    name = "textual-inversion"
    summary = (
        'Learn a new word from the picture, then say it: "a painting of *". Slow first, then quick; the model stays as it is.'
    )
    paper = "Textual Inversion (Gal et al. 2023)"
    steps = 50
    several = True
    bound = False
    Tuning = TextualInversionTuning
    Knobs = TextualInversionKnobs

    def word(self, context: Context[TextualInversionKnobs]) -> str:
        return context.knobs.word

    def check(self, context: Context[TextualInversionKnobs]) -> None:
        from paintover.tuning.words import teachable

        knobs, text = context.knobs, context.bundle.text
        window.check_strength(knobs.strength, context.steps)
        if not re.fullmatch(r"\w+(-\w+)*", knobs.word):
            raise KnobError(f"word {knobs.word!r} is not one word; name it with letters, digits, - and _")
        teachable(text)
        if not text.count(knobs.initial):
            raise KnobError(f"initial {knobs.initial!r} means nothing to this model; name a word that comes near")

    def notes(self, context: Context[TextualInversionKnobs]) -> list[str]:
        # As many tokens as the word will be, which is not known yet.
        read = self.prompt(context.knobs.word, context.request.instruction)
        read = re.sub(alone(context.knobs.word), " a" * context.knobs.vectors, read, flags=re.IGNORECASE)
        return super().notes(replace(context, request=context.request.model_copy(update={"instruction": read})))

    def prepare(self, context: Context[TextualInversionKnobs]) -> Preparation:
        import numpy as np
        from torch.nn import Parameter
        from torch.optim import AdamW

        from paintover.path.predict import Condition
        from paintover.tuning import loss
        from paintover.tuning.loop import tune
        from paintover.tuning.optimiser import InBackward
        from paintover.tuning.unfinished import Unfinished
        from paintover.tuning.weights import learner
        from paintover.tuning.words import vectors, with_words

        knobs = context.knobs
        base: Any = context.bundle.denoiser
        told_by = learner(base)
        learnt_ND = Parameter(vectors(context.bundle.text, knobs.initial, knobs.vectors).to(context.device))
        text: Any = with_words(context.bundle.text, {knobs.word: learnt_ND})
        pictures, templates = context.examples or (context.source,), TEMPLATES[knobs.learn]

        def error(i: int) -> Tensor:
            x0_BCHW = pictures[i % len(pictures)].expand(knobs.batch, -1, -1, -1)
            chosen = np.random.default_rng([loss.Stream.SECOND, i]).integers(len(templates), size=knobs.batch)
            tokens_BLD, pooled_BD = text.states([templates[k].format(knobs.word) for k in chosen])
            drawn = loss.drawn(loss.Stream.PICTURE, i, tuple(x0_BCHW.shape), len(base.alphas_cumprod), context.device)
            return loss.denoising(told_by, x0_BCHW, *drawn, Condition(tokens_BLD, pooled_BD))

        optimiser = InBackward({knobs.word: learnt_ND}, lambda parameters: AdamW(parameters, lr=knobs.rate, weight_decay=1e-2))
        yield from tune(error, optimiser, knobs.iterations, Unfinished(context.unfinished), "word")
        return {WORDS + knobs.word: learnt_ND.detach()}

    def path(self, context: Context[TextualInversionKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.walk import walk
        from paintover.tuning.words import with_words

        word = context.knobs.word
        text: TextEncoder = with_words(context.bundle.text, {word: prepared[WORDS + word]})
        [null] = prompts(context.bundle.text, [""])
        [wanted] = prompts(text, [self.prompt(word, context.request.instruction)])
        x_t0, steps = context.late_start(context.knobs.strength)
        return walk(x_t0, steps, classifier_free(wanted, null, context.knobs.guidance))

    def prompt(self, word: str, caption: str) -> str:
        """The caption with the word in it: where the caption says it, or *; or else in front, "word, caption"."""
        said = caption.replace(HERE, word)
        return said if says(word, said) else f"{word}, {caption}"
