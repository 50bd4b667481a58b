from __future__ import annotations

import copy
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from paintover.engine.engine import Engine, run
from paintover.errors import ModelError
from paintover.models import fingerprint, load
from paintover.models.adapter import MediaAdapter
from paintover.models.adapter_file import load_adapter, save_adapter
from paintover.models.denoiser import Denoiser
from paintover.models.kept import keep_text
from paintover.models.taps import Taps
from paintover.path.guidance import classifier_free, dual, plain
from paintover.path.predict import Condition
from paintover.path.schedule import Schedule
from paintover.path.start import noise
from paintover.path.walk import walk
from paintover.tuning.weights import learner, trainable, with_weights

SCHEDULE = Schedule.stable_diffusion()
WIDTH, T_B = 16, torch.tensor([3, 400, 980])


def small(**changes) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 12,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**{**config, **changes}).eval()


def sdxl(**changes) -> UNet2DConditionModel:
    """SDXL's layout in small: several transformer blocks in one, linear projections, no attention on the finest grid."""
    return small(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
        **changes,
    )


def taught(unet: UNet2DConditionModel, locals: int = 3) -> MediaAdapter:
    """An adapter that says something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapter = MediaAdapter.of(unet, WIDTH, locals=locals)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return adapter.eval().requires_grad_(False)


def door(unet: UNet2DConditionModel, adapter: MediaAdapter | None = None) -> Denoiser:
    return Denoiser(unet, "epsilon", torch.tensor(SCHEDULE.alphas_cumprod), adapter=adapter)


def inputs(rows: int = 3, seed: int = 2, pooled: bool = False):
    draw = torch.Generator().manual_seed(seed)
    x, tokens, media = (torch.randn(rows, *shape, generator=draw) for shape in ((4, 8, 8), (5, 12), (4, WIDTH)))
    return x, tokens, media, torch.randn(rows, 20, generator=draw) if pooled else None


@pytest.fixture
def adapted() -> Denoiser:
    unet = small()
    return door(unet, taught(unet))


@pytest.mark.parametrize("make", [small, sdxl])
@torch.no_grad()
def test_it_says_what_diffusers_ip_adapter_says(make):
    """With the same weights, by the same names; the slot's vector, which it does not know, by its bias."""
    unet, theirs = make(), make()
    xl = make is sdxl
    adapter = taught(unet, locals=0)
    state = adapter.state_dict()
    given = state | {"image_proj.proj.bias": state["image_proj.proj.bias"] + state["slots"][0].repeat(adapter.tokens)}
    theirs._load_ip_adapter_weights(
        {
            "image_proj": {name.removeprefix("image_proj."): t for name, t in given.items() if name.startswith("image_proj.")},
            "ip_adapter": {name.removeprefix("ip_adapter."): t for name, t in state.items() if name.startswith("ip_adapter.")},
        },
        low_cpu_mem_usage=False,
    )
    assert "IPAdapterAttnProcessor2_0" in {type(p).__name__ for p in theirs.attn_processors.values()}
    x, tokens, media, pooled = inputs(pooled=xl)
    media = media[:, :1]
    our_door = door(unet, adapter)
    ours = our_door.output(x, T_B, tokens, pooled, media_BSE=media)
    told = our_door._told(pooled, (8, 8)).get("added_cond_kwargs", {})
    expected = theirs(x, T_B, tokens, added_cond_kwargs={**told, "image_embeds": [media]}).sample
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (ours - our_door.output(x, T_B, tokens, pooled)).abs().max() > 1e-2


def test_keys_are_numbered_as_in_ip_adapters_files():
    """Against diffusers' numbering: in the order of its processors, every second one, transformer blocks one by one."""
    unet = sdxl()
    adapter = MediaAdapter.of(unet, WIDTH)
    numbered = {f"ip_adapter.{n}.to_{part}_ip.weight" for n in range(1, 16, 2) for part in "kv"}
    others = {"slots", *(f"image_proj.{part}.{kind}" for part in ("proj", "norm") for kind in ("weight", "bias"))}
    assert set(adapter.state_dict()) == numbered | others
    names = list(unet.attn_processors)
    for key in numbered:
        assert names[int(key.split(".")[1])].endswith("attn2.processor")
    assert len(names) == 16
    widths = [unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in names[1::2]]
    assert adapter.config["hidden"] == widths


def test_sdxls_adapter_has_the_published_size():
    """70 cross-attentions, four tokens of 2048 from an embedding; the released file is of 703 MB, for CLIP-bigG's."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        adapter = MediaAdapter.of(unet, 1024)
    assert len(adapter.ip_adapter) == 70
    assert list(adapter.ip_adapter)[-1] == "139"
    # 10 attentions of 640 channels and 60 of 1280; the projection and its norm.
    layers = 2 * 2048 * (10 * 640 + 60 * 1280)
    projection = (1024 + 1) * 4 * 2048 + 2 * 2048
    assert sum(p.numel() for p in adapter.parameters()) == layers + projection + 2 * 2048 == 349_192_192
    with torch.device("meta"):
        released = MediaAdapter.of(unet, 1280)
    assert round(2 * (sum(p.numel() for p in released.parameters()) - released.slots.numel()) / 1e6) == 703
    Denoiser(unet, "epsilon", torch.ones(1000), adapter=adapter)


def test_an_untrained_one_changes_nothing_and_none_is_never_called(adapted, monkeypatch):
    x, tokens, media, _ = inputs()
    plain_door = door(small())
    before = plain_door(x, T_B, tokens)
    assert torch.equal(plain_door.adapted(MediaAdapter.of(plain_door.unet, WIDTH))(x, T_B, tokens, media_BSE=media), before)
    told = adapted(x, T_B, tokens, media_BSE=media)
    assert (told - before).abs().max() > 1e-2
    monkeypatch.setattr(MediaAdapter, "forward", lambda *_: pytest.fail("asked without media"))
    assert torch.equal(adapted(x, T_B, tokens), before)


def test_an_unadapted_network_has_no_hooks():
    unet = small()
    door(unet, MediaAdapter.of(unet, WIDTH))(*inputs()[:1], T_B, inputs()[1])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


@torch.no_grad()
def test_slots_are_told_apart(adapted):
    """The first embedding is the whole's: local ones may change places, and none with the first."""
    x, tokens, media, _ = inputs()
    whole = adapted(x, T_B, tokens, media_BSE=media)
    torch.testing.assert_close(adapted(x, T_B, tokens, media_BSE=media[:, [0, 2, 3, 1]]), whole, atol=1e-5, rtol=1e-5)
    assert (adapted(x, T_B, tokens, media_BSE=media[:, [1, 0, 2, 3]]) - whole).abs().max() > 1e-3
    alike = copy.deepcopy(adapted.adapter)
    alike.slots[1] = alike.slots[0]
    same = [door(adapted.unet, alike)(x, T_B, tokens, media_BSE=media[:, order]) for order in ([0, 1, 2, 3], [1, 0, 2, 3])]
    torch.testing.assert_close(*same, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scale_is_how_loud_it_is(adapted):
    x, tokens, media, _ = inputs()
    adapted.adapter.scale = 0.0
    assert torch.equal(adapted(x, T_B, tokens, media_BSE=media), adapted(x, T_B, tokens))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(adapted, checkpointing):
    """With checkpoints too, where blocks are computed again during the backward pass; against finite differences."""
    x, tokens, media, _ = inputs()
    adapter = copy.deepcopy(adapted.adapter).requires_grad_(True)
    learning = door(copy.deepcopy(adapted.unet).requires_grad_(False), adapter)
    if checkpointing:
        learning.unet.enable_gradient_checkpointing()
        learning.unet.train()
    media.requires_grad_()

    def loss() -> torch.Tensor:
        return learning.output(x, T_B, tokens, media_BSE=media).square().sum()

    loss().backward()
    for name, parameter in [*adapter.named_parameters(), ("media", media)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 1e-6, name
    with torch.no_grad():
        for parameter in (adapter.slots, adapter.ip_adapter["3"]["to_k_ip"].weight, media):
            step = 1e-2 * parameter.grad / parameter.grad.norm()
            ends = []
            for sign in (1, -2):
                parameter += sign * step
                ends.append(loss())
            parameter += step
            torch.testing.assert_close((ends[0] - ends[1]) / 2e-2, parameter.grad.norm(), rtol=2e-2, atol=1e-4)


def test_checkpoints_change_no_gradient(adapted):
    """Wherever the backward pass is made: on an accelerator it has a thread of its own."""
    grads = []
    for checkpointing in (False, True):
        x, tokens, media, _ = inputs()
        adapter = copy.deepcopy(adapted.adapter).requires_grad_(True)
        learning = door(copy.deepcopy(adapted.unet).requires_grad_(True), adapter)
        if checkpointing:
            learning.unet.enable_gradient_checkpointing()
        loss = learning.output(x, T_B, tokens, media_BSE=media).square().sum()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        grads.append([p.grad for p in (*adapter.parameters(), *learning.unet.parameters())])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_half_precision_is_near(adapted):
    x, tokens, media, _ = inputs()
    full, without = adapted(x, T_B, tokens, media_BSE=media), adapted(x, T_B, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = adapted(x, T_B, tokens, media_BSE=media)
    half = door(copy.deepcopy(adapted.unet).bfloat16(), copy.deepcopy(adapted.adapter).bfloat16())
    beside_float = half.adapted(adapted.adapter)
    for near in (mixed, half(x, T_B, tokens, media_BSE=media), beside_float(x, T_B, tokens, media_BSE=media)):
        assert (near - full).abs().mean() < 0.1 * (full - without).abs().mean()


class Blank(Taps):
    """Counts the maps it sees, which are of words alone, and replaces all values by zeros."""

    def __init__(self) -> None:
        self.lengths: set[int] = set()

    def qkv(self, site, q_HND, k_HLD, v_HLD):
        if site.kind == "cross":
            self.lengths.add(k_HLD.shape[1])
            return q_HND, k_HLD, 0 * v_HLD
        return q_HND, k_HLD, v_HLD


@pytest.mark.parametrize("first", ["taps", "media"])
def test_tapped_rows_hear_media_too(first):
    """What is tapped is the attention to words; the media's term comes after it, whichever of the two was there first."""
    unet = small()
    adapted = door(unet, taught(unet))
    x, tokens, media, _ = inputs()
    if first == "taps":
        adapted(x, T_B, tokens, taps=[Taps(), None, None])
    told = adapted(x, T_B, tokens, media_BSE=media)
    torch.testing.assert_close(adapted(x, T_B, tokens, media_BSE=media, taps=[Taps(), Taps(), None]), told)
    tap = Blank()
    blank = adapted(x, T_B, tokens, media_BSE=media, taps=[tap, None, None])
    assert tap.lengths == {5}
    torch.testing.assert_close(blank[1:], told[1:], atol=1e-5, rtol=1e-5)
    wordless = copy.deepcopy(unet)
    for name, module in wordless.named_modules():
        if name.endswith("attn2"):
            module.to_v.weight.data.zero_()
    torch.testing.assert_close(blank[0], door(wordless, adapted.adapter)(x, T_B, tokens, media_BSE=media)[0], atol=1e-5, rtol=0)
    assert (blank[0] - adapted(x, T_B, tokens, taps=[Blank(), None, None])[0]).abs().max() > 1e-2


@torch.no_grad()
def test_keys_and_values_of_media_are_made_once(adapted, monkeypatch):
    keep_text(adapted.unet)
    x, tokens, media, _ = inputs()
    made = []
    original = torch.nn.Linear.forward
    own = {id(m) for m in adapted.adapter.modules()}

    def counting(self, states):
        made.append(id(self) in own)
        return original(self, states)

    monkeypatch.setattr(torch.nn.Linear, "forward", counting)
    answers = [adapted(x, T_B, tokens, media_BSE=media) for _ in range(3)]
    assert torch.equal(answers[0], answers[2])
    assert sum(made) == 1 + 2 * len(adapted.adapter.ip_adapter)
    media += 1
    assert not torch.equal(adapted(x, T_B, tokens, media_BSE=media), answers[0])
    again = adapted(x, T_B, tokens, media_BSE=media)
    adapted.adapter.slots += 1
    assert not torch.equal(adapted(x, T_B, tokens, media_BSE=media), again)
    adapted.adapter.ip_adapter["1"]["to_v_ip"].weight *= 2
    changed = adapted(x, T_B, tokens, media_BSE=media)
    assert torch.equal(changed, adapted(x, T_B, tokens, media_BSE=media.clone()))
    del media
    assert len(adapted.adapter._kept) == 0


def test_copies_and_tuned_networks_hear_media_once(adapted):
    """A deep copy brings its hooks along, a copy around tensors does not."""
    x, tokens, media, _ = inputs()
    expected = adapted(x, T_B, tokens, media_BSE=media)
    assert torch.equal(adapted.around(copy.deepcopy(adapted.unet))(x, T_B, tokens, media_BSE=media), expected)
    for made in (learner(adapted), trainable(adapted), trainable(adapted, "lora")):
        assert made.adapter is adapted.adapter
        torch.testing.assert_close(made(x, T_B, tokens, media_BSE=media), expected, atol=1e-5, rtol=1e-4)


def test_two_adapters_on_one_network_at_the_same_time(adapted):
    x, tokens, media, _ = inputs()
    other = copy.deepcopy(adapted.adapter)
    for parameter in other.parameters():
        parameter.data.mul_(-1)
    doors = [adapted, adapted.adapted(other), adapted.adapted(None)]
    told = [{"media_BSE": media}, {"media_BSE": media}, {}]
    expected = [d(x, T_B, tokens, **t) for d, t in zip(doors, told, strict=True)]
    found: list[list[bool]] = [[], [], []]

    def ask(k: int) -> None:
        found[k] += [torch.equal(doors[k](x, T_B, tokens, **told[k]), expected[k]) for _ in range(10)]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True] * 10] * 3


def test_rows_with_and_without_media_in_one_engine(adapted):
    def told(seed: int, media: bool) -> Condition:
        _, tokens, embeddings, _ = inputs(1, seed)
        return Condition(tokens, media_BSE=embeddings if media else None)

    def paths():
        null, zeros = told(50, media=False), told(50, media=False).tokens_BLD
        zero = Condition(zeros, media_BSE=torch.zeros(1, 4, WIDTH))
        conditions = [
            plain(told(1, media=True)),
            plain(told(2, media=False)),
            classifier_free(told(3, media=True), null, 3.0),
            classifier_free(told(4, media=True), zero, 3.0),
        ]
        return [walk(noise(k, (1, 4, 8, 8)), SCHEDULE.steps(3), guided) for k, guided in enumerate(conditions)]

    alone = [run(path, adapted) for path in paths()]
    engine = Engine(adapted)
    jobs = [engine.add(path) for path in paths()]
    engine.run()
    for job, expected in zip(jobs, alone, strict=True):
        torch.testing.assert_close(engine.result(job), expected, rtol=1e-4, atol=1e-4)
    assert engine.counters.calls == 3 * 2  # with media, and without
    untold = run(walk(noise(0, (1, 4, 8, 8)), SCHEDULE.steps(3), plain(told(1, media=False))), adapted)
    assert (untold - alone[0]).abs().max() > 1e-2


def test_gradients_to_media_come_through_the_engine(adapted):
    x, tokens, media, _ = inputs(1)

    def path():
        from paintover.path.predict import Predict

        told = Condition(tokens, media_BSE=media.clone().requires_grad_())
        (eps,) = yield [Predict(x, 400, told)]
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(eps.square().sum(), told.media_BSE)
        return gradient

    engine = Engine(adapted)
    gradient = engine.result(engine.add(path()))
    assert gradient.shape == media.shape
    assert gradient.abs().max() > 1e-6
    assert engine.counters.gradients == 1


def test_guidance_tells_conditions_apart_by_their_media():
    _, tokens, media, _ = inputs(1)
    image = torch.zeros(1, 4, 8, 8)
    c, null = Condition(tokens, None, image, media), Condition(tokens, None, None, 0 * media)
    assert len(classifier_free(c, Condition(tokens, None, image, 0 * media), 3.0).terms) == 2
    assert len(classifier_free(c, Condition(tokens, None, image, media.clone()), 3.0).terms) == 1
    terms = dual(c, null, 3.0, 2.0).terms
    assert [torch.equal(term.media_BSE, media) for term, _ in terms] == [True, False, False]


def test_what_cannot_be_done_is_said(adapted, tiny_bundle):
    x, tokens, media, _ = inputs()
    with pytest.raises(ModelError, match="has no adapter; use a bundle that can 'any2pix'"):
        adapted.adapted(None)(x, T_B, tokens, media_BSE=media)
    for wrong in (media[:, :2], media[..., :5]):
        with pytest.raises(ModelError, match="takes 4 embeddings of width 16"):
            adapted(x, T_B, tokens, media_BSE=wrong)
    with pytest.raises(ModelError, match="of another model"):
        door(small(block_out_channels=(16, 48)), adapted.adapter)
    cascade = load(tiny_bundle("cascade"), device="cpu")
    for denoiser in (cascade.denoiser, cascade.upscaler.denoiser):
        with pytest.raises(ModelError, match="words alone"):
            MediaAdapter.of(denoiser.unet, WIDTH)
    with pytest.raises(ModelError, match="has no adapter"):
        cascade.denoiser(torch.zeros(1, 3, 8, 8), T_B[:1], torch.zeros(1, 5, 24), media_BSE=media[:1])
    flow = load(tiny_bundle("flow"), device="cpu").denoiser
    with pytest.raises(ModelError, match="a flow transformer cannot be told pictures"):
        flow(torch.zeros(1, 16, 8, 8), T_B[:1], torch.zeros(1, 5, 72), torch.zeros(1, 56), media_BSE=media[:1])


@pytest.fixture
def any2pix_bundle(tiny_bundle, tmp_path):
    """A bundle with an adapter that says something; there is nothing else in its any2pix/."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("instruct"), folder)
    unet = load(folder, "cpu").denoiser.unet
    before = fingerprint(folder)
    save_adapter(taught(unet), folder, torch.float32)
    (folder / "any2pix" / "config.json").write_text("{}")
    assert fingerprint(folder) != before
    return folder


def test_it_comes_back_from_its_file(any2pix_bundle):
    unet = load(any2pix_bundle, "cpu").denoiser.unet
    adapter, back = taught(unet), load_adapter(any2pix_bundle, unet)
    assert back.config == adapter.config
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in adapter.state_dict().items())
    assert not any(parameter.requires_grad for parameter in back.parameters())
    assert {p.dtype for p in load_adapter(any2pix_bundle, unet, torch.bfloat16).parameters()} == {torch.bfloat16}
    before = fingerprint(any2pix_bundle)
    save_adapter(adapter, any2pix_bundle)  # in half precision
    assert fingerprint(any2pix_bundle) != before
    torch.testing.assert_close(load_adapter(any2pix_bundle, unet).slots, adapter.slots, atol=1e-3, rtol=1e-3)


def test_a_bundle_has_one_adapted_denoiser(any2pix_bundle):
    bundle = load(any2pix_bundle, "cpu")
    assert "any2pix" in bundle.capabilities
    assert bundle.denoiser.adapter is None
    adapted = bundle.adapted()
    assert adapted is bundle.adapted()
    assert adapted.unet is bundle.denoiser.unet
    draw = torch.Generator().manual_seed(5)
    x, tokens, media = (torch.randn(3, *shape, generator=draw) for shape in ((4, 8, 8), (5, 32), (4, WIDTH)))
    before = bundle.denoiser(x, T_B, tokens)
    assert (adapted(x, T_B, tokens, media_BSE=media) - before).abs().max() > 1e-3
    assert torch.equal(adapted(x, T_B, tokens), before)
    tuned = with_weights(bundle.denoiser, {"unet.conv_in.bias": torch.ones(32)})
    bent = replace(bundle, denoiser=tuned, tuned="bent").adapted()
    assert (bent.unet, bent.adapter) == (tuned.unet, adapted.adapter)
    save_adapter(MediaAdapter.of(bundle.denoiser.unet, WIDTH), any2pix_bundle)
    assert torch.equal(load(any2pix_bundle, "cpu").adapted()(x, T_B, tokens, media_BSE=media), before)


def test_a_bundle_without_one_says_so(tiny_bundle):
    with pytest.raises(ModelError, match="needs a bundle that can 'any2pix'"):
        load(tiny_bundle("instruct"), "cpu").adapted()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, "has no any2pix/adapter/config.json"),
        ("config.json", '{"format": 2}', "is not of format 1"),
        ("config.json", '{"format": 1, "width": -1}', "is damaged"),
        (
            "config.json",
            '{"format": 1, "width": 16, "text_width": 9, "hidden": [7], "tokens": 4, "locals": 3}',
            "of another model",
        ),
        ("model.safetensors", None, "has no any2pix/adapter/model.safetensors"),
        ("model.safetensors", "nonsense", "could not be loaded"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(any2pix_bundle, file, content, said):
    path = any2pix_bundle / "any2pix" / "adapter" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=said) as raised:
        load(any2pix_bundle, "cpu").adapted()
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_finite_are_refused(any2pix_bundle):
    unet = load(any2pix_bundle, "cpu").denoiser.unet
    broken = taught(unet)
    broken.slots[0, 0] = float("nan")
    save_adapter(broken, any2pix_bundle)
    with pytest.raises(ModelError, match="not finite"):
        load_adapter(any2pix_bundle, unet)
    lacking = load_file(any2pix_bundle / "any2pix" / "adapter" / "model.safetensors")
    del lacking["ip_adapter.3.to_k_ip.weight"]
    save_file(lacking, any2pix_bundle / "any2pix" / "adapter" / "model.safetensors")
    with pytest.raises(ModelError, match="to_k_ip"):
        load_adapter(any2pix_bundle, unet)
