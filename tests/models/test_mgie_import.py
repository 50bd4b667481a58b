"""MGIE's release imported: key by key from what users have on disk, in small, against numbers computed straight from that.

Names are written out as they were published, not borrowed from what reads them.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from paintover import cli
from paintover.conditions import mgie as conditions
from paintover.errors import ModelError
from paintover.models import bundle
from paintover.models.llava_import import import_llava
from paintover.models.mgie_import import import_mgie
from paintover.models.mgie_tokens import read_tokenizer, with_tokens

WIDTH, LAYERS, FEED = 32, 2, 48
SEEN, SEEN_LAYERS, PIXELS, PATCH = 16, 3, 28, 14  # CLIP's
HIDDEN, QUERIES, OUT, MAPPER, MAPPER_FEED = 16, 77, 32, 4, 24  # the edit head's
LETTERS = ["<unk>", "<s>", "</s>", "\u2581", "\n", *(chr(code) for code in range(33, 127))]
PICTURE = ["<im_patch>", "<im_start>", "<im_end>"]
IMAGES = [f"[IMG{i}]" for i in range(8)]
State = dict[str, Tensor]


@dataclass
class Released:
    """Folders, and what was written into them."""

    llava: Path
    clip: Path
    mgie: Path
    weights: State
    seen: State
    mllm: State
    unet: State


def llama(rows: int) -> State:
    """LLaMA as transformers of 2023 saved it."""
    state = {"model.embed_tokens.weight": _some(rows, WIDTH), "model.norm.weight": _some(WIDTH) + 1}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            state[f"{at}self_attn.{name}.weight"] = _some(WIDTH, WIDTH)
        state[f"{at}mlp.gate_proj.weight"] = _some(FEED, WIDTH)
        state[f"{at}mlp.up_proj.weight"] = _some(FEED, WIDTH)
        state[f"{at}mlp.down_proj.weight"] = _some(WIDTH, FEED)
        state[f"{at}input_layernorm.weight"] = _some(WIDTH) + 1
        state[f"{at}post_attention_layernorm.weight"] = _some(WIDTH) + 1
        state[f"{at}self_attn.rotary_emb.inv_freq"] = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    return {**state, "lm_head.weight": _some(rows, WIDTH)}


def clip() -> State:
    """CLIP's vision tower, and something of its text tower, which nobody asks for."""
    v = "vision_model."
    state = {
        f"{v}embeddings.class_embedding": _some(SEEN),
        f"{v}embeddings.patch_embedding.weight": _some(SEEN, 3, PATCH, PATCH),
        f"{v}embeddings.position_embedding.weight": _some((PIXELS // PATCH) ** 2 + 1, SEEN),
        f"{v}embeddings.position_ids": torch.arange((PIXELS // PATCH) ** 2 + 1)[None],
        "text_model.final_layer_norm.weight": _some(SEEN),
        "logit_scale": torch.tensor(4.6),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        state |= {f"{v}{name}.weight": _some(SEEN) + 1, f"{v}{name}.bias": _some(SEEN)}
    for i in range(SEEN_LAYERS):
        at = f"{v}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= {f"{at}self_attn.{name}.weight": _some(SEEN, SEEN), f"{at}self_attn.{name}.bias": _some(SEEN)}
        for name in ("layer_norm1", "layer_norm2"):
            state |= {f"{at}{name}.weight": _some(SEEN) + 1, f"{at}{name}.bias": _some(SEEN)}
        state |= {f"{at}mlp.fc1.weight": _some(2 * SEEN, SEEN), f"{at}mlp.fc1.bias": _some(2 * SEEN)}
        state |= {f"{at}mlp.fc2.weight": _some(SEEN, 2 * SEEN), f"{at}mlp.fc2.bias": _some(SEEN)}
    return state


def edit_head() -> State:
    """EditMapper's keys: nn.Transformer's own, behind edit_head.mapper."""
    state = {"llm2hid.weight": _some(HIDDEN, WIDTH), "llm2hid.bias": _some(HIDDEN), "query": _some(1, QUERIES, HIDDEN)}
    state |= {"hid2feat.weight": _some(OUT, HIDDEN), "hid2feat.bias": _some(OUT)}
    for side, attentions, norms in (("encoder", ["self_attn"], 2), ("decoder", ["self_attn", "multihead_attn"], 3)):
        state |= {f"mapper.{side}.norm.weight": _some(HIDDEN) + 1, f"mapper.{side}.norm.bias": _some(HIDDEN)}
        for i in range(MAPPER):
            at = f"mapper.{side}.layers.{i}."
            for name in attentions:
                state |= {
                    f"{at}{name}.in_proj_weight": _some(3 * HIDDEN, HIDDEN),
                    f"{at}{name}.in_proj_bias": _some(3 * HIDDEN),
                }
                state |= {f"{at}{name}.out_proj.weight": _some(HIDDEN, HIDDEN), f"{at}{name}.out_proj.bias": _some(HIDDEN)}
            state |= {f"{at}linear1.weight": _some(MAPPER_FEED, HIDDEN), f"{at}linear1.bias": _some(MAPPER_FEED)}
            state |= {f"{at}linear2.weight": _some(HIDDEN, MAPPER_FEED), f"{at}linear2.bias": _some(HIDDEN)}
            for n in range(norms):
                state |= {f"{at}norm{n + 1}.weight": _some(HIDDEN) + 1, f"{at}norm{n + 1}.bias": _some(HIDDEN)}
    return {f"edit_head.{name}": tensor for name, tensor in state.items()}


def save_tokenizer(folder: Path, before: list[str] = [], picture: bool = True, after: list[str] = []) -> None:  # noqa: B006
    """LLaMA's kind of tokenizer, a piece a letter; before, the picture's tokens and after are added in this order."""
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LETTERS[:3]])
    tokenizer.add_special_tokens([*before, *(PICTURE if picture else []), *after])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(folder)


def release(folder: Path, unet: State, emb: bool = True, rows: int = len(LETTERS) + 3) -> Released:
    """Writes llava/ (two .bin shards), clip/ (one .bin) and mgie/ (mllm.pt, unet.pt) for the UNet's names and shapes."""
    torch.manual_seed(7)
    folders = [folder / name for name in ("llava", "clip", "mgie")]
    for place in folders:
        place.mkdir(parents=True)
    llava, seen, mgie = folders
    weights = {**llama(rows), "model.mm_projector.weight": _some(WIDTH, SEEN), "model.mm_projector.bias": _some(WIDTH)}
    weights = {name: tensor.half() for name, tensor in weights.items()}
    save_llava(llava, weights)
    save_tokenizer(llava)
    tower = {name: tensor.half().to(tensor.dtype) for name, tensor in clip().items()}  # numbers that half precision can hold
    torch.save(tower, seen / "pytorch_model.bin")
    told = {"hidden_size": SEEN, "intermediate_size": 2 * SEEN, "num_hidden_layers": SEEN_LAYERS, "num_attention_heads": 2}
    told |= {"image_size": PIXELS, "patch_size": PATCH, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    told |= {
        "model_type": "clip_vision_model",
        "transformers_version": "4.16.0.dev0",
        "torch_dtype": None,
        "bad_words_ids": None,
    }
    (seen / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": told}))
    (seen / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}))
    mllm = {"model.embed_tokens.weight": _some(rows + 8, WIDTH), "lm_head.weight": _some(rows + 8, WIDTH), **edit_head()}
    mllm = {name: tensor.half() for name, tensor in mllm.items()}
    if emb:
        mllm["emb"] = mllm["model.embed_tokens.weight"][-8:][None].clone()
    painted = {name: _some(*tensor.shape).half() for name, tensor in unet.items()}
    torch.save(mllm, mgie / "mllm.pt")
    torch.save(painted, mgie / "unet.pt")
    return Released(llava, seen, mgie, weights, tower, mllm, painted)


def save_llava(folder: Path, weights: State) -> None:
    names = sorted(weights)
    files = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for file, inside in files.items():
        torch.save({name: weights[name] for name in inside}, folder / file)
    index = {"weight_map": {name: file for file, inside in files.items() for name in inside}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_size": WIDTH,
        "intermediate_size": FEED,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "vocab_size": len(weights["lm_head.weight"]),
        "pad_token_id": 0,
        "mm_vision_tower": "openai/clip-vit-large-patch14",
        "mm_hidden_size": SEEN,
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": True,
        "use_mm_proj": True,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _some(*shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape)


SAID = "The sky is dark."
INSTRUCTION = "make it night"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions."
)


@pytest.fixture(scope="module")
def base(tiny_bundle):
    return tiny_bundle("instruct")


@pytest.fixture(scope="module")
def unet(base) -> State:
    return dict(bundle.load(base, device="cpu").denoiser.unet.state_dict())


@pytest.fixture
def made(tmp_path, unet) -> Released:
    return release(tmp_path / "have", unet)


@pytest.fixture
def picture():
    return np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def bring(made: Released, base: Path, out: Path, **options) -> list[str]:
    return import_mgie(made.llava, made.mgie, base, out, vision=made.clip, **options)


def letters(text: str) -> list[int]:
    """LLaMA's ids of a piece of text between special tokens, one a letter."""
    return [LETTERS.index(letter) for letter in "\u2581" + text.replace(" ", "\u2581")]


def conversation(rows: int, shown: bool) -> tuple[list[int], int]:
    """The release's ids (its rows) of question and answer with the [IMG] tokens, and where the first of these stands."""
    patch, start, end = range(rows - 11, rows - 8)
    asked = f"{SYSTEM} USER: what will this image be like if '{INSTRUCTION}'"
    view = [start, *[patch] * (PIXELS // PATCH) ** 2, end]
    question = [*letters(asked), *view, *letters("ASSISTANT:")] if shown else letters(f"{asked} ASSISTANT:")
    ids = [1, *question, *letters(SAID)]
    return ids + list(range(rows - 8, rows)) + [2], len(ids)


def told(made: Released, pixels_CHW: Tensor | None, weights: State | None = None) -> tuple[Tensor, Tensor]:
    """h_[IMG] and U, computed from the files: rows of embeddings, W as one linear layer, nn.Transformer with the same keys."""
    mllm = {name.removeprefix("model."): tensor.float() for name, tensor in made.mllm.items()}
    weights = {name: tensor.float() for name, tensor in (weights or made.weights).items()}
    rows = mllm["embed_tokens.weight"]
    ids, first = conversation(len(rows), pixels_CHW is not None)
    states = rows[ids].clone()
    if pixels_CHW is not None:
        tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=SEEN,
                intermediate_size=2 * SEEN,
                num_hidden_layers=SEEN_LAYERS,
                num_attention_heads=2,
                image_size=PIXELS,
                patch_size=PATCH,
            )
        ).eval()
        seen = {name.removeprefix("vision_model."): tensor for name, tensor in made.seen.items()}
        tower.load_state_dict({name: seen[name.removeprefix("vision_model.")] for name in tower.state_dict()})
        features = tower(pixels_CHW[None], output_hidden_states=True).hidden_states[-2][0, 1:]
        w, b = weights["model.mm_projector.weight"], weights["model.mm_projector.bias"]
        states[[i for i, one in enumerate(ids) if one == len(rows) - 11]] = features @ w.T + b
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(rows),
            hidden_size=WIDTH,
            intermediate_size=FEED,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            rms_norm_eps=1e-6,
        )
    ).eval()
    language.load_state_dict(
        {**weights, "model.embed_tokens.weight": rows, "lm_head.weight": mllm["lm_head.weight"]}, strict=False
    )
    hidden = language.model(inputs_embeds=states[None]).last_hidden_state[0, first - 1 : first + 7]
    head = {name.removeprefix("edit_head."): tensor for name, tensor in mllm.items() if name.startswith("edit_head.")}
    mapper = nn.Transformer(HIDDEN, 4, MAPPER, MAPPER, MAPPER_FEED, 0.0, batch_first=True, norm_first=True).eval()
    mapper.load_state_dict({name.removeprefix("mapper."): t for name, t in head.items() if name.startswith("mapper.")})
    emb = mllm["emb"][0] if "emb" in mllm else rows[-8:]
    given = (hidden + emb) @ head["llm2hid.weight"].T + head["llm2hid.bias"]
    return hidden, mapper(given[None], head["query"]) @ head["hid2feat.weight"].T + head["hid2feat.bias"]


@torch.no_grad()
def check(out: Path, made: Released, picture, weights: State | None = None) -> None:
    """What the bundle makes of the picture and the instruction, and of the instruction alone, is what the files make of it."""
    loaded = bundle.load(out, device="cpu")
    mllm = loaded.mllm()
    for shown in (picture, None):
        [answer] = mllm.answer([INSTRUCTION], [shown], [SAID])
        hidden, u = told(made, None if shown is None else mllm.see(shown), weights)
        torch.testing.assert_close(answer.hidden_ND, hidden, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(mllm.guide(answer.hidden_ND[None]), u, atol=2e-5, rtol=1e-4)
        tokens_BLD, pooled = conditions.told(mllm, loaded.denoiser, answer.hidden_ND[None])
        assert tokens_BLD.shape == (1, QUERIES, loaded.denoiser.text_width)
        assert pooled is None
    state = loaded.denoiser.unet.state_dict()
    assert state.keys() == made.unet.keys()
    for name, tensor in made.unet.items():
        torch.testing.assert_close(state[name], tensor.float(), atol=0, rtol=0)


def test_the_bundle_says_what_the_released_files_say(made, base, picture, tmp_path):
    counts = []
    assert bring(made, base, tmp_path / "out", report=lambda done, total: counts.append((done, total))) == []
    assert counts == [(i + 1, len(counts)) for i in range(len(counts))]
    check(tmp_path / "out", made, picture)
    about = bundle.load(tmp_path / "out", device="cpu")
    assert {"mgie", "instruct"} <= about.capabilities
    assert "not for commercial use" in about.card.summary
    mllm = about.mllm()
    assert mllm.mean_C.tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert len(mllm.answer([INSTRUCTION], [picture])) == 1  # generates
    assert sorted(path.name for path in tmp_path.iterdir()) == ["have", "out"]


def test_every_published_name_has_its_place(made, base, tmp_path):
    """Key by key: which tensor of the files stands where."""
    bring(made, base, tmp_path / "out")
    part = tmp_path / "out" / "mgie"
    got = {}
    with safe_open(part / "language_model" / "model.safetensors", framework="pt") as file:
        got |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in got.values()} == {torch.float16}
    projector = "model.multi_modal_projector."
    expected = {
        "model.language_model.embed_tokens.weight": made.mllm["model.embed_tokens.weight"],
        "lm_head.weight": made.mllm["lm_head.weight"],
        f"{projector}linear_1.weight": made.weights["model.mm_projector.weight"],
        f"{projector}linear_1.bias": made.weights["model.mm_projector.bias"],
        f"{projector}linear_2.weight": torch.eye(WIDTH),
        f"{projector}linear_2.bias": torch.zeros(WIDTH),
    }
    for name, tensor in made.weights.items():
        if re.match(r"model\.(layers|norm)\b", name) and "inv_freq" not in name:
            expected[name.replace("model.", "model.language_model.", 1)] = tensor
    for name, tensor in made.seen.items():
        if name.startswith("vision_model.") and "position_ids" not in name:
            expected[name.replace("vision_model.", "model.vision_tower.", 1)] = tensor
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor.half()), name
    config = json.loads((part / "language_model" / "config.json").read_text())
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")
    assert config["projector_hidden_act"] == "linear"


def test_shards_are_written_and_read(made, base, picture, tmp_path):
    bring(made, base, tmp_path / "out", most=20_000)
    assert len(list((tmp_path / "out" / "mgie" / "language_model").glob("model-*-of-*.safetensors"))) > 2
    assert all(file.stat().st_size < 40_000 for file in (tmp_path / "out" / "mgie" / "language_model").glob("*.safetensors"))
    # The UNet's largest tensor is a shard of its own, so its folder has several, too.
    check(tmp_path / "out", made, picture)


def test_a_release_that_was_trained_by_oneself_has_no_emb(unet, base, picture, tmp_path):
    made = release(tmp_path / "have", unet, emb=False)
    bring(made, base, tmp_path / "out")
    check(tmp_path / "out", made, picture)


def test_emb_that_is_not_the_last_rows_is_told(made, base, tmp_path):
    made.mllm["emb"] = made.mllm["emb"] + 1
    torch.save(made.mllm, made.mgie / "mllm.pt")
    [odd] = bring(made, base, tmp_path / "out")
    assert "emb in mllm.pt" in odd
    mllm = bundle.load(tmp_path / "out", device="cpu").mllm()
    torch.testing.assert_close(mllm.embeddings_ND, made.mllm["emb"][0].float(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("tokens", "first", "odd"),
    [
        ({"after": ["<pad>", "<more>"]}, len(LETTERS) + 5, True),  # tokens that no row is for, and [IMG] behind them
        ({"after": IMAGES[::-1]}, len(LETTERS) + 10, False),  # it knows the [IMG] tokens, in an order of its own
        ({"picture": False, "after": ["<pad>"]}, len(LETTERS) + 4, False),  # it knows no token of the picture's
    ],
)
def test_rows_follow_the_tokenizer(made, base, picture, tmp_path, tokens, first, odd):
    """Another tokenizer has other ids; what the model says is the same."""
    save_tokenizer(made.llava, **tokens)
    assert bool(bring(made, base, tmp_path / "out")) == odd
    mllm = bundle.load(tmp_path / "out", device="cpu").mllm()
    assert mllm.image_ids[0] == first != len(LETTERS) + 3
    check(tmp_path / "out", made, picture)


def test_a_delta_is_added_to_its_llama(made, base, picture, tmp_path):
    """The sum of both; embeddings and head are longer in the delta, and the projector is its own."""
    torch.manual_seed(11)
    below = {name: tensor.half() for name, tensor in llama(len(LETTERS)).items()}
    (tmp_path / "llama").mkdir()
    save_file(below, tmp_path / "llama" / "model.safetensors")
    bring(made, base, tmp_path / "out", llama=tmp_path / "llama")
    sums = {
        name: tensor + below[name] if name in below and tensor.shape == below[name].shape else tensor
        for name, tensor in made.weights.items()
    }
    check(tmp_path / "out", made, picture, weights=sums)


def test_llava_alone_becomes_a_folder_of_transformers(made, tmp_path):
    """With a delta: the first rows of embeddings and head are sums, the rest and the projector are the delta's own."""
    torch.manual_seed(11)
    below = {name: tensor.half() for name, tensor in llama(len(LETTERS)).items()}
    (tmp_path / "llama").mkdir()
    save_file(below, tmp_path / "llama" / "model.safetensors")
    import_llava(made.llava, tmp_path / "out", llama=tmp_path / "llama", vision=made.clip)
    model, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    state = model.state_dict()
    for name, here in (("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"), ("lm_head.weight",) * 2):
        rows = made.weights[name].clone()
        rows[: len(LETTERS)] += below[name]
        assert torch.equal(state[here], rows)
        assert torch.equal(rows[len(LETTERS) :], made.weights[name][len(LETTERS) :])
        assert not torch.equal(rows[: len(LETTERS)], made.weights[name][: len(LETTERS)])
    up = "layers.1.mlp.up_proj.weight"
    assert torch.equal(state[f"model.language_model.{up}"], made.weights[f"model.{up}"] + below[f"model.{up}"])
    assert torch.equal(state["model.multi_modal_projector.linear_1.weight"], made.weights["model.mm_projector.weight"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<im_patch>") == model.config.image_token_id == len(LETTERS)


def test_the_vision_tower_that_llava_brings_along_is_its_own(made, base, picture, tmp_path):
    tuned = {
        name: tensor + 0.1 for name, tensor in made.seen.items() if name.startswith("vision_model.") and "_ids" not in name
    }
    save_llava(made.llava, made.weights | {f"model.vision_tower.{name}": tensor.half() for name, tensor in tuned.items()})
    bring(made, base, tmp_path / "out")
    made.seen |= {name: tensor.half().float() for name, tensor in tuned.items()}
    check(tmp_path / "out", made, picture)


def test_llamas_own_tokenizer_says_what_sentencepiece_says(tmp_path):
    """tokenizer.model, as LLaVA's folder has it; special tokens take the spaces around them along, as in MGIE's training."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / "llava"
    folder.mkdir()
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, pages[:8])),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=800,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "added_tokens.json").write_text(json.dumps({"<im_end>": 802, "<im_patch>": 800, "<im_start>": 801}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}))
    tokenizer = with_tokens(read_tokenizer(folder), [*PICTURE, *IMAGES])
    assert [tokenizer.get_vocab()[token] for token in (*PICTURE, *IMAGES)] == list(range(800, 811))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    asked = f"{SYSTEM} USER: what will this image be like if 'make  the caf\u00e9 of 1990 \u96ea'"
    text = f"{asked}\n<im_start><im_patch><im_patch><im_end> ASSISTANT: {SAID} [IMG0] [IMG1]"
    expected = [*pieces.encode(asked), 801, 800, 800, 802, *pieces.encode(f"ASSISTANT: {SAID}"), 803, 804]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected


class Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


def _rewrite(file: Path, change) -> None:
    state = torch.load(file)
    change(state)
    torch.save(state, file)


def _config(folder: Path, **changes) -> None:
    told = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(told))


BREAK = {
    "no mllm.pt": (lambda made: (made.mgie / "mllm.pt").unlink(), "there is no .*mllm.pt"),
    "no folder": (lambda made: shutil.rmtree(made.mgie), "there is no .*mllm.pt"),
    "a pickle that runs": (lambda made: torch.save({"a": Evil()}, made.mgie / "mllm.pt"), "mllm.pt cannot be read"),
    "a cut file": (lambda made: (made.mgie / "unet.pt").write_bytes(b"PK\x03\x04 no"), "unet.pt cannot be read"),
    "no state": (lambda made: torch.save([1], made.mgie / "mllm.pt"), "holds no named tensors"),
    "no query": (lambda made: _rewrite(made.mgie / "mllm.pt", lambda s: s.pop("edit_head.query")), "no edit_head.query"),
    "a norm is lacking": (
        lambda made: _rewrite(made.mgie / "mllm.pt", lambda s: s.pop("edit_head.mapper.decoder.layers.3.norm3.bias")),
        r"edit_head in mllm.pt does not fit: it has no mapper.decoder.layers.3.norm3.bias",
    ),
    "something else": (
        lambda made: _rewrite(made.mgie / "mllm.pt", lambda s: s.update(a=torch.ones(1))),
        "mllm.pt has a; expected",
    ),
    "another head": (
        lambda made: _rewrite(made.mgie / "mllm.pt", lambda s: s.update({"lm_head.weight": torch.ones(3, 4)})),
        r"mllm.pt does not fit: it has lm_head.weight of shape \[3, 4\], not \[110, 32\]",
    ),
    "a UNet's key": (
        lambda made: _rewrite(made.mgie / "unet.pt", lambda s: s.update({"conv_in.weight": s["conv_in.weight"][:, :4]})),
        r"unet.pt.* does not fit: it has conv_in.weight of shape \[32, 4, 3, 3\], not \[32, 8, 3, 3\]",
    ),
    "not a number": (
        lambda made: _rewrite(made.mgie / "unet.pt", lambda s: s["conv_in.bias"].fill_(torch.nan)),
        "conv_in.bias holds what half precision cannot",
    ),
    "a shard": (
        lambda made: (made.llava / "pytorch_model-00002-of-00002.bin").unlink(),
        "has no pytorch_model-00002-of-00002.bin",
    ),
    "a layer": (
        lambda made: save_llava(
            made.llava, {k: v for k, v in made.weights.items() if k != "model.layers.1.mlp.up_proj.weight"}
        ),
        "has no model.layers.1.mlp.up_proj.weight",
    ),
    "two layers of projector": (
        lambda made: save_llava(made.llava, made.weights | {"model.mm_projector.2.weight": torch.ones(1)}),
        "model.mm_projector.2.weight, which is unknown",
    ),
    "another layout": (lambda made: (made.llava / "config.json").write_text("{}"), "no LLaVA of the first layout"),
    "nothing around": (lambda made: _config(made.llava, mm_use_im_start_end=False), "puts no <im_start>"),
    "another width": (lambda made: _config(made.llava, hidden_size=64), "32 wide .*LLaVA is 64"),
    "no tokenizer": (lambda made: (made.llava / "tokenizer.json").unlink(), "neither tokenizer.json nor tokenizer.model"),
    "no tower": (lambda made: (made.clip / "pytorch_model.bin").unlink(), "has no weights"),
    "a tower's key": (
        lambda made: _rewrite(made.clip / "pytorch_model.bin", lambda s: s.pop("vision_model.embeddings.class_embedding")),
        "the vision tower .* has no model.vision_tower.embeddings.class_embedding",
    ),
}


@pytest.mark.parametrize("what", BREAK)
def test_what_is_broken_is_named_in_one_line(made, base, tmp_path, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    break_it, line = BREAK[what]
    break_it(made)
    with pytest.raises(ModelError, match=line) as error:
        bring(made, base, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["have"], "nothing is left, and no pickle has run"


def test_a_base_without_a_source_picture_is_refused(made, tiny_bundle, tmp_path):
    with pytest.raises(ModelError, match="no UNet that takes a source picture"):
        bring(made, tiny_bundle("text-to-image"), tmp_path / "out")


def test_without_a_vision_tower_it_is_asked_for(made, base, tmp_path):
    with pytest.raises(ModelError, match="--vision; this LLaVA was made with openai/clip-vit-large-patch14"):
        import_mgie(made.llava, made.mgie, base, tmp_path / "out")
    _config(made.llava, mm_vision_tower=str(made.clip))
    import_mgie(made.llava, made.mgie, base, tmp_path / "out")


def test_a_delta_needs_the_whole_llama(made, base, tmp_path):
    (tmp_path / "llama").mkdir()
    below = {name: tensor.half() for name, tensor in llama(len(LETTERS)).items()}
    del below["model.norm.weight"]
    save_file(below, tmp_path / "llama" / "model.safetensors")
    with pytest.raises(ModelError, match=r"the LLaMA that the delta is added to does not fit: it has no model\.norm\.weight$"):
        bring(made, base, tmp_path / "out", llama=tmp_path / "llama")


def test_nothing_is_replaced_unasked(made, base, picture, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ModelError, match="is no model" if force else "exists"):
            bring(made, base, out, force=force)
    assert (out / "mine.txt").read_text() == "mine"
    shutil.copytree(base, out, dirs_exist_ok=True)
    bring(made, base, out, force=True)
    assert not (out / "mine.txt").exists()
    check(out, made, picture)


def run(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_asks_for_the_licences_and_shows_them(made, base, tmp_path, capsys):
    words = ["models", "import", "mgie", "--llava", made.llava, "--vision", made.clip, "--mgie", made.mgie, "--base", base]
    words += ["-o", tmp_path / "out"]
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert "--accept-licences" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    code, out, err = run(capsys, *words, "--accept-licences")
    assert (code, out.strip()) == (0, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    for name in ("LLaMA", "LLaVA", "Apple", "CC BY-NC", "OpenRAIL"):
        assert name in err
        assert name in card
    code, out, err = run(capsys, *words, "--accept-licences")
    assert code == 2
    assert "exists" in err.splitlines()[-1]
