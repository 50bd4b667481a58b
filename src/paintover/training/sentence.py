"""A pretrained sentence encoder, cut down to the words that are needed: most of a small BERT is its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from paintover.models.quiet import quiet
from paintover.models.text import SentenceText


def prune_sentence_encoder(
    source_folder: str | Path, texts: Iterable[str], out_folder: str | Path, basic: int = 4000, length: int = 32
) -> dict[str, float]:
    """Writes out_folder/text_encoder and out_folder/tokenizer: the BERT of `source_folder` with fewer words.

    Kept are the special pieces, every piece that `texts` are made of, every single character (alone and as "##x", so
    that nothing printable becomes [UNK]) and the `basic` most frequent whole words (a BERT vocabulary is ordered by
    frequency). A text made of kept words gets the very states that it got before, because WordPiece takes the longest
    piece that matches: fewer pieces can change no choice that still stands. Weights are written as float16.

    Returns the settings that go under "text" in paintover.json: `length`, and the `token_scale` that gives the token
    states of `texts` unit variance; and the number of `pieces` kept.
    """
    from tokenizers import Tokenizer
    from transformers.models.bert.modeling_bert import BertModel

    source, out, texts = Path(source_folder), Path(out_folder), list(texts)
    with quiet():
        model = BertModel.from_pretrained(source, add_pooling_layer=False, use_safetensors=True, local_files_only=True)
    model = model.float()
    spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    spec["truncation"] = spec["padding"] = None
    kept = _kept_pieces(Tokenizer.from_str(json.dumps(spec)), spec["model"]["vocab"], texts, basic)

    words_VD = model.embeddings.word_embeddings.weight[torch.tensor(list(kept.values()))]
    new_id = {piece: i for i, piece in enumerate(kept)}
    model.embeddings.word_embeddings = nn.Embedding.from_pretrained(words_VD.detach(), padding_idx=new_id["[PAD]"])
    model.config.vocab_size = len(kept)
    model.config.pad_token_id = new_id["[PAD]"]
    spec["model"]["vocab"] = new_id
    for token in spec["added_tokens"]:
        token["id"] = new_id[token["content"]]
    post = spec["post_processor"]
    for name, token in post.get("special_tokens", {}).items():  # TemplateProcessing
        token["ids"] = [new_id[name]]
    for key in ("sep", "cls"):  # BertProcessing
        if key in post:
            post[key] = [post[key][0], new_id[post[key][0]]]

    (out / "tokenizer").mkdir(parents=True, exist_ok=True)
    (out / "tokenizer" / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **special}
    (out / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    text = SentenceText(model, Tokenizer.from_str(json.dumps(spec)), length=length)
    token_scale = unit_token_scale(text, texts)
    with quiet():
        model.half().save_pretrained(out / "text_encoder")
    return {"length": length, "token_scale": token_scale, "pieces": len(kept)}


def unit_token_scale(text: SentenceText, texts: Sequence[str], batch: int = 64) -> float:
    """The `token_scale` at which the token states of `texts` (padding aside) have a mean square of 1."""
    square, count = 0.0, 0
    for start in range(0, len(texts), batch):
        tokens_BLD, _ = text.encode(texts[start : start + batch])
        square += float(tokens_BLD.square().sum())
        count += int(tokens_BLD.any(dim=-1).sum()) * text.width
    return text.token_scale * (count / square) ** 0.5 if square else text.token_scale


def _kept_pieces(tokenizer: object, vocabulary: dict[str, int], texts: Sequence[str], basic: int) -> dict[str, int]:
    """Piece -> its id in the whole vocabulary, in that order."""
    used = {piece for row in tokenizer.encode_batch(list(texts)) for piece in row.tokens}  # type: ignore[attr-defined]
    words = sorted((piece for piece in vocabulary if len(piece) > 1 and piece.isalpha()), key=vocabulary.__getitem__)
    used.update(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), words[:basic])
    used.update(piece for piece in vocabulary if len(piece.removeprefix("##")) == 1)
    return {piece: vocabulary[piece] for piece in sorted(used, key=vocabulary.__getitem__)}
