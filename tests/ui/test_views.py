"""How numbers are written, and what tiles, cards, pictures and states say: views get plain data, so do these tests."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from explorer import memorization
from explorer.jobs import JobState
from explorer.ui import memorized
from explorer.ui.views import examples, gallery, quadrant, runs, scales, tiles
from explorer.ui.views import jobs as job_views
from explorer.ui.views import memorization as headline
from explorer.ui.views.card import Face, Value
from explorer.ui.views.words import duration, minus, percent, plain, safe, signed

HOSTILE = "<img src=x onerror=alert(1)>"
PICTURE = Face(picture="data:image/png;base64,AAAA")
TABLE = Face(values=(Value(HOSTILE, -1.5, -2.25), Value("b", 0.0, 0.0)), values_total=9)


class Tags(HTMLParser):
    """Which elements a text has, whether all are closed, and the attributes of each."""

    EMPTY = ("img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def test_a_planted_fault_stands_out_among_badges() -> None:
    item = tiles.Item("train", 3, 3, "id", PICTURE, "cat", "dog", False, ("suspect", "planted: was <b>"))
    shown = Tags(tiles.badges(item)).named("span")
    assert [found["class"] for found in shown] == ["ix-badge", "ix-badge ix-planted"]
    assert "<b>" not in tiles.tile(item)


class TestWords:
    @pytest.mark.parametrize(
        ("stored", "shown"),
        [
            ("rank correlation of -0.05 (-0.07 to -0.02)", "rank correlation of −0.05 (−0.07 to −0.02)"),
            ("two-sided, digit-12, 1e-3, fc-2: 3-5", "two-sided, digit-12, 1e-3, fc-2: 3-5"),
        ],
    )
    def test_a_minus_is_a_minus_and_a_hyphen_stays(self, stored: str, shown: str) -> None:
        assert minus(stored) == shown

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (0, "0"),
            (0.1234, "0.123"),
            (12.34, "12.3"),
            (999.4, "999"),
            (1234.5, "1,234"),
            (99_999.4, "99,999"),
            (0.001, "0.001"),
            (0.000_999, "1.0×10<sup>−3</sup>"),
            (2.5e7, "2.5×10<sup>7</sup>"),
        ],
    )
    def test_plain(self, value: float, written: str) -> None:
        assert plain(value) == written

    @pytest.mark.parametrize(
        ("value", "written"),
        [(1.5, "+1.5"), (-1.5, "−1.5"), (0.0, "0"), (math.nan, "unknown"), (-2e-5, "−2.0×10<sup>−5</sup>")],
    )
    def test_signed(self, value: float, written: str) -> None:
        assert signed(value) == written

    @pytest.mark.parametrize(
        ("share", "written"),
        [
            (0, "0 %"),
            (1, "100 %"),
            (1e-5, "< 0.1 %"),
            (0.99999, "> 99.9 %"),
            (0.125, "12.5 %"),
            (0.1, "10 %"),
            (math.nan, "unknown"),
        ],
    )
    def test_percent_is_never_all_or_nothing_for_what_is_neither(self, share: float, written: str) -> None:
        assert percent(share) == written

    @pytest.mark.parametrize(
        ("seconds", "written"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
    )
    def test_duration(self, seconds: float, written: str) -> None:
        assert duration(seconds) == written

    def test_safe_leaves_no_markup_and_no_way_out_of_an_attribute(self) -> None:
        assert not set("<>\"'") & set(safe(f"{HOSTILE}\"'"))

    @pytest.mark.parametrize(
        ("value", "se", "written"),
        [
            (0.5, 0.12, "+0.50 ± 0.12"),
            (-31.4159, 2.5, "−31.4 ± 2.5"),
            (-0.00317, 0.00092, "(−3.17 ± 0.92)×10<sup>−3</sup>"),
            (1e-5, 4e-5, "(+1.0 ± 4.0)×10<sup>−5</sup>"),
            (0.25, 0.0, "+0.25"),
        ],
    )
    def test_a_measurement_ends_where_its_error_does(self, value: float, se: float, written: str) -> None:
        assert examples.measured(value, se).replace("\N{NO-BREAK SPACE}", " ") == written

    @pytest.mark.parametrize(
        ("seconds", "written"),
        [
            (5, "just now"),
            (60, "1 minute ago"),
            (7199, "1 hour ago"),
            (86_399, "23 hours ago"),
            (3 * 86_400, "3 days ago"),
        ],
    )
    def test_ago(self, seconds: float, written: str) -> None:
        assert runs.ago(seconds) == written


def tile(number: int = 1, **more: object) -> gallery.Tile:
    made = gallery.Tile(number, "id", PICTURE, 0.25, 0.1, "cat", "dog", right=False, suspect=False)
    return replace(made, **more)


class TestGalleries:
    def test_both_sides_are_named_and_counted(self) -> None:
        shown = gallery.galleries([tile(1), tile(2)], [tile(1, influence=-0.5)], "nats", 1466)
        assert [found["aria-label"] for found in Tags(shown).named("section")] == [
            "Towards: training examples that helped",
            "Away: training examples that hurt",
        ]
        assert "2 of 1,466 · 20 % of all |influence| · nats" in shown
        assert shown.index("▲1") < shown.index("▲2") < shown.index("▼1")
        assert "−0.5" in shown

    def test_a_tile_says_why_it_is_there(self) -> None:
        plain_tile = gallery.galleries([tile()], [], "nats", 10)
        marked = gallery.galleries([tile(suspect=True, planted="planted: was cat")], [], "nats", 10)
        assert "model: dog" in plain_tile
        assert ">suspect<" not in plain_tile
        assert ">suspect<" in marked
        assert ">memorized<" not in marked
        assert ">memorized<" in gallery.galleries([tile(memorized=True)], [], "nats", 10)
        assert "planted: was cat" in marked

    def test_an_empty_side_is_said(self) -> None:
        assert "No training example pushed away." in gallery.galleries([tile()], [], "nats", 10)

    def test_data_stays_text(self) -> None:
        hostile = tile(id=HOSTILE, label=HOSTILE, prediction=HOSTILE, planted=HOSTILE, face=TABLE, row=1)
        tags = Tags(gallery.galleries([hostile], [hostile], HOSTILE, 10))
        assert tags.named("img") == []

    def test_a_tile_with_a_row_is_a_button_that_opens_it(self) -> None:
        made = gallery.galleries([tile(row=7, suspect=True, memorized=True, near_duplicate=True)], [], "nats", 10)
        (button,) = [found for found in Tags(made).named("div") if found.get("role") == "button"]
        assert (button["data-inspect"], button["data-point"], button["tabindex"]) == ("7", "7", "0")
        name = "training example id, labeled cat, pushes towards by 0.25, suspect, memorized, near-duplicate"
        assert button["aria-label"] == name
        assert ">near-duplicate<" in made
        assert 'role="button"' not in gallery.galleries([tile()], [], "nats", 10)

    def test_pictures_have_alternative_text(self) -> None:
        (picture,) = Tags(gallery.galleries([tile()], [], "nats", 10)).named("img")
        assert picture["alt"] == "training example id, labeled cat, pushes towards by 0.25"


class TestStanding:
    @pytest.mark.parametrize(
        ("job", "written"),
        [
            (JobState("done"), "✓ done"),
            (JobState("queued"), "… starting"),
            (JobState("failed", reason="why"), "■ failed"),
            (JobState("running", "training", 2, 8), "▶ 2/8 training"),
            (JobState("running", "scores", 6, 8, 5, 20, seconds_left=125), "▶ 6/8 scores 25% · 2 min left"),
        ],
    )
    def test_one_line(self, job: JobState, written: str) -> None:
        assert job_views.standing(job) == written


class TestRunsView:
    def test_times_by_stage_and_their_sum(self) -> None:
        entry = runs.Entry("key", "title", job=JobState("done"), seconds={"data": 2.0, "training": 95.0})
        shown = runs.progress(entry)
        assert "2 min, by stage" in shown
        assert ">2.0 s<" in shown
        assert Tags(shown).named("progress") == []

    def test_a_running_job_has_a_bar_with_a_name(self) -> None:
        job = JobState("running", "scores", 6, 8, 5, 20, rate=2.5)
        (bar,) = Tags(runs.progress(runs.Entry("key", "title", job=job))).named("progress")
        assert (bar["max"], bar["value"], bar["aria-label"]) == ("20", "5", "scores")

    def test_unreadable_runs_say_why(self) -> None:
        assert "found version 2" in runs.progress(runs.Entry("key", "title", reason="found version 2"))

    def test_a_run_that_was_never_started_was_made(self) -> None:
        entry = runs.Entry("key", "title", started=False, age=120, when="then")
        assert "made 2 minutes ago" in runs.described(entry)
        assert "started 2 minutes ago" in runs.described(replace(entry, started=True))

    def test_data_stays_text(self) -> None:
        job = JobState("failed", stage=HOSTILE)
        entry = runs.Entry(HOSTILE, HOSTILE, (HOSTILE,), job, HOSTILE, seconds={HOSTILE: 1.0}, when=HOSTILE)
        assert Tags(runs.described(entry) + runs.progress(entry)).named("img") == []


def example(**more: object) -> examples.Example:
    made = examples.Example(
        "id", PICTURE, "cat", "dog", False, 99.5, 1.5, -0.02, 0.004, False, True, memorization.HARMFUL
    )
    return replace(made, **more)


class TestExamples:
    def test_a_tile_holds_both_measurements_and_the_badges(self) -> None:
        shown = examples.tiles([example(planted="planted: was dog")], "name")
        words = re.sub(r"<[^>]+>", " ", shown).replace("\N{NO-BREAK SPACE}", " ")
        assert "✗ model says" in shown
        for fact in ("percentile  99.5", "self-influence  1.5", "held-out  −0.0200 ± 0.0040"):
            assert fact in words
        assert [found["class"] for found in Tags(shown).named("span") if "class" in found] == [
            "ix-badge",
            "ix-badge ix-planted",
        ]

    def test_what_is_inside_the_noise_is_said(self) -> None:
        assert "inside the noise" in examples.tiles([example(neutral=True)], "name")
        assert "inside the noise" not in examples.tiles([example()], "name")

    def test_a_regression_is_neither_right_nor_wrong(self) -> None:
        shown = examples.card(example(right=None))
        assert "true value" in shown
        assert "✗" not in shown
        assert "✓" not in shown

    def test_data_stays_text(self) -> None:
        hostile = example(id=HOSTILE, label=HOSTILE, prediction=HOSTILE, planted=HOSTILE, face=TABLE)
        shown = examples.tiles([hostile], HOSTILE) + examples.card(hostile)
        assert Tags(shown).named("img") == []


def cloud(**more: object) -> quadrant.Cloud:
    n = len(memorized.GROUPS)
    made = quadrant.Cloud(
        rows=np.arange(10, 10 + n),
        ids=[f"{HOSTILE}{number}" for number in range(n)],
        group=np.arange(n),
        percentile=np.linspace(0, 100, n),
        self_influence=np.array([1.0, 0.1, 0.01, 1e-3, 1e-12, 0.0]),
        held_out=np.array([-0.1, 0.1, 0.001, 0.01, -0.01, 0.0]),
        held_out_se=np.full(n, 0.005),
    )
    return replace(made, **more)


class TestQuadrantPicture:
    def test_every_group_has_a_shape_of_its_own(self) -> None:
        assert len({group.symbol for group in memorized.GROUPS}) == len(memorized.GROUPS)
        assert len({group.mark for group in memorized.GROUPS}) == len(memorized.GROUPS)
        assert set(memorization.QUADRANTS) == set(memorization.NAMES) == set(memorized.ORDERS)
        assert {group.name for group in memorized.GROUPS} == set(memorization.NAMES.values())
        assert not [group.name for group in memorized.GROUPS if "memorized" in group.name]

    def test_neutral_groups_and_no_others_are_gray_and_hollow(self) -> None:
        neutral = {memorization.NAMES[name] for name in (memorization.MEMORIZED_NEUTRAL, memorization.NEUTRAL)}
        assert {group.name for group in memorized.GROUPS if group.hue == "neutral"} == neutral
        assert {group.name for group in memorized.GROUPS if group.symbol.endswith("-open")} == neutral

    def test_points_carry_their_rows_and_keep_their_order(self) -> None:
        drawn = quadrant.figure(cloud(), memorized.GROUPS, "nats").data
        assert {trace.name: list(trace.customdata) for trace in drawn} == {
            group.name: [10 + number] for number, group in enumerate(memorized.GROUPS)
        }
        assert drawn[-1].name == memorization.NAMES[memorization.HARMFUL]
        assert all(trace.type == "scatter" for trace in drawn)

    def test_hover_texts_are_safe(self) -> None:
        drawn = quadrant.figure(cloud(), memorized.GROUPS, "nats").data
        assert not any("<" in text for trace in drawn for text in (*trace.hovertext, *trace.text))

    def test_zeros_stand_at_the_left_edge(self) -> None:
        values, floor = scales.floored(np.array([1.0, 1e-3, 1e-20, 0.0]))
        assert floor == pytest.approx(1e-8)
        assert values.tolist() == [1.0, 1e-3, floor, floor]
        assert scales.floored(np.zeros(3))[0].min() > 0

    def test_the_vertical_axis_keeps_signs_and_order(self) -> None:
        held_out = np.array([-1.0, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 1.0])
        up = np.arcsinh(held_out / scales.linear_part(held_out))
        assert (np.diff(up) > 0).all()
        assert (np.sign(up) == np.sign(held_out)).all()

    def test_ticks_are_powers_of_ten_inside_the_range(self) -> None:
        assert scales.ticks(np.array([-0.5, 0.02, 20.0]), 0.02) == pytest.approx([-0.1, 0, 0.1, 1, 10])
        assert scales.ticks(np.zeros(3), 1.0) == [0.0]

    @pytest.mark.parametrize(
        ("points", "row"), [([], None), ([{"customdata": [7]}], 7), ([{"customdata": 7}], 7), ([{"x": 1}], None)]
    )
    def test_the_clicked_row(self, points: list[object], row: int | None) -> None:
        assert quadrant.picked({"selection": {"points": points}}) == row


class TestDrawnRows:
    def table(self, n: int, flagged: int) -> pd.DataFrame:
        return pd.DataFrame({"z": np.linspace(0, 10, n), "memorized": np.arange(n) >= n - flagged})

    def test_all_are_drawn_where_they_fit(self) -> None:
        assert memorized.drawn_rows(self.table(100, 10)).tolist() == list(range(100))

    def test_all_flagged_are_among_a_sample(self) -> None:
        rows = memorized.drawn_rows(self.table(20_000, 900))
        assert len(rows) == len(set(rows)) == memorized.DRAWN
        assert set(range(19_100, 20_000)) <= set(rows)
        assert rows.tolist() == memorized.drawn_rows(self.table(20_000, 900)).tolist()

    def test_too_many_flagged_leave_the_highest_scores_and_some_others(self) -> None:
        rows = memorized.drawn_rows(self.table(20_000, 9000))
        assert rows[rows >= 11_000].tolist() == list(range(16_000, 20_000))
        assert len(rows) == memorized.DRAWN


class TestHeadline:
    facts = headline.Headline(
        12, 100, 30, "the median of its class", 10, 3, 4, 9, 1, "last-layer", 0.001, "0.1 x mean eigenvalue"
    )

    def test_the_parts_of_the_memorized_add_up(self) -> None:
        shown = headline.headline(self.facts)
        assert "12 of 100 training examples are suspect" in shown
        assert "▼ 4 harm" in shown
        assert "▲ 3 help" in shown
        assert "◇ 3 show no effect" in shown
        assert "would still let about 1 through" in shown

    def test_a_method_without_damping_says_so(self) -> None:
        assert "has no damping" in headline.headline(replace(self.facts, damping=None))

    def test_nothing_memorized_is_an_answer(self) -> None:
        none = replace(self.facts, flagged=0, high=0, useful=0, harmful=0, both=0)
        assert "None has a self-influence that stands out" in headline.headline(none)
