"""What a bundle says of itself in its JSON files and card. Reads no weights and imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paintover.errors import ModelError
from paintover.models.files import PARTS, files, read_json

_PREDICTIONS = ("epsilon", "v_prediction", "sample", "change", "blend")
_CODECS = ("AutoencoderKL", "AutoencoderTiny", "PixelUnshuffleCodec", "LinearCodec")
_TEXTS = ("CLIPTextModel", "BertModel", "T5EncoderModel")
_SD3_TEXTS = {
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
}
_SDXL_TEXTS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
_LIBRARIES = (["diffusers"], ["transformers"], ["paintover"], [None])
_GUIDES = ("mgie", "any2pix")  # folders of a bundle, and what it can do where it has them
# What a bundle's network is, which some editors ask for beside what the bundle can do.
NETWORKS = {"unet": "a diffusion model with a UNet", "flow": "a rectified-flow transformer"}


@dataclass(frozen=True)
class Card:
    """The bundle's README.md: `data` from its YAML front matter (licence, ...), `text` the rest."""

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def summary(self) -> str:
        """The first paragraph that is no heading, on one line."""
        paragraphs = (" ".join(part.split()) for part in self.text.split("\n\n"))
        return next((part for part in paragraphs if part and not part.startswith(("#", "!", "<", "|", "-"))), "")


@dataclass(frozen=True)
class Upscaling:
    """What a cascade's second stage says of itself: subfolder upscaler/, in the layout of DeepFloyd IF's stage II.

    factor: how many times larger, on each side, it makes a picture. `scheduler_config` is of its walk, `noising_config` of the
    noise that its source is given, up to timestep `noise_level`. `guidance`: of its caption.
    """

    factor: int
    prediction: str
    scheduler_config: Mapping[str, Any]
    noising_config: Mapping[str, Any]
    noise_level: int = 250
    guidance: float = 4.0


@dataclass(frozen=True)
class Refining:
    """What SDXL's refiner says of itself: subfolder refiner/, in its own layout. silent: as in `Description`."""

    prediction: str
    scheduler_config: Mapping[str, Any]
    silent: bool


@dataclass(frozen=True)
class Description:
    """What can be known of a bundle without its weights.

    `capabilities`: what it can do, and which of NETWORKS it has (told by its parts, whatever paintover.json says, as is
    "mgie": a multimodal language model that guides the denoiser, and "any2pix": parts by which it is shown pictures and
    sounds).
    `sigma_data`: how far off the network's pictures are, by which they are corrected (`models.denoiser.seen`).
    `size`: it works best on pictures of about size * size pixels. `defaults`: recommended steps and knobs for each
    editor. `text`: settings of the sentence encoder (length, token_scale). `codec`, `encoder`: class names. `weighty`: the
    folders that must hold weights; `tokenizers`: those of the tokenizers. `upscaling`: of a cascade, its second stage.
    `refining`: of an SDXL bundle, its refiner. `silent`: SDXL is told zeros in the place of "".
    """

    name: str
    folder: Path
    capabilities: frozenset[str]
    prediction: str
    sigma_data: float | None
    size: int
    codec: str
    encoder: str
    defaults: Mapping[str, Mapping[str, Any]]
    text: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    card: Card
    weighty: tuple[str, ...]
    upscaling: Upscaling | None = None
    refining: Refining | None = None
    silent: bool = False

    @property
    def unet(self) -> bool:
        """Whether its network is a UNet; otherwise it is a flow transformer."""
        return "unet" in self.capabilities

    @property
    def tokenizers(self) -> tuple[str, ...]:
        encoders = [part for part in self.weighty if part.startswith("text_encoder")]
        return tuple(part.replace("text_encoder", "tokenizer") for part in encoders)


def describe(folder: Path, name: str) -> Description:
    """Reads paintover.json where there is one, and otherwise infers it from the diffusers layout.

    Raises ModelError, in one line, for whatever is missing, broken, unsupported or asks for code that is not ours.
    """
    files(folder)
    index = read_json(folder, "model_index.json")
    for part, entry in index.items():
        if not re.fullmatch(r"\w+", part):
            raise ModelError(f"model_index.json of bundle {name} names a part {part[:60]!r}; expected a plain word")
        if (part in PARTS or part == "_class_name") and isinstance(entry, list) and entry[:1] not in _LIBRARIES:
            raise ModelError(f"bundle {name} asks for its own code for {part}: {str(entry)[:80]}; a bundle's code is never run")
    flow = "transformer" in index and not (folder / "unet").is_dir()
    place = next((part for part in ("codec", "vae") if (folder / part).is_dir()), None)
    pixels = place is None and "vae" not in index and not flow  # DeepFloyd IF's layout
    codec: dict[str, Any] = (
        {"_class_name": "PixelUnshuffleCodec", "factor": 1}
        if pixels
        else _config(folder, f"{place or 'vae'}/config.json", _CODECS, name)
    )
    sdxl = False
    if codec.get("latents_mean") is not None:
        raise ModelError(f"the codec of bundle {name} shifts its channels by latents_mean each, which is not supported")
    if flow:
        network = _config(folder, "transformer/config.json", ("SD3Transformer2DModel",), name)
        # The T5 is optional: without it model_index.json says null.
        encoders = [part for part in _SD3_TEXTS if part != "text_encoder_3" or index.get(part) not in (None, [None, None])]
        [encoder, *_] = [_config(folder, f"{part}/config.json", (_SD3_TEXTS[part],), name) for part in encoders]
    else:
        network = _config(folder, "unet/config.json", ("UNet2DConditionModel",), name)
        encoders = ["text_encoder"]
        if sdxl := network.get("addition_embed_type") == "text_time":
            encoders = _sdxl_texts(folder, index, name)
        encoder = _config(folder, "text_encoder/config.json", _TEXTS, name)
    weighty = ["transformer" if flow else "unet", *(["vae"] if place == "vae" else []), *encoders]
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    own = read_json(folder, "paintover.json") if (folder / "paintover.json").is_file() else {}
    if own and own.get("format") != 1:
        raise ModelError(f"paintover.json of bundle {name} has format {own.get('format')!r}; this edition reads format 1")
    upscaling = None
    if pixels and (folder / "upscaler").is_dir():
        upscaling = _upscaling(folder, network, own, name)
        weighty.append("upscaler/unet")
        codec = {"_class_name": "SmallerCodec", "factor": upscaling.factor}
    refining = None
    if (folder / "refiner").is_dir():
        refining = _refining(folder, network, scheduler, name)
        weighty.append("refiner/unet")
    prediction, inferred = ("velocity", ["text-to-image"]) if flow else _predicts(network, scheduler, own, name)
    blocks = codec.get("block_out_channels") or codec.get("encoder_block_out_channels") or ()
    factor = codec.get("factor") or 2 ** max(len(blocks) - 1, 0)
    try:
        return Description(
            name=name,
            folder=folder,
            capabilities=frozenset(str(word) for word in own.get("capabilities", inferred)) - {*NETWORKS, *_GUIDES}
            | {"flow" if flow else "unet", *(guide for guide in _GUIDES if (folder / guide / "config.json").is_file())},
            prediction=prediction,
            sigma_data=None if own.get("sigma_data") is None else float(own["sigma_data"]),
            size=int(own.get("size") or factor * (network.get("sample_size") or (128 if flow else 64))),
            codec=codec["_class_name"],
            encoder=encoder["_class_name"],
            defaults={str(editor): dict(knobs) for editor, knobs in dict(own.get("defaults", {})).items()},
            text=dict(own.get("text", {})),
            scheduler_config=scheduler,
            card=_card(folder),
            weighty=tuple(weighty),
            upscaling=upscaling,
            refining=refining,
            silent=sdxl and bool(index.get("force_zeros_for_empty_prompt", True)),
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"the settings of bundle {name} are malformed: {error}") from None


def _predicts(unet: dict[str, Any], scheduler: dict[str, Any], own: dict[str, Any], name: str) -> tuple[str, list[str]]:
    """What the UNet predicts, and what it can do by the channels that it has."""
    prediction = own.get("prediction", scheduler.get("prediction_type", "epsilon"))
    if prediction not in _PREDICTIONS:
        raise ModelError(f"bundle {name} predicts {prediction!r}; supported are {', '.join(_PREDICTIONS)}")
    if unet.get("class_embed_type") == "timestep":
        raise ModelError(
            f"bundle {name} makes pictures larger, and none from words alone; put it into the folder of a first stage, as "
            "upscaler/, and name that folder"
        )
    channels, inputs = unet.get("out_channels", 4), unet.get("in_channels", 4)
    if prediction == "blend":  # more channels out than latents have
        channels = inputs // 2
    elif channels == 2 * inputs:  # the learnt variance is half of them
        channels = inputs
    inferred = {channels: ["text-to-image"], 2 * channels: ["instruct"]}.get(inputs)
    if inferred is None:
        raise ModelError(f"the UNet of bundle {name} takes {inputs} channels; supported are {channels} and {2 * channels}")
    return prediction, inferred


def _upscaling(folder: Path, base: dict[str, Any], own: dict[str, Any], name: str) -> Upscaling:
    unet = _config(folder, "upscaler/unet/config.json", ("UNet2DConditionModel",), name)
    scheduler = read_json(folder, "upscaler/scheduler/scheduler_config.json")
    noising = read_json(folder, "upscaler/image_noising_scheduler/scheduler_config.json")
    if unet.get("class_embed_type") != "timestep" or unet.get("in_channels") != 2 * base.get("in_channels", 0):
        raise ModelError(f"upscaler/ of bundle {name} does not make its pictures larger; put DeepFloyd IF's stage II there")
    large, small = unet.get("sample_size"), base.get("sample_size")
    if not isinstance(large, int) or not isinstance(small, int) or not 0 < small < large or large % small:
        raise ModelError(
            f"the stages of bundle {name} have sample_size {small} and {large}; expected a multiple of the first's"
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(f"upscaler/ of bundle {name} predicts {prediction!r}; supported are epsilon, v_prediction, sample")
    try:
        said = dict(own.get("upscaler", {}))
        level = int(said.get("noise_level", Upscaling.noise_level))
        guidance = float(said.get("guidance", Upscaling.guidance))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the upscaler's settings in paintover.json of bundle {name} are malformed: {error}") from None
    if not 0 <= level < noising.get("num_train_timesteps", 1000):
        raise ModelError(f"noise_level in paintover.json of bundle {name} is {level}; expected a timestep, 0 to 999")
    return Upscaling(large // small, prediction, scheduler, noising, level, guidance)


def _sdxl_texts(folder: Path, index: dict[str, Any], name: str) -> list[str]:
    """The folders of SDXL's two text encoders. Raises ModelError where they are of other kinds, or there is one alone."""
    if index.get("text_encoder") in (None, [None, None]) and not (folder / "text_encoder").is_dir():
        raise ModelError(
            f"bundle {name} is SDXL's refiner, which finishes pictures and makes none from words alone; put it into the folder "
            "of an SDXL base, as refiner/, and name that folder"
        )
    for part, kind in _SDXL_TEXTS.items():
        _config(folder, f"{part}/config.json", (kind,), name)
    return list(_SDXL_TEXTS)


def _refining(folder: Path, base: dict[str, Any], scheduler: dict[str, Any], name: str) -> Refining:
    unet = _config(folder, "refiner/unet/config.json", ("UNet2DConditionModel",), name)
    if any(one.get("addition_embed_type") != "text_time" for one in (base, unet)):
        raise ModelError(f"refiner/ of bundle {name} is for SDXL alone; put SDXL's refiner there, beside an SDXL base")
    if unet.get("in_channels", 4) != base.get("out_channels", 4):
        raise ModelError(
            f"refiner/ of bundle {name} walks latents of {unet.get('in_channels', 4)} channels, but the bundle's have "
            f"{base.get('out_channels', 4)}"
        )
    if (folder / "refiner" / "scheduler").is_dir():
        scheduler = read_json(folder, "refiner/scheduler/scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(f"refiner/ of bundle {name} predicts {prediction!r}; supported are epsilon, v_prediction, sample")
    index = read_json(folder, "refiner/model_index.json") if (folder / "refiner" / "model_index.json").is_file() else {}
    return Refining(prediction, scheduler, bool(index.get("force_zeros_for_empty_prompt", False)))


def _config(folder: Path, file: str, classes: tuple[str, ...], name: str) -> dict[str, Any]:
    """A part's config, its class among those we know. Custom code and quantised weights are refused here."""
    config = read_json(folder, file)
    for key in ("auto_map", "quantization_config", "custom_pipelines"):
        if key in config:
            raise ModelError(
                f"{file} of bundle {name} asks for {key}, which is not supported (a bundle's own code is never run)"
            )
    architectures = config.get("architectures") or [None]
    kind = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) else None)
    if kind not in classes:
        raise ModelError(f"{file} of bundle {name} describes {kind!r}; supported: {', '.join(classes)}")
    return {**config, "_class_name": kind}


def _card(folder: Path) -> Card:
    path = folder / "README.md"
    if not path.is_file():
        return Card()
    from huggingface_hub import metadata_load

    text = path.read_text(encoding="utf-8", errors="replace")
    body = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    try:
        data = metadata_load(path)
    except Exception:  # Of many kinds. A card that is written wrongly stops nobody from editing a picture.
        data = None
    return Card(data=data if isinstance(data, dict) else {}, text=body)
