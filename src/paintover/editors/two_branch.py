"""What the editors share that walk beside the source's own path: inversion or making, the two captions, guidance."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.guidance import Guide
    from paintover.path.predict import Condition, Path, Preparation
    from paintover.path.schedule import Step
    from paintover.path.source import Source


class TwoBranchKnobs(Knobs):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")
    inversion: Literal["direct", "ddim", "fixed-point", "negative-prompt", "null-text", "edit-friendly"] = Field(
        "direct", examples=["edit-friendly"], description="how the picture's own path is found (see inversion.md)"
    )
    inner: int = Field(10, ge=1, le=500, examples=[1], description="null-text: most optimiser steps at each step")
    iterations: int = Field(5, ge=1, le=50, examples=[1], description="fixed-point: most corrections of each step")


K = TypeVar("K", bound=TwoBranchKnobs)


@dataclass(frozen=True, eq=False)
class Branches:
    """The source's branch, walked already, and what the edit's branch is told.

    source:   latents and noises of the source's own walk over the same steps; x_T is where both begin.
    c_source: the source prompt's condition (that of "" if there is none); c_wanted: the caption's; null: the negative prompt's.
    """

    steps: list[Step]
    source: Source
    c_source: Condition
    c_wanted: Condition
    null: Condition
    guidance: float

    @property
    def x_T(self) -> Tensor:
        return self.source.record.x[0]

    def nulls(self, i: int) -> Condition:
        """What guidance is held against at step i: what the inversion found, or else the negative prompt."""
        return self.source.null(i, self.null)

    def guide(self, c: Condition) -> Guide:
        """Classifier-free guidance towards c, as the edit's branch follows it."""
        from paintover.path.guidance import PerStep, classifier_free

        if self.source.nulls is None:
            return classifier_free(c, self.null, self.guidance)
        return PerStep([classifier_free(c, self.nulls(step.i), self.guidance) for step in self.steps])

    @cached_property
    def wanted(self) -> Guide:
        return self.guide(self.c_wanted)

    def after(self, step: Step, x_BCHW: Tensor) -> Tensor:
        """Adds the noise that belongs to the step, where the inversion says there is one: `walk`'s after."""
        return self.source.after(step, x_BCHW)


def inverted_from(inversion: str, context: Context[Any], guidance: float, negative_prompt: str) -> dict[str, JsonValue]:
    """What the picture's inversion of that name depends on: editors that invert alike find each other's in the cache."""
    from paintover.path.inversion import INVERSIONS

    depends, how = _walked_from(context) | {"inversion": inversion}, INVERSIONS[inversion]
    depends |= {knob: getattr(context.knobs, knob) for knob in how.knobs}
    depends |= {"guidance": guidance, "negative_prompt": negative_prompt} if how.guided else {}
    return depends | ({"seed": context.request.seed} if how.random else {})


def _walked_from(context: Context[Any]) -> dict[str, JsonValue]:
    return {"steps": context.steps, "source_prompt": context.request.source_prompt or ""}


class TwoBranch(Editor[K]):
    """An editor whose edit walks beside the source's own path, and so keeps of it what its recipe says.

    The source is a picture, inverted with its caption (the source prompt), or one that is made from the source prompt. Either
    way its walk does not depend on what is wanted: prepared once, edited often. Both branches begin at the same noise.
    """

    needs: ClassVar[tuple[str, ...]] = ("text-to-image",)
    told: ClassVar[Literal["instruction", "caption", "nothing"]] = "caption"
    takes_source_prompt = True
    picture: ClassVar[Literal["needed", "either", "never", "optional"]] = "either"
    prepared_by = "source"

    def prepared_from(self, context: Context[K]) -> dict[str, JsonValue]:
        knobs, request = context.knobs, context.request
        if context.source_BCHW is not None:
            return inverted_from(knobs.inversion, context, knobs.guidance, knobs.negative_prompt)
        guided: dict[str, JsonValue] = {"guidance": knobs.guidance, "negative_prompt": knobs.negative_prompt}
        return _walked_from(context) | guided | {"seed": request.seed, "shape": list(context.shape)}

    def notes(self, context: Context[K]) -> list[str]:
        notes, knobs = super().notes(context), context.knobs
        if context.source_BCHW is None:
            usual = context.bundle.defaults.get(self.name, {})
            for knob in ("inversion", "inner", "iterations"):
                if getattr(knobs, knob) != usual.get(knob, TwoBranchKnobs.model_fields[knob].default):
                    notes.append(f"{knob} has no effect beside a picture that is made: it is not inverted")
        elif knobs.inversion == "negative-prompt" and knobs.negative_prompt and knobs.guidance != 1:
            notes.append("the negative prompt has no effect with this inversion, which steers away from the source prompt")
        return notes

    def prepare(self, context: Context[K]) -> Preparation:
        from paintover.path.guidance import classifier_free
        from paintover.path.inversion import INVERSIONS
        from paintover.path.source import Source
        from paintover.path.start import noise
        from paintover.path.walk import Record, walk

        knobs, steps = context.knobs, self._steps(context)
        source, null = self._prompts(context, context.request.source_prompt or "", knobs.negative_prompt)
        if context.source_BCHW is not None:
            inversion = INVERSIONS[knobs.inversion]
            told = inversion.told(source, null, knobs.guidance, context.request.seed, knobs.model_dump())
            return (yield from inversion.invert(context.source, steps, told)).tensors()
        record = Record()
        x_T = noise(context.request.seed, context.shape, context.device)
        yield from walk(x_T, steps, classifier_free(source, null, knobs.guidance), record)
        return Source(record).tensors()

    def path(self, context: Context[K], prepared: dict[str, Tensor]) -> Path:
        from paintover.path.source import Source

        request, knobs = context.request, context.knobs
        source = Source.of(prepared)
        c_source, c_wanted, null = self._prompts(
            context, request.source_prompt or "", request.instruction, knobs.negative_prompt
        )
        if context.source_BCHW is None:
            context.shown["source"] = source.record.x[-1]
        branches = Branches(self._steps(context), source, c_source, c_wanted, null, knobs.guidance)
        return self.branch(context, branches)

    @abstractmethod
    def branch(self, context: Context[K], branches: Branches) -> Path:
        """The edit's own branch, to the edited latents (1, C, H, W)."""

    def _steps(self, context: Context[K]) -> list[Step]:
        from paintover.path.inversion import INVERSIONS

        made = context.source_BCHW is None
        return context.schedule.steps(context.steps, eta=0.0 if made else INVERSIONS[context.knobs.inversion].eta)

    def _prompts(self, context: Context[K], *texts: str) -> list[Condition]:
        from paintover.conditions.prompt import prompts

        return prompts(context.bundle.text, texts)
