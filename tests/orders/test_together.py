"""Orders walked together: what they prepare alike is prepared once, and each fails or is cancelled alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paintover.engine.cache import PrepareCache
from paintover.errors import Cancelled
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_many, edit_one
from paintover.request import EditResult

STEPS = 6


@pytest.fixture
def order(tiny_bundle, photo):
    def make(words: str = "a cow", **fields) -> Order:
        fields = {"picture": str(photo), "model": str(tiny_bundle), "steps": STEPS, **fields}
        return Order(request_for(instruction=words, editor="mdp-noise", preserve=False, **fields))

    return make


def test_edits_of_one_picture_share_its_inversion(order):
    alone = edit_one(order("a pig"), cache=PrepareCache(max_bytes=0)).rgb_HWC
    cache = PrepareCache(max_bytes=0)
    outcomes = list(edit_many([order("a cow"), order("a pig"), order("a hen", seed=3)], cache=cache))
    spent = [outcome.record["evaluations"] for outcome in outcomes]
    assert spent[1] == spent[2] == spent[0] - STEPS
    assert np.abs(outcomes[1].rgb_HWC.astype(int) - alone).max() <= 1


def test_other_captions_of_the_picture_are_inverted_apart(order):
    outcomes = list(
        edit_many([order(source_prompt="a field"), order(source_prompt="the sea")], cache=PrepareCache(max_bytes=0))
    )
    assert len({outcome.record["evaluations"] for outcome in outcomes}) == 1
    assert not np.array_equal(outcomes[0].rgb_HWC, outcomes[1].rgb_HWC)


def test_who_gives_up_during_the_inversion_does_not_take_it_from_the_others(order):
    reports: list[int] = []
    stopped = replace(order("a cow"), cancelled=lambda: len(reports) >= 2)
    listening = replace(order("a pig"), on_step=lambda report: reports.append(report.i))
    outcomes = list(edit_many([stopped, listening], cache=PrepareCache(max_bytes=0)))
    assert isinstance(outcomes[0], Cancelled)
    assert isinstance(outcomes[1], EditResult)
    assert reports == [*range(STEPS), *range(STEPS)]  # of the inversion, then of the edit


def test_an_inversion_that_nobody_waits_for_ends_and_is_not_kept(order):
    reports: list[int] = []
    cache = PrepareCache(max_bytes=0)
    stopped = replace(order(), on_step=lambda report: reports.append(report.i), cancelled=lambda: len(reports) >= 2)
    with pytest.raises(Cancelled):
        edit_one(stopped, cache=cache)
    assert reports == [0, 1]
    assert (
        edit_one(order(), cache=cache).record["evaluations"]
        == edit_one(order(), cache=PrepareCache(max_bytes=0)).record["evaluations"]
    )


def test_a_failing_preparation_fails_for_all_who_want_it_and_for_them_alone(order, monkeypatch):
    from paintover.editors import registry

    def fails(self, context):
        if context.request.source_prompt == "broken":
            raise ZeroDivisionError("on purpose")
        return (yield from prepare(self, context))

    editor = registry.get("mdp-noise")
    prepare = type(editor).prepare
    monkeypatch.setattr(type(editor), "prepare", fails)
    orders = [order(source_prompt="broken"), order("a pig"), order("a hen", source_prompt="broken")]
    outcomes = list(edit_many(orders, cache=PrepareCache(max_bytes=0)))
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, EditResult, ZeroDivisionError]


def test_a_made_picture_is_made_once_for_all_edits_of_it(order):
    made = {"picture": None, "source_prompt": "a field"}
    outcomes = list(edit_many([order("a cow", **made), order("a pig", **made)], cache=PrepareCache(max_bytes=0)))
    first, second = outcomes
    assert np.array_equal(first.shown["source"], second.shown["source"])
    assert not np.array_equal(first.rgb_HWC, second.rgb_HWC)
    assert first.record["evaluations"] == second.record["evaluations"] + 2 * STEPS
    assert first.shown["source"].shape == first.rgb_HWC.shape == (64, 64, 3)


def test_a_listener_that_raises_during_the_inversion_fails_its_own_order_alone(order):
    heard: list[int] = []

    def raises(report):
        heard.append(report.i)
        raise ZeroDivisionError("on purpose")

    reports: list[int] = []
    orders = [
        replace(order("a cow"), on_step=raises),
        replace(order("a pig"), on_step=lambda report: reports.append(report.i)),
    ]
    outcomes = list(edit_many(orders, cache=PrepareCache(max_bytes=0)))
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, EditResult]
    assert heard == [0]
    assert reports == [*range(STEPS), *range(STEPS)]
    assert outcomes[1].record["evaluations"] > STEPS  # who is left pays for the inversion
    alone = replace(orders[0], on_step=lambda report: raises(report))
    cache = PrepareCache(max_bytes=0)
    assert isinstance(next(edit_many([alone], cache=cache)), ZeroDivisionError)
    assert heard == [0, 0]  # the inversion ends, since nobody waits for it


def test_what_other_code_prepared_is_not_taken(order, monkeypatch):
    from paintover.orders import work

    cache = PrepareCache(max_bytes=0)
    first, again = (edit_one(order(), cache=cache).record["evaluations"] for _ in range(2))
    monkeypatch.setattr(work, "code", lambda: "other")
    assert edit_one(order(), cache=cache).record["evaluations"] == first == again + STEPS


def test_code_is_known_by_its_files(tmp_path, monkeypatch):
    import shutil

    import paintover
    from paintover.orders import code

    root = Path(paintover.__file__).parent
    monkeypatch.setattr(code, "__file__", str(shutil.copytree(root / "orders", tmp_path / "orders") / "code.py"))
    (tmp_path / "path").mkdir()
    (tmp_path / "scenes").mkdir()
    said = []
    for change in (None, "path/walk.py", "scenes/scene.py"):
        if change:
            (tmp_path / change).write_text("x = 1")
        said.append((code.code.__wrapped__(), code.code.__wrapped__("scenes")))
    assert said[0] != said[1]
    assert said[1][0] == said[2][0]
    assert len({scenes for _, scenes in said}) == 3
