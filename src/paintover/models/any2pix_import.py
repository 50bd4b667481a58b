"""InstructAny2Pix's released weights, and the SDXL that they were made for, as one bundle of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paintover.errors import ModelError
from paintover.models import any2pix_release as release
from paintover.models.adapter import MediaAdapter
from paintover.models.adapter_file import write_config as write_adapter_config
from paintover.models.any2pix_card import CARD
from paintover.models.any2pix_language import WORDING, Language, language
from paintover.models.any2pix_settings import Any2PixSettings
from paintover.models.beside import copy_base, whole
from paintover.models.description import describe
from paintover.models.files import STEMS, read_json
from paintover.models.imagebind_file import write_config as write_imagebind_config
from paintover.models.imagebind_trunk import Sizes
from paintover.models.prior_release import released_prior
from paintover.models.quiet import quiet
from paintover.models.shards import MOST, Plan, counting, write


@dataclass(frozen=True, eq=False)
class Planned:
    """What is to be written, before a tensor is read. odd: what is to be known of it, a line each."""

    language: Language
    encoder: Plan
    prior: Plan
    adapter: Plan
    sizes: Sizes
    adapter_config: dict[str, Any]
    settings: Any2PixSettings
    odd: list[str]


def plan(folders: Sequence[Path], base: Path) -> Planned:
    """How the folders go together: see `import_any2pix`. Raises ModelError, one line, for what is missing or does not fit."""
    pieces = release.find_pieces(folders)
    about = describe(base, str(base))
    if not about.unet or about.upscaling is not None:
        raise ModelError(f"{base} is no SDXL; name the Stable Diffusion XL base that the adapter was trained with")
    language_part = language(pieces.language)
    sizes, encoder = release.imagebind(pieces.imagebind)
    prior_config, prior = released_prior(pieces.prior)
    adapter_config, adapter = release.adapter(pieces.adapter)
    widths = {"ImageBind": sizes.out, "projectors": language_part.width, "prior": prior_config.width}
    widths["adapter"] = adapter_config["width"]
    if len({*widths.values()}) > 1:
        raise ModelError(
            f"these pieces are of different releases: {', '.join(f'{what} {n} wide' for what, n in widths.items())}"
        )
    with torch.device("meta"), quiet():
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        MediaAdapter(**adapter_config).check(UNet2DConditionModel.from_config(read_json(base, "unet/config.json")))
    settings = Any2PixSettings(WORDING, prior_config, encoder="imagebind")
    return Planned(language_part, encoder, prior, adapter, sizes, adapter_config, settings, language_part.odd)


def import_any2pix(
    folders: Sequence[Path],
    base: Path,
    out: Path,
    *,
    force: bool = False,
    report: Callable[[int, int], None] | None = None,
    most: int = MOST,
) -> list[str]:
    """Writes the bundle `out`, its any2pix/ in half precision, and returns what is odd about it, a line each.

    folders: those of the release, in which its files are looked for by their names: llm-retrained/ with tokenizer/,
    imagebind_huge.pth, prior/model.bin and sdxl/ip_adapter_global_local_2_view.bin. Pickles among these are opened as tensors
    alone. base: Stable Diffusion XL in the diffusers layout, which is copied. report(done, total) is told of every tensor.
    most: bytes of a shard.

    `out` appears when it is complete. Raises ModelError, one line, for what is missing, broken or does not fit.
    """
    planned = plan(folders, base)
    said = planned.language
    parts = {"encoder": planned.encoder, "language_model": said.plan, "projectors": said.projectors}
    parts |= {"prior": planned.prior, "adapter": planned.adapter}
    told = counting(report, sum(map(len, parts.values())))
    with whole(out, force) as part:
        copy_base(base, part, unet=True)
        own = part / "any2pix"
        for name, tensors in parts.items():
            write(own / name, STEMS[f"any2pix/{name}"], tensors, told, most)
        write_imagebind_config(planned.sizes, own / "encoder")
        write_adapter_config(planned.adapter_config, own / "adapter")
        with quiet():
            said.config.save_pretrained(own / "language_model")
            said.tokenizer.save_pretrained(own / "tokenizer")
        planned.settings.write(part)
        (part / "README.md").write_text(CARD, encoding="utf-8")
    return planned.odd
