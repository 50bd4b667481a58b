"""`dreambooth`: the model learns one thing from a few pictures of it, by a name of its own; then captions may say that name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from paintover.conditions.alone import alone, says
from paintover.editors import window
from paintover.editors.editor import Context
from paintover.editors.tuned import Tuned, TuningKnobs
from paintover.tuning.names import UNET

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.bundle import Bundle
    from paintover.path.predict import Condition, Path, Preparation
    from paintover.tuning.unfinished import Unfinished

# How class pictures are made where the bundle recommends nothing. They need only look like the class: half the usual steps.
_STEPS, _GUIDANCE = 25, 7.5


class DreamBoothTuning(TuningKnobs):
    class_word: str = Field(
        "",
        max_length=100,
        examples=["cow"],
        description='what kind of thing it is: "dog" (default: unsaid, and no class pictures)',
    )
    class_pictures: int = Field(
        200, ge=0, le=1000, examples=[1, 2], description="pictures of the class that the model makes first, and is held to"
    )
    prior_weight: float = Field(1.0, ge=0, le=100, description="how strongly it is held to them (0: not at all)")
    iterations: int = Field(800, ge=1, le=20_000, examples=[2, 3], description="tuning steps (more: more faithful)")
    batch: int = Field(1, ge=1, le=64, examples=[2, 1], description="pictures in each tuning step, and as many of the class")
    rare_token: str = Field(
        "", max_length=40, examples=["q"], description="the word that becomes the thing's name (default: a rare one)"
    )


class DreamBoothKnobs(DreamBoothTuning):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    strength: float = Field(1.0, ge=0, le=1, description="late start: how far the picture is noised (1: nothing is left)")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")


class DreamBooth(Tuned[DreamBoothKnobs]):
    """min over weights of E | eps - eps_theta(x_t, t, c) |^2 + lambda E | eps' - eps_theta(x'_t', t', c_pr) |^2.

    Ruiz et al. 2023, equation 2, by AdamW as diffusers does it. x: the pictures, c "a photo of [V] dog"; x': pictures that the
    model itself made before, told c_pr "a photo of dog", so that it keeps knowing other dogs (prior preservation, weight
    lambda). Then from noise, or by SDEdit's late start, told the caption with "[V] dog" in the place of "dog".
    """

    name = "dreambooth"
    summary = (
        'Teach the model one thing from a few pictures, then say where it is: "a dog in the snow". Slow first, then quick.'
    )
    paper = "DreamBooth (Ruiz et al. 2023)"
    steps = 50
    several = True
    bound = False
    Tuning = DreamBoothTuning
    Knobs = DreamBoothKnobs

    def settled(self, knobs: DreamBoothKnobs, bundle: Bundle) -> DreamBoothKnobs:
        from paintover.tuning import rare

        update: dict[str, Any] = {"rare_token": knobs.rare_token or rare.choose(bundle.text)}
        return knobs.model_copy(
            update=update | {"rate": _rate(knobs, bundle), "class_word": " ".join(knobs.class_word.split())}
        )

    def word(self, context: Context[DreamBoothKnobs]) -> str:
        return f"{context.knobs.rare_token} {context.knobs.class_word}".strip()

    def check(self, context: Context[DreamBoothKnobs]) -> None:
        from paintover.tuning import rare

        knobs = context.knobs
        window.check_strength(knobs.strength, context.steps)
        rare.check(context.bundle.text, knobs.rare_token, {"class word": knobs.class_word})

    def notes(self, context: Context[DreamBoothKnobs]) -> list[str]:
        knobs, caption = context.knobs, context.request.instruction
        told = prompt(knobs.rare_token, knobs.class_word, caption)
        notes = super().notes(replace(context, request=context.request.model_copy(update={"instruction": told})))
        if knobs.class_word and not says(knobs.class_word, caption) and not says(knobs.rare_token, caption):
            notes.append(f'the caption does not say {knobs.class_word!r}, so it was read as "{told[:200]}"')
        return notes

    def prepare(self, context: Context[DreamBoothKnobs]) -> Preparation:
        from paintover.conditions.prompt import prompts
        from paintover.tuning.unfinished import Unfinished

        unfinished = Unfinished(context.unfinished)
        [told] = prompts(context.bundle.text, [f"a photo of {self.word(context)}"])
        made = {name: tensor for name, tensor in unfinished.carried().items() if name.startswith(UNET)}
        if not made:
            made = yield from self._tuned(context, told, unfinished)
        # A cascade's second stage needs no class, and has the one picture.
        return (yield from self.both_stages(context, made, told, unfinished))

    def _tuned(self, context: Context[DreamBoothKnobs], told: Condition, unfinished: Unfinished) -> Preparation:
        """Class pictures, and then both terms of equation 2."""
        import torch
        from torch.optim import AdamW

        from paintover.conditions.prompt import prompts
        from paintover.tuning import loss
        from paintover.tuning.loop import tune
        from paintover.tuning.optimiser import InBackward
        from paintover.tuning.weights import trainable, tuned_of

        knobs: Any = context.knobs
        base: Any = context.bundle.denoiser
        pictures = list(context.examples or (context.source,))
        classes = yield from self._class_pictures(context, pictures[0].shape, unfinished)
        [of_class] = prompts(context.bundle.text, [f"a photo of {knobs.class_word}"])
        learner = trainable(base, knobs.tune, knobs.rank)
        weights = tuned_of(learner)

        def term(stream: int, i: int, x0_BCHW: Tensor, c: Condition) -> Tensor:
            drawn = loss.drawn(stream, i, tuple(x0_BCHW.shape), len(base.alphas_cumprod), context.device)
            return loss.denoising(learner, x0_BCHW, *drawn, c)

        def error(i: int) -> Tensor:
            turns = range(i * knobs.batch, (i + 1) * knobs.batch)
            parts = _alike([pictures[n % len(pictures)] for n in turns])
            streams = [loss.Stream.PICTURE, *(loss.Stream.OTHER_SHAPES + k for k in range(len(parts) - 1))]
            total = sum(
                (term(stream, i, part, told) * len(part) / knobs.batch for stream, part in zip(streams, parts, strict=True)),
                torch.zeros((), device=context.device),
            )
            if classes:
                of_turns = torch.cat([classes[n % len(classes)] for n in turns])
                total = total + knobs.prior_weight * term(loss.Stream.SECOND, i, of_turns, of_class)
            return total

        optimiser = InBackward(weights, lambda parameters: AdamW(parameters, lr=knobs.rate, weight_decay=1e-2))
        yield from tune(error, optimiser, knobs.iterations, unfinished)
        return {name: parameter.detach().to(base.dtype) for name, parameter in weights.items()}

    def path(self, context: Context[DreamBoothKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.through import through
        from paintover.path.walk import walk

        knobs = context.knobs
        told = prompt(knobs.rare_token, knobs.class_word, context.request.instruction)
        wanted, unwanted = prompts(context.bundle.text, [told, knobs.negative_prompt])
        x_t0, steps = context.late_start(knobs.strength)
        return through(self.network(context, prepared), walk(x_t0, steps, classifier_free(wanted, unwanted, knobs.guidance)))

    def _class_pictures(self, context: Context[DreamBoothKnobs], like: Sequence[int], unfinished: Unfinished) -> Any:
        """Part of the preparation: latents of pictures told "a photo of dog", about as large as those of shape `like`."""
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.tuning.prior import class_pictures, square

        knobs, bundle = context.knobs, context.bundle
        if not (knobs.class_word and knobs.prior_weight):
            return []
        usual: Any = bundle.defaults.get("imagine", {})
        of_class, null = prompts(bundle.text, [f"a photo of {knobs.class_word}", ""])
        return (
            yield from class_pictures(
                knobs.class_pictures,
                square(like, bundle.denoiser.multiple),
                context.schedule.steps(usual.get("steps", _STEPS)),
                classifier_free(of_class, null, usual.get("guidance", _GUIDANCE)),
                unfinished,
                context.device,
            )
        )


def prompt(rare: str, class_word: str, caption: str) -> str:
    """The caption with the thing's name in it: "a dog in the snow" becomes "a ktn dog in the snow".

    The rare word is put before the first "dog", whatever its case. A caption that says the rare word stays as it is; one that
    says neither is told behind the name: "in the snow" becomes "ktn dog, in the snow".
    """
    if says(rare, caption):
        return caption
    if class_word and says(class_word, caption):
        return re.sub(alone(class_word), lambda found: f"{rare} {found[0]}", caption, count=1, flags=re.IGNORECASE)
    return f"{rare} {class_word}, {caption}" if class_word else f"{rare} {caption}"


def _alike(pictures: list[Tensor]) -> list[Tensor]:
    """Pictures of one shape together: B = 1 each, of any shapes -> batches."""
    import torch

    shapes = dict.fromkeys(picture.shape for picture in pictures)
    return [torch.cat([picture for picture in pictures if picture.shape == shape]) for shape in shapes]


def _rate(knobs: DreamBoothTuning, bundle: Bundle) -> float:
    if knobs.rate is not None:
        return knobs.rate
    if knobs.tune == "lora":
        return 1e-4
    return 1e-5 if bundle.in_pixels else 5e-6  # the paper's for Imagen, and for Stable Diffusion
