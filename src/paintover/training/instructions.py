"""Instructions made of pictures and sounds that somebody has, in the form of InstructAny2Pix's MM-Inst.

What an instruction is about is drawn from the captions; it is said by templates, or by a language model that is shown what
people wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from paintover.datasets.collection import Medium, collection
from paintover.datasets.lines import Lines
from paintover.datasets.mm_inst import clean
from paintover.datasets.mm_inst_file import keys_of, write
from paintover.training import phrases
from paintover.training.author import MOST_TOKENS, SYSTEM, Author, Example, answer, chosen, examples, prompt
from paintover.training.planning import Plan, Planner, Thing

LINES = "instructions.jsonl"
TRIES = 3


class Made(NamedTuple):
    """How many were made now, had been before, and how many the language model did not manage to say, of all."""

    now: int
    before: int
    refused: int


def make(
    out: Path,
    paths: Sequence[Path],
    *,
    count: int = 1000,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    llm: str | None = None,
    shown: Path | None = None,
    batch: int = 8,
    tokens: int = MOST_TOKENS,
    tries: int = TRIES,
    device: str | None = None,
    on_sample: Callable[[int, int], None] | None = None,
) -> Made:
    """Writes out/instruction.json, out/media.json, and the media that they speak of, linked or copied, into out/media/.

    paths: captioned pictures and sounds (`datasets.collection`). count: of all instructions; a larger one later adds to them.
    kinds: of `phrases.KINDS`; None: all that the media allow. llm: a causal language model in transformers' layout, a folder or
    owner/name[@revision] of the hub, which is asked `tries` times, each with other examples; what it does not manage is left
    out. shown: a file of examples in place of ours. What is done is kept in out/instructions.jsonl, so that the same call goes
    on; other settings do not continue it. Sample n depends on seed, n and the media alone. Raises RowError and ModelError.
    """
    media = collection(paths)
    planner = Planner(media, kinds)
    known, author = (examples(shown), _author(llm, tokens, device)) if llm is not None else ([], None)
    of_media = [(m.file.name, m.caption, m.things) for m in media]
    made_by: dict[str, Any] = {"seed": seed, "kinds": planner.kinds, "media": _digest(of_media), "llm": None}
    made_by = json.loads(json.dumps(made_by))
    if author is not None:
        asked = _digest([SYSTEM, *([one.kind, dict(one.given), one.task, one.instruction, one.result] for one in known)])
        made_by |= {"llm": author.name, "asked": asked, "tokens": tokens, "tries": tries}
    lines = Lines(out / LINES, made_by)
    try:
        before = min(count, len(lines.found))
        keys = keys_of(media)
        for start in range(before, count, batch):
            numbers = range(start, min(count, start + batch))
            plans = [planner.draw(np.random.default_rng([seed, n, 0])) for n in numbers]
            said: list[tuple[str, str] | None]
            if author is None:
                said = [by_template(plan, np.random.default_rng([seed, n, 1])) for n, plan in zip(numbers, plans, strict=True)]
            else:
                said = _written(author, known, plans, [[seed, n] for n in numbers], tries)
            for n, plan, words in zip(numbers, plans, said, strict=True):
                lines.add({"sample": None if words is None else sample(n, plan, *words, keys)})
            if on_sample is not None:
                on_sample(numbers[-1] + 1, count)
        told = [line.get("sample") for line in lines.found[:count]]
    finally:
        lines.close()
    samples = [one for one in told if one is not None]
    write(out, samples, media)
    return Made(count - before, before, len(told) - len(samples))


def named(plan: Plan) -> dict[str, Medium]:
    """The media of a plan by the names that a language model is told: the picture that is edited is image1."""
    names: dict[str, Medium] = {}
    for medium in plan.media:
        names[f"{medium.kind}{sum(name.startswith(medium.kind) for name in names) + 1}"] = medium
    return names


def by_template(plan: Plan, rng: np.random.Generator | None = None) -> tuple[str, str]:
    """Instruction, with references by name, and result. rng: chooses the phrasing; None: the plainest one."""
    names = {medium: f"[{name}]" for name, medium in named(plan).items()}

    def spoken(thing: Thing, there: bool) -> str:
        if thing.medium is not None:
            return names[thing.medium]
        return f"the {thing.name}" if there else phrases.noun(thing.name)

    told = {"i": names[plan.base], "s": "" if plan.like is None else names[plan.like]}
    told["a"] = phrases.listed([spoken(thing, True) for thing in plan.takes] or [""])
    told["b"] = phrases.listed([spoken(thing, False) for thing in plan.puts] or [""])
    pool = phrases.PHRASES[phrases.PHRASE_OF.get(plan.kind, plan.kind)]
    return pool[0 if rng is None else int(rng.integers(len(pool)))].format(**told), plan.result


def sample(number: int, plan: Plan, instruction: str, result: str, keys: Mapping[Medium, str]) -> dict[str, Any]:
    """One sample of MM-Inst. There is no picture of the result, whatever the media map calls so: `target` says it."""
    base = f"[{keys[plan.base]}]"
    for name, medium in named(plan).items():
        instruction = instruction.replace(f"[{name}]", f"[{keys[medium]}]")
    return {
        "id": str(number),
        "task": "any2any",
        "kind": plan.kind,
        "base": base,
        "result": result,
        "target": None,
        "added": [[thing.name, f"[{keys[thing.medium]}]"] for thing in plan.puts if thing.medium is not None],
        "conversations": [
            {"from": "human", "value": instruction},
            {"from": "gpt", "value": f"<base>{base}<im_gen>[{result}]"},
        ],
    }


def _written(
    author: Author, known: Sequence[Example], plans: Sequence[Plan], seeds: Sequence[list[int]], tries: int
) -> list[tuple[str, str] | None]:
    """What the language model makes of each plan; None where it never said what can be used."""
    said: list[tuple[str, str] | None] = [None] * len(plans)
    for attempt in range(tries):
        open_ = [i for i, words in enumerate(said) if words is None]
        if not open_:
            break
        given = [{name: medium.caption for name, medium in named(plans[i]).items()} for i in open_]
        prompts = [
            prompt(chosen(known, plans[i].kind, np.random.default_rng([*seeds[i], 2, attempt])), what, by_template(plans[i])[0])
            for i, what in zip(open_, given, strict=True)
        ]
        for i, what, text in zip(open_, given, author.write(prompts), strict=True):
            words = answer(text, what)
            same = words is not None and clean(words[1]) == clean(plans[i].base.caption)
            said[i] = None if same else words
    return said


def _author(llm: str, tokens: int, device: str | None) -> Author:
    where = torch.device("cpu") if device is None and not torch.cuda.is_available() else torch.device(device or "cuda")
    return Author(llm, where, tokens)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()[:16]
