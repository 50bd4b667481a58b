"""The columns of the table over editors: each editor with the model's own knobs, and published forms of some."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from paintover.editors import knobs, registry
from paintover.errors import KnobError, RequestError

FOUR = ("mdp-noise", "mdp-condition", "mdp-latent", "mdp-guidance")  # MDP's four forms
NULL_TEXT = "+null-text"
# As their papers have them on real pictures, where that is not an editor's default. Null-text optimisation finds what
# classifier-free guidance is held against, so it needs guidance; the papers' 7.5 is more than the built-in model can bear.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name + NULL_TEXT: (name, {"inversion": "null-text", "guidance": 2.0}) for name in FOUR},
    "prompt-to-prompt+null-text": ("prompt-to-prompt", {"inversion": "null-text", "guidance": 2.0}),
    "plug-and-play+ddim": ("plug-and-play", {"inversion": "ddim"}),
    "masactrl+ddim": ("masactrl", {"inversion": "ddim"}),
}


@dataclass(frozen=True)
class Column:
    """An editor with the knobs that are set beyond what the model recommends."""

    name: str
    editor: str
    knobs: dict[str, Any] = field(default_factory=dict)

    def words(self, source: str, target: str, instruction: str) -> dict[str, str]:
        """An edit in the words that the editor takes: the instruction, or a caption of the target (and one of the source)."""
        recipe = registry.get(self.editor)
        said = {"instruction": target if recipe.told == "caption" else instruction}
        return said | {"source_prompt": source} if recipe.takes_source_prompt else said


def columns(names: list[str] | None = None) -> list[Column]:
    """The columns called so. None: all that there are, but for editors that are tuned on each picture first, which takes them
    minutes, and which `evaluation.tuning` compares. Raises RequestError for a name that is none.
    """
    able = [name for name in registry.names() if registry.get(name).picture != "never"]
    there = {name: Column(name, name) for name in able}
    there |= {name: Column(name, editor, more) for name, (editor, more) in PUBLISHED.items() if _takes(editor, more)}
    for name in names or ():
        if name not in there:
            near = get_close_matches(name, there, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise RequestError(f"there is no editor {name!r} to compare{hint}; choose of {', '.join(there)}")
    quick = (name for name, column in there.items() if column.editor not in registry.tuners())
    return [there[name] for name in dict.fromkeys(names or quick)]


def _takes(editor: str, more: dict[str, Any]) -> bool:
    """Whether there is such an editor, and its knobs are these."""
    try:
        knobs.read(editor, registry.get(editor).Knobs, more)
    except (RequestError, KnobError):
        return False
    return True
