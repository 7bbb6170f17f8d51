"""The drawer of a training example: the reverse question against the method's own scores, neighbors, and hostile names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from explorer.contracts import Target
from explorer.store import Run
from explorer.ui.parts import drawer, reverse
from explorer.ui.views import drawer as views
from explorer.ui.views import neighbors as near
from explorer.ui.views.tiles import Item
from tests.jobs.test_pipeline import full_scores
from tests.ui.conftest import HOSTILE, Copier, Finished
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_views import PICTURE, TABLE, Tags

if TYPE_CHECKING:
    pass

TRAIN = Item("train", 5, 5, HOSTILE, TABLE, HOSTILE, HOSTILE, right=False, badges=(HOSTILE,))
TEST = Item("test", 2, 12, HOSTILE, PICTURE, HOSTILE, HOSTILE, right=False)
REVERSE = views.Reverse(((TEST, 0.5, True),), ((TEST, -0.25, False),), 7, 2, 10, 30, 0.125, HOSTILE)
KNOWN = views.Known(TRAIN, "memorized and harmful", HOSTILE, 0.5, 99.0)
ROUNDING = 1e-5
HALF_STEP = 0.5 / 127 + 1e-5
"""Of a prediction's scale: what rounding to 127 levels may move a score by."""


class TestView:
    def test_markup_stays_text_and_tiles_can_be_clicked(self) -> None:
        html = "".join(
            [
                views.known(KNOWN),
                views.here(views.Here(HOSTILE, 0.5, 0.01, HOSTILE, clipped=False)),
                views.reverse(REVERSE),
                near.neighbors((near.Neighbor(TRAIN, 0.5, twin=True),), HOSTILE, trained=True),
            ]
        )
        assert HOSTILE not in html
        assert buttons(Tags(html), "query") == [2, 2]
        assert buttons(Tags(html), "inspect") == [5]

    def test_counts_say_what_is_computed_and_what_is_too_small(self) -> None:
        html = views.reverse(REVERSE)
        assert "Helps <b>7</b>, hurts <b>2</b>, too small to tell for 1 of 10 test predictions (of 30 in all" in html
        assert "mean +0.125" in html
        assert "+0.5 or more" in html
        assert "−0.25 or more" not in html
        assert "in all" not in views.reverse(replace(REVERSE, total=10))

    def test_without_memorization_nothing_is_claimed(self) -> None:
        assert "not measured yet" in views.known(views.Known(TRAIN))
        assert "higher than 99.0 % of all" in views.known(KNOWN)

    @pytest.mark.parametrize(
        ("twin", "trained", "words"),
        [
            (False, True, "None of these 1 is a near-duplicate"),
            (True, True, "hides memorization"),
            (True, False, "trained on nearly this input"),
        ],
    )
    def test_near_duplicates_are_marked_and_explained(self, twin: bool, trained: bool, words: str) -> None:
        html = near.neighbors((near.Neighbor(TRAIN, 0.25, twin=twin),), "a", trained=trained)
        assert words in html
        assert "Nearest at distance 0.25" in html
        assert (">near-duplicate<" in html) == twin


class TestReverse:
    @pytest.mark.parametrize("target", ["label", "prediction"])
    def test_the_column_is_that_of_the_method_exact_where_listed(self, wine: Run, target: Target) -> None:
        rows = np.sort(wine.plan("label"))
        label, _ = full_scores(wine, "label", rows)
        own, _ = full_scores(wine, target, rows)
        wrong = np.isin(rows, wine.plan("prediction"))
        for train_row in (0, 17, 60):
            expected = np.where(wrong, own[:, train_row].numpy(), label[:, train_row].numpy())
            found = reverse.effects(wine, train_row, target)
            order = np.argsort(found.rows)
            assert found.rows[order].tolist() == rows.tolist()
            values, clipped = found.influence[order], found.clipped[order]
            for value, bound, true, query in zip(values, clipped, expected, rows, strict=True):
                top, row = wine.top(int(query), target), wine.row(int(query), target)
                assert top is not None
                assert row is not None
                if train_row in [*top.towards, *top.away]:
                    assert not bound
                    assert value == pytest.approx(true, rel=ROUNDING)
                else:
                    assert bound == (abs(row.values[train_row]) == 127)
                    assert abs(true) >= abs(value) * (1 - HALF_STEP) if bound else True
                    assert bound or value == pytest.approx(true, abs=HALF_STEP * row.scale)

    def test_what_is_cut_off_and_not_listed_is_a_bound(self, wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        rows, stored = wine.column(3, "label")
        scales = np.array([wine.row(int(row), "label").scale for row in rows])  # type: ignore[union-attr]
        monkeypatch.setattr(Run, "column", lambda *_: (rows, scales.astype(np.float32)))
        listed = np.array(
            [3 in [*wine.top(int(row), "label").towards, *wine.top(int(row), "label").away] for row in rows]
        )  # type: ignore[union-attr]
        found = reverse.effects(wine, 3, "label")
        assert 0 < listed.sum() < len(rows)
        assert found.clipped.tolist() == (~listed).tolist()
        assert len(stored) == len(rows)

    def test_the_strongest_have_the_sign_asked_for(self) -> None:
        values = np.array([0.1, -0.5, 0.0, 0.3, -0.2], dtype=np.float32)
        found = reverse.Effects(np.arange(5), values, np.zeros(5, bool))
        assert reverse.strongest(found, 3, 1).tolist() == [3, 0]
        assert reverse.strongest(found, 1, -1).tolist() == [1]

    def test_partly_computed_runs_speak_of_what_is_there(self, finished: Finished) -> None:
        run = Run.at(finished.digits)
        facts = drawer.helped_and_hurt(run, 11, "label")
        found = reverse.effects(run, 11, "label")
        assert (facts.computed, facts.total) == (20, run.meta().test)
        assert facts.helps == (found.influence > 0).sum()
        assert facts.hurts == (found.influence < 0).sum()
        best = found.rows[np.argmax(found.influence)]
        assert facts.helped[0][0].row == best
        assert all(value < 0 for _, value, _ in facts.hurt)


class TestPart:
    def test_a_drawer_says_all_that_is_known(self, finished: Finished, screen: Screen) -> None:
        run = Run.at(finished.digits)
        query, closed = int(run.plan("label")[0]), []
        top = run.top(query, "label")
        assert top is not None
        row = int(top.towards[0])
        app = page(lambda: drawer.show(run, row, query, "label", nothing, nothing, lambda: closed.append(True)))
        html = screen.html["drawer-tiles"]
        table = run.table("memorization")
        percentile = 100 * (table["self_influence"] < table["self_influence"][row]).mean()
        assert f"higher than {percentile:.1f} % of all" in html
        assert table["quadrant"][row] in html
        assert f"+{top.towards_influence[0]:.3g}" in html
        expected = run.neighbors("train", row)
        assert expected is not None
        assert buttons(screen.tags("drawer-neighbor-tiles"), "inspect") == expected.rows.tolist()
        app.button(key="drawer-close").click().run()
        assert closed == [True]

    def test_the_neighbors_of_the_prediction_on_request(self, finished: Finished, screen: Screen) -> None:
        run = Run.at(finished.digits)
        query = int(run.plan("label")[0])
        app = page(lambda: drawer.show(run, 3, query, "label", nothing, nothing, nothing))
        app.get("button_group")[0].set_value(drawer.OF_QUERY).run()
        features = run.array("features")
        distances = np.linalg.norm(features[: run.meta().train] - features[run.meta().train + query], axis=1)
        found = buttons(screen.tags("drawer-neighbor-tiles"), "inspect")
        assert set(found) == set(np.argsort(distances)[: len(found)].tolist())

    def test_planted_copies_are_near_duplicates(self, finished: Finished, screen: Screen) -> None:
        run = Run.at(finished.digits)
        copy = int(np.flatnonzero(run.table("train")["copy_of"] >= 0)[0])
        query = int(run.plan("label")[0])
        page(lambda: drawer.show(run, copy, query, "label", nothing, nothing, nothing))
        html = screen.html["drawer-neighbor-tiles"]
        assert "hides memorization" in html
        assert "Nearest at distance 0. " in html
        assert f'data-inspect="{run.table("train")["copy_of"][copy]}"' in html

    def test_old_runs_say_what_to_do(self, finished: Finished, copied: Copier, screen: Screen) -> None:
        old = copied(finished.digits, without=("neighbors.json", "memorization.parquet"))
        query = int(old.plan("label")[0])
        app = page(lambda: drawer.show(old, 3, query, "label", nothing, nothing, nothing))
        assert "compute the run again" in app.info[0].value
        assert "not measured yet" in screen.html["drawer-tiles"]

    @pytest.mark.parametrize("name", ["hostile", "regression", "given"])
    def test_every_kind_of_run(self, name: str, finished: Finished, screen: Screen) -> None:
        run = Run.at(getattr(finished, name))
        query = int(run.plan("label")[0])
        page(lambda: drawer.show(run, 3, query, "prediction", nothing, nothing, nothing))
        assert HOSTILE not in "".join(screen.html.values())
        assert buttons(screen.tags("drawer-tiles"), "query")
