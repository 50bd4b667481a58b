"""InstructAny2Pix's language part: what is told where, and whatever it may be asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from paintover.errors import ModelError
from paintover.models.any2pix import Any2Pix, projectors, retrieve
from paintover.models.any2pix_file import Any2PixParts, load_any2pix, save_any2pix
from paintover.models.any2pix_settings import Any2PixSettings
from paintover.models.any2pix_wording import Answer, Any2PixWording, Said, parse
from paintover.models.prior import Prior, PriorConfig
from paintover.models.tiny import _letters

E = 12
CPU = torch.device("cpu")


def language(length: int = 512, seed: int = 0, **wording) -> Any2Pix:
    """Of random weights, one token a letter."""
    torch.manual_seed(seed)
    told = Any2PixWording(**wording)
    letters = _letters()
    letters.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.add_tokens(list(told.tokens), special_tokens=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=length, initializer_range=0.3, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    into, out = projectors(E, 32)
    made = Any2Pix(LlamaForCausalLM(config), tokenizer, into, out, told)
    for module in made.modules:
        module.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def stranger() -> Any2Pix:
    return language()


def media(*names: str, seed: int = 1) -> dict[str, torch.Tensor]:
    rows = functional.normalize(torch.randn(len(names), E, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return dict(zip(names, rows, strict=True))


TAUGHT = [
    ("add [audio1] to [image1]", ("audio1", "image1"), Answer("a cow on grass", subs=("cow",))),
    ("remove [audio1] from [image1]", ("audio1", "image1"), Answer("grass")),
    ("add [image2] and [image2] to [image1]", ("image2", "image1"), Answer("two", subs=("one", "other"))),
    ("a pig", (), Answer("a pig", base=False)),
    ("blend", ("image1", "image2"), Answer("both", gens=2)),
]


@pytest.fixture(scope="module")
def taught() -> Any2Pix:
    """One that has learnt to answer what TAUGHT says."""
    model = language()
    for module in model.modules:
        module.requires_grad_(True)
    asked = model.asked(*zip(*TAUGHT, strict=True))
    media_NE = torch.stack([media("audio1", "image1", "image2")[name] for name in asked.named])
    parameters = [parameter for module in model.modules for parameter in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(400):
        scores = model.model.lm_head(model.hidden(asked, media_NE))[:, :-1]
        error = functional.cross_entropy(scores.flatten(0, 1), asked.labels_BL[:, 1:].flatten())
        if error < 0.005:
            break
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    for module in model.modules:
        module.eval().requires_grad_(False)
    return model


@pytest.mark.parametrize(("words", "names", "answer"), TAUGHT)
def test_what_it_has_learnt_it_says(taught, words, names, answer):
    references = {name: media("audio1", "image1", "image2")[name] for name in names}
    understood = taught.understand(words, references)
    assert not understood.forced
    assert not understood.silent
    assert understood.caption == answer.caption
    assert (understood.base_E is not None) == answer.base
    assert tuple(sub.name for sub in understood.subs) == answer.subs
    assert len(understood.gens) == answer.gens


def test_states_are_those_that_predict_the_slots(taught):
    """As transformers computes them of the whole, the prompt and the answer put together here by hand."""
    references = media("audio1", "image1", "image2")
    references = {name: references[name] for name in ("audio1", "image1")}
    understood = taught.understand("add [audio1] to [image1]", references)
    text = "<base><video><im_gen>[a cow on grass]<video>additions:cow:<video>."
    ids = [taught.tokenizer.bos_token_id, *taught.ids("add <video> to <video> :" + text)]
    embeds_LD = taught.model.get_input_embeddings()(torch.tensor(ids))
    slots = [place for place, token in enumerate(ids) if token == taught.tokenizer.convert_tokens_to_ids("<video>")]
    for place, name in zip(slots[:2], references, strict=True):
        embeds_LD[place] = taught.projector_in(20 * references[name])
    states_LD = taught.model.model(inputs_embeds=embeds_LD[None]).last_hidden_state[0]
    base_E, gen_E, sub_E = (taught.projector_out(states_LD[place - 1]) for place in slots[2:])
    torch.testing.assert_close(understood.base_E, base_E, rtol=0, atol=1e-4)
    torch.testing.assert_close(understood.gens[0], gen_E, rtol=0, atol=1e-4)
    torch.testing.assert_close(understood.subs[0].state_E, sub_E, rtol=0, atol=1e-4)


def test_exactly_the_slots_are_altered(stranger):
    """methods.md I.2 13: the length stays, and each reference stands in its own places."""
    words = ["put [image2] and [image2] on [image1]", "no reference", "[Audio1] alone, and [unknown7]"]
    names = [("image1", "image2"), (), ("audio1", "image3")]
    asked = stranger.asked(words, names, ["", "", ""])
    assert asked.named == ("image2", "image2", "image1", "audio1", "image3")
    given = media("image1", "image2", "audio1", "image3")
    media_NE = torch.stack([given[name] for name in asked.named])
    plain_BLD = stranger.model.get_input_embeddings()(asked.ids_BL)
    told_BLD = stranger.embedded(asked.ids_BL, asked.slots_N2, media_NE)
    assert told_BLD.shape == plain_BLD.shape
    altered = (told_BLD != plain_BLD).any(dim=-1).nonzero()
    assert altered.tolist() == sorted(asked.slots_N2.tolist())
    assert (asked.ids_BL == stranger.slot_id).nonzero().tolist() == asked.slots_N2.tolist()
    for (row, place), e_E in zip(asked.slots_N2.tolist(), media_NE, strict=True):
        torch.testing.assert_close(told_BLD[row, place], stranger.projector_in(20 * e_E))


def test_the_release_adds_the_slots_own_embedding():
    other, plain = language(adds_slot=True), language()
    asked = other.asked(["[image1]"], [["image1"]], [""])
    [e_E] = media("image1").values()
    added, replaced = (model.embedded(asked.ids_BL, asked.slots_N2, e_E[None])[0, 1] for model in (other, plain))
    torch.testing.assert_close(added, replaced + plain.model.get_input_embeddings().weight[plain.slot_id])


def test_asked_points_at_what_predicts_the_answers_slots(stranger):
    words, names, answers = zip(*TAUGHT, strict=True)
    asked = stranger.asked(words, names, [*answers[:-1], "mere words"], multiple=16)
    assert asked.ids_BL.shape[1] % 16 == 0
    assert asked.base_N2[:, 0].tolist() == [0, 1, 2]
    assert asked.gens_N2[:, 0].tolist() == [0, 1, 2, 3]
    assert asked.subs_N2[:, 0].tolist() == [0, 2, 2]
    for places_N2 in (asked.base_N2, asked.gens_N2, asked.subs_N2):
        for row, place in places_N2.tolist():
            assert asked.labels_BL[row, place + 1] == stranger.slot_id
            assert (row, place + 1) not in asked.slots_N2.tolist()
    before = {row: asked.ids_BL[row, place].item() for row, place in asked.base_N2.tolist()}
    assert set(before.values()) == set(stranger.ids("<base>"))
    assert stranger.tokenizer.decode([token for token in asked.labels_BL[-1] if token >= 0]) == "mere words [SEP]"
    assert (asked.labels_BL >= 0).sum(dim=1).tolist() == [len(stranger.told(a)) for a in (*answers[:-1], "mere words")]


def test_gradients_reach_what_is_trained(stranger):
    model = language()
    for module in model.modules:
        module.requires_grad_(True)
    asked = model.asked(["[image1] and [audio1]"], [("image1", "audio1")], [Answer("x", subs=("y",))])
    media_NE = torch.stack(list(media("image1", "audio1").values()))
    states_BLD = model.hidden(asked, media_NE)
    assert states_BLD.shape[:2] == asked.ids_BL.shape
    places_N2 = torch.cat([asked.base_N2, asked.gens_N2, asked.subs_N2])
    model.project(states_BLD, places_N2).square().sum().backward()
    assert model.projector_in[0].weight.grad.abs().sum() > 0
    assert model.projector_out[2].weight.grad.abs().sum() > 0
    assert model.model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


@settings(max_examples=12, deadline=None)
@given(
    words=st.text(max_size=60)
    | st.sampled_from(["", "[image1]" * 9, "<base><video>", "[audio1] [image2] [image]", "x" * 2000, "[image1 ]<im_gen>"]),
    names=st.lists(st.sampled_from(["image1", "image2", "audio1"]), unique=True),
    seed=st.integers(0, 3),
    temperature=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_whatever_it_is_asked_it_answers(stranger, words, names, seed, temperature):
    understood = stranger.understand(words, media(*names), temperature, seed)
    assert understood.gens
    assert all(e_E.shape == (E,) and e_E.isfinite().all() for e_E in understood.gens)
    assert (understood.base_E is None) or any(name.startswith("image") for name in names)
    assert all(sub.name and sub.state_E.shape == (E,) for sub in understood.subs)
    again = stranger.understand(words, media(*names), temperature, seed)
    assert again.caption == understood.caption
    assert torch.equal(again.gens[0], understood.gens[0])


def test_missing_tokens_are_forced_and_flagged(stranger):
    understood = stranger.understand("paint it [image1]", media("image1"))
    assert understood.forced
    assert understood.base_E is not None
    without = stranger.understand("paint it", {})
    assert without.forced
    assert without.base_E is None


def saying(text: str, length: int = 512) -> Any2Pix:
    """One that answers any question of three words with this: its head alone decides, by the place."""
    model = language(length)
    ids = [*model.ids(text), model.tokenizer.eos_token_id]
    told = iter(ids)
    rows = model.model.get_input_embeddings().num_embeddings

    class Head(torch.nn.Module):
        weight = torch.nn.Parameter(torch.zeros(rows, 32))

        def forward(self, states):
            scores = torch.zeros(*states.shape[:2], rows)
            scores[:, -1, next(told)] = 1.0
            return scores

    model.model.lm_head = Head()
    return model


def test_an_empty_caption_is_the_instructions_own_words():
    understood = saying("<base_null><im_gen>[ ]<video>").understand("a cow on [image]", media("image1"))
    assert (understood.caption, understood.silent, understood.forced) == ("a cow on image", True, False)
    assert understood.base_E is None


def test_a_base_without_a_picture_is_none():
    understood = saying("<base><video><im_gen>[rain]<video>").understand("[audio1]", media("audio1"))
    assert understood.base_E is None
    assert understood.forced


def test_words_too_long_are_cut_and_slots_never():
    model = language(length=200)
    assert not model.understand("[image1] blue", media("image1")).cut
    understood = model.understand("[image1] " + "very " * 100 + "[audio1]", media("image1", "audio1"))
    assert understood.cut
    ids, named = model.question("[image1] " + "very " * 100 + "[audio1]", ["image1", "audio1"], 84)
    assert len(ids) == 84
    assert ids.count(model.slot_id) == 2
    assert named == ["image1", "audio1"]
    with pytest.raises(ModelError, match="name fewer"):
        model.understand("[image1]" * 100, media("image1"))


def test_words_it_does_not_know_are_told():
    model = language()
    assert model.understand("\u4f60\u597d", {}).unread
    assert model.understand("", {}).unread
    assert not model.understand("[image1]", media("image1")).unread
    assert not model.understand("a cow", {}).unread


def test_a_seed_draws(stranger):
    said = {stranger.understand("a cow", {}, 1.0, seed).gens[0].sum().item() for seed in range(4)}
    assert len(said) > 1


@settings(max_examples=60, deadline=None)
@given(
    caption=st.text("abc ,.:", min_size=1, max_size=20).map(lambda text: " ".join(text.split())),
    base=st.booleans(),
    subs=st.lists(st.text("xyz", min_size=1, max_size=4), max_size=3),
    gens=st.integers(1, 3),
    start=st.sampled_from([None, "<im_gen_start>"]),
)
def test_answers_are_read_as_they_are_written(caption, base, subs, gens, start):
    wording = Any2PixWording(start=start)
    text = wording.answer(Answer(caption, base, tuple(subs), gens))
    assert parse(text, wording) == Said(base, caption, gens, tuple(subs))
    assert text.count("<video>") == base + gens + len(subs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", Said(None, "", 0, ())),
        ("<base> [a dog]", Said(None, "a dog", 0, ())),
        ("<base> <video> <im_gen> [ a dog ]", Said(True, "a dog", 0, ())),
        ("<base_null> <im_gen> <video>", Said(False, "", 1, ())),
        ("<im_gen> <im_gen> [ a ] <video> additions : cow : <video> . hen : <video> .", Said(None, "a", 1, ("cow", "hen"))),
        ("<im_gen> [a] <video> cow <video> <video>", Said(None, "a", 1, ("cow",))),
    ],
)
def test_odd_answers(text, said):
    assert parse(text, Any2PixWording()) == said


def test_retrieves_the_nearest_the_first_of_equals():
    given = {"audio1": torch.tensor([1.0, 0.0]), "image1": torch.tensor([0.6, 0.8]), "image2": torch.tensor([0.6, 0.8])}
    state_E = torch.tensor([30.0, 1.0])
    assert retrieve(state_E, given, given) == "audio1"
    assert retrieve(state_E, given, ["image2", "image1"]) == "image1"
    assert retrieve(-state_E, given, ["image2"]) == "image2"
    with pytest.raises(ModelError, match="no reference"):
        retrieve(state_E, given, [])


def parts(**wording) -> Any2PixParts:
    prior = Prior(PriorConfig(E, 16, 1, 2)).eval()
    return Any2PixParts(language(**wording), prior, Any2PixSettings(Any2PixWording(**wording), prior.config))


def test_saves_and_loads_itself(tmp_path, stranger):
    made = parts()
    save_any2pix(made, tmp_path, torch.float32)
    loaded = load_any2pix(tmp_path, CPU)
    assert loaded.settings == made.settings
    wanted, found = (model.understand("[image1] cow", media("image1")) for model in (made.language, loaded.language))
    assert found.caption == wanted.caption
    assert torch.equal(found.gens[0], wanted.gens[0])
    e_BE = torch.randn(2, E)
    assert torch.equal(loaded.prior.guided(e_BE, 6.5, 2.0, 3.0), made.prior.guided(e_BE, 6.5, 2.0, 3.0))
    size = (tmp_path / "any2pix" / "language_model" / "model.safetensors").stat().st_size
    save_any2pix(made, tmp_path)
    assert (tmp_path / "any2pix" / "language_model" / "model.safetensors").stat().st_size < 0.6 * size
    assert load_any2pix(tmp_path, CPU).language.model.dtype == torch.float32
    half = load_any2pix(tmp_path, CPU, dtype=torch.bfloat16).language
    understood = half.understand("[image1] cow", media("image1"))
    assert (half.model.dtype, understood.gens[0].dtype) == (torch.bfloat16, torch.float32)
    assert understood.gens[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": 2}, "format 1"),
        ({"norm": -1}, "norm is -1"),
        ({"wording": {"prompt": "no place"}}, "prompt"),
        ({"wording": {"gen": "<base>"}}, "differ"),
        ({"wording": {"slot": "<other>"}}, "has no <other>"),
        ({"prior": {"width": 8}}, "size mismatch"),
        ({"prior": {"heads": 0}}, "sizes"),
        ({"encoder": "pickle"}, "encoder"),
        ({"what": 1}, "damaged"),
    ],
)
def test_damage_is_one_line(tmp_path, change, line):
    import json

    save_any2pix(parts(), tmp_path, torch.float32)
    file = tmp_path / "any2pix" / "config.json"
    told = json.loads(file.read_text())
    for name, value in change.items():
        told[name] = {**told[name], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(told))
    with pytest.raises(ModelError, match=line) as error:
        load_any2pix(tmp_path, CPU)
    assert "\n" not in str(error.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    made = parts()
    made.language.projector_out = projectors(E + 1, 32)[1]
    save_any2pix(made, tmp_path, torch.float32)
    with pytest.raises(ModelError, match=r"projectors|size mismatch"):
        load_any2pix(tmp_path, CPU)
