"""Tuned weights in their places: as peft and diffusers have them, and nothing of the base is changed."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.bundle import load
from paintover.models.denoiser import Denoiser
from paintover.models.tiny import tiny
from paintover.path.predict import Condition
from paintover.tuning.loss import denoising, drawn
from paintover.tuning.weights import LORA, trainable, tuned_of, with_weights

KINDS = pytest.mark.parametrize("kind", ["full", "lora"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("sd"), "text-to-image", seed=3)


@pytest.fixture
def base(folder) -> Denoiser:
    return load(folder, "cpu").denoiser


def asked(network: Denoiser) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x_BCHW = torch.randn(2, network.channels, 8, 8, generator=generator)
    tokens_BLD = torch.randn(2, 7, network.text_width, generator=generator)
    with torch.no_grad():
        return network(x_BCHW, torch.tensor([10, 700]), tokens_BLD)


def learnt(base: Denoiser, kind: str, rank: int = 4) -> Denoiser:
    """A `trainable` whose weights are elsewhere, as if they had learnt."""
    learner = trainable(base, kind, rank)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tuned_of(learner).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return learner


def checksum(network: Denoiser) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(network.unet.state_dict().items()):
        total.update(name.encode() + tensor.float().numpy().tobytes())
    return total.hexdigest()


@KINDS
def test_in_their_places_they_say_what_the_trainable_says(base, kind):
    """A LoRA that is added in equals peft's, which stands beside the weights."""
    learner = learnt(base, kind)
    merged = with_weights(base, tuned_of(learner))
    assert (asked(merged) - asked(learner)).abs().max() < 1e-5
    assert (asked(merged) - asked(base)).abs().max() > 1e-3


@KINDS
def test_a_trainable_begins_as_the_base_is(base, kind):
    learner = trainable(base, kind)
    assert (asked(learner) - asked(base)).abs().max() < 1e-5
    names = tuned_of(learner)
    assert all(name.startswith("unet.") and parameter.requires_grad for name, parameter in names.items())
    if kind == "full":
        assert {name.removeprefix("unet.") for name in names} == set(dict(base.unet.named_parameters()))
    else:
        assert all(name.endswith(LORA) for name in names)
        attentions = [name for name, _ in base.unet.named_modules() if name.endswith((".attn1", ".attn2"))]
        assert len(names) == len(attentions) * 4 * 2


def test_a_lora_is_drawn_from_its_seed_and_leaves_that_of_others_alone(base):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (tuned_of(trainable(base, "lora", 4, seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), wanted)
    name = next(name for name in one if name.endswith(LORA[0]))
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])


def test_diffusers_says_the_same_of_a_lora(base, folder):
    from diffusers import StableDiffusionPipeline

    learner = learnt(base, "lora")
    tensors = {name: parameter.detach().clone() for name, parameter in tuned_of(learner).items()}
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.load_lora_weights(tensors)
    theirs = Denoiser(pipe.unet, base.prediction, base.alphas_cumprod, base.codec_scale)
    assert (asked(with_weights(base, tensors)) - asked(theirs)).abs().max() < 1e-5


@KINDS
def test_the_base_is_neither_changed_nor_copied(base, kind):
    before = checksum(base)
    learner = learnt(base, kind)
    error = learner.output(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 7, 32)).square().mean()
    error.backward()
    tuned = {name: parameter.detach() for name, parameter in tuned_of(learner).items()}
    one = "unet.conv_in.weight"
    part = {one: tuned[one]} if kind == "full" else tuned
    merged = with_weights(base, part)
    asked(merged)
    assert checksum(base) == before
    assert not any(p.requires_grad or p.grad is not None for p in base.unet.parameters())
    own, new = base.unet.state_dict(), merged.unet.state_dict()
    bent = {name.removeprefix("unet.").replace(end, ".weight") for name in part for end in LORA}
    bent = {one.removeprefix("unet.")} if kind == "full" else bent
    assert list(own) == list(new)
    for name in own:
        assert (own[name].data_ptr() == new[name].data_ptr()) == (name not in bent), name


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision_is_tuned_in_full_and_walks_in_half(folder, base, kind, dtype):
    half = load(folder, "cpu", dtype).denoiser
    learner = learnt(half, kind)
    assert {parameter.dtype for parameter in tuned_of(learner).values()} == {torch.float32}
    merged = with_weights(half, {name: p.detach().to(dtype) for name, p in tuned_of(learner).items()})
    assert {p.dtype for p in merged.unet.parameters()} == {dtype}
    assert (asked(merged) - asked(learner)).abs().max() < (0.01 if dtype == torch.float16 else 0.05)
    assert (asked(merged) - asked(half)).abs().max() > 0.05


@pytest.mark.parametrize("plain", [False, True])
def test_a_lora_shares_the_weights_of_a_base_in_half_precision_and_learns(folder, plain, monkeypatch):
    if plain:  # as on machines that have no bfloat16
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    half = load(folder, "cpu", torch.bfloat16).denoiser
    own = {tensor.data_ptr() for tensor in half.unet.parameters()}
    learner = trainable(half, "lora", 4)
    beneath = [tensor for tensor in learner.unet.parameters() if not tensor.requires_grad]
    assert {tensor.data_ptr() for tensor in beneath} == own
    learning = tuned_of(learner)
    assert {tensor.dtype for tensor in learning.values()} == {torch.float32}
    x0_BCHW = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    told = Condition(torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(5)))
    optimiser = torch.optim.Adam(learning.values(), 1e-2)
    errors = []
    for _ in range(12):
        errors.append(denoising(learner, x0_BCHW, *drawn(0, 0, (4, 4, 8, 8), 1000, x0_BCHW.device), told))
        optimiser.zero_grad()
        errors[-1].backward()
        optimiser.step()
    assert errors[-1] < 0.97 * errors[0]


def test_an_addition_to_a_convolution_is_added_in_too(base):
    """Files from elsewhere have them: W + B A with A's kernel (r, in, 3, 3) and B (out, r, 1, 1)."""
    low, high = torch.randn(2, 4, 3, 3), torch.randn(32, 2, 1, 1)
    merged = with_weights(base, {"unet.conv_in.lora_A.weight": low, "unet.conv_in.lora_B.weight": high})
    x_BCHW = torch.randn(1, 4, 6, 5)
    beside = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x_BCHW, low, padding=1), high)
    with torch.no_grad():
        assert torch.allclose(merged.unet.conv_in(x_BCHW), base.unet.conv_in(x_BCHW) + beside, atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"unet.conv_nowhere.weight": torch.zeros(3)}, "no conv_nowhere.weight"),
        ({"unet.conv_in.bias": torch.zeros(3)}, "a weight of 3, this one's has 32"),
        ({"unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3)}, "one half"),
        ({"unet.x.lora_A.weight": torch.zeros(2, 4), "unet.x.lora_B.weight": torch.zeros(4, 2)}, "no x"),
        ({"unet.time_embedding.linear_1.lora_A.weight": torch.zeros(2, 9),
          "unet.time_embedding.linear_1.lora_B.weight": torch.zeros(128, 2)}, "of 128 x 9, this one's has 128 x 32"),
        ({"unet.time_embedding.linear_1.lora_A.weight": torch.zeros(3, 32),
          "unet.time_embedding.linear_1.lora_B.weight": torch.zeros(128, 2)}, "does not fit together"),
    ],
)  # fmt: skip
def test_what_is_of_another_model_is_refused_in_one_line(base, tensors, says):
    with pytest.raises(ModelError, match=says) as error:
        with_weights(base, tensors)
    assert "\n" not in str(error.value)
