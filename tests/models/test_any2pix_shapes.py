"""InstructAny2Pix at its published size: every shape, without a single weight in memory."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from paintover.models.adapter import MediaAdapter
from paintover.models.any2pix import projectors
from paintover.models.any2pix_import import plan
from paintover.models.imagebind_trunk import ImageBind, Sizes
from paintover.models.prior import Prior, PriorConfig
from paintover.models.tiny import tiny

VICUNA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
VICUNA |= {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "hidden_act": "silu", "model_type": "instructany2pix"}
SPECIAL = ["<im_gen_start>", "<im_gen>", "<mask_gen>", "<audio_gen>", "<audio_gen_start>", "<audio>", "<video>", "<base>"]
SPECIAL += ["<base_null>"]
UNET = {  # Stable Diffusion XL's
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def blank(shapes):
    """Tensors of these shapes, all of one number, so that a file of them is small."""
    return {name: torch.ones((), dtype=torch.float16).expand(shape) for name, shape in shapes.items()}


def linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def language():
    shapes = {"model.embed_tokens.weight": (32009, 4096), "lm_head.weight": (32009, 4096), "model.norm.weight": (4096,)}
    for i in range(32):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (4096, 4096) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (11008, 4096) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (4096, 11008)}
        shapes |= {f"{at}{name}_layernorm.weight": (4096,) for name in ("input", "post_attention")}
    for medium in ("image", "audio"):
        shapes |= linear(f"model.vae_projector_{medium}.0", 4096, 1024) | linear(f"model.vae_projector_{medium}.2", 4096, 4096)
        shapes |= linear(f"model.vae_predictor_{medium}.0", 4096, 4096) | linear(f"model.vae_predictor_{medium}.2", 1024, 4096)
    return shapes


def prior():
    shapes = {f"{mark}_of_sequence_tokens.weight": (32, 1024) for mark in ("start", "end")}
    shapes |= {"modality_embedding.weight": (10, 1024), "model.wte.weight": (50257, 1024), "model.wpe.weight": (1024, 1024)}
    for number, width in ((1, 1024), (2, 1024), (3, 512)):
        shapes |= linear(f"input_sequence_embed_linear.{number}", 1024, width)
    for i in range(24):
        at = f"model.h.{i}."
        shapes |= norm(f"{at}ln_1", 1024) | norm(f"{at}ln_2", 1024) | {f"{at}attn.bias": (1, 1, 1024, 1024)}
        sizes = {"attn.c_attn": (1024, 3072), "attn.c_proj": (1024, 1024), "mlp.c_fc": (1024, 4096), "mlp.c_proj": (4096, 1024)}
        for name, (into, out) in sizes.items():
            shapes |= {f"{at}{name}.weight": (into, out), f"{at}{name}.bias": (out,)}
    text = "cond_stage_models.0.model.text_model."
    shapes |= {f"{text}embeddings.token_embedding.weight": (49408, 1024)} | norm(f"{text}final_layer_norm", 1024)
    shapes |= {f"{text}embeddings.position_embedding.weight": (77, 1024)}
    for i in range(24):
        at = f"{text}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{at}self_attn.{name}", 1024, 1024)
        shapes |= norm(f"{at}layer_norm1", 1024) | norm(f"{at}layer_norm2", 1024)
        shapes |= linear(f"{at}mlp.fc1", 4096, 1024) | linear(f"{at}mlp.fc2", 1024, 4096)
    return shapes | norm("model.ln_f", 1024)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """What `paintover models import any2pix` would write of files of the published names and shapes."""
    folder = tmp_path_factory.mktemp("released")
    for name in ("llm-retrained/tokenizer", "prior", "sdxl"):
        (folder / name).mkdir(parents=True)
    (folder / "llm-retrained" / "config.json").write_text(json.dumps(VICUNA))
    torch.save(blank(language()), folder / "llm-retrained" / "pytorch_model.bin")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 32000)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *SPECIAL])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(folder / "llm-retrained" / "tokenizer")
    with torch.device("meta"):  # whose names and shapes are tested where it is
        shapes = {name: tuple(tensor.shape) for name, tensor in ImageBind(Sizes()).state_dict().items()}
    torch.save(blank(shapes | {"modality_postprocessors.audio.1.log_logit_scale": ()}), folder / "imagebind_huge.pth")
    torch.save(blank(prior()), folder / "prior" / "model.bin")
    hidden = [640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10  # down, up, middle
    layers = {f"{2 * n + 1}.to_{part}_ip.weight": (size, 2048) for n, size in enumerate(hidden) for part in "kv"}
    image = linear("proj", 4 * 2048, 1024) | norm("norm", 2048) | {"raw_embed": (2, 2048)}
    parts = {"image_proj": blank(image), "ip_adapter": blank(layers)}
    torch.save(parts, folder / "sdxl" / "ip_adapter_global_local_2_view.bin")
    base = tiny(tmp_path_factory.mktemp("base"), "sdxl")
    (base / "unet" / "config.json").write_text(json.dumps(UNET))
    return plan([folder], base)


def shapes_of(tensors):
    return {name: shape for name, (shape, _) in tensors.items()}


def count(tensors):
    return sum(torch.Size(shape).numel() for shape, _ in tensors.values())


def state_of(module: nn.Module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_the_language_model_is_vicuna_with_nine_tokens_more(planned):
    said = planned.language
    # LLaMA-2-7B has 6,738,415,616 weights with 32,000 rows; 9 rows more, in embeddings and head.
    assert count(said.plan) == 6_738_415_616 + 2 * 9 * 4096
    with torch.device("meta"):
        assert state_of(LlamaForCausalLM(said.config)) == shapes_of(said.plan)
    vocabulary = said.tokenizer.get_vocab()
    assert [vocabulary[token] for token in SPECIAL] == list(range(32000, 32009))
    assert (said.config.vocab_size, said.config.max_position_embeddings, said.config.rms_norm_eps) == (32009, 4096, 1e-5)
    assert planned.odd == []


def test_the_projectors_lead_from_1024_to_4096_and_back(planned):
    into = {"in.0.weight": (4096, 1024), "in.0.bias": (4096,), "in.2.weight": (4096, 4096), "in.2.bias": (4096,)}
    out = {"out.0.weight": (4096, 4096), "out.0.bias": (4096,), "out.2.weight": (1024, 4096), "out.2.bias": (1024,)}
    assert shapes_of(planned.language.projectors) == into | out
    with torch.device("meta"):
        assert state_of(nn.ModuleDict(dict(zip(("in", "out"), projectors(1024, 4096), strict=True)))) == into | out
    # P_in and P_out.
    assert count(planned.language.projectors) == 20_979_712 + 20_976_640


def test_the_prior_is_gpt_2_medium(planned):
    assert planned.settings.prior == PriorConfig.released()
    with torch.device("meta"):
        assert state_of(Prior(planned.settings.prior)) == shapes_of(planned.prior)
    # GPT-2 medium has 354,823,168 weights, of which 50,257 x 1024 for words.
    inside = {name: value for name, value in planned.prior.items() if name.startswith("model.") and "wte" not in name}
    assert count(inside) == 354_823_168 - 50_257 * 1024
    wrappers = {name: value for name, value in planned.prior.items() if not name.startswith("model.")}
    linears = 2 * (1024 * 1024 + 1024) + 512 * 1024 + 1024
    assert count(wrappers) == linears + (32 + 32 + 10 + 2) * 1024


def test_the_adapter_is_stable_diffusion_xls(planned):
    with torch.device("meta"):
        assert state_of(MediaAdapter(**planned.adapter_config)) == shapes_of(planned.adapter)
        media = torch.empty(2, 2, 1024)
        assert MediaAdapter(**planned.adapter_config)(media).shape == (2, 8, 2048)
    assert planned.adapter_config["locals"] == 1
    layers = 2 * 2048 * (10 * 640 + 60 * 1280)
    assert count(planned.adapter) == layers + 1025 * 4 * 2048 + 2 * 2048 + 2 * 2048 == 349_192_192


def test_imagebind_is_huge(planned):
    assert planned.sizes == Sizes()
    with torch.device("meta"):
        assert state_of(ImageBind(planned.sizes)) == shapes_of(planned.encoder)
    assert count(planned.encoder) == 632_829_440 + 86_235_648  # the image branch, the audio branch
