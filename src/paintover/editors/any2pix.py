"""`any2pix`: an instruction that speaks of pictures and sounds, "add [audio1] to [image1]" (InstructAny2Pix)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.expressive import number
from paintover.editors.knobs import Knobs
from paintover.errors import KnobError
from paintover.references import is_picture

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.conditions.any2pix import Meaning, Thing
    from paintover.models.bundle import Bundle
    from paintover.path.guidance import Guided
    from paintover.path.predict import Condition, Path, Preparation
    from paintover.picture.open import Picture
    from paintover.request import EditRequest
    from paintover.sound.open import Sound

REFINEMENT = 0.3  # where the bundle has a refiner


class Any2PixKnobs(Knobs):
    alpha: float = Field(1.0, ge=0, le=1, description="1 starts from the inverted picture, whose layout stays; 0 from noise")
    guidance: float = Field(10.0, ge=-50, le=50, description="how strongly words and references are followed (0: not at all)")
    image_guidance: float = Field(1.5, ge=-50, le=50, description="how strongly it is held to the picture, where that is seen")
    see_base: bool | None = Field(
        None, examples=[False], description="the model sees the picture itself as well (default: if it can)"
    )
    beta: float | None = Field(
        None,
        ge=0,
        le=1,
        examples=[0.5],
        description="from the picture (0) to the refined edit (1): h0, h1, h2 = 1 - beta, 0, beta",
    )
    h0: float = Field(0.4, ge=-10, le=10, description="how much the picture's own embedding weighs")
    h1: float = Field(0.6, ge=-10, le=10, description="how much the language model's embedding of the result weighs")
    h2: float = Field(0.4, ge=-10, le=10, description="how much that embedding weighs once it is refined")
    norm: float = Field(20.0, ge=0, le=1000, description="how long the embedding is that the model is told")
    score: float | None = Field(
        None, ge=0, le=10, examples=[8.0], description="aesthetic score that is asked for (default: the model's)"
    )
    prior_guidance: float = Field(10.0, ge=-50, le=50, description="how strongly that score is asked for (1: no guidance)")
    refinement: float | None = Field(
        None, ge=0, le=1, examples=[0.5], description="part of the way walked once more (default: 0.3 by a refiner, if any)"
    )
    subject: float = Field(
        0.0, ge=0, le=1, examples=[0.65], description="how far pictures' subjects are painted anew where they are (0: not)"
    )
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")
    temperature: float = Field(
        0.0, ge=0, le=2, description="0: what the language model finds likeliest; more: drawn by the seed"
    )
    bits: Annotated[Literal[16, 8, 4], BeforeValidator(number)] = Field(
        16, description="of each weight of the language model: 8 and 4 take less memory, and need bitsandbytes"
    )

    @property
    def h(self) -> tuple[float, float, float]:
        return (self.h0, self.h1, self.h2) if self.beta is None else (1 - self.beta, 0.0, self.beta)


class Any2Pix(Editor[Any2PixKnobs]):
    """From polar(inversion, noise), told a caption, an embedding of the whole, and one of each object that is to appear.

    A language model reads the instruction, a media encoder's embeddings in the places of its references, and answers with
    both: c = unit(h0 H_k + h1 H_gen + h2 20 unit(y)) norm, y being H_gen refined, and for the objects the references that its
    states retrieve. Li et al. 2023, Algorithm 1; methods.md D.4.
    """

    name = "any2pix"
    summary = 'Instructions with pictures and sounds in them: "add [audio1] to [image1]", "in the style of [image2]".'
    paper = "InstructAny2Pix (Li et al. 2023)"
    needs = ("unet", "any2pix")
    steps = 25
    picture = "optional"
    takes_references = True
    Knobs = Any2PixKnobs

    def settled(self, knobs: Any2PixKnobs, bundle: Bundle) -> Any2PixKnobs:
        from paintover.models.any2pix_settings import Any2PixSettings

        takes = bool(getattr(bundle.denoiser, "takes_image", False))
        score = knobs.score
        if score is None and "any2pix" in bundle.capabilities:
            score = Any2PixSettings.read(bundle.folder).score
        refinement = (0.0 if bundle.refiner is None else REFINEMENT) if knobs.refinement is None else knobs.refinement
        see_base = takes if knobs.see_base is None else knobs.see_base
        return knobs.model_copy(update={"see_base": see_base, "score": score, "refinement": refinement})

    def check(self, context: Context[Any2PixKnobs]) -> None:
        if context.knobs.see_base and not getattr(context.bundle.denoiser, "takes_image", False):
            raise KnobError(f"{self.name}: {context.bundle.name} cannot be shown a picture; leave see_base out")

    def notes(self, context: Context[Any2PixKnobs]) -> list[str]:
        """No text encoder reads the instruction."""
        unwanted = context.knobs.negative_prompt
        cut = ["the negative prompt has more tokens than the model reads; its end has no effect"]
        return [*(cut if unwanted and context.bundle.text.cuts(unwanted) else []), *context.remarks]

    def base(self, bundle: Bundle, request: EditRequest, media: Mapping[str, Picture | Sound]) -> str | None:
        """The picture that the state of [base] retrieves, if there is one; otherwise the one that was given."""
        from paintover.conditions.any2pix import base_of, meaning

        knobs = Any2PixKnobs.model_validate(request.knobs)
        meant = meaning(bundle, request.instruction, media, knobs.bits, knobs.temperature, request.seed)
        return base_of(meant) or super().base(bundle, request, media)

    def prepared_from(self, context: Context[Any2PixKnobs]) -> dict[str, JsonValue] | None:
        if context.source_BCHW is None or context.knobs.alpha == 0:
            return None
        return {"steps": context.steps, "see_base": context.knobs.see_base}

    def prepare(self, context: Context[Any2PixKnobs]) -> Preparation:
        """DDIM inversion of the base, told "" and no media."""
        from paintover.path.guidance import plain
        from paintover.path.through import through
        from paintover.path.walk import invert

        if context.source_BCHW is None or context.knobs.alpha == 0:
            return {}
        [nothing] = _told(context, [""], [])
        steps = context.schedule.steps(context.steps)
        x_T = yield from through(context.bundle.adapted(), invert(context.source, steps, plain(nothing)))
        return {"x_T": x_T}

    def path(self, context: Context[Any2PixKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.editors.refined import refined
        from paintover.editors.subjects import repainted
        from paintover.path.start import noise, polar
        from paintover.path.through import through
        from paintover.path.walk import walk

        knobs, network = context.knobs, context.bundle.adapted()
        meant, base, things = self._meaning(context)
        caption, c_E = meant.understood.caption, self._wanted(context, meant, base)
        norm = context.bundle.any2pix(knobs.bits).settings.norm
        media_BSE = _slots(context, c_E, [norm * thing.e_E for thing in things])
        guided = self._guided(context, caption, media_BSE)
        x_T = noise(context.request.seed, context.shape, context.device)
        if "x_T" in prepared:
            x_T = polar(prepared["x_T"].to(x_T), x_T, knobs.alpha)
        x0 = yield from through(network, walk(x_T, context.schedule.steps(context.steps), guided))
        if knobs.refinement:
            again = refined(x0, context, knobs.refinement, caption, knobs.negative_prompt, knobs.guidance, guided)
            x0 = yield from through(network, again)
        if knobs.subject:
            seen = [thing for thing in things if thing.reference is not None and is_picture(thing.reference)]
            for n, thing in enumerate(seen):
                of_it_BSE = _slots(context, None, [norm * thing.e_E])
                guide = self._guided(context, caption, of_it_BSE, x0)
                x0 = yield from through(network, repainted(x0, context, thing.e_E, knobs.subject, guide, n))
        return x0

    def _guided(
        self, context: Context[Any2PixKnobs], caption: str, media_BSE: Tensor, source_BCHW: Tensor | None = None
    ) -> Guided:
        """Towards caption and media, away from the unwanted words and no media; held to the source where that is seen."""
        from paintover.path.guidance import classifier_free, dual

        knobs = context.knobs
        told, null = _told(context, [caption, knobs.negative_prompt], [media_BSE], source_BCHW)
        if told.image_BCHW is None:
            return classifier_free(told, null, knobs.guidance)
        return dual(told, null, knobs.guidance, knobs.image_guidance)

    def _meaning(self, context: Context[Any2PixKnobs]) -> tuple[Meaning, str | None, list[Thing]]:
        """What the instruction means, the name of the picture that is edited, and the objects; the record is told of them."""
        from paintover.conditions.any2pix import meaning, things
        from paintover.engine.memory import enough_memory

        bundle, knobs, began = context.bundle, context.knobs, time.perf_counter()
        with enough_memory("the language model read the instruction"):
            meant = meaning(
                bundle, context.request.instruction, context.media, knobs.bits, knobs.temperature, context.request.seed
            )
        own = (name for name, one in context.media.items() if one is context.picture and context.picture is not None)
        base = next(own, None)
        found = things(meant, base, bundle.encoder())
        context.seconds["language"] = time.perf_counter() - began
        said = meant.understood
        context.derived.update(
            {
                "caption": said.caption,
                "base": base,
                "subs": [{"name": thing.name, "reference": thing.reference} for thing in found],
                "h": list(knobs.h),
                "control_tokens_forced": said.forced,
            }
        )
        context.remarks.extend(_remarks(context, meant, found))
        return meant, base, found

    def _wanted(self, context: Context[Any2PixKnobs], meant: Meaning, base: str | None) -> Tensor:
        from paintover.conditions.any2pix import wanted

        knobs, parts = context.knobs, context.bundle.any2pix(context.knobs.bits)
        score = parts.settings.score if knobs.score is None else knobs.score
        return wanted(meant, parts, base, knobs.h, knobs.norm, score, knobs.prior_guidance)


def _told(
    context: Context[Any2PixKnobs], texts: list[str], media: list[Tensor], source_BCHW: Tensor | None = None
) -> list[Condition]:
    """A condition for each text, with media where there are any left, or with none; and with what the model sees.

    source_BCHW: the scaled latents that are seen, if not those of the base.
    """
    from paintover.conditions.prompt import prompts

    seen = context.source_BCHW if source_BCHW is None else source_BCHW
    image_BCHW = None
    if context.knobs.see_base is not False and seen is not None and getattr(context.bundle.denoiser, "takes_image", False):
        image_BCHW = seen / context.bundle.codec.scale  # unscaled: InstructPix2Pix's convention
    none_BSE = _slots(context, None, [])
    told = prompts(context.bundle.text, texts, image_BCHW)
    return [
        replace(c, media_BSE=media_BSE)
        for c, media_BSE in zip(told, [*media, *[none_BSE] * (len(told) - len(media))], strict=True)
    ]


def _slots(context: Context[Any], c_E: Tensor | None, locals_: list[Tensor]) -> Tensor:
    from paintover.conditions.any2pix import slots

    adapter = context.bundle.adapted().adapter
    assert adapter is not None
    return slots(c_E, locals_, adapter.locals, adapter.width).to(context.device)


def _remarks(context: Context[Any2PixKnobs], meant: Meaning, found: list[Thing]) -> list[str]:
    """What is odd about what was understood."""
    said, text, adapter = meant.understood, context.bundle.text, context.bundle.adapted().adapter
    most = 0 if adapter is None else adapter.locals
    odd = {
        "the instruction has more tokens than the language model reads; its end has no effect": said.cut,
        "the language model knows few of the instruction's words, or none, so what it made of them is a guess; say it in other "
        "words": said.unread,
        "the language model found no caption for what the instruction means, so its own words are taken for one": said.silent,
        "the language model did not say its control tokens as it should; they were put where they belong": said.forced,
        f"the model can be told of {most} objects, and {len(found)} are to appear; of the others it is told in words alone": (
            len(found) > most
        ),
        f"the caption has more than the {text.length} tokens that the text encoder reads; its end has no effect": text.cuts(
            said.caption
        ),
    }
    return [line for line, so in odd.items() if so]
