"""A bundle: the networks that edit pictures, loaded from the package, a folder or the hub."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from paintover.errors import ModelError
from paintover.models import hub, sd3, sdxl
from paintover.models.adapter import MediaAdapter
from paintover.models.adapter_file import load_adapter
from paintover.models.any2pix_file import Any2PixParts, load_any2pix
from paintover.models.codec import Codec, KLCodec, LinearCodec, PixelUnshuffleCodec, SmallerCodec, TinyCodec
from paintover.models.denoiser import Denoiser
from paintover.models.description import NETWORKS, Card, Description, describe
from paintover.models.files import STEMS, complete, fingerprint, read_json, signature, weights
from paintover.models.flow import FlowDenoiser
from paintover.models.kept import keep_text
from paintover.models.listing import BUILTIN, list_bundles
from paintover.models.media import MediaEncoder
from paintover.models.mllm import Mllm
from paintover.models.mllm_file import load_mllm
from paintover.models.noise import alphas_cumprod
from paintover.models.quiet import quiet
from paintover.models.refiner import Refiner
from paintover.models.sizes import Sizes
from paintover.models.text import CLIPText, SentenceText, TextEncoder
from paintover.models.text_sdxl import SDXLText
from paintover.models.text_t5 import load_t5
from paintover.models.upscaler import Upscaler


@dataclass(frozen=True, eq=False)
class Bundle:
    """Everything an editor needs of a model. `name` can be given to `load` again and means the same weights.

    tuned: the digest of what the networks were bent by since they were loaded (`tuning.apply`); None: they are as loaded.
    upscaler: of a cascade, its second stage; denoiser and codec are of the first.
    refiner: of an SDXL bundle that has one: a network that finishes pictures (`path.refine`).
    """

    name: str
    denoiser: Denoiser | FlowDenoiser
    codec: Codec
    text: TextEncoder
    description: Description
    tuned: str | None = None
    upscaler: Upscaler | None = None
    refiner: Refiner | None = None

    @property
    def folder(self) -> Path:
        return self.description.folder

    @property
    def capabilities(self) -> frozenset[str]:
        """Of "text-to-image", "instruct", "unet", "flow", ...: what `require` is asked about."""
        return self.description.capabilities

    @property
    def card(self) -> Card:
        return self.description.card

    @property
    def defaults(self) -> Mapping[str, Mapping[str, Any]]:
        """Recommended steps and knobs for each editor, by its name."""
        return self.description.defaults

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        return self.description.scheduler_config

    @property
    def in_pixels(self) -> bool:
        """Whether its denoiser walks in pixels, in whatever order, and not in latents that a codec has learnt."""
        return self.description.codec in ("PixelUnshuffleCodec", "SmallerCodec")

    @property
    def size(self) -> int:
        """The bundle works best on pictures of about size * size pixels."""
        return self.description.size

    @property
    def multiple(self) -> int:
        """What a picture's height and width in pixels must be multiples of."""
        own = self.codec.factor * self.denoiser.multiple
        return own if self.upscaler is None else math.lcm(own, self.upscaler.denoiser.multiple)

    @property
    def most(self) -> int | None:
        """The largest height and width in pixels that the model can work on; None: there is no such limit."""
        return self.codec.factor * self.denoiser.most if isinstance(self.denoiser, FlowDenoiser) else None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 that stands for all of the bundle's weights and settings (hex), and for what they were bent by."""
        base = fingerprint(self.folder)
        return base if self.tuned is None else sha256(f"{base} {self.tuned}".encode()).hexdigest()

    def mllm(self, bits: int = 16) -> Mllm:
        """Its multimodal language model, loaded when first asked for, and kept until another one is. Raises ModelError."""
        self.require("mgie")
        with _one_at_a_time:
            key = (self.folder, signature(self.folder), self.denoiser.device, bits)
            if key not in _language:
                _language.clear()  # before: there may be memory for one alone
                gc.collect()
                _language[key] = load_mllm(self.folder, self.denoiser.device, bits)
            return _language[key]

    def any2pix(self, bits: int = 16) -> Any2PixParts:
        """What understands instructions with pictures and sounds in them, loaded and kept as `mllm`. Raises ModelError."""
        self.require("any2pix")
        with _one_at_a_time:
            key = (self.folder, signature(self.folder), self.denoiser.device, bits)
            if key not in _any2pix:
                _any2pix.clear()
                gc.collect()
                _any2pix[key] = load_any2pix(self.folder, self.denoiser.device, bits)
            return _any2pix[key]

    def encoder(self) -> MediaEncoder:
        """Its media encoder, loaded when first asked for, and kept until another one is. Raises ModelError."""
        from paintover.models.encoder_file import load_encoder

        self.require("any2pix")
        with _one_at_a_time:
            key = (self.folder, signature(self.folder), self.denoiser.device)
            if key not in _encoders:
                _encoders.clear()
                _encoders[key] = load_encoder(self.folder, self.text, self.denoiser.device)
            return _encoders[key]

    def adapted(self) -> Denoiser:
        """Its denoiser with its media adapter, which is loaded when first asked for, and kept until another one is.

        The same door each time: those who ask share their calls. Raises ModelError.
        """
        self.require("any2pix", "unet")
        door: Any = self.denoiser
        with _one_at_a_time:
            key = (self.folder, signature(self.folder), door.device, door.dtype)
            if key not in _adapters:
                _adapters.clear()  # before: as a language model
                _adapters[key] = load_adapter(self.folder, door.unet)
            adapter = _adapters[key]
            if door not in _adapted or _adapted[door].adapter is not adapter:
                _adapted[door] = door.adapted(adapter)
            return _adapted[door]

    def require(self, *needs: str, editor: str | None = None) -> None:
        """Raises ModelError when the bundle lacks one of the capabilities, saying which bundles have all of them."""
        capability = next((need for need in needs if need not in self.capabilities), None)
        if capability is None:
            return
        others = [other.name for other in list_bundles() if {*needs} <= other.capabilities and other.name != self.name]
        who = f"editor {editor!r}" if editor else "this"
        remedy = f"use --model with one that has: {', '.join(others)}" if others else "no bundle known here has it"
        if capability in NETWORKS:
            has = " and ".join(NETWORKS[word] for word in sorted(self.capabilities & set(NETWORKS)))
            raise ModelError(f"{who} needs {NETWORKS[capability]}; {self.name} is {has}; {remedy}")
        can = ", ".join(sorted(self.capabilities - set(NETWORKS))) or "nothing"
        raise ModelError(f"{who} needs a bundle that can {capability!r}; {self.name} can: {can}; {remedy}")


def load(name: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Bundle:
    """Loads "builtin", a folder, or "owner/name[@revision]" from the hub; loaded bundles are kept and shared.

    `device` None takes the accelerator where there is one. `dtype` is the denoiser's, None means float32 on a CPU and
    float16 elsewhere; codec and text encoder work in float32 always. Raises ModelError, in one line, for anything that
    is missing, broken, unsupported or unsafe: pickles are never opened and a bundle's code is never run.
    """
    folder, fixed_name = find(str(name))
    where = _device(device)
    if dtype is None:
        dtype = torch.float32 if where.type == "cpu" else torch.float16
    with _one_at_a_time:
        return _load(folder, signature(folder), fixed_name, where, dtype)


def find(name: str) -> tuple[Path, str]:
    """The folder of what `load` can be asked for, fetched if need be, and a name that means the same later."""
    if name == "builtin":
        if not (BUILTIN / "model_index.json").is_file():
            raise ModelError("this installation has no built-in model; install paintover from a full package, or name a bundle")
        return BUILTIN, name
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):  # os.path, here and below: what cannot be a path at all is no folder, and raises nothing
        return path.resolve(), str(path.resolve())
    if os.path.exists(path):
        raise ModelError(f"{name} is a file; a bundle is a folder in the diffusers layout, or a hub name, or builtin")
    if hub.is_hub_name(name):
        return hub.fetch(name)
    raise ModelError(f"no bundle {name!r}: expected builtin, an existing folder, or a hub name such as owner/name")


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        torch.zeros(1, device=device).item()  # "meta" makes tensors, but holds no numbers
    except Exception:  # each of torch's backends complains in its own way, some by failing to be imported
        raise ModelError(
            f"device {str(device)!r} is not available here; use cpu, or leave it out to choose by itself"
        ) from None
    return torch.device(device)


_language: dict[tuple[object, ...], Mllm] = {}  # one at most
_any2pix: dict[tuple[object, ...], Any2PixParts] = {}  # likewise
_encoders: dict[tuple[object, ...], MediaEncoder] = {}  # likewise
_adapters: dict[tuple[object, ...], MediaAdapter] = {}  # likewise
_adapted: WeakKeyDictionary[Denoiser, Denoiser] = WeakKeyDictionary()  # a bundle's door: the same with an adapter
_one_at_a_time = threading.Lock()  # the libraries change settings of the whole process while they load


@lru_cache(maxsize=2)
def _load(folder: Path, _signature: object, name: str, device: torch.device, dtype: torch.dtype) -> Bundle:
    """Memoised by what the files looked like, so a bundle that was replaced on disk is read again."""
    description = describe(folder, name)
    part = "unet" if description.unet else "transformer"
    denoiser: Denoiser | FlowDenoiser
    text: TextEncoder
    upscaler: Upscaler | None = None
    refiner: Refiner | None = None
    try:
        with quiet():
            codec = _load_codec(description, device)
            if description.unet:
                denoiser = _load_denoiser(description, codec, device, dtype)
                part = "upscaler"
                upscaler = _load_upscaler(description, device, dtype)
            else:
                denoiser = sd3.load_denoiser(description, device, dtype)
            part = "text_encoder"
            if description.unet:
                text = _load_text(description, device, dtype)
                part = "refiner"
                refiner = _load_refiner(description, text, codec.factor, device, dtype)
            else:
                text = sd3.load_text(description, denoiser.text_width, device, dtype)
    except (ModelError, ImportError):
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"bundle {name} could not be loaded ({part} or before): {type(error).__name__}: {line}") from error
    if codec.channels != denoiser.channels:
        raise ModelError(f"bundle {name} does not fit together: codec {codec.channels} channels, denoiser {denoiser.channels}")
    if text.width != denoiser.text_width or denoiser.pooled_width not in (None, text.pooled_width):
        raise ModelError(
            f"bundle {name} does not fit together: text width {text.width} (pooled {text.pooled_width}), denoiser "
            f"{denoiser.text_width} (pooled {denoiser.pooled_width})"
        )
    if upscaler is not None and (upscaler.denoiser.channels, upscaler.denoiser.text_width) != (codec.channels, text.width):
        raise ModelError(
            f"the stages of bundle {name} do not fit together: the second has {upscaler.denoiser.channels} channels and text "
            f"width {upscaler.denoiser.text_width}, the first {codec.channels} and {text.width}"
        )
    return Bundle(name, denoiser, codec, text, description, upscaler=upscaler, refiner=refiner)


def _load_denoiser(description: Description, codec: Codec, device: torch.device, dtype: torch.dtype) -> Denoiser:
    unet = _load_unet(description.folder, "unet", device, dtype)
    abar = alphas_cumprod(description.scheduler_config)
    predicts: Any = description.prediction
    sizes = Sizes.of(unet.config, codec.factor)
    return Denoiser(unet, predicts, abar, codec_scale=codec.scale, sigma_data=description.sigma_data, sizes=sizes)


def _load_upscaler(description: Description, device: torch.device, dtype: torch.dtype) -> Upscaler | None:
    about = description.upscaling
    if about is None:
        return None
    unet = _load_unet(description.folder, "upscaler/unet", device, dtype)
    denoiser = Denoiser(unet, about.prediction, alphas_cumprod(about.scheduler_config))  # type: ignore[arg-type]
    codec = PixelUnshuffleCodec(factor=1, scale=1.0).to(device)
    return Upscaler(denoiser, codec, about, alphas_cumprod(about.noising_config).float().to(device))


def _load_refiner(
    description: Description, text: TextEncoder, factor: int, device: torch.device, dtype: torch.dtype
) -> Refiner | None:
    if description.refining is None or not isinstance(text, SDXLText):
        return None
    unet = _load_unet(description.folder, "refiner/unet", device, dtype)
    return sdxl.refiner(description, description.refining, unet, text, factor)


def _load_unet(folder: Path, part: str, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from safetensors.torch import load_file

    paths, _ = weights(folder, part, STEMS[part])
    # Built without memory and filled from the file: no time is lost on random weights, and nothing may be missing.
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(read_json(folder, f"{part}/config.json"))
    state = {key: value for path in paths for key, value in load_file(path, device=str(device)).items()}
    unet.load_state_dict({key: value.to(dtype) for key, value in state.items()}, strict=True, assign=True)
    unet.eval().requires_grad_(False)
    keep_text(unet)
    return unet


def _load_codec(description: Description, device: torch.device) -> Codec:
    folder = description.folder
    if description.upscaling is not None:
        return SmallerCodec(description.upscaling.factor, device)
    if description.codec == "PixelUnshuffleCodec" and not (folder / "codec").is_dir():
        return PixelUnshuffleCodec(factor=1, scale=1.0).to(device)
    if description.codec == "PixelUnshuffleCodec":
        return PixelUnshuffleCodec.load(folder / "codec").to(device)
    if description.codec == "LinearCodec":
        return LinearCodec.load(folder / "codec").to(device)
    part = "codec" if (folder / "codec").is_dir() else "vae"
    _, variant = weights(folder, part, STEMS["vae"])
    options = {
        "variant": variant,
        "use_safetensors": True,
        "local_files_only": True,
        "low_cpu_mem_usage": False,
        "output_loading_info": True,
        "torch_dtype": torch.float32,
    }
    if description.codec == "AutoencoderTiny":
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        tiny, info = AutoencoderTiny.from_pretrained(folder / part, **options)
        complete(info, part)
        return TinyCodec(tiny.to(device))
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae, info = AutoencoderKL.from_pretrained(folder / part, **options)
    complete(info, part)
    return KLCodec(vae.to(device))


def _load_text(description: Description, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    folder = description.folder
    if "text_encoder_2" in description.weighty:
        return sdxl.load_text(description, device)
    _, variant = weights(folder, "text_encoder", STEMS["text_encoder"])
    options = {
        "variant": variant,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "dtype": torch.float32,
        "attn_implementation": "sdpa",  # Named here, so that a config cannot name a kernel to be downloaded and run.
    }
    if description.encoder == "BertModel":
        from tokenizers import Tokenizer
        from transformers.models.bert.modeling_bert import BertModel

        bert, info = BertModel.from_pretrained(folder / "text_encoder", add_pooling_layer=False, **options)
        complete(info, "text_encoder")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        return SentenceText(bert.to(device), tokenizer, **description.text)
    if description.encoder == "T5EncoderModel":
        return load_t5(description, options, device, dtype)
    from transformers.models.clip.modeling_clip import CLIPTextModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    clip, info = CLIPTextModel.from_pretrained(folder / "text_encoder", **options)
    complete(info, "text_encoder")
    return CLIPText(clip.to(device), CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))
