"""The editors there are, by name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from paintover.editors.any2pix import Any2Pix
from paintover.editors.diffedit import DiffEdit
from paintover.editors.dreambooth import DreamBooth
from paintover.editors.edit_friendly import EditFriendly
from paintover.editors.editor import Editor
from paintover.editors.flowedit import FlowEdit
from paintover.editors.imagic import Imagic
from paintover.editors.imagine import Imagine
from paintover.editors.instruct import Instruct
from paintover.editors.invert import Invert
from paintover.editors.ledits import LEdits
from paintover.editors.lgie import LGIE
from paintover.editors.masactrl import MasaCtrl
from paintover.editors.mdp_condition import MDPCondition
from paintover.editors.mdp_guidance import MDPGuidance
from paintover.editors.mdp_latent import MDPLatent
from paintover.editors.mdp_noise import MDPNoise
from paintover.editors.mgie import MGIE
from paintover.editors.plug_and_play import PlugAndPlay
from paintover.editors.prompt_to_prompt import PromptToPrompt
from paintover.editors.repaint import Repaint
from paintover.editors.rf_inversion import RFInversion
from paintover.editors.sdedit import SDEdit
from paintover.editors.textual_inversion import TextualInversion
from paintover.editors.tuned import Tuned
from paintover.editors.unitune import UniTune
from paintover.errors import RequestError

_ALL: tuple[Editor[Any], ...] = (
    Instruct(),
    MGIE(),
    LGIE(),
    Any2Pix(),
    SDEdit(),
    MDPNoise(),
    MDPCondition(),
    MDPLatent(),
    MDPGuidance(),
    DiffEdit(),
    LEdits(),
    EditFriendly(),
    PromptToPrompt(),
    PlugAndPlay(),
    MasaCtrl(),
    FlowEdit(),
    RFInversion(),
    UniTune(),
    DreamBooth(),
    Imagic(),
    TextualInversion(),
    Imagine(),
    Invert(),
    Repaint(),
)
_EDITORS: dict[str, Editor[Any]] = {editor.name: editor for editor in _ALL}


def names() -> list[str]:
    """Names of all editors that one chooses from, the default one first."""
    return [name for name, editor in _EDITORS.items() if not editor.hidden]


def tuners() -> list[str]:
    """Names of those that tune the model first, the default one first."""
    return [name for name in names() if isinstance(_EDITORS[name], Tuned)]


def get(name: str) -> Editor[Any]:
    """The editor called `name`. Raises RequestError listing what there is."""
    if name not in _EDITORS:
        near = get_close_matches(name, names(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise RequestError(f"there is no editor {name!r}{hint}; choose one of {', '.join(names())}")
    return _EDITORS[name]


def add(editor: Editor[Any]) -> None:
    """Makes an editor of one's own known in this process, by its name. Raises RequestError for a name that is taken."""
    if editor.name in _EDITORS:
        raise RequestError(f"there is an editor {editor.name!r} already; choose another name")
    _EDITORS[editor.name] = editor
