"""`unitune`: the model is bent to the one picture, bound to a rare word; then "[rare word] caption" edits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from paintover.editors.editor import Context
from paintover.editors.tuned import Tuned, TuningKnobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path, Preparation


class UniTuneTuning(TuningKnobs):
    iterations: int = Field(128, ge=1, le=10_000, examples=[2, 3], description="tuning steps (more: more faithful)")
    batch: int = Field(4, ge=1, le=64, examples=[2, 1], description="copies of the picture in each tuning step")
    rare_token: str = Field(
        "", max_length=40, examples=["q"], description="the word that the picture is bound to (default: a rare one)"
    )


class UniTuneKnobs(UniTuneTuning):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    strength: float = Field(0.9, ge=0, le=1, description="late start: how far the picture is noised (1: nothing is left)")


class UniTune(Tuned[UniTuneKnobs]):
    """Tuned on copies of the one picture told the rare word alone, then SDEdit's late start, told "[rare word] caption".

    Valevski et al. 2023; methods.md E. min over weights of E | eps - eps_theta(x_t, t, c_rare) |^2, by Adafactor.
    """

    name = "unitune"
    summary = 'Tune the model on the picture once, then describe what you want: "a cow in the snow". Slow first, then quick.'
    paper = "UniTune (Valevski et al. 2023)"
    steps = 50
    Tuning = UniTuneTuning
    Knobs = UniTuneKnobs

    def rate(self, context: Context[UniTuneKnobs]) -> float:
        if context.knobs.rate is not None:
            return context.knobs.rate
        return 1e-4 if context.knobs.tune == "lora" else 1e-5

    def prepare(self, context: Context[UniTuneKnobs]) -> Preparation:
        from paintover.conditions.prompt import prompts
        from paintover.tuning import loss
        from paintover.tuning.loop import tune
        from paintover.tuning.optimiser import InBackward, adafactor
        from paintover.tuning.unfinished import Unfinished
        from paintover.tuning.weights import trainable, tuned_of

        knobs: Any = context.knobs
        base: Any = context.bundle.denoiser
        [told] = prompts(context.bundle.text, [self._word(context)])
        learner = trainable(base, knobs.tune, knobs.rank)
        weights = tuned_of(learner)
        x0_BCHW = context.source.expand(knobs.batch, -1, -1, -1)

        def error(i: int) -> Tensor:
            drawn = loss.drawn(0, i, tuple(x0_BCHW.shape), len(base.alphas_cumprod), context.device)
            return loss.denoising(learner, x0_BCHW, *drawn, told)

        optimiser = InBackward(weights, adafactor(self.rate(context)))
        yield from tune(error, optimiser, knobs.iterations, Unfinished(context.unfinished))
        return {name: parameter.detach().to(base.dtype) for name, parameter in weights.items()}

    def path(self, context: Context[UniTuneKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.start import late, noise
        from paintover.path.through import through
        from paintover.path.walk import walk

        wanted, null = prompts(context.bundle.text, [f"{self._word(context)} {context.request.instruction}", ""])
        steps = context.schedule.steps(context.steps, start=context.knobs.strength)
        eps = noise(context.request.seed, context.shape, context.device)
        x_t0 = late(context.source, eps, steps, context.knobs.strength)
        return through(
            self.network(context, prepared), walk(x_t0, steps, classifier_free(wanted, null, context.knobs.guidance))
        )

    def _word(self, context: Context[UniTuneKnobs]) -> str:
        from paintover.tuning import rare

        return context.knobs.rare_token or rare.choose(context.bundle.text)
