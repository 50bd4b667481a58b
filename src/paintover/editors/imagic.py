"""`imagic`: the caption's own embedding is bent to the picture, then the model; between both captions lies the edit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, JsonValue

from paintover.editors import window
from paintover.editors.editor import Context
from paintover.editors.tuned import Tuned, TuningKnobs
from paintover.tuning.names import TARGET, UNET

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.bundle import Bundle
    from paintover.models.denoiser import Denoiser
    from paintover.path.predict import Condition, Path, Preparation
    from paintover.tuning.unfinished import Unfinished


class ImagicTuning(TuningKnobs):
    embedding_iterations: int = Field(
        500, ge=1, le=10_000, examples=[2, 3], description="first stage: steps that bend the caption to the picture"
    )
    embedding_rate: float = Field(1e-3, ge=1e-8, le=1, examples=[0.01], description="first stage: learning rate")
    iterations: int = Field(
        1000, ge=1, le=10_000, examples=[2, 3], description="second stage: steps that bend the model (more: more faithful)"
    )
    batch: int = Field(1, ge=1, le=64, examples=[2, 1], description="copies of the picture in each step of both stages")


class ImagicKnobs(ImagicTuning):
    alpha: float = Field(1.2, ge=0, le=2, description="how far to go to the caption (0: the picture, as far as it was learnt)")
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly that is followed (1: no guidance)")
    strength: float = Field(1.0, ge=0, le=1, description="late start: how far the picture is noised (1: nothing is left)")


class Imagic(Tuned[ImagicKnobs]):
    """Kawar et al. 2023, in three stages, of which the first two are the preparation:

    1. e_opt = argmin over e of E | eps - eps_theta(x_t, t, e) |^2, from e_target, the caption's states, on.
    2. theta* = argmin over weights of E | eps - eps_theta(x_t, t, e_opt) |^2.
    3. sampled from theta*, told alpha e_target + (1 - alpha) e_opt.

    The preparation depends on the picture and the caption; alpha, guidance, strength and seed are free afterwards.
    """

    name = "imagic"
    summary = 'Describe the result: "a dog lying down". Tuned to picture and caption first, for minutes; then a slider between.'
    paper = "Imagic (Kawar et al. 2023)"
    steps = 50
    captioned = True
    Tuning = ImagicTuning
    Knobs = ImagicKnobs

    def settled(self, knobs: ImagicKnobs, bundle: Bundle) -> ImagicKnobs:
        return knobs.model_copy(update={"rate": _rate(knobs, bundle)})

    def check(self, context: Context[ImagicKnobs]) -> None:
        window.check_strength(context.knobs.strength, context.steps)

    def notes(self, context: Context[ImagicKnobs]) -> list[str]:
        notes = super().notes(context)
        if context.knobs.alpha == 0:
            notes.append("alpha 0 is the picture as the tuned model knows it, with no edit; use more alpha for one")
        return notes

    def prepared_from(self, context: Context[ImagicKnobs]) -> dict[str, JsonValue]:
        return super().prepared_from(context) | {"caption": context.request.instruction}

    def prepare(self, context: Context[ImagicKnobs]) -> Preparation:
        from paintover.tuning.unfinished import Unfinished
        from paintover.tuning.weights import trainable

        knobs: Any = context.knobs
        unfinished = Unfinished(context.unfinished)
        made = unfinished.carried()
        if not any(name.startswith(UNET) for name in made):
            learner = trainable(cast("Denoiser", context.bundle.denoiser), knobs.tune, knobs.rank)
            made = made or (yield from self._bent_caption(context, learner, unfinished))
            unfinished.carry(made)
            made |= yield from self._bent_weights(context, learner, made, unfinished)
        # A cascade's second stage is told the caption as it is, there and here.
        return (yield from self.both_stages(context, made, _target(context), unfinished))

    def _bent_caption(self, context: Context[ImagicKnobs], learner: Denoiser, unfinished: Unfinished) -> Preparation:
        """e_opt, by Adam."""
        from torch.nn import Parameter

        from paintover.tuning.loop import tune
        from paintover.tuning.loss import Stream
        from paintover.tuning.optimiser import InBackward, adam

        knobs = context.knobs
        learning = [weight for weight in learner.unet.parameters() if weight.requires_grad]
        learner.unet.requires_grad_(False)
        leaves = {name: Parameter(states.clone()) for name, states in _named(_target(context)).items()}
        optimiser = InBackward(leaves, adam(knobs.embedding_rate))
        error = partial(_error, context, learner, Stream.PICTURE, _told(leaves))
        yield from tune(error, optimiser, knobs.embedding_iterations, unfinished, "caption")
        for weight in learning:
            weight.requires_grad_(True)
        return {name: leaf.detach() for name, leaf in leaves.items()}

    def _bent_weights(
        self, context: Context[ImagicKnobs], learner: Denoiser, target: Mapping[str, Tensor], unfinished: Unfinished
    ) -> Preparation:
        """theta*, by Adam."""
        from paintover.tuning.loop import tune
        from paintover.tuning.loss import Stream
        from paintover.tuning.optimiser import InBackward, adam
        from paintover.tuning.weights import tuned_of

        knobs: Any = context.knobs
        weights = tuned_of(learner)
        told = _told({name: states.to(context.device) for name, states in target.items()})
        optimiser = InBackward(weights, adam(knobs.rate))
        error = partial(_error, context, learner, Stream.SECOND, told)
        yield from tune(error, optimiser, knobs.iterations, unfinished, "weights")
        dtype = context.bundle.denoiser.dtype
        return {name: weight.detach().to(dtype) for name, weight in weights.items()}

    def path(self, context: Context[ImagicKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.through import through
        from paintover.path.walk import walk

        knobs = context.knobs
        learnt = {name: states for name, states in prepared.items() if name.startswith(TARGET)}
        between = _between(_told(learnt), _target(context), knobs.alpha)
        [null] = prompts(context.bundle.text, [""])
        x_t0, steps = context.late_start(knobs.strength)
        return through(self.network(context, prepared), walk(x_t0, steps, classifier_free(between, null, knobs.guidance)))


def _rate(knobs: ImagicTuning, bundle: Bundle) -> float:
    """2e-6 for all weights of a latent model, as the community has it; more for small pixel models, and where few learn."""
    if knobs.rate is not None:
        return knobs.rate
    if knobs.tune == "lora":
        return 1e-3 if bundle.in_pixels else 1e-4
    return 5e-5 if bundle.in_pixels else 2e-6


def _error(context: Context[ImagicKnobs], learner: Denoiser, stream: int, told: Condition, i: int) -> Tensor:
    """How badly the picture is known, told this, by noises of the stage's own stream."""
    from paintover.tuning import loss

    x0_BCHW = context.source.expand(context.knobs.batch, -1, -1, -1)
    drawn = loss.drawn(stream, i, tuple(x0_BCHW.shape), len(learner.alphas_cumprod), context.device)
    return loss.denoising(learner, x0_BCHW, *drawn, told)


def _target(context: Context[ImagicKnobs]) -> Condition:
    """e_target: the caption as the text encoder has it."""
    from paintover.conditions.prompt import prompts

    [target] = prompts(context.bundle.text, [context.request.instruction])
    return target


def _between(learnt: Condition, target: Condition, alpha: float) -> Condition:
    """alpha target + (1 - alpha) learnt, of the tokens' states and of the text's vector; at 0 and 1 exactly the ends."""
    import torch

    from paintover.path.predict import Condition

    pooled = None
    if learnt.pooled_BD is not None and target.pooled_BD is not None:
        pooled = torch.lerp(learnt.pooled_BD, target.pooled_BD, alpha)
    return Condition(torch.lerp(learnt.tokens_BLD, target.tokens_BLD, alpha), pooled)


def _named(told: Condition) -> dict[str, Tensor]:
    """A condition's states as named tensors, and `_told` back again."""
    named = {TARGET + "tokens_BLD": told.tokens_BLD, TARGET + "pooled_BD": told.pooled_BD}
    return {name: states for name, states in named.items() if states is not None}


def _told(named: Mapping[str, Tensor]) -> Condition:
    from paintover.path.predict import Condition

    return Condition(named[TARGET + "tokens_BLD"], named.get(TARGET + "pooled_BD"))
