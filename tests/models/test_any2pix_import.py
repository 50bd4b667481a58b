"""InstructAny2Pix's release imported: key by key from what users have on disk, in small, against numbers computed from that.

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
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from paintover import cli
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.errors import ModelError
from paintover.models import bundle
from paintover.models.adapter_file import load_adapter
from paintover.models.any2pix_file import load_any2pix
from paintover.models.any2pix_import import import_any2pix
from paintover.models.any2pix_language import language
from paintover.models.any2pix_wording import Answer
from paintover.models.imagebind_file import load_imagebind
from paintover.orders.order import request_for
from paintover.picture.open import open as open_picture
from paintover.sound.open import open as open_sound

CPU = torch.device("cpu")
E = 64  # of the media, of the prior and of its text encoder
WIDTH, LAYERS, FEED = 32, 2, 48  # the language model's
SEEN, HEARD = 32, 24  # ImageBind's, for 16 and 12 heads
PRIOR_LAYERS, TEXT_LAYERS, WORDS = 2, 3, 40
TEXT = 56  # of the tiny SDXL's attentions to words
LETTERS = ["<unk>", "<s>", "</s>", "\u2581", "\n", *(chr(code) for code in range(33, 127))]
SPECIAL = ["<im_gen_start>", "<im_gen>", "<mask_gen>", "<audio_gen>", "<audio_gen_start>", "<audio>", "<video>", "<base>"]
SPECIAL += ["<base_null>"]  # in this order they were added
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions."
)
State = dict[str, Tensor]


@dataclass
class Released:
    """The folder, and what was written into it."""

    folder: Path
    language: State
    imagebind: State
    prior: State
    adapter: State

    def save(self) -> None:
        for name in ("llm-retrained", "prior", "sdxl"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        save_language(self.folder / "llm-retrained", self.language)
        torch.save(self.imagebind, self.folder / "imagebind_huge.pth")
        torch.save(self.prior, self.folder / "prior" / "model.bin")
        parts: dict[str, State] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in self.adapter.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        torch.save(parts, self.folder / "sdxl" / "ip_adapter_global_local_2_view.bin")


def some(*shape: int) -> Tensor:
    return (0.2 * torch.randn(*shape)).half().float()  # numbers that half precision can hold


def linear(name: str, out: int, into: int) -> State:
    return {f"{name}.weight": some(out, into), f"{name}.bias": some(out)}


def normed(name: str, width: int) -> State:
    return {f"{name}.weight": (some(width) + 1).half().float(), f"{name}.bias": some(width)}


def language_state(rows: int) -> State:
    """A LLaMA with projectors, and what was never used."""
    state = {"model.embed_tokens.weight": some(rows, WIDTH), "model.norm.weight": some(WIDTH) + 1}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            state[f"{at}self_attn.{name}.weight"] = some(WIDTH, WIDTH)
        state |= {f"{at}mlp.gate_proj.weight": some(FEED, WIDTH), f"{at}mlp.up_proj.weight": some(FEED, WIDTH)}
        state |= {f"{at}mlp.down_proj.weight": some(WIDTH, FEED), f"{at}self_attn.rotary_emb.inv_freq": torch.ones(4)}
        state |= {f"{at}{name}_layernorm.weight": some(WIDTH) + 1 for name in ("input", "post_attention")}
    for medium in ("image", "audio"):
        state |= linear(f"model.vae_projector_{medium}.0", WIDTH, E) | linear(f"model.vae_projector_{medium}.2", WIDTH, WIDTH)
        state |= linear(f"model.vae_predictor_{medium}.0", WIDTH, WIDTH) | linear(f"model.vae_predictor_{medium}.2", E, WIDTH)
    state |= linear("model.mm_projector.0", WIDTH, E) | linear("model.mm_projector.2", WIDTH, WIDTH)
    state |= {"model.vision_tower.vision_tower.vision_model.embeddings.class_embedding": some(8)}
    return state | {"lm_head.weight": some(rows, WIDTH)}


def block(at: str, width: int, spare: bool) -> State:
    state = {f"{at}attn.in_proj_weight": some(3 * width, width), f"{at}attn.in_proj_bias": some(3 * width)}
    state |= {f"{at}attn.bias_{name}": some(1, 1, width) for name in "kv"} if spare else {}
    state |= linear(f"{at}attn.out_proj", width, width) | normed(f"{at}norm_1", width) | normed(f"{at}norm_2", width)
    return state | linear(f"{at}mlp.fc1", 4 * width, width) | linear(f"{at}mlp.fc2", width, 4 * width)


def imagebind_state() -> State:
    """Pictures of 28 x 28, sounds as published; and something of the branches that nobody asks for."""
    v, a = "modality_preprocessors.vision.", "modality_preprocessors.audio."
    state = {f"{v}cls_token": some(1, 1, SEEN), f"{v}rgbt_stem.proj.1.weight": some(SEEN, 3, 2, 14, 14)}
    state |= {f"{v}pos_embedding_helper.pos_embed": some(1, 5, SEEN)}
    state |= normed("modality_trunks.vision.pre_transformer_layer.0", SEEN)
    state |= {f"{a}cls_token": some(1, 1, HEARD), f"{a}rgbt_stem.proj.weight": some(HEARD, 1, 16, 16)}
    state |= normed(f"{a}rgbt_stem.norm_layer", HEARD) | {f"{a}pos_embedding_helper.pos_embed": some(1, 229, HEARD)}
    for name, width, layers in (("vision", SEEN, 3), ("audio", HEARD, 2)):
        for i in range(layers):
            state |= block(f"modality_trunks.{name}.blocks.{i}.", width, name == "audio")
        state |= normed(f"modality_heads.{name}.0", width) | {f"modality_heads.{name}.2.weight": some(E, width)}
    state |= {"modality_postprocessors.audio.1.log_logit_scale": torch.tensor(3.0)}
    state |= {"modality_preprocessors.text.token_embedding.weight": some(3, 4), "modality_preprocessors.text.mask": some(2, 2)}
    return state | normed("modality_heads.depth.0", 8)


def clip_text() -> State:
    """CLIP's text encoder, its names as transformers of 2023 had them."""
    state = {"embeddings.token_embedding.weight": some(WORDS, E), "embeddings.position_embedding.weight": some(77, E)}
    state |= {"embeddings.position_ids": torch.arange(77)[None]}
    for i in range(TEXT_LAYERS):
        at = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= linear(f"{at}self_attn.{name}", E, E)
        state |= normed(f"{at}layer_norm1", E) | normed(f"{at}layer_norm2", E)
        state |= linear(f"{at}mlp.fc1", 2 * E, E) | linear(f"{at}mlp.fc2", E, 2 * E)
    return state | normed("final_layer_norm", E)


def prior_state() -> State:
    state = {"start_of_sequence_tokens.weight": some(32, E), "end_of_sequence_tokens.weight": some(32, E)}
    state |= linear("input_sequence_embed_linear.1", E, E) | linear("input_sequence_embed_linear.2", E, E)
    state |= linear("input_sequence_embed_linear.3", E, 512) | {"modality_embedding.weight": some(10, E)}
    state |= {f"cond_stage_models.0.model.text_model.{name}": tensor for name, tensor in clip_text().items()}
    state |= {"model.wte.weight": some(50, E), "model.wpe.weight": some(1024, E)} | normed("model.ln_f", E)
    for i in range(PRIOR_LAYERS):
        at = f"model.h.{i}."
        state |= {f"{at}attn.bias": torch.ones(1, 1, 8, 8), f"{at}attn.masked_bias": torch.tensor(-1e4)}
        state |= normed(f"{at}ln_1", E) | normed(f"{at}ln_2", E)
        for name, into, out in (
            ("attn.c_attn", E, 3 * E),
            ("attn.c_proj", E, E),
            ("mlp.c_fc", E, 4 * E),
            ("mlp.c_proj", 4 * E, E),
        ):
            state |= {f"{at}{name}.weight": some(into, out), f"{at}{name}.bias": some(out)}
    return state


def adapter_state(hidden: list[int]) -> State:
    state = linear("image_proj.proj", 4 * TEXT, E) | normed("image_proj.norm", TEXT) | {"image_proj.raw_embed": some(2, TEXT)}
    for n, size in enumerate(hidden):
        state |= {f"ip_adapter.{2 * n + 1}.to_{part}_ip.weight": some(size, TEXT) for part in "kv"}
    return state


def save_tokenizer(folder: Path, special: list[str]) -> None:
    """LLaMA's kind of tokenizer, a piece a letter; special tokens are added in this order."""
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(LETTERS)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LETTERS[:3]])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(folder)


def save_language(folder: Path, state: State) -> None:
    names = sorted(state)
    files = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for file, inside in files.items():
        torch.save({name: state[name].bfloat16() for name in inside}, folder / file)
    index = {"weight_map": {name: file for file, inside in files.items() for name in inside}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["InstructAny2PixLMForCausalLM"],
        "model_type": "instructany2pix",
        "hidden_size": WIDTH,
        "intermediate_size": FEED,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "vocab_size": len(state["lm_head.weight"]),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "vae_image": "vq-npz",
        "mm_hidden_size": E,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if not (folder / "tokenizer").is_dir():
        save_tokenizer(folder / "tokenizer", SPECIAL)


@pytest.fixture(scope="module")
def base(tiny_bundle):
    return tiny_bundle("sdxl")


@pytest.fixture(scope="module")
def hidden(base) -> list[int]:
    unet = bundle.load(base, device="cpu").denoiser.unet
    names = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    return [unet.get_submodule(name).to_k.out_features for name in names]


@pytest.fixture
def made(tmp_path, hidden) -> Released:
    torch.manual_seed(3)
    states = language_state(len(LETTERS) + len(SPECIAL)), imagebind_state(), prior_state(), adapter_state(hidden)
    # Saved in bfloat16, as it was trained.
    rounded = {name: tensor.bfloat16().float() for name, tensor in states[0].items()}
    released = Released(tmp_path / "have" / "release", rounded, *states[1:])
    released.save()
    return released


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    """Linear, GELU, Linear."""
    inside = functional.gelu(x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
    return inside @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"]


@torch.no_grad()
def check_language(out: Path, made: Released) -> None:
    """What it says of an instruction and an answer is what comes out computed straight from the files."""
    said = load_any2pix(out, CPU).language
    media_2E = functional.normalize(torch.randn(2, E, generator=torch.Generator().manual_seed(1)), dim=-1)
    asked = said.asked(["add [audio1] to [image1]"], [["audio1", "image1"]], [Answer("a cow", subs=("cow",))])
    states_BLD = said.hidden(asked, media_2E)
    got = [said.project(states_BLD, places_N2)[0] for places_N2 in (asked.base_N2, asked.gens_N2, asked.subs_N2)]

    tokenizer = PreTrainedTokenizerFast.from_pretrained(made.folder / "llm-retrained" / "tokenizer")
    question = f"{SYSTEM} USER: add <video> to <video> ASSISTANT:"
    answer = "<base><video><im_gen_start><im_gen>[a cow]<video>additions:cow:<video>."
    ids = [tokenizer.convert_tokens_to_ids("<s>")]
    for text in (question, answer):
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    slots = [place for place, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<video>")]
    assert len(slots) == 5
    state = made.language
    embeds_LD = state["model.embed_tokens.weight"][ids].clone()
    embeds_LD[slots[:2]] += mlp(state, "model.vae_projector_image", 20 * media_2E)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(state["lm_head.weight"]), hidden_size=WIDTH, intermediate_size=FEED, num_hidden_layers=LAYERS,
            num_attention_heads=4, rms_norm_eps=1e-5, max_position_embeddings=4096,
        )
    ).eval()  # fmt: skip
    llama.load_state_dict({name: state[name] for name in llama.state_dict()})
    hidden_LD = llama.model(inputs_embeds=embeds_LD[None]).last_hidden_state[0]
    for tensor, slot in zip(got, slots[2:], strict=True):
        expected = mlp(state, "model.vae_predictor_image", hidden_LD[slot - 1])
        torch.testing.assert_close(tensor, expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def check_prior(out: Path, made: Released) -> None:
    """Source, embedding, the empty string, score; the state of the last mark is the answer."""
    prior = load_any2pix(out, CPU).prior
    state = made.prior
    e_BE, score_B = torch.randn(2, E), torch.tensor([6.5, 2.0])
    prefix = "cond_stage_models.0.model.text_model."
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=WORDS, hidden_size=E, intermediate_size=2 * E, num_hidden_layers=TEXT_LAYERS, num_attention_heads=1,
            hidden_act="gelu",
        )
    ).eval()  # fmt: skip
    told = {name: state[prefix + name.removeprefix("text_model.")] for name in text.state_dict()}
    text.load_state_dict(told)
    words_LD = text(input_ids=torch.tensor([[WORDS - 2, WORDS - 1]])).last_hidden_state[0]
    torch.testing.assert_close(prior.text_LD, words_LD, atol=2e-3, rtol=1e-3)
    words_LD = words_LD.half().float()
    angles = score_B[:, None] * 10_000 ** (-torch.arange(256) / 256)
    inputs = {1: 100 * functional.normalize(e_BE, dim=-1)[:, None], 2: words_LD.expand(2, -1, -1)}
    inputs |= {3: torch.cat([angles.cos(), angles.sin()], dim=1)[:, None]}
    sequence = [state["modality_embedding.weight"][3].expand(2, 1, -1)]
    for number, x in inputs.items():
        name = f"input_sequence_embed_linear.{number}"
        for mark in ("start", None, "end"):
            sequence.append(
                x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
                if mark is None
                else state[f"{mark}_of_sequence_tokens.weight"][number].expand(2, 1, -1)
            )
    gpt = GPT2Model(GPT2Config(vocab_size=50, n_positions=1024, n_embd=E, n_layer=PRIOR_LAYERS, n_head=1)).eval()
    gpt.load_state_dict({name: state[f"model.{name}"] for name in gpt.state_dict()})
    expected = gpt(inputs_embeds=torch.cat(sequence, dim=1)).last_hidden_state[:, -1]
    torch.testing.assert_close(prior.refine(e_BE, score_B), expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def check_adapter(out: Path, made: Released) -> None:
    """Each embedding as four tokens, to which the release's vector of its slot is added before the norm."""
    adapter = load_adapter(out, bundle.load(out, device="cpu").denoiser.unet)
    state = made.adapter
    media_BSE = torch.randn(3, 2, E)
    x = (media_BSE @ state["image_proj.proj.weight"].T + state["image_proj.proj.bias"]).unflatten(-1, (4, TEXT))
    x = (x + state["image_proj.raw_embed"][:, None]).flatten(1, 2)
    expected = functional.layer_norm(x, (TEXT,), state["image_proj.norm.weight"], state["image_proj.norm.bias"])
    torch.testing.assert_close(adapter(media_BSE), expected, atol=1e-4, rtol=1e-4)
    for name in (name for name in state if name.startswith("ip_adapter.")):
        assert torch.equal(adapter.get_parameter(name), state[name]), name


def check_imagebind(out: Path, made: Released) -> None:
    encoder = load_imagebind(out, CPU)
    used = re.compile(r"modality_(preprocessors|trunks|heads)\.(vision|audio)\.")
    expected = {name: tensor for name, tensor in made.imagebind.items() if used.match(name)}
    got = encoder.network.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    seen_BE = encoder.see([np.full((30, 40, 3), 90, np.uint8)])
    heard_BE = encoder.hear([np.zeros(16000, np.float32)])
    assert seen_BE.shape == heard_BE.shape == (1, E)
    assert seen_BE.isfinite().all()


def check(out: Path, made: Released) -> None:
    check_language(out, made)
    check_prior(out, made)
    check_adapter(out, made)
    check_imagebind(out, made)


def test_the_bundle_says_what_the_released_files_say(made, base, tmp_path):
    counts = []
    assert import_any2pix([made.folder], base, tmp_path / "out", report=lambda *count: counts.append(count)) == []
    assert counts == [(i + 1, len(counts)) for i in range(len(counts))]
    check(tmp_path / "out", made)
    about = bundle.load(tmp_path / "out", device="cpu")
    assert {"any2pix", "text-to-image"} <= about.capabilities
    assert "not for commercial use" in about.card.summary
    before = bundle.load(base, device="cpu").denoiser.unet.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in about.denoiser.unet.state_dict().items())
    settings = load_any2pix(tmp_path / "out", CPU).settings
    assert (settings.encoder, settings.norm, settings.score, settings.prior.scale) == ("imagebind", 20, 6.5, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["have", "out"]


def test_every_used_name_of_the_language_model_has_its_place(made, base, tmp_path):
    import_any2pix([made.folder], base, tmp_path / "out")
    part, got = tmp_path / "out" / "any2pix", {}
    for name in ("language_model", "projectors"):
        with safe_open(part / name / "model.safetensors", framework="pt") as file:
            got |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    expected = {name: t for name, t in made.language.items() if re.match(r"model\.(embed|layers|norm)|lm_head", name)}
    expected = {name: tensor for name, tensor in expected.items() if "inv_freq" not in name}
    for old, new in (("vae_projector_image", "in"), ("vae_predictor_image", "out")):
        for name, tensor in made.language.items():
            if name.startswith(f"model.{old}."):
                expected[name.replace(f"model.{old}", new)] = tensor
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == torch.float16
        assert torch.equal(got[name], tensor.half()), name
    config = json.loads((part / "language_model" / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["rms_norm_eps"] == 1e-5


def test_shards_are_written_and_read(made, base, tmp_path):
    import_any2pix([made.folder], base, tmp_path / "out", most=20_000)
    for name in ("language_model", "encoder", "prior"):
        assert len(list((tmp_path / "out" / "any2pix" / name).glob("model-*-of-*.safetensors"))) > 2, name
    check(tmp_path / "out", made)


def test_the_release_may_lie_in_several_folders(made, base, tmp_path):
    more = tmp_path / "have" / "more"
    (more / "prior").mkdir(parents=True)
    (made.folder / "imagebind_huge.pth").rename(more / "imagebind_huge.pth")
    (made.folder / "prior" / "model.bin").rename(more / "prior" / "model.bin")
    with pytest.raises(
        ModelError, match=r"lacks ImageBind \(imagebind_huge\.pth\), the refinement prior \(prior/model\.bin\);"
    ):
        import_any2pix([made.folder], base, tmp_path / "out")
    import_any2pix([made.folder, more], base, tmp_path / "out")
    check(tmp_path / "out", made)


def test_safetensors_in_the_place_of_pickles_are_taken(made, base, tmp_path):
    save_file(made.imagebind, made.folder / "imagebind_huge.safetensors")
    (made.folder / "imagebind_huge.pth").unlink()
    save_file(made.adapter, made.folder / "sdxl" / "ip_adapter_global_local_2_view.safetensors")
    (made.folder / "sdxl" / "ip_adapter_global_local_2_view.bin").unlink()
    import_any2pix([made.folder], base, tmp_path / "out")
    check(tmp_path / "out", made)


def test_rows_follow_the_tokenizer_by_name(made, base, tmp_path):
    """Another order of the special tokens: the same file of rows means other words, and control tokens are where they are."""
    shutil.rmtree(made.folder / "llm-retrained" / "tokenizer")
    others = [token for token in SPECIAL[::-1] if token != "<mask_gen>"]
    save_tokenizer(made.folder / "llm-retrained" / "tokenizer", ["<pad>", *others, "<mask_gen>"])
    [odd] = import_any2pix([made.folder], base, tmp_path / "out")
    assert "no row for <mask_gen> of the tokenizer" in odd
    check_language(tmp_path / "out", made)


def test_a_tokenizer_of_sentencepiece_takes_spaces_along_where_it_does_not_say(tmp_path, made):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = made.folder / "llm-retrained"
    place = folder / "tokenizer"
    shutil.rmtree(place)
    place.mkdir()
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, pages[:8])),
        model_prefix=str(place / "tokenizer"),
        vocab_size=800,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (place / "added_tokens.json").write_text(json.dumps({token: 800 + i for i, token in enumerate(SPECIAL)}))
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    save_language(folder, language_state(809))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(place / "tokenizer.model"))
    video = 800 + SPECIAL.index("<video>")
    expected = {
        "takes": [*pieces.encode("add"), video, *pieces.encode("to"), video],
        "leaves": [*pieces.encode("add "), video, *pieces.encode("to "), video],
    }
    decoder = {
        str(800 + i): {
            "content": token,
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
        for i, token in enumerate(SPECIAL)
    }
    for what, told in (("takes", config), ("leaves", config | {"added_tokens_decoder": decoder})):
        (place / "tokenizer_config.json").write_text(json.dumps(told))
        made_of = language(folder)
        assert made_of.tokenizer("add <video> to <video>", add_special_tokens=False)["input_ids"] == expected[what], what
        assert [made_of.tokenizer.get_vocab()[token] for token in SPECIAL] == list(range(800, 809))
        assert made_of.plan["lm_head.weight"][0] == (809, WIDTH)


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return Path("evil.txt").touch, ()


def _without(part: str, name: str):
    def change(made: Released) -> None:
        del getattr(made, part)[name]
        made.save()

    return change


def _with(part: str, name: str, tensor: Tensor):
    def change(made: Released) -> None:
        getattr(made, part)[name] = tensor
        made.save()

    return change


def _evil(made: Released) -> None:
    torch.save({"x": torch.ones(1), "evil": Evil()}, made.folder / "prior" / "model.bin")


def _no_token(made: Released) -> None:
    shutil.rmtree(made.folder / "llm-retrained" / "tokenizer")
    save_tokenizer(made.folder / "llm-retrained" / "tokenizer", [token for token in SPECIAL if token != "<base>"])


def _old(made: Released) -> None:
    (made.folder / "sdxl" / "ip_adapter_global_local_2_view.bin").unlink()
    (made.folder / "sdxl" / "unet").mkdir()


def _fewer_rows(made: Released) -> None:
    made.language |= {name: made.language[name][:-3] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    made.save()


BREAK = {
    "no folder": (lambda made: shutil.rmtree(made.folder), "no folder .*release"),
    "an empty folder": (
        lambda made: [shutil.rmtree(made.folder), made.folder.mkdir()],
        "release lacks the language model .*, ImageBind .*, the refinement prior .*, the adapter .*; name every folder",
    ),
    "the first release": (_old, "sdxl/unet is of the first release"),
    "a config of another model": (
        lambda made: (made.folder / "llm-retrained" / "config.json").write_text('{"model_type": "llama"}'),
        "lacks the language model",
    ),
    "no tokenizer": (lambda made: shutil.rmtree(made.folder / "llm-retrained" / "tokenizer"), "neither tokenizer.json nor"),
    "a tokenizer without control tokens": (_no_token, "the tokenizer in .* has no <base>; take the one"),
    "too few rows": (_fewer_rows, "embeddings of 105 tokens, too few for <video>, <base>, <base_null>"),
    "no projector": (_without("language", "model.vae_predictor_image.2.weight"), "has no model.vae_predictor_image.2.weight"),
    "an unknown weight": (_with("language", "model.more", torch.ones(2)), "it has model.more, which is unknown"),
    "a layer of another shape": (_with("language", "model.norm.weight", torch.ones(3)), r"norm.weight of shape \[3\], not"),
    "no embeddings": (_without("language", "model.embed_tokens.weight"), "has no model.embed_tokens.weight; is it Instr"),
    "no spare key": (_without("imagebind", "modality_trunks.audio.blocks.1.attn.bias_k"), "ImageBind in .* has no .*bias_k"),
    "another file": (
        _without("imagebind", "modality_heads.vision.2.weight"),
        "no modality_heads.vision.2.weight, or in another",
    ),
    "an ImageBind of another width": (
        lambda made: [
            made.imagebind.update(
                {f"modality_heads.{name}.2.weight": some(32, width) for name, width in (("vision", SEEN), ("audio", HEARD))}
            ),
            made.save(),
        ],
        "of different releases: ImageBind 32 wide, projectors 64 wide",
    ),
    "no text encoder": (
        lambda made: [
            [made.prior.pop(name) for name in list(made.prior) if name.startswith("cond_stage")],
            made.save(),
        ],
        "its text encoder, does not fit",
    ),
    "a prior that cannot be": (_without("prior", "model.h.1.ln_2.bias"), "prior .* has no model.h.1.ln_2.bias"),
    "no slots": (_without("adapter", "image_proj.raw_embed"), "no image_proj.raw_embed"),
    "an adapter of another model": (
        lambda made: [
            [made.adapter.pop(name) for name in list(made.adapter) if name.startswith("ip_adapter.1.")],
            made.save(),
        ],
        "the adapter in .* does not fit|media adapter is of another model",
    ),
    "a pickle that is no tensors": (_evil, "model.bin cannot be read .* expected what torch.save wrote"),
    "a number that is none": (
        _with("prior", "model.wpe.weight", torch.full((1024, E), torch.nan)),
        "what half precision cannot",
    ),
}


@pytest.mark.parametrize("what", BREAK)
def test_what_is_broken_is_named_in_one_line(made, base, tmp_path, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    break_it, line = BREAK[what]
    break_it(made)
    with pytest.raises(ModelError, match=line) as error:
        import_any2pix([made.folder], base, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["have"], "nothing is left, and no pickle has run"


@pytest.mark.parametrize("kind", ["instruct", "flow", "cascade"])
def test_a_base_that_the_adapter_is_not_for_is_refused(made, tiny_bundle, tmp_path, kind):
    with pytest.raises(ModelError, match=r"is of another model|is no SDXL"):
        import_any2pix([made.folder], tiny_bundle(kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_unasked(made, base, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists"):
        import_any2pix([made.folder], base, tmp_path / "out")
    with pytest.raises(ModelError, match="is no model"):
        import_any2pix([made.folder], base, tmp_path / "out", force=True)
    shutil.copytree(base, tmp_path / "out", dirs_exist_ok=True)
    import_any2pix([made.folder], base, tmp_path / "out", force=True)
    check_imagebind(tmp_path / "out", made)


def run(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_asks_for_the_licences_and_shows_them(made, base, tmp_path, capsys):
    words = ["models", "import", "any2pix", made.folder, "--base", base, "-o", tmp_path / "out"]
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert "--accept-licences" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    code, out, err = run(capsys, *words, "--accept-licences")
    assert (code, out.strip()) == (0, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    for name in ("CC BY-NC-SA 4.0: NOT FOR COMMERCIAL USE", "Llama 2", "Vicuna", "RAIL++-M", "InstructAny2Pix", "verified"):
        assert name in err
        assert name in card


def test_it_edits(made, base, tmp_path):
    """The whole way, by the editor: ImageBind reads no words, and the adapter is told of one object alone."""
    import_any2pix([made.folder], base, tmp_path / "out")
    loaded, editor, words = bundle.load(tmp_path / "out", "cpu"), registry.get("any2pix"), "add [audio1] to [image1]"
    knobs = editor.settled(editor.Knobs(temperature=1.0), loaded)
    request = request_for(instruction=words, editor="any2pix", seed=1, steps=2, knobs=knobs.model_dump())
    shape = (1, loaded.codec.channels, 8, 8)
    picture = open_picture(np.full((64, 64, 3), 90, np.uint8))
    ends = []
    for wave in (np.sin(np.arange(32000) * 0.1), np.random.default_rng(1).normal(0, 0.1, 32000)):
        media = {"audio1": open_sound((wave.astype(np.float32), 16000)), "image1": picture}
        context = Context(loaded, request, knobs, shape, torch.zeros(shape), picture=picture, media=media)
        editor.check(context)
        engine = Engine(loaded.denoiser)
        ends.append(engine.result(engine.add(editor.path(context, engine.result(engine.add(editor.prepare(context)))))))
        assert ends[-1].isfinite().all()
    assert not torch.equal(*ends), "what is heard changes what is painted"
