"""MGIE's released weights, and what they are differences to, as one bundle of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paintover.errors import ModelError
from paintover.models.beside import copy_base, whole
from paintover.models.description import describe
from paintover.models.files import read_json
from paintover.models.llava_import import config_of, mean_and_std, plan_of, read_llava
from paintover.models.mgie_card import CARD
from paintover.models.mgie_release import TOKENS, Release
from paintover.models.mgie_tokens import read_tokenizer, sources, with_tokens
from paintover.models.mllm_settings import Settings
from paintover.models.quiet import quiet
from paintover.models.shards import MOST, Plan, counting, write
from paintover.models.wording import VICUNA, Wording, image_tokens

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedTokenizerFast


@dataclass(frozen=True, eq=False)
class Planned:
    """What is to be written, before a tensor is read. odd: what is to be known of it, a line each."""

    unet: Plan
    edit_head: Plan
    language: Plan
    config: LlavaConfig
    tokenizer: PreTrainedTokenizerFast
    settings: Settings
    odd: list[str]


def plan(llava: Path, mgie: Path, base: Path, llama: Path | None = None, vision: Path | None = None) -> Planned:
    """How the folders go together: see `import_mgie`. Raises ModelError, one line, for what is missing or does not fit."""
    if not {"instruct", "unet"} <= describe(base, str(base)).capabilities:
        raise ModelError(f"{base} has no UNet that takes a source picture; name InstructPix2Pix, or another that has, as base")
    release, old = Release(mgie), read_llava(llava, llama, vision)
    _fits(release, old.config.get("hidden_size"), base)
    tokenizer = read_tokenizer(llava)
    known = dict(tokenizer.get_vocab())
    wording = Wording(VICUNA, image_tokens(TOKENS))
    if not old.config.get("mm_use_im_start_end", wording.start in known):
        raise ModelError(f"LLaVA in {llava} puts no {wording.start} before a picture (mm_use_im_start_end); MGIE's LLaVA does")
    tokenizer = with_tokens(tokenizer, (*wording.picture_tokens, *wording.image_tokens))
    vocabulary = tokenizer.get_vocab()
    order = sources(known, vocabulary, release.rows, wording)
    config = config_of(old, len(order), vocabulary[wording.patch], tokenizer)
    language = plan_of(old, config)
    shape = (len(order), release.width)
    language["model.language_model.embed_tokens.weight"] = shape, partial(release.embeddings, order)
    language["lm_head.weight"] = shape, partial(release.language_head, order)
    odd = []
    without = sorted(token for token, place in vocabulary.items() if order[place] is None)
    if without:
        odd.append(f"the release has no row for {', '.join(without[:5])} of the tokenizer; they got the mean of the others")
    if release.differs():
        odd.append("emb in mllm.pt is not what its embeddings end with; the [IMG] tokens got emb")
    mean, std = mean_and_std(old.vision)
    settings = Settings(wording, release.head.config, mean, std)
    return Planned(release.unet(base), release.edit_head(), language, config, tokenizer, settings, odd)


def import_mgie(
    llava: Path,
    mgie: Path,
    base: Path,
    out: Path,
    *,
    llama: Path | None = None,
    vision: Path | None = None,
    force: bool = False,
    report: Callable[[int, int], None] | None = None,
    most: int = MOST,
) -> list[str]:
    """Writes the bundle `out`, in half precision, and returns what is odd about it, a line each.

    llava: LLaVA-7B v1 in its first layout, or the delta of it to `llama`. mgie: the folder of mllm.pt and unet.pt. Pickles
    among these are opened as tensors alone. vision: CLIP ViT-L/14, if LLaVA's config does not name a folder.
    base: InstructPix2Pix in the diffusers layout, of which all but the UNet's weights is kept. report(done, total) is told
    of every tensor. most: bytes of a shard.

    `out` appears when it is complete. Raises ModelError, one line, for what is missing, broken or does not fit.
    """
    planned = plan(llava, mgie, base, llama, vision)
    told = counting(report, len(planned.unet) + len(planned.edit_head) + len(planned.language))
    with whole(out, force) as part:
        copy_base(base, part)
        own = part / "mgie"
        write(part / "unet", "diffusion_pytorch_model", planned.unet, told, most)
        write(own / "edit_head", "model", planned.edit_head, told, most)
        write(own / "language_model", "model", planned.language, told, most)
        with quiet():
            planned.config.save_pretrained(own / "language_model")
            planned.tokenizer.save_pretrained(own / "tokenizer")
        planned.settings.write(part)
        (part / "README.md").write_text(CARD, encoding="utf-8")
    return planned.odd


def _fits(release: Release, hidden: int | None, base: Path) -> None:
    unet = read_json(base, "unet/config.json")
    text = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim")
    if release.width != hidden or release.head.config["width"] != hidden:
        raise ModelError(
            f"mllm.pt is of a language model {release.width} wide (its edit head: {release.head.config['width']}), LLaVA is "
            f"{hidden}; they do not belong together"
        )
    if release.head.config["out"] != text:
        raise ModelError(f"the edit head speaks {release.head.config['out']} wide, the UNet of {base} listens to {text}")
