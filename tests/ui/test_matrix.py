"""The class matrix: what is drawn is what the run holds, a pair is opened by click and by picker, large ones are cut in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from explorer.store import Run
from explorer.store.run import CLASS_INFLUENCE, CLASS_MATRIX
from explorer.ui.parts import matrix
from explorer.ui.views import heat
from explorer.ui.views import matrix as chart
from explorer.ui.views import pair as views
from explorer.ui.views.tiles import Item
from tests.ui.conftest import HOSTILE, Copier, Finished
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_views import PICTURE, Tags

ITEM = Item("train", 5, 5, HOSTILE, PICTURE, HOSTILE, HOSTILE, right=True)
QUERY = Item("test", 2, 12, HOSTILE, PICTURE, HOSTILE, HOSTILE, right=False)
PAIR = views.Pair(HOSTILE, "b", -0.002, 40, 8, "nats", ((ITEM, 0.1),), ((ITEM, -0.2),), 30, 10, ((QUERY, 0.9, 2.5),))
DRAWN = heat.Matrix(
    classes=np.array([0, 3]),
    names=[HOSTILE, "b"],
    train=np.array([5, 6]),
    test=np.array([2, 0]),
    values=np.array([[0.5, np.nan], [-0.25, np.nan]]),
    unit="nats",
    chosen=(3, 0),
)


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return Run.at(finished.digits)


class TestChart:
    def test_colors_are_symmetric_about_nothing_and_each_cell_says_who_did_what_to_whom(self) -> None:
        colors, cells = heat.figure(DRAWN).data
        assert (colors.zmin, colors.zmax) == (-0.5, 0.5)
        assert colors.colorscale[2][0] == 0.5
        said = dict(zip(map(tuple, cells.customdata), cells.text, strict=True))
        assert list(said) == [(0, 0), (0, 3), (3, 0), (3, 3)]
        assert "6 training examples of b" in said[3, 0]
        assert "-0.25 nats" in said[3, 0]
        assert "no examples" in said[0, 3]
        assert HOSTILE not in "".join(cells.text)

    def test_cells_are_written_in_one_power_of_ten(self) -> None:
        values = np.array([[1.6e-3, -1.52e-4], [np.nan, 9e-7]])
        assert heat.power(heat.largest(values)) == -4
        assert heat.written(values, -4) == [["+16.0", "−1.5"], ["", "0"]]
        assert heat.power(heat.largest(np.array([[-0.5, 0.25]]))) == 0
        assert heat.written(np.array([[-0.5, 0.251]]), 0) == [["−0.50", "+0.25"]]
        assert heat.power(heat.largest(np.zeros((2, 2)))) == 0
        assert heat.power(heat.largest(np.array([[2.5e6]]))) == 5
        colors, _ = heat.figure(DRAWN).data
        assert [list(row) for row in colors.text] == heat.written(DRAWN.values, 0)

    def test_the_chosen_pair_is_framed_where_it_is_drawn(self) -> None:
        (frame,) = heat.figure(DRAWN).layout.shapes
        assert (frame.x0, frame.x1, frame.y0, frame.y1) == (-0.5, 0.5, 0.5, 1.5)
        assert len(heat.figure(replace(DRAWN, chosen=(9, 9))).layout.shapes) == 0

    def test_what_a_click_says_leaves_as_lists_and_not_as_packed_bytes(self) -> None:
        assert heat.figure(DRAWN).to_plotly_json()["data"][1]["customdata"] == [[0, 0], [0, 3], [3, 0], [3, 3]]

    def test_names_on_the_axes_are_cut_and_cannot_be_markup(self) -> None:
        ticks = heat.figure(DRAWN).layout.xaxis.ticktext
        assert ticks == ("&lt;img src=x on…", "b")

    @pytest.mark.parametrize(("points", "pair"), [([], None), ([{"customdata": [3, 0]}], (3, 0)), ([{}], None)])
    def test_a_click_names_its_classes(self, points: list[Any], pair: tuple[int, int] | None) -> None:
        assert chart.picked({"selection": {"points": points}}) == pair


class TestPairView:
    def test_markup_stays_text_and_tiles_can_be_clicked(self) -> None:
        html = views.heading(PAIR) + views.opened(PAIR)
        assert HOSTILE not in html
        tags = Tags(html)
        assert buttons(tags, "inspect") == [5, 5]
        assert buttons(tags, "query") == [2]

    def test_the_sentence_has_the_sign_and_the_sizes(self) -> None:
        assert "hurts b on average" in views.heading(PAIR)
        assert "−0.002 nats, the mean over 40 training examples" in views.heading(PAIR)
        assert "helps its own class" in views.heading(replace(PAIR, mean=0.1, a="b"))
        assert "There is no test example of b" in views.heading(replace(PAIR, mean=float("nan")))
        assert "There is no training example of b" in views.heading(replace(PAIR, mean=float("nan"), a="b", train=0))

    def test_counts_stand_beside_the_tiles(self) -> None:
        html = views.opened(PAIR)
        assert "1 of 30 training examples" in html
        assert "(75 %)" in html
        assert "1 of 8, confident mistakes first" in html
        assert "20 million" in views.opened(replace(PAIR, helping=None, hurting=None))


class TestPart:
    def test_a_cell_holds_the_mean_of_its_examples(self, run: Run) -> None:
        found = run.class_influence()
        assert found is not None
        assert found.examples is not None
        data = matrix.drawn(run, found, (2, 5))
        given = run.table("train")["label"].to_numpy()
        for a, b in ((2, 5), (0, 0), (9, 1)):
            assert data.values[a, b] == pytest.approx(found.examples[b][given == a].mean(), rel=1e-4)
        assert data.train.tolist() == np.bincount(given).tolist()
        assert data.test.tolist() == np.bincount(run.table("test")["label"]).tolist()

    def test_a_pair_shows_the_extremes_of_its_class_and_the_worst_of_the_other(self, run: Run) -> None:
        found = run.class_influence()
        assert found is not None
        assert found.examples is not None
        pair = matrix.opened(run, found, (3, 8))
        given, queries = run.table("train")["label"].to_numpy(), run.table("queries")
        members = np.flatnonzero(given == 3)
        order = members[np.argsort(found.examples[8][members])]
        up, down = ([row for row in order if sign * found.examples[8][row] > 0] for sign in (1, -1))
        assert pair.helping is not None
        assert pair.hurting is not None
        assert [item.row for item, _ in pair.helping] == up[::-1][:10]
        assert [item.row for item, _ in pair.hurting] == down[:10]
        assert [item.row for item, _, _ in pair.worst] == queries.loc[queries["label"] == 8, "row"].head(10).tolist()
        assert (pair.helps, pair.hurts) == (len(up), len(down))

    def test_the_first_pair_is_the_class_that_hurts_another_most(self) -> None:
        values = np.array([[-9, 0.5, np.nan], [-0.1, 3, -0.4], [0.2, 0.3, 1]], dtype=np.float32)
        assert matrix.first_pair(values) == (1, 2)
        assert matrix.first_pair(np.array([[1, 2], [3, 1]], dtype=np.float32)) == (1, 0)
        assert matrix.first_pair(np.full((1, 1), np.nan, dtype=np.float32)) == (0, 0)

    def test_of_many_classes_those_with_most_influence_on_others_are_drawn(self) -> None:
        values = np.zeros((5, 5), dtype=np.float32)
        values[0, 0], values[1, 3], values[2, 4], values[4, 4] = 100, -3, 1, np.nan
        assert matrix.most_involved(values, 2).tolist() == [1, 3]
        assert matrix.most_involved(values, 5).tolist() == [0, 1, 2, 3, 4]

    def test_the_pickers_open_a_pair_and_the_button_filters_to_it(self, run: Run, screen: Screen) -> None:
        asked: list[tuple[int, ...]] = []
        app = page(lambda: matrix.show(run, nothing, nothing, asked.append))
        app.selectbox(key="matrix-training").set_value(7)
        app.selectbox(key="matrix-test").set_value(4)
        app.run()
        given = run.table("train")["label"].to_numpy()
        assert {given[row] for row in buttons(screen.tags("matrix-tiles"), "inspect")} == {7}
        asked_of = run.table("test")["label"].to_numpy()
        assert {asked_of[row] for row in buttons(screen.tags("matrix-tiles"), "query")} == {4}
        app.button(key="matrix-filter").click().run()
        assert asked == [(4, 7)]
        table = app.dataframe[0].value
        assert table.shape == (10, 12)
        assert [found.message for found in app.exception] == []

    def test_a_large_run_opens_pairs_without_single_examples(
        self, finished: Finished, copied: Copier, screen: Screen
    ) -> None:
        run = copied(finished.digits, without=(CLASS_INFLUENCE,))
        page(lambda: matrix.show(run, nothing, nothing, nothing))
        assert "20 million" in screen.html["matrix-tiles"]
        assert buttons(screen.tags("matrix-tiles"), "query")

    def test_runs_without_a_matrix_say_what_to_do(self, finished: Finished, copied: Copier, screen: Screen) -> None:
        old = copied(finished.digits, without=(CLASS_MATRIX, CLASS_INFLUENCE))
        assert "compute the run again" in page(lambda: matrix.show(old, nothing, nothing, nothing)).info[0].value
        line = Run.at(finished.regression)
        assert "no classes" in page(lambda: matrix.show(line, nothing, nothing, nothing)).info[0].value

    def test_hostile_class_names_stay_text(self, finished: Finished, screen: Screen) -> None:
        app = page(lambda: matrix.show(Run.at(finished.hostile), nothing, nothing, nothing))
        assert HOSTILE not in screen.html["matrix-tiles"]
        assert HOSTILE not in "".join(found.proto.body for found in app.get("html"))
