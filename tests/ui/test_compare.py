"""Pin A, compare B: what both answers share is what their stored lists share, and names from data stay text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from explorer.errors import RunError
from explorer.store import Run
from explorer.ui.parts import asked, compare
from explorer.ui.views import compare as views
from explorer.ui.views.card import Query
from explorer.ui.views.tiles import Item
from tests.ui.conftest import Finished
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_views import HOSTILE, PICTURE, TABLE, Tags

ITEM = Item("train", 7, 7, f"id{HOSTILE}", TABLE, HOSTILE, HOSTILE, right=False, badges=(HOSTILE,))
CARD = Query(f"q{HOSTILE}", PICTURE, HOSTILE, HOSTILE, True, True, 0.9, 2.0, HOSTILE, 1, 10)
SIDE = views.Side("A", CARD, 3, 63, ((ITEM, 0.5), (ITEM, -0.25)), 9, 20)
FOUND = views.Comparison(
    a=SIDE,
    b=replace(SIDE, name="B", row=4, point=64),
    shared=(views.Shared(ITEM, 0.5, 0.25), views.Shared(ITEM, 0.5, -0.25)),
    agree=5,
    opposite=4,
    spearman=-0.123,
    train=1000,
    unit="nats",
)


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return Run.at(finished.digits)


class TestView:
    def test_markup_in_names_stays_text_and_every_tile_can_be_clicked(self) -> None:
        html = views.comparison(FOUND)
        tags = Tags(html)
        assert HOSTILE not in html
        assert [image["src"] for image in tags.named("img")] == [PICTURE.picture] * 2
        assert buttons(tags, "inspect") == [7] * 6
        assert buttons(tags, "query") == [3, 4]

    def test_numbers_stand_beside_the_sentence(self) -> None:
        html = views.comparison(FOUND)
        assert (
            "9 of A’s 20 strongest are among B’s 20 (0.4 expected by chance): 5 push both the same way, 4 opposite"
            in html
        )
        assert "rank correlation over all 1,000 training examples −0.12" in html
        assert html.count(">agree<") == html.count(">opposite<") == 1
        assert "undefined" in views.comparison(replace(FOUND, spearman=float("nan")))

    @pytest.mark.parametrize(
        ("agree", "opposite", "words"),
        [
            (0, 0, "No training example"),
            (2, 3, "opposite directions"),
            (10, 0, "rest largely on the same"),
            (3, 2, "differs"),
        ],
    )
    def test_the_sentence_follows_the_counts(self, agree: int, opposite: int, words: str) -> None:
        assert words in views.verdict(replace(FOUND, agree=agree, opposite=opposite))


class TestPart:
    def test_what_is_shared_is_the_intersection_of_the_stored_lists(self, run: Run, screen: Screen) -> None:
        first, second = (int(row) for row in run.plan("label")[:2])
        page(lambda: compare.show(run, (first, "label"), second, "label", nothing, nothing))
        lists = []
        for query in (first, second):
            top = run.top(query, "label")
            assert top is not None
            pairs = [
                *zip(top.towards, top.towards_influence, strict=True),
                *zip(top.away, top.away_influence, strict=True),
            ]
            lists.append({int(row): float(value) for row, value in pairs if row >= 0})
        a, b = lists
        both = a.keys() & b.keys()
        agree = sum(np.sign(a[row]) == np.sign(b[row]) for row in both)
        html = screen.html["compare-tiles"]
        assert f"{len(both)} of A’s {len(a)} strongest are among B’s {len(b)}" in html
        assert f"{agree} push both the same way, {len(both) - agree} opposite ways" in html
        assert buttons(screen.tags("compare-tiles"), "query") == [first, second]
        middle = html.split('aria-label="Shared by A and B"')[1].split("</section>")[0]
        assert set(buttons(Tags(f"<div {middle}</div>".replace("<div >", "<div>")), "inspect")) <= both
        rows = [run.row(query, "label") for query in (first, second)]
        ranks = stats.spearmanr(*(row.values.astype(int) for row in rows if row is not None)).statistic
        assert f"{ranks:+.2f}".replace("-", "−") in html

    def test_an_answer_shares_everything_with_itself(self, run: Run) -> None:
        query = int(run.plan("label")[0])
        both = asked.influence(run, query, "label")
        found = compare.compared(run, ((query, "label"), both), ((query, "label"), both))
        assert (found.opposite, found.a.only_total, found.b.only_total) == (0, 0, 0)
        assert found.agree == found.a.listed > 0
        assert found.spearman == pytest.approx(1)
        weights = [abs(one.a) for one in found.shared]
        assert weights == sorted(weights, reverse=True)

    def test_nothing_pinned_says_how_and_a_pinned_one_says_what_next(self, run: Run, screen: Screen) -> None:
        query = int(run.plan("label")[0])
        assert "Pin as A" in page(lambda: compare.show(run, None, query, "label", nothing, nothing)).info[0].value
        same = page(lambda: compare.show(run, (query, "label"), query, "label", nothing, nothing))
        assert "is pinned as A" in same.info[0].value
        assert screen.html == {}

    def test_the_reason_is_shown_where_there_is_no_answer(
        self, run: Run, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise RunError("Expected an answer; found *none*.")

        monkeypatch.setattr("explorer.ui.load.top", refuse)
        first, late = int(run.plan("label")[0]), int(run.table("queries")["row"].iloc[-1])
        app = page(lambda: compare.show(run, (first, "label"), late, "label", nothing, nothing))
        assert app.warning[0].value == "Expected an answer; found \\*none\\*."
        assert screen.html == {}
