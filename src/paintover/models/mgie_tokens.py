"""MGIE's tokens in a language model's vocabulary: looked up by name, never by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.quiet import quiet
from paintover.models.wording import Wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A language model's tokenizer: from tokenizer.json, or from LLaMA's tokenizer.model. Raises ModelError."""
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        if not (folder / "tokenizer.model").is_file():
            raise ModelError(f"{folder} has neither tokenizer.json nor tokenizer.model")
        if find_spec("sentencepiece") is None or find_spec("google") is None or find_spec("google.protobuf") is None:
            raise ModelError(f"reading {folder / 'tokenizer.model'} needs sentencepiece: pip install sentencepiece protobuf")
    try:
        with quiet():
            if (folder / "tokenizer.json").is_file():
                return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            # legacy: each piece of text between special tokens begins a word, as it did for those who trained these models.
            return LlamaTokenizer.from_pretrained(folder, local_files_only=True, legacy=True)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {line})") from None


def with_tokens(tokenizer: Any, tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """The tokenizer with these special tokens too, which take the spaces around them along.

    So did those of the tokenizer that LLaVA and MGIE were trained with: the line break before the picture and the spaces
    between the [IMG] tokens are never seen by the language model.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, lstrip=True, rstrip=True) for token in tokens]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=tokenizer.pad_token or tokenizer.unk_token,
    )


def sources(known: Mapping[str, int], vocabulary: Mapping[str, int], rows: int, wording: Wording) -> list[int | None]:
    """Which of a release's `rows` of embeddings each id of the vocabulary is; None: it has none.

    known: the vocabulary before MGIE's tokens were added. The release's order: what LLaVA's tokenizer knew, by its ids; the
    picture's three tokens at the end of it (where the tokenizer here has not known them); the [IMG] tokens last.
    """
    first = rows - len(wording.image_tokens)
    order: list[int | None] = [None] * (max(vocabulary.values()) + 1)
    pictures = wording.picture_tokens
    for token, place in vocabulary.items():
        if token in wording.image_tokens:
            order[place] = first + wording.image_tokens.index(token)
        elif token in known and place < first:
            order[place] = place
        elif token in pictures:
            order[place] = first - len(pictures) + pictures.index(token)
    return order


def arranged(rows_ND: Tensor, order: Sequence[int | None]) -> Tensor:
    """Rows in this order; a token that has none gets their mean."""
    if list(order) == list(range(len(rows_ND))):
        return rows_ND
    made_ND = rows_ND[torch.tensor([0 if place is None else place for place in order])]
    lacking = [i for i, place in enumerate(order) if place is None]
    if lacking:
        made_ND[lacking] = rows_ND.float().mean(dim=0).to(rows_ND.dtype)
    return made_ND
