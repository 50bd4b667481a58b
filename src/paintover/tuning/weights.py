"""Which weights of a denoiser are tuned, and a denoiser with the tuned ones in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.denoiser import Denoiser
from paintover.models.kept import keep_text
from paintover.tuning.attention import quick
from paintover.tuning.half import supported
from paintover.tuning.names import UNET, below

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

Kind = Literal["full", "lora"]
LORA = (".lora_A.weight", ".lora_B.weight")
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # of every attention, as diffusers' own training does


def trainable(denoiser: Denoiser, kind: Kind = "full", rank: int = 8, seed: int = 0) -> Denoiser:
    """The denoiser once more, with weights of its own, in float32, that record gradients: all of them, or a LoRA's.

    full: a copy of every weight. lora: low-rank additions B A to the projections of every attention (Hu et al. 2021), `rank`
    rows each, A drawn from `seed`; the weights beneath stay, and are shared with `denoiser` where they can be.
    """
    made = learner(denoiser, as_it_is=kind == "lora" and _learns(denoiser))
    if kind == "full":
        for parameter in made.unet.parameters():  # a copy each: `float` gives the same tensor where it was float32 before
            parameter.data = parameter.data.clone()
        made.unet.requires_grad_(True)
    else:
        from peft import LoraConfig

        unet: Any = made.unet
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # A and B are drawn on the CPU, whatever the device
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_TARGETS))
        for parameter in tuned_of(made).values():
            parameter.data = parameter.data.float()
    return made


def _learns(denoiser: Denoiser) -> bool:
    """Whether gradients come through its weights as they are. In float16 small ones vanish, unless autocast takes bfloat16
    for it, which is a matter of the accelerator (on a CPU it leaves the norms in their weights' type)."""
    return denoiser.dtype is not torch.float16 or (denoiser.device.type == "cuda" and supported(denoiser.device))


def learner(denoiser: Denoiser, *, as_it_is: bool = False) -> Denoiser:
    """The denoiser once more, to learn through: in float32, so that small gradients do not vanish, its own weights still.

    Weights that are in float32 are shared with `denoiser`, and with `as_it_is` all of them; none records gradients.
    """
    own = denoiser.unet.state_dict()
    copy = _copy(denoiser.unet, {name: w.detach() if as_it_is else w.detach().float() for name, w in own.items()})
    if denoiser.device.type == "cpu":
        quick(copy)
    return denoiser.around(copy)


def tuned_of(denoiser: Denoiser) -> dict[str, torch.nn.Parameter]:
    """The weights of a `trainable` that learn, by the name that each has as a tensor of a bundle, or of a LoRA file."""
    # peft calls each A and B by its adapter's name, which files leave out.
    named = ((name.replace(".default.", "."), p) for name, p in denoiser.unet.named_parameters() if p.requires_grad)
    return {UNET + name: parameter for name, parameter in named}


def with_weights(denoiser: Denoiser, tensors: Mapping[str, Tensor]) -> Denoiser:
    """The denoiser with these of its weights in place of its own; all others are shared, nothing of it is changed.

    tensors: as `tuned_of` names them; what is named otherwise is left out. A LoRA's are added in, W + B A (of a convolution
    likewise, its kernel flattened), so that it costs nothing more to walk. Raises ModelError for what is of another network.
    """
    own: dict[str, Tensor] = denoiser.unet.state_dict()
    new = {name: tensor.to(denoiser.device) for name, tensor in below(tensors, UNET).items()}
    check(own, new)
    for name in [name for name in new if name.endswith(LORA[0])]:
        module = name.removesuffix(LORA[0])
        low, high = new.pop(name), new.pop(module + LORA[1])
        weight = own[f"{module}.weight"]
        added = high.float().flatten(1) @ low.float().flatten(1)
        new[f"{module}.weight"] = (weight.float() + added.view_as(weight)).to(weight.dtype)
    unet = _copy(denoiser.unet, own | {name: tensor.to(own[name].dtype) for name, tensor in new.items()})
    unet.set_attn_processor(dict(denoiser.unet.attn_processors))
    keep_text(unet)
    return denoiser.around(unet)


def part(denoiser: Denoiser, tensors: Mapping[str, Tensor], share: float) -> Mapping[str, Tensor]:
    """W + share (W_tuned - W) for each weight of `tensors`, as `tuning.weights` names them; of a LoRA's, W + share B A.

    share 1 is the tensors themselves, 0 the untuned model. What is no weight of this denoiser stays as it is.
    """
    if share == 1:
        return tensors
    own: dict[str, Tensor] = denoiser.unet.state_dict()

    def scaled(name: str, tensor: Tensor) -> Tensor:
        if not name.startswith(UNET) or name.endswith(LORA[0]):
            return tensor
        if name.endswith(LORA[1]):
            return share * tensor
        before = own[name.removeprefix(UNET)].float()
        return before + share * (tensor.to(before.device).float() - before)

    return {name: scaled(name, tensor) for name, tensor in tensors.items()}


def check(own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Raises ModelError, in one line, for tuned weights that do not fit a network whose `own` they are to replace.

    Both without the prefix.
    """
    for name, tensor in new.items():
        if not name.endswith(LORA):
            wanted, found = own.get(name), tuple(tensor.shape)
        else:
            module = name.removesuffix(LORA[0]).removesuffix(LORA[1])
            low, high = new.get(module + LORA[0]), new.get(module + LORA[1])
            if low is None or high is None:
                raise ModelError(f"the LoRA has one half only of its addition to {module}; is the file complete?")
            wanted, found = own.get(f"{module}.weight"), (*high.shape[:1], *low.shape[1:])
            if high.shape[1:2] != low.shape[:1] or high[0, 0].numel() != 1:
                raise ModelError(f"the LoRA's addition to {module} does not fit together: {_shape(low)} and {_shape(high)}")
        if wanted is None:
            raise ModelError(f"these tuned weights are of another kind of model: this one has no {name}")
        if tuple(wanted.shape) != found:
            raise ModelError(
                f"these tuned weights are of another model: {name} is for a weight of {_shape(found)}, this one's has "
                f"{_shape(wanted)}"
            )


def _shape(of: Tensor | tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in (of.shape if isinstance(of, Tensor) else of))


def _copy(unet: UNet2DConditionModel, state: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """The same network around these tensors: not copied, not yet learning."""
    with torch.device("meta"):
        copy: Any = type(unet).from_config(unet.config)
    copy.load_state_dict(state, strict=True, assign=True)
    return copy.eval().requires_grad_(False)
