"""Bundles of random weights, small enough for tests, made by code in the layout of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from paintover.errors import ModelError
from paintover.models.codec import PixelUnshuffleCodec
from paintover.models.quiet import quiet

Kind = Literal[
    "instruct",
    "text-to-image",
    "builtin",
    "flow",
    "cascade",
    "mgie",
    "mgie-builtin",
    "any2pix",
    "sdxl",
    "sdxl-refiner",
    "sdxl-instruct",
    "sdxl-any2pix",
]
_PRINTABLE = [chr(code) for code in range(33, 127)]
_WORD_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_PRINTABLE, *(f"##{char}" for char in _PRINTABLE)]


def tiny(folder: str | Path, kind: Kind = "instruct", seed: int = 0) -> Path:
    """Writes a bundle into `folder` (made if need be) and returns it. The same seed writes the same weights.

    "instruct" and "text-to-image" are Stable Diffusion in small (epsilon, AutoencoderKL, CLIP; 64 x 64 pixels): vanilla
    diffusers loads them as StableDiffusionInstructPix2PixPipeline and StableDiffusionPipeline. "builtin" is the built-in
    model in small: a sentence encoder, pixel-unshuffle latents, a UNet that predicts the change and can do both. "flow" is
    Stable Diffusion 3 in small (rectified flow, 16 channels, two CLIPs and a T5): StableDiffusion3Pipeline loads it. "cascade"
    is DeepFloyd IF in small (pixels of 8 x 8 and then of 32 x 32, T5): IFPipeline loads it, and IFSuperResolutionPipeline
    its upscaler/. "mgie" and "mgie-builtin" are "instruct" and "builtin" with a multimodal language model beside them (LLaVA in
    small, 32 x 32 pixels, one token a letter) and an edit head; "any2pix" is "mgie-builtin" with any2pix/ as well, and so can
    do everything. "sdxl" is SDXL in small (two CLIPs, sizes told as numbers, transformers of two blocks), "sdxl-refiner" with
    its refiner beside it, "sdxl-instruct" with channels for a source: StableDiffusionXLPipeline and
    StableDiffusionXLInstructPix2PixPipeline load them; "sdxl-any2pix" is "sdxl-refiner" with any2pix/, as InstructAny2Pix was
    released. Raises ModelError for another kind.
    """
    if kind not in get_args(Kind):
        raise ModelError(f"unknown kind {kind!r} of tiny bundle; use one of {', '.join(get_args(Kind))}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        if kind == "builtin":
            _builtin(folder)
        elif kind == "mgie-builtin":
            _builtin(folder)
            _mgie(folder, queries=16)
        elif kind == "any2pix":
            _builtin(folder)
            _mgie(folder, queries=16)
            _any2pix(folder)
        elif kind == "mgie":
            _stable_diffusion(folder, "instruct")
            _mgie(folder, queries=77)
        elif kind == "flow":
            _stable_diffusion_3(folder)
        elif kind == "cascade":
            _deepfloyd_if(folder)
        elif kind in ("sdxl", "sdxl-refiner", "sdxl-instruct", "sdxl-any2pix"):
            _sdxl(folder, kind == "sdxl-instruct")
            if kind in ("sdxl-refiner", "sdxl-any2pix"):
                _refiner(folder / "refiner")
            if kind == "sdxl-any2pix":
                _any2pix(folder)
        else:
            _stable_diffusion(folder, kind)
    return folder


def _stable_diffusion(folder: Path, kind: Kind) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers.models.clip.modeling_clip import CLIPTextModel

    _unet(folder, in_channels=8 if kind == "instruct" else 4, out_channels=4, cross_attention_dim=32)
    AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=64,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(_clip_config()).save_pretrained(folder / "text_encoder")
    _clip_tokenizer(folder / "tokenizer")
    _scheduler(folder, prediction_type="epsilon")
    pipeline = "StableDiffusionInstructPix2PixPipeline" if kind == "instruct" else "StableDiffusionPipeline"
    index = {
        "_class_name": pipeline,
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    _write(folder / "model_index.json", index)


def _sdxl(folder: Path, instruct: bool) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    first, second, each = 32, 24, 8
    _xl_unet(folder, each, 8 if instruct else 4, first + second, second + 6 * each)
    AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=0.13025,
    ).save_pretrained(folder / "vae")
    _clip_tokenizer(folder / "tokenizer")
    CLIPTextModel(_clip_config(first)).save_pretrained(folder / "text_encoder")
    _clip_tokenizer(folder / "tokenizer_2", pad_token="!")
    config = _clip_config(second)
    CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
    _scheduler(folder, prediction_type="epsilon")
    index = {
        "_class_name": "StableDiffusionXLInstructPix2PixPipeline" if instruct else "StableDiffusionXLPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "force_zeros_for_empty_prompt": True,
    }
    _write(folder / "model_index.json", index)


def _refiner(folder: Path) -> None:
    """What the released one's folder holds of its own: the network, its schedule, and an index of parts that it shares."""
    second, each = 24, 8
    _xl_unet(folder, each, 4, second, second + 5 * each)
    _scheduler(folder, prediction_type="epsilon")
    index = {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "text_encoder": [None, None],
        "tokenizer": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
    }
    _write(folder / "model_index.json", index)


def _xl_unet(folder: Path, each: int, in_channels: int, text: int, pooled: int) -> None:
    """Like SDXL's: none of the finest grid's blocks attends, the others have transformers of several blocks."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=(4, 8),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        cross_attention_dim=text,
        addition_embed_type="text_time",
        addition_time_embed_dim=each,
        projection_class_embeddings_input_dim=pooled,
    ).save_pretrained(folder / "unet")


def _stable_diffusion_3(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

    SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=72,
        caption_projection_dim=32,
        pooled_projection_dim=56,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=64,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    for number, width in (("", 32), ("_2", 24)):
        _clip_tokenizer(folder / f"tokenizer{number}")
        CLIPTextModelWithProjection(_clip_config(width)).save_pretrained(folder / f"text_encoder{number}")
    _t5(folder, "_3", width=72)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    (folder / "scheduler").mkdir(exist_ok=True)
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    _write(folder / "model_index.json", index)


def _deepfloyd_if(folder: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    common = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "out_channels": 6,
        "cross_attention_dim": 32,
        "cross_attention_norm": "group_norm",
        "encoder_hid_dim": 24,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "attention_head_dim": 8,
        "resnet_time_scale_shift": "scale_shift",
        "resnet_skip_time_act": True,
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "only_cross_attention": False,
    }
    upscaler = folder / "upscaler"
    UNet2DConditionModel(sample_size=8, in_channels=3, **common).save_pretrained(folder / "unet")
    larger = UNet2DConditionModel(sample_size=32, in_channels=6, class_embed_type="timestep", **common)
    larger.save_pretrained(upscaler / "unet")
    _t5(folder, "", width=24, words="bcdfghjklmnpqrstvwxz")
    index: dict[str, Any] = {
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "watermarker": [None, None],
        "requires_safety_checker": False,
    }
    _write(folder / "model_index.json", {"_class_name": "IFPipeline", **index})
    index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    index["image_noising_scheduler"] = ["diffusers", "DDPMScheduler"]
    _write(upscaler / "model_index.json", {"_class_name": "IFSuperResolutionPipeline", **index})
    cosine = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
    walked = {
        **cosine,
        "prediction_type": "epsilon",
        "variance_type": "learned_range",
        "clip_sample": True,
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.95,
    }
    for part, config in (
        (folder / "scheduler", {**walked, "sample_max_value": 1.5}),
        (upscaler / "scheduler", {**walked, "sample_max_value": 1.0}),
        (upscaler / "image_noising_scheduler", cosine),
    ):
        part.mkdir(exist_ok=True)
        _write(part / "scheduler_config.json", config)


def _t5(folder: Path, number: str, width: int, words: str = "") -> None:
    """words: letters that are one token where they stand alone."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel
    from transformers.models.t5.tokenization_t5 import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -2.0), *((char, -3.0) for char in _PRINTABLE)]
    pieces += [(f"\u2581{letter}", -4.0) for letter in words]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder / f"tokenizer{number}")
    config = T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    T5EncoderModel(config).save_pretrained(folder / f"text_encoder{number}")


def _mgie(folder: Path, queries: int) -> None:
    from tokenizers import decoders
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    from paintover.models.edit_head import EditHead
    from paintover.models.mllm import Mllm
    from paintover.models.mllm_file import save_mllm
    from paintover.models.wording import SHORT, Wording, image_tokens

    size, patch = 32, 8
    wording = Wording(SHORT, image_tokens(4))
    letters = _letters()
    letters.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.add_tokens([*wording.picture_tokens, *wording.image_tokens], special_tokens=True)
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,  # large enough for the answer to depend on what is asked and shown
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids(wording.patch),
        image_seq_length=(size // patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model: Any = LlavaForConditionalGeneration(config)
    head = EditHead(32, hidden=32, queries=queries, out=32, layers=1, heads=4, feedforward=64)
    save_mllm(Mllm(model, tokenizer, head, wording, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), folder, torch.float32)


def _any2pix(folder: Path) -> None:
    from tokenizers import decoders
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from paintover.models.adapter import MediaAdapter
    from paintover.models.adapter_file import save_adapter
    from paintover.models.any2pix import Any2Pix, projectors
    from paintover.models.any2pix_file import Any2PixParts, save_any2pix
    from paintover.models.any2pix_settings import Any2PixSettings
    from paintover.models.any2pix_wording import Any2PixWording
    from paintover.models.bundle import load
    from paintover.models.encoder_file import save_encoder
    from paintover.models.prior import Prior, PriorConfig
    from paintover.models.small_encoder import SmallEncoder

    width, wording = 24, Any2PixWording()
    bundle: Any = load(folder, "cpu")
    letters = _letters()
    letters.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.add_tokens(list(wording.tokens), special_tokens=True)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=0.3,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    language = Any2Pix(model, tokenizer, *projectors(width, 32), wording)
    prior = Prior(PriorConfig(width, 32, 2, 4))
    save_any2pix(Any2PixParts(language, prior, Any2PixSettings(wording, prior.config)), folder, torch.float32)
    save_encoder(SmallEncoder(bundle.text, width, 32, (32, 32), (32, 32)), folder, torch.float32)
    adapter: Any = MediaAdapter.of(bundle.denoiser.unet, width)
    for layer in adapter.ip_adapter.values():
        torch.nn.init.normal_(layer["to_v_ip"].weight, std=0.2)  # what is told of media is to be seen
    save_adapter(adapter, folder, torch.float32)


def _letters() -> Any:
    """A tokenizer with one piece for each printable character."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(_WORD_PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _builtin(folder: Path) -> None:
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    channels = 3 * 8**2
    _unet(
        folder,
        in_channels=2 * channels,
        out_channels=channels,
        cross_attention_dim=32,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=32,
    )
    PixelUnshuffleCodec(factor=8, scale=2.0).save(folder / "codec")
    (folder / "tokenizer").mkdir(exist_ok=True)
    _letters().save(str(folder / "tokenizer" / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(_WORD_PIECES),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "text_encoder")
    _scheduler(folder, prediction_type="sample")
    index = {
        "_class_name": "PaintoverPipeline",
        "codec": ["paintover", "PixelUnshuffleCodec"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    _write(folder / "model_index.json", index)
    settings = {
        "format": 1,
        "name": "tiny",
        "capabilities": ["text-to-image", "instruct"],
        "size": 64,
        "prediction": "change",
        "text": {"length": 32, "token_scale": 1.0},
        "defaults": {"instruct": {"steps": 4}},
    }
    _write(folder / "paintover.json", settings)


# One piece for each character, in the middle of a word and at its end; no merges.
_PIECES = [*_PRINTABLE, *(f"{char}</w>" for char in _PRINTABLE), "<|startoftext|>", "<|endoftext|>"]


def _clip_tokenizer(folder: Path, **tokens: str) -> None:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    vocab = {piece: i for i, piece in enumerate(_PIECES)}
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, **tokens).save_pretrained(folder)


def _clip_config(width: int = 32) -> Any:
    from transformers.models.clip.configuration_clip import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(_PIECES),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=len(_PIECES) - 2,
        eos_token_id=len(_PIECES) - 1,
        pad_token_id=len(_PIECES) - 1,
    )


def _unet(folder: Path, **config: Any) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        **config,
    ).save_pretrained(folder / "unet")


def _scheduler(folder: Path, prediction_type: str) -> None:
    config = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    (folder / "scheduler").mkdir(exist_ok=True)
    _write(folder / "scheduler" / "scheduler_config.json", config)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
