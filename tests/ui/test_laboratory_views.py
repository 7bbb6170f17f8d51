"""What the laboratory draws, from plain data: the heat map, scorecards, opened cells, and the order of a matrix."""

from __future__ import annotations

import re
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pytest

from explorer.ui.laboratory import order
from explorer.ui.views import lab_cell, lab_heat, lab_lesson, lab_scale, lab_score, lab_told, matrix
from explorer.ui.views.lab_score import Number, Regime, Score
from explorer.ui.views.tiles import Item
from tests.ui.conftest import HOSTILE
from tests.ui.parts import buttons
from tests.ui.test_views import PICTURE, Tags

EFFECTS = lab_heat.Effects(
    values=np.array([[2.0, -0.5, nan], [0.25, 1.0, 0.125]]),
    lessons=[HOSTILE, "b"],
    probes=["x", "y", "z"],
    lesson_groups=["one", HOSTILE],
    probe_groups=["one", "one", "two"],
    unit="nats",
    chosen=(1, 2),
)
SAMPLE = lab_cell.Sample("training example", HOSTILE, PICTURE, HOSTILE, HOSTILE, right=False)
CELL = lab_cell.Cell(SAMPLE, replace(SAMPLE, id="b", right=True), -0.25, 0.5, -0.125, 0.0625, "nats")
SCORE = Score("symmetry", Number(0.25, 0.2, 0.5), HOSTILE, {HOSTILE: Number(0.5)}, {"shuffled": Number(0.75, 0.7, 9.0)})
ITEM = Item("test", 2, 12, HOSTILE, PICTURE, HOSTILE, HOSTILE, right=False)
HALF_A_TENTH = 0.051
"""Of a percent: places are written with one digit."""


def places(html: str, mark: str) -> list[float]:
    """Where marks of a kind stand, percent."""
    found = [
        attributes["style"] or "" for attributes in Tags(html).named("i") if attributes["class"] == f"ix-mark-{mark}"
    ]
    return [float(re.findall(r"left:(-?[\d.]+)%", style)[0]) for style in found]


class TestHeat:
    def test_colors_are_symmetric_and_end_at_a_percentile_of_what_is_measured(self) -> None:
        heat = lab_heat.figure(EFFECTS).data[0]
        end = np.percentile([2.0, 0.5, 0.25, 1.0, 0.125], lab_heat.CLIPPED)
        assert (heat.zmin, heat.zmax) == (-end, end)
        assert heat.colorscale[2][0] == 0.5
        assert lab_heat.limit(np.full((2, 2), nan)) == 1.0
        assert lab_heat.limit(np.zeros((2, 2))) == 1.0
        assert lab_heat.limit(np.diag([3.0] + [0.0] * 200)) == 3.0  # nearly all is nothing

    def test_each_cell_says_who_taught_whom_and_can_be_clicked(self) -> None:
        cells = lab_heat.figure(EFFECTS).to_plotly_json()["data"][1]
        assert cells["customdata"] == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
        assert cells["text"][5] == "b → z<br>+0.125 nats"
        assert cells["text"][2].endswith("→ z<br>not measured")
        assert HOSTILE not in "".join(cells["text"])

    def test_too_many_cells_are_drawn_without_elements_of_their_own(self) -> None:
        side = int(lab_heat.CLICKABLE**0.5) + 1
        names = [str(at) for at in range(side)]
        large = lab_heat.Effects(np.ones((side, side)), names, names, names, names, "nats", (0, 0))
        assert (large.clickable, len(lab_heat.figure(large).data)) == (False, 1)
        assert (
            len(lab_heat.figure(large).layout.shapes) == 1
        )  # the frame alone: labels of groups would cover each other

    def test_groups_are_named_in_their_middle_and_cut_by_lines(self) -> None:
        layout = lab_heat.figure(EFFECTS).layout
        assert (layout.xaxis.tickvals, layout.xaxis.ticktext) == ((0.5, 2.0), ("one", "two"))
        assert layout.yaxis.ticktext[0] == "one"
        assert "<" not in layout.yaxis.ticktext[1]
        lines = [(s.x0, s.x1, s.y0, s.y1) for s in layout.shapes if s.type == "line"]
        assert lines == [(1.5, 1.5, -0.5, 1.5), (-0.5, 2.5, 0.5, 0.5)]
        (frame,) = [s for s in layout.shapes if s.type == "rect"]
        assert (frame.x0, frame.x1, frame.y0, frame.y1) == (1.5, 2.5, 0.5, 1.5)

    @pytest.mark.parametrize(("points", "cell"), [([], None), ([{"customdata": [1, 2]}], (1, 2)), ([{}], None)])
    def test_a_click_names_its_cell(self, points: list[Any], cell: tuple[int, int] | None) -> None:
        assert matrix.picked({"selection": {"points": points}}) == cell


class TestScorecard:
    def test_markup_stays_text(self) -> None:
        for html in (
            lab_score.card([SCORE]),
            lab_score.side_by_side([(SCORE, SCORE)], ("a", HOSTILE)),
            lab_score.compared([(HOSTILE, [SCORE])]),
            lab_score.badge(Regime(True, f"Linear: {HOSTILE}")),
        ):
            assert HOSTILE not in html
            assert len(Tags(html).named("img")) == 0

    def test_number_interval_and_controls_stand_where_they_are_on_the_scale(self) -> None:
        html = lab_scale.picture(SCORE)
        assert places(html, "dot") == [25.0]
        assert places(html, "range") == [20.0]
        assert "width:30.0%" in html
        assert places(html, "control") == [75.0]  # its interval does not widen the scale

    def test_a_scale_is_widened_by_what_lies_beyond_and_says_where_its_words_belong(self) -> None:
        wide = replace(SCORE, number=Number(1.5, -0.5, 2.0))
        html = lab_scale.picture(wide)
        assert places(html, "zero") == [20.0]
        assert places(html, "dot") == [80.0]
        assert "−0.5 … 0 both ways alike" in html
        assert "1 unrelated … 2" in html

    def test_what_is_compared_shares_one_scale(self) -> None:
        wide = replace(SCORE, number=Number(4.0))
        html = lab_score.compared([("a", [SCORE]), ("b", [wide])])
        assert places(html, "dot") == pytest.approx([100 * 0.25 / 4, 100.0], abs=HALF_A_TENTH)
        assert html.count('rowspan="2"') == 1

    def test_what_is_not_defined_is_said_and_has_no_dot(self) -> None:
        html = lab_score.card([replace(SCORE, number=Number(nan))])
        assert "not defined" in html
        assert places(html, "dot") == []

    @pytest.mark.parametrize(
        ("value", "written"), [(0.0, "0.00"), (0.0003, "0.0003"), (-0.17, "−0.17"), (1.0, "1.00"), (1234.5, "1,234")]
    )
    def test_numbers_keep_a_digit_that_says_something(self, value: float, written: str) -> None:
        assert lab_scale.written(Number(value)) == f"<b>{written}</b>"

    def test_the_badge_begins_with_the_verdict(self) -> None:
        assert "◇</span> Not in the linear regime</span>" in lab_score.badge(
            Regime(False, "Not in the linear regime: why")
        )
        assert "✓</span> Linear regime</span>" in lab_score.badge(Regime(True, "Linear regime: why"))


class TestCells:
    def test_both_samples_and_all_four_numbers_are_there(self) -> None:
        html = lab_cell.opened(CELL)
        assert HOSTILE not in html
        for number in ("−0.25", "+0.5", "−0.125", "+0.0625"):
            assert number in html
        assert len(Tags(html).named("img")) == 2

    def test_a_sample_on_itself_is_shown_once(self) -> None:
        html = lab_cell.opened(replace(CELL, probe=CELL.lesson))
        assert "On itself" in html
        assert len(Tags(html).named("img")) == 1

    def test_what_was_not_measured_says_why(self) -> None:
        assert "not measured: NaN &lt;" in lab_cell.opened(replace(CELL, effect=nan, why="NaN <"))
        assert "no other way round" in lab_cell.opened(replace(CELL, reverse=None, reverse_first_order=None))

    def test_a_pair_of_sentences_has_the_numbers_of_both_ways(self) -> None:
        cell = lab_told.Cell(
            HOSTILE, "b", {"in the weights": 0.5, HOSTILE: nan}, {"in the weights": -2.0, HOSTILE: 1.0}, -3.5
        )
        html = lab_told.opened(cell)
        assert HOSTILE not in html
        assert all(number in html for number in ("+0.5", "−2", "not measured", "+1", "−3.5 nats"))
        assert "round" not in lab_told.opened(replace(cell, asked=HOSTILE))


class TestLesson:
    FACTS = lab_lesson.Lesson(
        HOSTILE, 0.25, (0.5, 0.25), 7, 2, 10, (lab_lesson.Change(ITEM, 0.5, np.log(0.5)),), (), "nats"
    )

    def test_counts_numbers_and_probabilities_are_those_of_the_lesson(self) -> None:
        html = lab_lesson.lesson(self.FACTS)
        assert HOSTILE not in html
        assert "its own loss 0.500 → 0.250" in html
        assert "Of 10 test predictions <b>7</b> improved, <b>2</b> got worse, 1 changed too little" in html
        assert f"p 0.500 → {0.5 * np.exp(0.5):.3f}" in html
        assert buttons(Tags(html), "query") == [2]

    def test_a_regression_has_no_probabilities_and_rounding_is_said(self) -> None:
        change = replace(self.FACTS.improved[0], before=None)
        html = lab_lesson.lesson(replace(self.FACTS, improved=(change,), resolved=False))
        assert "p 0" not in html
        assert "no larger than rounding" in html


class TestOrder:
    def test_lessons_in_the_same_direction_stand_together_whatever_their_size(self) -> None:
        draw = np.random.default_rng(0)
        directions = np.eye(3, 40)
        kind = np.tile([0, 1, 2], 8)
        values = directions[kind] * draw.uniform(1, 1000, 24)[:, None] + 0.01 * draw.normal(size=(24, 40))
        ordered = kind[order.by_cluster(values)]
        assert (np.diff(ordered) != 0).sum() == 2

    def test_lessons_without_effect_come_last_and_none_is_lost(self) -> None:
        values = np.random.default_rng(1).normal(size=(9, 5))
        values[[0, 4]] = nan
        found = order.by_cluster(values)
        assert sorted(found.tolist()) == list(range(9))
        assert found[-2:].tolist() == [0, 4]
        assert order.by_cluster(np.full((2, 2), nan)).tolist() == [0, 1]

    def test_groups_rise_and_keep_their_order_within(self) -> None:
        assert order.by_group([2, 0, 2, 1, 0]).tolist() == [1, 4, 3, 0, 2]


def test_numbers_before_and_after_are_told_apart() -> None:
    assert lab_lesson.apart(0.5, 0.25) == ("0.500", "0.250")
    assert lab_lesson.apart(4.62131, 4.61977) == ("4.621", "4.620")
    assert lab_lesson.apart(0.064123, 0.064207) == ("0.0641", "0.0642")
    assert lab_lesson.apart(123.4, 120.4) == ("123", "120")
    assert lab_lesson.apart(0.3, 0.3) == ("0.3", "0.3")
    assert lab_lesson.apart(1e-7, 2e-7) == ("1.0×10<sup>−7</sup>", "2.0×10<sup>−7</sup>")
