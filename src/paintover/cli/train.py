"""`paintover train ...`: the built-in model's own training, one command a part."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from paintover.cli.pairs import Columns, Kind, Pictures, SkipBroken, columns_of
from paintover.cli.shared import Photos, Recordings, World, app
from paintover.errors import RequestError
from paintover.training.any2pix_realign_recipe import RealignRecipe
from paintover.training.any2pix_recipe import Any2PixRecipe
from paintover.training.encoder_recipe import EncoderRecipe
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.recipe import Recipe, Run, settle

group = typer.Typer(no_args_is_help=True, help=r"Train the built-in model (needs: pip install 'paintover\[train]').")
app.add_typer(group, name="train")

Text = Annotated[Path, typer.Option(help="The sentence encoder that `train text` made.")]
RunFolder = Annotated[Path, typer.Option("--out", "-o", help="The run's folder; what is there already is resumed.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that make the batches.")]


def with_recipe(kind: type[Run]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for each field of a recipe; it receives those that were used as `given`."""
    several = {name for name, field in kind.model_fields.items() if "tuple" in str(field.annotation)}
    flags = []
    for name, field in kind.model_fields.items():
        default = ",".join(map(str, field.default)) if name in several else field.default
        told = f"{field.description} (default {default})" if default is not None else field.description
        metavar = None if isinstance(default, bool) else "A,B,..." if name in several else "VALUE"
        option = typer.Option(rich_help_panel="Recipe (kept in the run's folder)", help=told, metavar=metavar)
        value = bool if isinstance(default, bool) else str
        flags.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[value | None, option])
        )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**said: Any) -> None:
            given = {name: value for name in kind.model_fields if (value := said.pop(name)) is not None}
            command(**said, given={name: value.split(",") if name in several else value for name, value in given.items()})

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
        run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


@group.command()
@with_recipe(Recipe)
def scenes(
    *,
    out: RunFolder,
    text: Text = Path("text"),
    world: World = Path("world"),
    photos: Photos = None,
    workers: Workers = 1,
    given: dict[str, Any],
) -> None:
    """Train the denoiser on the built-in world. Stop it at any moment; the same command goes on.

    On several devices: accelerate launch -m paintover train scenes ...
    """
    recipe = _settled(out, given, Recipe)
    _needs("accelerate", "tensorboard")
    from paintover.training.denoiser import train
    from paintover.training.text import load

    encoder = load(text)
    _begins(out)
    print(train(out, recipe, world, photos, encoder, workers=workers))


@group.command()
@with_recipe(LanguageRecipe)
def language(
    *,
    out: RunFolder,
    text: Text = Path("text"),
    world: World = Path("world"),
    photos: Photos = None,
    workers: Workers = 1,
    given: dict[str, Any],
) -> None:
    """Teach the small multimodal language model to look, and to say in full what an instruction means (MGIE).

    Stop it at any moment; the same command goes on. On several devices: accelerate launch -m paintover train language ...
    """
    recipe = _settled(out, given, LanguageRecipe)
    _needs("accelerate", "tensorboard")
    from paintover.training.language import train
    from paintover.training.text import load

    encoder = load(text)
    _begins(out)
    print(train(out, recipe, world, photos, encoder, text / "tokenizer" / "tokenizer.json", workers=workers))


@group.command()
@with_recipe(EncoderRecipe)
def encoder(
    *,
    out: RunFolder,
    model: Annotated[str, typer.Option(help="The bundle whose sentence encoder reads the words.")] = "builtin",
    world: World = Path("world"),
    photos: Photos = None,
    recordings: Recordings = None,
    workers: Workers = 1,
    given: dict[str, Any],
) -> None:
    """Teach the media encoder that pictures, sounds and words mean the same (InstructAny2Pix, and the scorer).

    Stop it at any moment; the same command goes on. On several devices: accelerate launch -m paintover train encoder ...
    """
    recipe = _settled(out, given, EncoderRecipe)
    _needs("accelerate", "tensorboard")
    from paintover.models.bundle import load
    from paintover.training.encoder import train

    bundle = load(model, "cpu")  # the workers that make batches read words, and have no accelerator
    _begins(out)
    print(train(out, recipe, world, photos, recordings, bundle, workers=workers))


@group.command()
@with_recipe(MgieRecipe)
def mgie(
    *,
    out: RunFolder,
    data: Annotated[Path | None, typer.Option(help="A dataset of edits (default: the built-in world).")] = None,
    kind: Kind = None,
    split: Annotated[str, typer.Option(help="Its split to learn from.")] = "train",
    column: Columns = None,
    pictures: Pictures = None,
    expressive: Annotated[Path | None, typer.Option(help="What `train expressive` made of it.")] = None,
    skip_broken: SkipBroken = False,
    world: World = Path("world"),
    photos: Photos = None,
    workers: Workers = 1,
    given: dict[str, Any],
) -> None:
    """Train a language model's [IMG] tokens, the edit head and the denoiser together (MGIE, algorithm 1).

    --init names the bundle to begin with, which has a language model already. Stop it at any moment; the same command goes on.
    On several devices: accelerate launch -m paintover train mgie ...
    """
    recipe = _settled(out, given, MgieRecipe)
    _needs("accelerate", "tensorboard")
    import torch
    from accelerate import PartialState

    from paintover.models.bundle import load
    from paintover.models.mllm_file import load_mllm
    from paintover.training.batches import Share
    from paintover.training.mgie import train
    from paintover.training.mgie_batches import MgieBatches
    from paintover.training.mgie_pairs import PairBatches

    process = PartialState(cpu=not torch.cuda.is_available())
    share = Share(process.process_index, process.num_processes)
    begun = recipe.init or "builtin"
    device = process.device if process.device.type != "cpu" else torch.device("cpu")  # it may be called cpu:0
    bundle = load(begun, device, torch.float32)
    bundle.require("mgie")
    precision = torch.float32 if device.type == "cpu" else torch.float16
    mllm = load_mllm(bundle.folder, bundle.denoiser.device, dtype=precision)
    reader = load(begun, "cpu").text  # the workers that make batches have no accelerator
    batches: MgieBatches | PairBatches
    if data is None:
        batches = MgieBatches(world, photos, mllm, reader, recipe, share)
    else:
        from paintover.datasets import open_dataset

        pairs = open_dataset(
            data, kind, split, expressive=expressive, columns=columns_of(column), pictures=pictures, skip_broken=skip_broken
        )
        batches = PairBatches(pairs, mllm, reader, recipe, share)
    _begins(out)
    print(train(out, recipe, bundle, batches, workers=workers))


@group.command()
@with_recipe(Any2PixRecipe)
def any2pix(
    *,
    out: RunFolder,
    world: World = Path("world"),
    photos: Photos = None,
    recordings: Recordings = None,
    workers: Workers = 1,
    given: dict[str, Any],
) -> None:
    """Train one of InstructAny2Pix's stages on the built-in world: --stage 1, 2, 3 or 5; stage 4 is `train realign`.

    --init names the bundle to begin with, which has any2pix already. Stop it at any moment; the same command goes on.
    On several devices: accelerate launch -m paintover train any2pix ...
    """
    recipe = _settled(out, given, Any2PixRecipe)
    _needs("accelerate", "tensorboard")
    from paintover.models.bundle import load
    from paintover.training.any2pix import train

    bundle = load(recipe.init or "builtin", "cpu")  # the workers that make batches ask its encoder, and have no accelerator
    bundle.require("any2pix")
    _begins(out)
    print(train(out, recipe, world, photos, recordings, bundle, workers=workers))


@group.command()
@with_recipe(RealignRecipe)
def realign(
    *,
    out: RunFolder,
    world: World = Path("world"),
    photos: Photos = None,
    recordings: Recordings = None,
    workers: Workers = 1,
    given: dict[str, Any],
) -> None:
    """Teach a denoiser and its adapter what embeddings of pictures and objects mean: InstructAny2Pix's fourth stage.

    --init names the bundle to begin with, which has any2pix already. Stop it at any moment; the same command goes on.
    On several devices: accelerate launch -m paintover train realign ...
    """
    recipe = _settled(out, given, RealignRecipe)
    _needs("accelerate", "tensorboard")
    from paintover.models.bundle import load
    from paintover.training.any2pix_realign import train

    bundle = load(recipe.init or "builtin", "cpu")  # likewise
    bundle.require("any2pix")
    _begins(out)
    print(train(out, recipe, bundle, world, photos, recordings, workers=workers))


@group.command()
def fetch_world(*, folder: Annotated[Path, typer.Argument(help="Where to put it (about 1 GB).")]) -> None:
    """Fetch the pictures that the built-in world is made of (Debian packages; nothing is installed)."""
    from paintover.scenes.assets import fetch

    fetch(folder)
    print(folder)


@group.command()
def text(*, out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")]) -> None:
    """Make the sentence encoder: all-MiniLM-L6-v2 with the built-in world's words and the commonest others."""
    from paintover.training.text import make

    settings = make(out)
    print(f"paintover: {settings['pieces']} word pieces kept", file=sys.stderr)
    print(out)


@group.command()
def export(
    *,
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder; an older edition there is replaced.")],
    card: Annotated[Path, typer.Option(help="Its README.md: licence, training data, what it is bad at.")],
    text: Text = Path("text"),
    size: Annotated[int | None, typer.Option(min=8, help="Pixels on each side it is for (default: as trained).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Recommended steps of instruct and imagine.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Their recommended guidance.")] = None,
) -> None:
    """Make a bundle of a run: half precision, in the diffusers layout, with a card.

    What it recommends for each editor is what the built-in model does, but for steps and guidance that are given.
    """
    _needs("accelerate", "tensorboard")
    from paintover.models.description import describe
    from paintover.models.listing import BUILTIN
    from paintover.training.export import export as make
    from paintover.training.recipe import read

    try:
        words = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{card} cannot be read ({error}); name the card, a text file") from None
    trained = read(run, Recipe)
    given = {name: value for name, value in {"steps": steps, "guidance": guidance}.items() if value is not None}
    # The editors' own 50 steps and guidance 7.5 are Stable Diffusion's; small models leave their pictures with them.
    builtin = describe(BUILTIN, "builtin").defaults
    defaults = {name: dict(knobs) | (given if name in ("instruct", "imagine") else {}) for name, knobs in builtin.items()}
    fingerprint = make(run, text, out, card=words, size=size or (trained.size if trained else 0), defaults=defaults)
    print(f"paintover: fingerprint {fingerprint}", file=sys.stderr)
    print(out)


@group.command()
def add_language(
    *,
    run: Annotated[Path, typer.Argument(help="The folder of a run of `train language` or `train mgie`.")],
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="How far the denoiser goes from the bundle's weights to the run's.")
    ] = 1.0,
) -> None:
    """Put a trained language model into a bundle, which can then do mgie and lgie; an older one there is replaced.

    A run of `train mgie` replaces the denoiser, too; the bundle is the one that the run began with, or a copy.
    """
    _needs("accelerate", "tensorboard")
    from paintover.training.export import add_language as add

    fingerprint, size = add(run, folder, share)
    print(f"paintover: {size / 1e6:.1f} MB of language model; fingerprint {fingerprint}", file=sys.stderr)
    print(folder)


@group.command()
def add_encoder(
    *,
    run: Annotated[Path, typer.Argument(help="The folder of a run of `train encoder`.")],
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")],
) -> None:
    """Put a trained media encoder into a bundle, with untrained parts of any2pix beside it where it has none."""
    _needs("accelerate", "tensorboard")
    from paintover.training.any2pix_export import add_encoder as add

    print(f"paintover: fingerprint {add(run, folder)}", file=sys.stderr)
    print(folder)


@group.command()
def add_any2pix(
    *,
    run: Annotated[Path, typer.Argument(help="The folder of a run of `train any2pix` or `train realign`.")],
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="How far the denoiser goes from the bundle's weights to the run's.")
    ] = 1.0,
) -> None:
    """Put what one stage of any2pix's training taught into the bundle that it began with, or a copy."""
    _needs("accelerate", "tensorboard")
    from paintover.training.any2pix_export import add_any2pix as add

    print(f"paintover: fingerprint {add(run, folder, share)}", file=sys.stderr)
    print(folder)


def _begins(out: Path) -> None:
    print(f"paintover: training in {out}; log.jsonl and board/ tell how it goes, Ctrl-C stops it", file=sys.stderr)


def _needs(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RequestError(f"training needs {' and '.join(missing)}: pip install 'paintover[train]'")


def _settled(out: Path, given: dict[str, Any], kind: type[Run]) -> Any:
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; name a folder for the run")
    return settle(out, given, kind)
