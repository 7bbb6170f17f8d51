"""Which points a filter shows, and that it survives an address, a browser, and whatever else is sent in its place."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from explorer.errors import SettingsError
from explorer.shown.filters import Filter
from explorer.store import Row
from explorer.ui.wire import NO_CLASS

HOSTILE: tuple[Any, ...] = (
    None,
    "",
    ",,,:::",
    "classes",
    "classes:x",
    "classes:-1",
    "classes:1e3",
    "classes:255",
    "classes:" + "9" * 5000,
    "classes:٣",
    "from:nan,to:inf",
    "from:1e999",
    "from:1_0",
    "from:0x10",
    "from:" + "9" * 3000,
    "from:0.2,to:0.1",
    "WRONG,Memorized",
    "wrong<img src=x>",
    "\x00",
    "everything," * 10_000,
)
NONSENSE: tuple[Any, ...] = (
    None,
    3,
    "wrong",
    [],
    ["wrong"],
    {"classes": "37"},
    {"classes": [True, 1.5, "3", None, -1, NO_CLASS, 10**400]},
    {"classes": {"0": 1}},
    {"outcome": ["wrong"]},
    {"outcome": {}},
    {"sign": 1, "suspect": "yes"},
    {"suspect": 1},
    {"retrained": "true"},
    {"low": "0.1", "high": True},
    {"low": math.nan, "high": math.inf},
    {"low": 10**400},
    {"low": 2.0, "high": 1.0},
    {3: 4},
)


def some_filter(draw: np.random.Generator) -> Filter:
    """Any filter: every field is set about half of the time."""
    classes = (
        None if draw.random() < 0.4 else tuple(sorted(draw.choice(NO_CLASS, draw.integers(6), replace=False).tolist()))
    )
    bounds = sorted((draw.normal(size=2) * 10.0 ** draw.integers(-12, 12)).tolist())
    return Filter(
        classes,
        outcome=draw.choice(["all", "wrong", "right"]).item(),
        suspect=bool(draw.integers(2)),
        retrained=bool(draw.integers(2)),
        sign=draw.choice(["both", "towards", "away"]).item(),
        low=bounds[0] if draw.random() < 0.5 else None,
        high=bounds[1] if draw.random() < 0.5 else None,
    )


class TestAddress:
    def test_the_example_of_the_page(self) -> None:
        text = "classes:3.7,wrong,suspect,towards,from:-0.1,to:0.2"
        wanted = Filter((3, 7), "wrong", True, "towards", -0.1, 0.2)
        assert Filter.parse(text) == wanted
        assert wanted.text() == text

    def test_the_flag_under_the_name_it_had_in_older_links(self) -> None:
        assert Filter.parse("wrong,memorized") == Filter(outcome="wrong", suspect=True)
        assert Filter.parse("wrong,memorized").text() == "wrong,suspect"
        assert Filter.parse("retrained") == Filter(retrained=True)

    def test_nothing_filtered_is_an_empty_text(self) -> None:
        assert Filter().text() == ""
        assert Filter.parse("") == Filter()
        assert not Filter()
        assert Filter(classes=())  # no class at all is a filter

    def test_any_filter_comes_back_from_the_address_and_from_json(self) -> None:
        draw = np.random.default_rng(0)
        for _ in range(500):
            one = some_filter(draw)
            assert Filter.parse(one.text()) == one
            assert Filter.from_data(json.loads(json.dumps(one.as_data()))) == one

    @pytest.mark.parametrize("text", HOSTILE)
    def test_what_is_no_filter_filters_nothing(self, text: Any) -> None:
        assert Filter.parse(text) == Filter()

    @pytest.mark.parametrize("said", NONSENSE)
    def test_what_a_browser_should_not_send_filters_nothing(self, said: Any) -> None:
        assert Filter.from_data(said) == Filter()

    def test_what_makes_sense_beside_nonsense_is_kept(self) -> None:
        assert Filter.parse("classes:3.x.900,maybe,wrong,to:abc") == Filter((3,), "wrong")
        assert Filter.from_data({"classes": [7, 3, 3, "x"], "outcome": "right", "low": []}) == Filter((3, 7), "right")

    def test_classes_that_a_run_does_not_have_are_dropped(self) -> None:
        assert Filter.parse("classes:3.12", n_classes=10) == Filter((3,))
        assert Filter.parse("classes:12,wrong", n_classes=10) == Filter(outcome="wrong")

    def test_random_text_never_raises(self) -> None:
        draw = np.random.default_rng(1)
        letters = np.array(list("classes:wrongmezdtofar.,-+0123456789e;\n\x00é"))
        for _ in range(2000):
            one = Filter.parse("".join(draw.choice(letters, draw.integers(60))))
            assert Filter.parse(one.text()) == one

    @pytest.mark.parametrize(
        "wrong",
        [
            {"classes": (7, 3)},
            {"classes": [3]},
            {"classes": (-1,)},
            {"outcome": "maybe"},
            {"sign": "up"},
            {"low": math.nan},
            {"low": 1.0, "high": 0.0},
        ],
    )
    def test_a_filter_of_our_own_making_is_checked(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match="Expected classes in rising order"):
            Filter(**wrong)


def slow(one: Filter, classes: Any, wrong: Any, suspect: Any, row: Row | None, retrained: Any) -> list[bool]:
    """The rule of the page, word by word, a point at a time."""
    shown = []
    for i in range(len(classes)):
        ok = one.classes is None or int(classes[i]) in one.classes
        ok = ok and {"all": True, "wrong": bool(wrong[i]), "right": not wrong[i]}[one.outcome]
        if i < len(suspect):
            ok = ok and (bool(suspect[i]) or not one.suspect)
            ok = ok and (not one.retrained or (retrained is not None and bool(retrained[i])))
            if row is not None:
                influence = int(row.values[i]) / 127 * row.scale
                ok = ok and {"both": True, "towards": influence > 0, "away": influence < 0}[one.sign]
                ok = ok and (one.low is None or influence >= one.low) and (one.high is None or influence <= one.high)
        shown.append(bool(ok))
    return shown


class TestShown:
    def test_the_same_points_as_the_rule_one_by_one(self) -> None:
        draw = np.random.default_rng(2)
        train, test = 300, 60
        for _ in range(60):
            classes = draw.choice([0, 1, 2, NO_CLASS], train + test).astype(np.uint8)
            wrong, suspect = draw.random(train + test) < 0.3, draw.random(train) < 0.3
            measured = draw.random(train) < 0.5
            row = Row(draw.integers(-127, 128, train).astype(np.int8), float(np.float32(draw.exponential())))
            low, high = sorted(draw.normal(size=2).tolist())
            one = Filter(
                (0, 2) if draw.random() < 0.5 else None,
                draw.choice(["all", "wrong", "right"]).item(),
                bool(draw.integers(2)),
                draw.choice(["both", "towards", "away"]).item(),
                low if draw.random() < 0.5 else None,
                high if draw.random() < 0.5 else None,
                retrained=bool(draw.integers(2)),
            )
            for given in (row, None):
                for retrained in (measured, None):
                    shown = one.shown(classes, wrong, suspect, given, retrained)
                    assert shown.tolist() == slow(one, classes, wrong, suspect, given, retrained)

    def test_a_bound_holds_the_influence_that_equals_it(self) -> None:
        row = Row(np.array([-3, 0, 5, 127], dtype=np.int8), 0.7)
        value = 5 / 127 * 0.7
        args = np.zeros(4, np.uint8), np.zeros(4, bool), np.zeros(4, bool), row
        assert Filter(low=value).shown(*args).tolist() == [False, False, True, True]
        assert Filter(high=value).shown(*args).tolist() == [True, True, True, False]

    def test_test_points_know_no_memorization_and_no_influence(self) -> None:
        row = Row(np.zeros(2, dtype=np.int8), 1.0)
        strict = Filter(suspect=True, sign="towards", low=0.5)
        assert strict.shown(np.zeros(4, np.uint8), np.zeros(4, bool), np.zeros(2, bool), row).tolist() == [0, 0, 1, 1]

    def test_nothing_filtered_shows_all_and_no_class_chosen_shows_none(self) -> None:
        args = np.array([0, 1, NO_CLASS], np.uint8), np.zeros(3, bool), np.zeros(2, bool)
        assert Filter().shown(*args).all()
        assert not Filter(classes=()).shown(*args).any()
