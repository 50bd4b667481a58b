"""Who writes instructions in words of its own: an untouched language model, shown what people wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paintover.datasets.sample import RowError, reason
from paintover.engine.memory import out_of_memory
from paintover.errors import ModelError
from paintover.training.explainers import generate, load

SYSTEM = (
    "You write instructions for editing pictures, as different people would say them, and say what the edited picture shows. "
    "What stands in square brackets is a picture or a sound that is given; use each of them, exactly as it is written. "
    "Answer with two lines, Instruction and Result; the result is a caption without brackets."
)
MOST_TOKENS = 120
SHOWN = 3  # examples in a prompt, the last two of the kind that is asked for
_MOST_WORDS = {"instruction": 80, "result": 60}
_NAMES = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Example:
    """What is given by name, what is asked for in plain words, and how somebody said it, and what would then be seen."""

    kind: str
    given: Mapping[str, str]
    task: str
    instruction: str
    result: str


def examples(file: Path | None = None) -> list[Example]:
    """What people wrote: ours, or those of a JSONL file with the same fields. Raises RowError for what is none."""
    file = file or Path(__file__).with_name("examples.jsonl")
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RowError(f"{file} cannot be read ({reason(error)}); name a JSONL file of examples") from None
    found = []
    for n, line in enumerate(lines, start=1):
        where = f"{file}, row {n}"
        try:
            one = Example(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            raise RowError(f"{where}: no example; expected the fields kind, given, task, instruction, result") from None
        if (
            not isinstance(one.given, dict)
            or answer(f"Instruction: {one.instruction}\nResult: {one.result}", one.given) is None
        ):
            raise RowError(f"{where}: its instruction speaks of something else than what is given, or its result is none")
        found.append(one)
    if not found:
        raise RowError(f"{file} holds no examples")
    return found


def prompt(shown: Sequence[Example], given: Mapping[str, str], task: str) -> str:
    """The examples, and then what is asked for; what follows is the instruction."""
    parts = [f"{_asked(one.given, one.task)} {one.instruction}\nResult: {one.result}" for one in shown]
    return "\n\n".join([SYSTEM, *parts, _asked(given, task)])


def chosen(known: Sequence[Example], kind: str, rng: np.random.Generator) -> list[Example]:
    """SHOWN examples in random order, those of another kind first."""
    alike = [one for one in known if one.kind == kind]
    others = [one for one in known if one.kind != kind]
    of_kind = [alike[int(i)] for i in rng.permutation(len(alike))[: SHOWN - 1 if others else SHOWN]]
    return [others[int(i)] for i in rng.permutation(len(others))[: SHOWN - len(of_kind)]] + of_kind


def answer(said: str, given: Mapping[str, str]) -> tuple[str, str] | None:
    """Instruction and result of what was said; None where it names other things than are given, or says no result."""
    match = re.match(r"\s*(?:Instruction\s*:)?(.*?)\bResult\s*:([^\n]*\S[^\n]*)", said, re.DOTALL | re.IGNORECASE)
    if match is None:
        return None
    instruction, result = (" ".join(part.split()).strip('"') for part in match.groups())
    names = {" ".join(name.split()) for name in _NAMES.findall(instruction)}
    words = _NAMES.sub(" ", instruction)
    fits = names == set(given) and re.search(r"\w", words) and not re.search(r"[<>\[\]]", words + result)
    within = all(len(text.split()) <= _MOST_WORDS[name] for name, text in (("instruction", instruction), ("result", result)))
    return (instruction, result) if fits and within and re.search(r"\w", result) else None


class Author:
    """A causal language model in transformers' layout, greedy and untouched.

    name: what it was, with the hub's commit or the folder's fingerprint. Raises ModelError when it cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device, tokens: int = MOST_TOKENS) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokens = tokens
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        self.model, self.tokenizer, self.name = load(
            name, "a language model", AutoModelForCausalLM, AutoTokenizer, device, dtype, trust_remote_code=False
        )
        self.tokenizer.padding_side = "left"  # what is said follows right behind each prompt
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @torch.no_grad()
    def write(self, prompts: Sequence[str]) -> list[str]:
        """What it says after each, in its own form of conversation where it has one."""
        chat = bool(getattr(self.tokenizer, "chat_template", None))
        asked = [self._turn(text) if chat else text for text in prompts]
        inputs = self.tokenizer(asked, padding=True, add_special_tokens=not chat, return_tensors="pt").to(self.model.device)
        known = {name: value for name, value in inputs.items() if name in ("input_ids", "attention_mask")}
        try:
            ids_BL = generate(self.model, self.tokenizer, known, max_new_tokens=self.tokens, do_sample=False)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise ModelError(
                f"out of memory with {len(prompts)} prompts at a time; ask for fewer (batch), or a smaller model"
            ) from None
        said_BL = ids_BL[:, known["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(said_BL, skip_special_tokens=True)]

    def _turn(self, text: str) -> str:
        turns = [{"role": "user", "content": text}]
        said: str = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return said


def _asked(given: Mapping[str, str], task: str) -> str:
    return "\n".join([*(f"[{name}]: {caption}" for name, caption in given.items()), f"Task: {task}", "Instruction:"])
