"""`paintover models ...`: the bundles that are known here, and bundles made from others' weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from paintover.cli.shared import AsJson, Force, app, counted, print_json, tell
from paintover.errors import RequestError

group = typer.Typer(invoke_without_command=True, help="List the bundles that are known here; import or make one.")
imports = typer.Typer(no_args_is_help=True, help="Make a bundle of weights that are in another layout.")
app.add_typer(group, name="models")
group.add_typer(imports, name="import")

OutFolder = Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder.")]


@group.callback()
def models(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the bundles that are known here; import or make one."""
    if context.invoked_subcommand is not None:
        return
    from paintover.models.listing import list_bundles

    listings = list_bundles()
    if as_json:
        rows = [
            {"name": m.name, "where": m.where, "can": sorted(m.capabilities), "licence": m.licence, "summary": m.summary}
            for m in listings
        ]
        print_json({"models": rows})
        return
    for m in listings:  # no table: names are long, and to be copied
        print(f"{m.name}\n    {m.where}; can {', '.join(sorted(m.capabilities))}; licence {m.licence or 'not stated'}")
        if m.summary:
            print(f"    {m.summary}")
    print("Any folder in the diffusers layout works too: --model ./folder", file=sys.stderr)


Llama = Annotated[Path | None, typer.Option(help="LLaMA-7B, where --llava is a delta to it.")]
Vision = Annotated[Path | None, typer.Option(help="CLIP ViT-L/14 (default: what LLaVA's config names, if a folder).")]
Accept = Annotated[bool, typer.Option("--accept-licences", help="You have read the licences, and keep to them.")]
OldLlava = Annotated[Path, typer.Option(help="LLaVA-7B v1 in its first layout (LlavaLlamaForCausalLM), or the delta of it.")]


@imports.command()
def mgie(
    *,
    llava: OldLlava,
    weights: Annotated[Path, typer.Option("--mgie", help="The folder of MGIE's mllm.pt and unet.pt.")],
    base: Annotated[str, typer.Option(help="InstructPix2Pix: a folder in the diffusers layout, or owner/name of the hub.")],
    out: OutFolder,
    llama: Llama = None,
    vision: Vision = None,
    accept: Accept = False,
    force: Force = False,
) -> None:
    """Import MGIE's released weights (Fu et al. 2024) with the LLaVA and the InstructPix2Pix that they belong to.

    The licences are shown, and to be accepted, first. Of .bin and .pt files only tensors are read: nothing in them can run.
    """
    from paintover.models.mgie_card import LICENCES

    _licences(accept, LICENCES)
    from paintover.models.bundle import find
    from paintover.models.mgie_import import import_mgie

    with counted("converting") as report:
        odd = import_mgie(llava, weights, find(base)[0], out, llama=llama, vision=vision, force=force, report=report)
    for line in odd:
        tell(f"paintover: {line}")
    print(out)


@imports.command()
def llava(
    *,
    llava: OldLlava,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    llama: Llama = None,
    vision: Vision = None,
    accept: Accept = False,
    force: Force = False,
) -> None:
    """Import LLaVA alone, as a folder of transformers (LlavaForConditionalGeneration): what `new-mgie` starts from."""
    from paintover.models.mgie_card import LICENCES

    _licences(accept, LICENCES)
    from paintover.models.llava_import import import_llava

    with counted("converting") as report:
        import_llava(llava, out, llama=llama, vision=vision, force=force, report=report)
    print(out)


@imports.command()
def any2pix(
    release: Annotated[list[Path], typer.Argument(help="The folders of the release, in which its files keep their names.")],
    *,
    base: Annotated[str, typer.Option(help="Stable Diffusion XL: a folder in the diffusers layout, or owner/name of the hub.")],
    out: OutFolder,
    accept: Accept = False,
    force: Force = False,
) -> None:
    """Import InstructAny2Pix's released weights (Li et al. 2023) with the ImageBind and the SDXL that they belong to.

    The licences are shown, and to be accepted, first: ImageBind's forbids commercial use. Of .bin and .pth files only tensors
    are read: nothing in them can run.
    """
    from paintover.models.any2pix_card import LICENCES

    _licences(accept, LICENCES)
    from paintover.models.any2pix_import import import_any2pix
    from paintover.models.bundle import find

    with counted("converting") as report:
        odd = import_any2pix(release, find(base)[0], out, force=force, report=report)
    for line in odd:
        tell(f"paintover: {line}")
    print(out)


@imports.command()
def aesthetic(
    weights: Annotated[Path, typer.Argument(help="The released sac+logos+ava1-l14-linearMSE.pth.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to make.")],
    force: Force = False,
) -> None:
    """Convert LAION's aesthetic predictor, a small pickle, to safetensors. Only tensors are read: nothing in it can run."""
    from paintover.models.aesthetic import import_aesthetic

    import_aesthetic(weights, out, force)
    print(out)


@group.command()
def new_mgie(
    *,
    llava: Annotated[Path, typer.Option(help="A LLaVA in transformers' layout (LlavaForConditionalGeneration).")],
    base: Annotated[str, typer.Option(help="A diffusion model: builtin, a folder in the diffusers layout, or owner/name.")],
    out: OutFolder,
    image_tokens: Annotated[int, typer.Option(min=1, help="How many [IMG] tokens the language model says.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the edit head's first weights.")] = 0,
    force: Force = False,
) -> None:
    """Make an MGIE that is not trained yet, of a LLaVA and a diffusion model of any size: what `train mgie` starts from.

    The language model learns [IMG] tokens, a UNet without channels for a source picture gets some, and the edit head is new.
    """
    from paintover.models.bundle import find
    from paintover.models.mgie_new import new_mgie as make

    make(llava, find(base)[0], out, image_tokens, seed, force)
    print(out)


@group.command()
def new_any2pix(
    *,
    base: Annotated[str, typer.Option(help="A diffusion model: builtin, a folder in the diffusers layout, or owner/name.")],
    encoder: Annotated[Path, typer.Option(help="A media encoder's folder, as bundles have it in any2pix/encoder.")],
    out: OutFolder,
    language: Annotated[
        Path | None, typer.Option(help="A LLaMA in transformers' layout (default: a small one, of the base's own words).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is new.")] = 0,
    force: Force = False,
) -> None:
    """Make an InstructAny2Pix that is not trained yet: what `train any2pix` starts from.

    The base gets the media encoder, a language model with projectors to and from its space, a refinement prior, and an adapter
    by which its UNet can be told of pictures and sounds.
    """
    from paintover.models.any2pix_new import new_any2pix as make
    from paintover.models.bundle import find

    make(find(base)[0], out, encoder, language, seed=seed, force=force)
    print(out)


def _licences(accepted: bool, licences: str) -> None:
    print(licences, file=sys.stderr)
    if not accepted:
        raise RequestError("say that you keep to these licences: --accept-licences")
