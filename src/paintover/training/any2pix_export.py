"""What InstructAny2Pix's stages taught becomes a bundle's: averaged weights, in half precision."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path

import torch

from paintover.errors import PaintoverError
from paintover.models.adapter_file import save_adapter
from paintover.models.any2pix_file import load_any2pix, save_any2pix
from paintover.models.any2pix_new import new_any2pix
from paintover.models.beside import copied, take_place
from paintover.models.bundle import Bundle, load
from paintover.models.encoder_file import save_encoder
from paintover.models.files import fingerprint
from paintover.models.small_encoder import SmallEncoder
from paintover.training import checkpoint, recipe
from paintover.training.any2pix_network import LEARNING, frozen, networks
from paintover.training.any2pix_realign_recipe import RealignRecipe
from paintover.training.any2pix_recipe import Any2PixRecipe
from paintover.training.encoder_recipe import EncoderRecipe
from paintover.training.network import averaged_weights

_STAGES: tuple[type[Any2PixRecipe | RealignRecipe], ...] = (Any2PixRecipe, RealignRecipe)


def add_any2pix(run: Path, folder: Path, share: float = 1.0) -> str:
    """Puts what a run of one stage taught into the bundle in `folder`; all else of it stays. Returns its new fingerprint.

    The bundle has what the run did not teach as the run began with it: it is that bundle, a copy, or one that a run of another
    stage was added to. It stays whole whenever this is killed. share: how far its UNet goes to the run's, after stage 4
    (Wortsman et al. 2022). Raises PaintoverError where the two do not go together.
    """
    folder = folder.resolve()
    trained = recipe.read(run, *_STAGES)
    last = checkpoint.latest(run / "state")
    if trained is None or last is None:
        raise PaintoverError(f"{run} holds no checkpoint; train there first")
    bundle = load(folder, device="cpu")
    bundle.require("any2pix")
    part = _realigned(run, bundle, share) if isinstance(trained, RealignRecipe) else _taught(run, trained, last, bundle)
    take_place(part, folder)
    return fingerprint(folder)


def _taught(run: Path, trained: Any2PixRecipe, last: Path, bundle: Bundle) -> Path:
    """A copy of the bundle with what stage 1, 2, 3 or 5 taught."""
    folder = bundle.folder
    parts = load_any2pix(folder, torch.device("cpu"), dtype=torch.float32)
    if checkpoint.facts(last).get("frozen") not in (None, frozen(parts, bundle.encoder(), trained)):
        raise PaintoverError(
            f"{folder} has other weights than {trained.init}, beside which {run} was taught; name a copy of that bundle"
        )
    found = networks(parts)
    net = torch.nn.ModuleDict({name: found[name] for name in LEARNING[trained.stage] if name in found})
    try:
        net.load_state_dict(averaged_weights(run))
    except RuntimeError as error:
        raise PaintoverError(f"{folder} has another network, or other words, than {run} was taught with") from error
    part = copied(folder)
    save_any2pix(parts, part)
    return part


def _realigned(run: Path, bundle: Bundle, share: float) -> Path:
    """A copy of the bundle with the UNet and the adapter that stage 4 taught."""
    denoiser = bundle.adapted()
    unet, adapter = copy.deepcopy(denoiser.unet), copy.deepcopy(denoiser.adapter)
    assert adapter is not None  # `adapted` has one
    both = torch.nn.ModuleDict({"unet": unet, "adapter": adapter})
    before = {name: tensor.clone() for name, tensor in both["unet"].float().state_dict().items()}
    try:
        both.float().load_state_dict(averaged_weights(run))
    except RuntimeError as error:
        raise PaintoverError(f"{bundle.folder} has another network than {run} was taught with") from error
    between = {name: torch.lerp(before[name], tensor, share) for name, tensor in both["unet"].state_dict().items()}
    both["unet"].load_state_dict(between)
    part = copied(bundle.folder)
    for name in ("unet", "any2pix/adapter"):
        shutil.rmtree(part / name)
    unet.half().save_pretrained(part / "unet")
    save_adapter(adapter, part)
    return part


def add_encoder(run: Path, folder: Path) -> str:
    """Puts the media encoder that `train encoder` taught into the bundle in `folder`; returns the bundle's new fingerprint.

    A bundle without any2pix gets untrained parts beside the encoder (`models new-any2pix`), one that has it keeps its own,
    though they were taught with the encoder that is replaced. Raises PaintoverError where the two do not go together.
    """
    folder = folder.resolve()
    trained = recipe.read(run, EncoderRecipe)
    if trained is None or checkpoint.latest(run / "state") is None:
        raise PaintoverError(f"{run} holds no checkpoint; train there first")
    bundle = load(folder, device="cpu")
    if bundle.text.pooled_width is None:
        raise PaintoverError(f"{folder} has no sentence encoder, by which the media encoder reads words; name another bundle")
    encoder = SmallEncoder(bundle.text, trained.width, trained.size, trained.sights, trained.sounds)
    try:
        encoder.load_state_dict(averaged_weights(run))
    except RuntimeError as error:
        raise PaintoverError(f"{folder} has another sentence encoder than {run} was taught with") from error
    if (folder / "any2pix" / "config.json").is_file():
        width = bundle.any2pix().language.width
        if width != trained.width:
            raise PaintoverError(f"{run} taught an encoder of width {trained.width}; any2pix in {folder} is of width {width}")
        part = copied(folder)
        shutil.rmtree(part / "any2pix" / "encoder", ignore_errors=True)
        save_encoder(encoder, part)
        take_place(part, folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            save_encoder(encoder, Path(place))
            new_any2pix(folder, folder, Path(place) / "any2pix" / "encoder", force=True)
    return fingerprint(folder)
