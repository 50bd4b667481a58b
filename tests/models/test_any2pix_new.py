"""any2pix/ before training: what it takes over, what is new, and that it can be used at once."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from paintover import cli
from paintover.errors import ModelError
from paintover.models import bundle
from paintover.models.any2pix_new import LAYERS, WIDTH, fresh, new_any2pix
from paintover.models.any2pix_wording import VICUNA
from paintover.models.encoder_file import describe_encoder
from paintover.models.listing import BUILTIN
from paintover.models.mllm_file import load_mllm

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A media encoder's folder, of width 24."""
    from paintover.models.tiny import tiny

    return tiny(tmp_path_factory.mktemp("any2pix"), "any2pix") / "any2pix" / "encoder"


def test_the_built_in_one_begins_from_what_mgies_language_model_knows():
    parts = fresh(BUILTIN, 24)
    model, tokenizer = parts.language.model, parts.language.tokenizer
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (WIDTH, LAYERS)
    mllm = load_mllm(BUILTIN, CPU)
    theirs = mllm.model.model.language_model
    for name in ("layers.0.self_attn.q_proj.weight", "layers.3.mlp.down_proj.weight", "norm.weight"):
        assert torch.equal(model.model.get_parameter(name), theirs.get_parameter(name))
    for word in ("lemon", "##s", ":", "[SEP]"):
        place, there = tokenizer.get_vocab()[word], mllm.tokenizer.get_vocab()[word]
        assert torch.equal(model.get_input_embeddings().weight[place], theirs.embed_tokens.weight[there])
    new = torch.stack(
        [model.get_input_embeddings().weight[tokenizer.get_vocab()[token]] for token in parts.language.wording.tokens]
    )
    assert torch.pdist(new).min() > 0
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert parts.language.width == parts.prior.config.width == 24


def test_a_bundle_without_a_language_model_gets_a_new_one(tiny_bundle):
    a, b = (fresh(tiny_bundle("builtin"), 24, seed=seed).language.model.model.norm.weight for seed in (0, 1))
    assert a.shape == b.shape == (WIDTH,)
    with pytest.raises(ModelError, match="tokenizer"):
        fresh(tiny_bundle("sdxl"), 24)


@torch.no_grad()
def test_a_bundle_with_untrained_parts_can_be_asked_at_once(tiny_bundle, encoder, tmp_path):
    base = tiny_bundle("mgie-builtin")
    new_any2pix(base, tmp_path / "out", encoder)
    made, before = bundle.load(tmp_path / "out", device="cpu"), bundle.load(base, device="cpu")
    assert made.capabilities == before.capabilities | {"any2pix"}
    seen_E = made.encoder().see([np.zeros((20, 30, 3), np.uint8)])[0]
    understood = made.any2pix().language.understand("paint [image1]", {"image1": seen_E})
    assert understood.gens[0].shape == (24,)
    assert made.any2pix() is made.any2pix()
    assert made.encoder() is made.encoder()
    x, tokens, pooled = torch.randn(1, made.codec.channels, 8, 8), *made.text.encode(["a cow"])
    media = torch.randn(1, 1 + made.adapted().adapter.locals, 24)
    plain = before.denoiser(x, torch.tensor([500]), tokens, pooled, None)
    assert torch.equal(
        made.adapted()(x, torch.tensor([500]), tokens, pooled, None, media_BSE=media), plain
    )  # it changes nothing yet
    assert made.mllm().answer(["a cow"], [None])[0].text == before.mllm().answer(["a cow"], [None])[0].text
    with pytest.raises(ModelError, match="exists"):
        new_any2pix(base, tmp_path / "out", encoder)


def test_bundles_without_it_say_so(tiny_bundle):
    without = bundle.load(tiny_bundle("builtin"), device="cpu")
    for part in (without.any2pix, without.encoder):
        with pytest.raises(ModelError, match="any2pix"):
            part()


def test_a_llama_of_any_size(tiny_bundle, encoder, tmp_path):
    """As Vicuna is asked; its tokens are looked up by name, and its own rows stay as they were."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["<unk>", "<s>", "</s>", "\u2581", *(chr(code) for code in range(33, 127))]
    letters = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path / "llama")
    config = LlamaConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(tokenizer),
        max_position_embeddings=1024,
    )  # fmt: skip
    before = LlamaForCausalLM(config)
    before.save_pretrained(tmp_path / "llama")
    new_any2pix(tiny_bundle("builtin"), tmp_path / "out", encoder, tmp_path / "llama", seed=3)
    language = bundle.load(tmp_path / "out", device="cpu").any2pix().language
    assert language.wording.prompt == VICUNA
    torch.testing.assert_close(language.model.lm_head.weight[: len(tokenizer)], before.lm_head.weight, rtol=1e-3, atol=1e-4)
    assert language.understand("paint it [image1]", {"image1": torch.eye(24)[0]}).base_E is not None
    with pytest.raises(ModelError, match="LLaMA"):
        new_any2pix(tiny_bundle("builtin"), tmp_path / "other", encoder, tmp_path)


def test_an_encoder_is_named_by_its_folder(tiny_bundle, encoder, tmp_path):
    assert describe_encoder(encoder) == ("small", 24)
    with pytest.raises(ModelError):
        new_any2pix(tiny_bundle("builtin"), tmp_path / "out", tmp_path)
    shutil.copy(encoder / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelError, match="safetensors"):
        new_any2pix(tiny_bundle("builtin"), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command(tiny_bundle, encoder, tmp_path, capsys):
    words = [
        "models",
        "new-any2pix",
        "--base",
        str(tiny_bundle("builtin")),
        "--encoder",
        str(encoder),
        "-o",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert (ended.value.code, capsys.readouterr().out.strip()) == (0, str(tmp_path / "out"))
    assert "any2pix" in bundle.load(tmp_path / "out", device="cpu").capabilities
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "--force" in capsys.readouterr().err
