"""Editors that have a language model say first what an instruction means, in full, and imagine it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs
from paintover.errors import KnobError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path, Preparation


def number(value: Any) -> Any:
    """A command line's "8"."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class ExpressiveKnobs(Knobs):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the instruction is followed (0: not at all)")
    image_guidance: float = Field(1.5, ge=-50, le=50, description="how strongly the result is held to the picture")
    expressive: str | None = Field(
        None,
        max_length=1000,
        examples=["a cow"],
        description="the instruction in full, said by you: the model is not asked for it",
    )
    guided_by: Literal["head", "text"] = Field(
        "head", description="the edit follows what the model imagined, or its words, read by the text encoder"
    )
    bits: Annotated[Literal[16, 8, 4], BeforeValidator(number)] = Field(
        16, description="of each weight of the language model: 8 and 4 take less memory, and need bitsandbytes"
    )

    @property
    def sees(self) -> bool:
        """Whether the language model is shown the picture."""
        return False


K = TypeVar("K", bound=ExpressiveKnobs)


class Expressive(Editor[K]):
    """InstructPix2Pix's walk, told U = T({h_[IMG] + e_[IMG]}) where that is told a text, and T({0 + e_[IMG]}) for none.

    h_[IMG] are the states in which a multimodal language model imagines the edit, after it has said in words what the
    instruction means; T is the edit head. Fu et al. 2024, equations 2, 3 and 5; methods.md C.
    """

    needs = ("instruct", "mgie")
    steps = 50

    @property
    def prepared_by(self) -> str:
        return "expressive"

    def check(self, context: Context[K]) -> None:
        said = context.knobs.expressive
        if said is not None and not said.strip():
            raise KnobError(f"{self.name}: expressive is empty; say the instruction in full, or leave it out")

    def notes(self, context: Context[K]) -> list[str]:
        return list(context.remarks)  # no text encoder reads the instruction

    def prepared_from(self, context: Context[K]) -> dict[str, JsonValue]:
        knobs = context.knobs
        asked = {"instruction": context.request.instruction, "expressive": knobs.expressive}
        return {**asked, "sees": knobs.sees, "bits": knobs.bits}

    def prepare(self, context: Context[K]) -> Preparation:
        yield from ()
        return self.prepare_together([context])[0]

    def prepare_together(self, contexts: Sequence[Context[K]]) -> list[dict[str, Tensor]]:
        """For each: the expressive instruction (UTF-8), of it forced, cut and unread (0 or 1), U and null as tokens_BLD."""
        made: dict[int, dict[str, Tensor]] = {}
        for bits in {context.knobs.bits for context in contexts}:
            at = [i for i, context in enumerate(contexts) if context.knobs.bits == bits]
            made |= zip(at, self._asked([contexts[i] for i in at], bits), strict=True)
        return [made[i] for i in range(len(contexts))]

    def _asked(self, contexts: Sequence[Context[K]], bits: int) -> list[dict[str, Tensor]]:
        import torch

        from paintover.conditions.mgie import null
        from paintover.engine.memory import enough_memory

        bundle = contexts[0].bundle
        with enough_memory("the language model was loaded"):
            mllm = bundle.mllm(bits)
        if mllm.head.config["out"] != bundle.text.width:
            raise ModelError(
                f"bundle {bundle.name} does not fit together: its edit head makes states of width {mllm.head.config['out']}, "
                f"its denoiser takes {bundle.text.width}"
            )
        began = time.perf_counter()
        with torch.no_grad(), enough_memory("the language model read the instruction"):
            answers = mllm.answer(
                [context.request.instruction for context in contexts],
                [c.picture.rgb_HWC if c.picture is not None and c.knobs.sees else None for c in contexts],
                [context.knobs.expressive for context in contexts],
            )
            guides = [mllm.guide(answer.hidden_ND[None]).float() for answer in answers]
        for context in contexts:
            context.seconds["language"] = time.perf_counter() - began
        return [
            {
                "text": torch.tensor(list(answer.text.encode()), dtype=torch.uint8),
                "forced": torch.tensor(int(answer.forced)),
                "cut": torch.tensor(int(answer.cut)),
                "unread": torch.tensor(int(answer.unread)),
                "tokens_BLD": tokens_BLD,
                "null_BLD": null(mllm),
            }
            for answer, tokens_BLD in zip(answers, guides, strict=True)
        ]

    def path(self, context: Context[K], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.mgie import pooled
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import dual
        from paintover.path.predict import Condition
        from paintover.path.start import noise
        from paintover.path.walk import walk

        knobs, denoiser = context.knobs, context.bundle.denoiser
        image_BCHW = context.source / context.bundle.codec.scale  # unscaled: InstructPix2Pix's convention
        text = self._understood(context, prepared)
        if knobs.guided_by == "text":
            told, null = prompts(context.bundle.text, [text or context.request.instruction, ""], image_BCHW)
        else:
            told, null = (
                Condition(tokens_BLD, pooled(denoiser, tokens_BLD), image_BCHW)
                for tokens_BLD in (prepared["tokens_BLD"], prepared["null_BLD"])
            )
        guided = dual(told, null, knobs.guidance, knobs.image_guidance)
        x_T = noise(context.request.seed, context.shape, context.device)
        return walk(x_T, context.schedule.steps(context.steps), guided)

    def _understood(self, context: Context[K], prepared: dict[str, Tensor]) -> str:
        """The expressive instruction; it goes with the record, and what is odd about it with the notes."""
        text, by_head = bytes(prepared["text"].tolist()).decode(), context.knobs.guided_by == "head"
        forced, cut = bool(prepared["forced"]), bool(prepared["cut"])
        context.derived["expressive"] = text
        context.derived["img_tokens_forced"] = forced
        if cut and (by_head or context.knobs.expressive is None):
            context.remarks.append("the instruction has more tokens than the language model reads; its end has no effect")
        if prepared.get("unread"):  # what was kept by earlier versions does not tell
            context.remarks.append(
                "the language model knows few of the instruction's words, or none, so what it made of them is a guess; say it "
                "in other words"
            )
        if not text.strip():
            read = "" if by_head else ", so the text encoder reads the instruction as it is"
            context.remarks.append(f"the language model found no words for what the instruction means{read}")
        if forced and by_head:
            context.remarks.append(
                "the language model did not say its [IMG] tokens, which guide the edit; they were put behind what it said"
            )
        if not by_head and context.bundle.text.cuts(text):
            context.remarks.append(
                f"the expressive instruction has more than the {context.bundle.text.length} tokens that the text encoder "
                "reads; its end has no effect"
            )
        return text
