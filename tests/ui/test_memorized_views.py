"""The pictures and words of the Memorized page: what they draw, what they say, and that data stays text."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from explorer.ui.views import cleaning, effects, examples, history, remedy, retrained, signs, thresholds
from explorer.ui.views.effects import Effect
from tests.ui.conftest import HOSTILE
from tests.ui.test_views import Tags, example

UNKNOWN = Effect(0.01, math.nan, math.nan)


class TestCounts:
    counted = (thresholds.Count("⚑", "suspect", 10, 0.5, 0.25), thresholds.Count("▼", HOSTILE, 0, math.nan, 0.0))

    def test_precision_and_recall_are_there_where_flips_were_planted(self) -> None:
        shown = thresholds.counts(self.counted, 200, 20)
        assert "<td>10</td><td>5 %</td><td>50 %</td><td>25 %</td>" in shown
        assert "<td>none</td>" in shown  # of an empty group there is no precision
        assert Tags(shown).named("img") == []

    def test_and_not_elsewhere(self) -> None:
        shown = thresholds.counts([replace(one, precision=None, recall=None) for one in self.counted], 200, 0)
        assert "precision" not in shown
        assert len(Tags(shown).named("td")) == 4

    def test_stability_is_said_in_words(self) -> None:
        facts = thresholds.Stability(1e-3, 1e-2, 0.9, math.nan, -0.5, math.nan, 0.4, 0.2)
        shown = thresholds.stability(facts)
        assert "90 % of the signs stay" in shown
        assert "outside the noise" not in shown
        assert "−0.50" in shown
        assert "unknown" in shown
        assert "is the run’s own" in thresholds.stability(replace(facts, damping=1e-2))


class TestHistory:
    @pytest.mark.parametrize(
        ("right", "words"),
        [
            ([True] * 4, "Right after each of 4 epochs: learned at once."),
            ([False] * 4, "Wrong after each of 4 epochs: the model never fitted this label."),
            ([False, True, True, True], "Right after 3 of 4 epochs; right for good from epoch 2 on."),
            ([True, False, True, False], "Right after 2 of 4 epochs, forgotten 2 times; wrong at the end."),
            ([True, True, False, True], "Right after 3 of 4 epochs, forgotten once; right for good from epoch 4 on."),
        ],
    )
    def test_the_sentence(self, right: list[bool], words: str) -> None:
        assert history.History([1.0] * 4, [0.5] * 4, right).sentence == words

    def test_right_and_wrong_have_a_symbol_each_and_add_up(self) -> None:
        told = history.History([2.0, 1.0, 0.5], [0.1, 0.6, 0.4], [False, True, False])
        drawn = {trace.name: trace for trace in history.figure(told).data if trace.name}
        assert list(drawn["loss"].y) == [2.0, 1.0, 0.5]
        assert list(drawn["✓ right"].x) == [2]
        assert list(drawn["✗ wrong"].x) == [1, 3]
        assert drawn["✓ right"].marker.symbol != drawn["✗ wrong"].marker.symbol

    def test_a_regression_has_its_loss_alone(self) -> None:
        told = history.History([2.0, 1.0], [], [])
        assert [trace.name for trace in history.figure(told).data] == ["loss"]
        assert told.sentence == "Loss 2 after the first and 1 after the last of 2 epochs."


class TestAgreement:
    found = signs.Agreement(
        ["a", HOSTILE, "c"],
        ["one", HOSTILE, "three"],
        np.array([[1.0, 0.9, np.nan], [0.9, 1.0, -0.2], [np.nan, -0.2, 1.0]]),
        100,
        200,
        {HOSTILE: HOSTILE},
    )

    def test_data_stays_text(self) -> None:
        drawn = signs.figure(self.found).data[0]
        assert not any("<img" in text for row in drawn.text for text in row)
        assert not any("<img" in name for name in (*drawn.x, *drawn.y))
        assert Tags(signs._told(self.found)).named("img") == []

    def test_the_picture_in_words_names_both_ends(self) -> None:
        assert "highest a with" in signs.alt(self.found)
        assert "0.90" in signs.alt(self.found)
        assert "lowest" in signs.alt(self.found)
        assert "-0.20" in signs.alt(self.found)

    def test_an_unknown_pair_says_why(self) -> None:
        assert "one of them is constant" in signs.figure(self.found).data[0].text[0][2]


def line(name: str, before: Effect, random: Effect, unit: remedy.Unit = "points", turned: bool = False) -> remedy.Line:
    return remedy.Line(name, unit, 0.9, 0.91, 0.89, {"before": before, "random": random}, turned)


class TestRemedy:
    result = remedy.Result(
        "Dropping 3 examples",
        10,
        10,
        [
            line("accuracy", Effect(0.01, -0.002, 0.022), Effect(0.02, 0.01, 0.03)),
            line("loss", Effect(0.1, 0.05, 0.15), UNKNOWN, "nats", turned=True),
            line(f"accuracy of {HOSTILE}", UNKNOWN, Effect(-0.02, -0.03, -0.01)),
        ],
    )

    def test_the_sentence_says_whether_it_beats_luck(self) -> None:
        assert remedy.sentence(self.result) == (
            "Dropping 3 examples: accuracy +1.00 points (−0.20 to +2.20); clearly better than without as many at random, by "
            "+2.00 points (+1.00 to +3.00). Held-out loss is clearly lower than before."
        )
        unsure = replace(self.result, lines=[line("accuracy", Effect(0.01, 0.0, 0.02), Effect(-0.01, -0.02, 0.01))])
        assert "not clearly worse" in remedy.sentence(unsure)
        once = replace(self.result, lines=[line("accuracy", UNKNOWN, UNKNOWN)])
        assert "an interval needs two" in remedy.sentence(once)

    def test_dots_and_intervals_are_the_effects(self) -> None:
        drawn = remedy.figure(self.result).data
        assert len(drawn) == 4  # two comparisons for each of two units
        against = drawn[1]
        assert list(against.x) == pytest.approx([2.0, -2.0])
        assert list(against.error_x.array) == pytest.approx([1.0, 1.0])
        assert list(against.error_x.arrayminus) == pytest.approx([1.0, 1.0])
        assert {trace.marker.symbol for trace in drawn} == {"circle", "diamond-open"}
        assert sum(bool(trace.showlegend) for trace in drawn) == 2

    def test_the_table_marks_what_leaves_out_zero(self) -> None:
        shown = remedy.table(self.result)
        assert shown.count(" ●</td>") == 3
        assert Tags(shown).named("img") == []
        assert "loss (less is better)" in shown

    def test_an_effect_without_a_mean_is_unknown(self) -> None:
        assert effects.moved(Effect(math.nan, math.nan, math.nan), "nats") == "unknown"
        assert not UNKNOWN.clear


class TestCleaning:
    curve = cleaning.Curve(
        points=[
            cleaning.Point(0, (0.5, 0.1), (0.6, math.nan), (0.6, 0.1)),
            cleaning.Point(10, (0.4, 0.1), (0.5, 0.1), (0.7, 0.1)),
            cleaning.Point(20, (0.45, 0.1), (0.55, 0.1), (0.8, 0.1)),
        ],
        kept=1,
        complete=True,
        total=500,
        loss=(Effect(-0.1, -0.2, -0.05), Effect(-0.2, -0.3, -0.1)),
        accuracy=None,
    )

    def test_the_kept_round_is_marked(self) -> None:
        *lines, kept = cleaning.figure(self.curve).data
        assert (list(kept.x), list(kept.y), list(kept.text)) == ([10], [0.5], ["kept"])
        assert len({trace.line.dash for trace in lines}) == len({trace.marker.symbol for trace in lines}) == 3

    def test_the_sentence_says_what_is_kept_and_gained(self) -> None:
        shown = cleaning.sentence(self.curve)
        assert "2 rounds: best after removing 10 of 500 examples (round 1)" in shown
        assert "held-out loss −0.1000 nats (−0.2000 to −0.0500)" in shown
        assert "accuracy" not in shown
        assert "so far" in cleaning.sentence(replace(self.curve, complete=False))
        assert "accuracy +1.00 points" in cleaning.sentence(replace(self.curve, accuracy=(UNKNOWN, UNKNOWN)))

    def test_nothing_gained_nothing_removed(self) -> None:
        assert "so nothing is removed" in cleaning.sentence(replace(self.curve, kept=0))


class TestRetrained:
    facts = retrained.Retrained(
        np.array([0.0, 0.3, 0.9, np.nan]), np.array([0.0, 0.1, 0.2, np.nan]), 2, 30, 40, complete=False, fewest=20
    )

    def test_the_sentence_counts_and_says_how_sure(self) -> None:
        shown = retrained.sentence(self.facts)
        assert "30 of about 40 models: **2 of 4 examples (50 %) are memorized**" in shown
        assert "is 0.15 (median)" in shown
        assert "1 examples were never left out, or always." in shown

    def test_too_few_models_say_nothing(self) -> None:
        shown = retrained.sentence(replace(self.facts, models=19))
        assert "19 of about 40 models so far" in shown
        assert "memorized" not in shown

    def test_every_known_example_is_in_the_picture(self) -> None:
        assert sum(retrained.figure(self.facts).data[0].y) == 3


class TestTilesThatOpen:
    def test_a_tile_with_a_row_is_a_button_with_a_name(self) -> None:
        shown = examples.tiles([replace(example(), row=7, retrained=(0.5, 0.1))], "name")
        (tile,) = [tag for tag in Tags(shown).named("div") if "data-inspect" in tag]
        assert (tile["role"], tile["tabindex"], tile["data-inspect"]) == ("button", "0", "7")
        assert tile["aria-label"]
        assert "by retraining <b>+0.50" in shown

    def test_a_tile_without_one_is_a_figure(self) -> None:
        assert len(Tags(examples.tiles([example()], "name")).named("figure")) == 1
