"""`unitune`: the model is bent to the one picture, bound to a rare word; then "[rare word] caption" edits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from paintover.conditions.alone import says
from paintover.editors import window
from paintover.editors.dial import dial
from paintover.editors.editor import Context
from paintover.editors.tuned import Tuned, TuningKnobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.bundle import Bundle
    from paintover.path.guidance import Guided
    from paintover.path.predict import Condition, Path, Preparation
    from paintover.tuning.unfinished import Unfinished

_USUAL = 7.5  # guidance, where the bundle recommends none for pictures made from words


class UniTuneTuning(TuningKnobs):
    iterations: int = Field(128, ge=1, le=10_000, examples=[2, 3], description="tuning steps (more: more faithful)")
    batch: int = Field(4, ge=1, le=64, examples=[2, 1], description="copies of the picture in each tuning step")
    rare_token: str = Field(
        "", max_length=40, examples=["q"], description="the word that the picture is bound to (default: a rare one)"
    )


class UniTuneKnobs(UniTuneTuning):
    fidelity: float = Field(
        0.5, ge=0, le=1, description="the dial: 0 as the words say, 1 as the picture is; sets the next four"
    )
    guidance: float | None = Field(None, ge=-50, le=50, examples=[3.0], description="how strongly the caption is followed")
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        examples=[0.4],
        description="late start: how far the picture is noised (0: the picture, 1: nothing of it)",
    )
    interpolation: float | None = Field(
        None, ge=0, le=1, examples=[0.0], description="how much of the source comes back where the edit changed little (0: off)"
    )
    share: float | None = Field(
        None, ge=0, le=1, examples=[0.3], description="how much of the tuning is used (0: the untuned model)"
    )
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")


class UniTune(Tuned[UniTuneKnobs]):
    """Tuned on copies of the one picture told the rare word alone, then SDEdit's late start, told "[rare word] caption".

    Valevski et al. 2023; methods.md E. min over weights of E | eps - eps_theta(x_t, t, c_rare) |^2, by Adafactor. With a source
    prompt it is guided away from that ("[rare word] source prompt", prompt guidance) and not from the negative prompt. What
    the edit changed little is interpolated with the source: in the native pixels, or, where those are not preserved, in the
    latents. A mask of the user's takes the place of the one that is found.
    """

    name = "unitune"
    summary = 'Tune the model on the picture once, then describe what you want: "a cow in the snow". Slow first, then quick.'
    paper = "UniTune (Valevski et al. 2023)"
    steps = 50
    confined = True
    takes_source_prompt = True
    Tuning = UniTuneTuning
    Knobs = UniTuneKnobs

    def settled(self, knobs: UniTuneKnobs, bundle: Bundle) -> UniTuneKnobs:
        from paintover.path.schedule import Schedule
        from paintover.path.start import start_leaving
        from paintover.tuning import rare

        usual: Any = bundle.defaults.get("imagine", {}).get("guidance", _USUAL)
        by_default = dial(knobs.fidelity, usual)._asdict() | {"rate": _rate(knobs, bundle)}
        by_default["strength"] = start_leaving(Schedule.from_config(bundle.scheduler_config), by_default.pop("left"))
        update = {name: value for name, value in by_default.items() if getattr(knobs, name) is None}
        return knobs.model_copy(update=update | {"rare_token": knobs.rare_token or rare.choose(bundle.text)})

    def word(self, context: Context[UniTuneKnobs]) -> str:
        return context.knobs.rare_token

    def caption(self, context: Context[UniTuneKnobs]) -> str:
        return _behind(self.word(context), context.request.instruction)

    def check(self, context: Context[UniTuneKnobs]) -> None:
        from paintover.tuning import rare

        knobs: Any = context.knobs
        if knobs.strength > 0:  # 0 asks for no edit, in as many words
            window.check_strength(knobs.strength, context.steps)
        request, beside = context.request, {}
        if request.tuned is None:  # of a tuning one knows the word, and may say it oneself
            beside = {"caption": request.instruction, "source prompt": request.source_prompt or ""}
        rare.check(context.bundle.text, self.word(context), beside)

    def notes(self, context: Context[UniTuneKnobs]) -> list[str]:
        notes, knobs, request, text = super().notes(context), context.knobs, context.request, context.bundle.text
        if text.cuts(f"{self.word(context)} {request.instruction}") and not text.cuts(request.instruction):
            notes.append("the caption fills what the model reads with its rare word; its end has no effect")
        if knobs.negative_prompt and (request.source_prompt or "").strip() and knobs.guidance != 1:
            notes.append("the negative prompt has no effect beside a source prompt, which the edit is steered away from")
        if knobs.strength == 0:
            notes.append("strength 0 is the picture itself; use more for an edit")
        if knobs.share == 0:
            notes.append("share 0 leaves the tuning out; use more for the picture's details")
        return notes

    def prepare(self, context: Context[UniTuneKnobs]) -> Preparation:
        from paintover.conditions.prompt import prompts
        from paintover.tuning.unfinished import Unfinished

        [told] = prompts(context.bundle.text, [self.word(context)])
        unfinished = Unfinished(context.unfinished)
        tuned = unfinished.carried() or (yield from self._tuned(context, told, unfinished))
        return (yield from self.both_stages(context, tuned, told, unfinished))

    def _tuned(self, context: Context[UniTuneKnobs], told: Condition, unfinished: Unfinished) -> Preparation:
        from paintover.tuning import loss
        from paintover.tuning.loop import tune
        from paintover.tuning.optimiser import InBackward, adafactor
        from paintover.tuning.weights import trainable, tuned_of

        knobs: Any = context.knobs
        base: Any = context.bundle.denoiser
        learner = trainable(base, knobs.tune, knobs.rank)
        weights = tuned_of(learner)
        x0_BCHW = context.source.expand(knobs.batch, -1, -1, -1)

        def error(i: int) -> Tensor:
            drawn = loss.drawn(loss.Stream.PICTURE, i, tuple(x0_BCHW.shape), len(base.alphas_cumprod), context.device)
            return loss.denoising(learner, x0_BCHW, *drawn, told)

        optimiser = InBackward(weights, adafactor(knobs.rate))
        yield from tune(error, optimiser, knobs.iterations, unfinished)
        return {name: parameter.detach().to(base.dtype) for name, parameter in weights.items()}

    def path(self, context: Context[UniTuneKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.path.through import through
        from paintover.path.walk import walk

        knobs: Any = context.knobs
        network = self.network(context, prepared, knobs.share)
        x_t0, steps = context.late_start(knobs.strength)
        return self._interpolated(context, through(network, walk(x_t0, steps, self._guide(context))))

    def _guide(self, context: Context[UniTuneKnobs]) -> Guided:
        """Towards "[rare word] caption": away from "[rare word] source prompt" where there is one, or the negative prompt."""
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import prompt_guidance

        knobs: Any = context.knobs
        word, base = self.word(context), (context.request.source_prompt or "").strip()
        away = _behind(word, base) if base else knobs.negative_prompt
        wanted, other = prompts(context.bundle.text, [self.caption(context), away])
        return prompt_guidance(wanted, other, knobs.guidance)

    def _interpolated(self, context: Context[UniTuneKnobs], edit: Path) -> Path:
        """The edit's latents, and shown["mask"]: what of them the picture takes."""
        import torch
        from torch.nn import functional

        from paintover.path.interpolate import estimate, mixed

        edited_BCHW = yield from edit
        knobs: Any = context.knobs
        if not knobs.interpolation or context.mask_HW is not None:
            return edited_BCHW
        with torch.no_grad():
            pixels_BCHW = context.bundle.codec.decode(torch.cat([edited_BCHW, context.source])).float()
        found = estimate(*(pixels_BCHW / 2 + 0.5).clamp(0, 1))
        if found.unfit:
            context.remarks.append(f"nothing was interpolated: {found.unfit}")
            return edited_BCHW
        mask_HW = 1 - knobs.interpolation * (1 - found.mask_HW)
        context.shown["mask"] = mask_HW
        if context.request.preserve:  # the picture's own pixels take its place then
            return edited_BCHW
        return mixed(edited_BCHW, context.source, functional.adaptive_avg_pool2d(mask_HW[None], context.shape[2:]))


def _behind(word: str, text: str) -> str:
    """[word] text; a text that says the word already stays as it is."""
    return text if says(word, text) else f"{word} {text}"


def _rate(knobs: UniTuneTuning, bundle: Bundle) -> float:
    """The paper's 1e-4 for its pixel models, and where few weights learn; a tenth where all of a latent model's do."""
    if knobs.rate is not None:
        return knobs.rate
    return 1e-4 if bundle.in_pixels or knobs.tune == "lora" else 1e-5
