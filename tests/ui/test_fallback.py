"""The map without WebGL2: the same values, the same strongest points and the same words as the map, for a prediction and for a lesson."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorer import ui
from explorer.contracts import Recipe
from explorer.errors import RunError
from explorer.jobs.planning import Request
from explorer.shown import Filter
from explorer.store import Run
from explorer.ui import answers, fallback, load, wire
from explorer.ui.views import plotly_map
from explorer.ui.views.plotly_map import Points
from tests.conftest import compute
from tests.ui import chromium
from tests.ui.parts import nothing, page
from tests.ui.test_app import opened, visit
from tests.ui.test_laboratory_taught import ROW, lesson_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CLOSE = 1e-6
"""Places and values go through float32."""


def drawn(run: Run, monkeypatch: pytest.MonkeyPatch, lesson: int | None = None, kept: Filter | None = None) -> Points:
    """What the map is given for the first prediction."""
    seen: list[Points] = []
    monkeypatch.setattr(plotly_map, "show", lambda points, key: seen.append(points))
    query, layout = answers.first_query(run), run.layouts()[-1]
    page(lambda: fallback.show(run, layout, query, "label", nothing, lesson, kept))
    return seen[-1]


def trace(figure: Figure, name: str) -> Any:
    return next(one for one in figure.data if one.name == name)


def legend_of_the_map() -> str:
    return (Path(ui.__file__).parent / "scatter" / "legend.js").read_text(encoding="utf-8")


def test_a_prediction_is_drawn_by_its_influence(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found, query = drawn(wine, monkeypatch), answers.first_query(wine)
    row, top, places = wine.row(query, "label"), wine.top(query, "label"), np.asarray(wine.array("coordinates-umap"))
    assert row is not None
    assert top is not None
    train = wine.meta().train
    assert np.allclose(found.train, places[:train])
    assert np.allclose(found.values, [value / 127 * row.scale for value in row.values.tolist()], rtol=CLOSE)
    strongest = [int(row) for rows in (top.towards[:10], top.away[:10]) for row in rows if row >= 0]
    assert np.allclose(found.strongest, places[strongest])
    assert found.changed is None
    assert found.taught is None
    assert trace(plotly_map.figure(found), "training").marker.cmax == row.scale


def test_a_lesson_is_drawn_on_training_and_test_points(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = lesson_of(wine)
    monkeypatch.setattr(load, "lesson", lambda run, row: lesson if row == ROW else None)
    found, train = drawn(wine, monkeypatch, ROW), wine.meta().train
    places = np.asarray(wine.array("coordinates-umap"))
    assert np.allclose(found.values, [value / 127 * 0.25 for value in lesson.train.values.tolist()], rtol=CLOSE)
    assert found.changed is not None
    assert np.allclose(found.changed, [lesson.test.values[row] / 127 * 0.25 for row in found.test_rows], rtol=CLOSE)
    named = [*lesson.improved.rows[: wire.NAMED], *lesson.worsened.rows[: wire.NAMED]]
    assert np.allclose(found.strongest, places[[train + row for row in named]])
    figure = plotly_map.figure(found)
    assert trace(figure, "test").marker.color.tolist() == found.changed.tolist()
    assert (trace(figure, "taught once").x[0], trace(figure, "taught once").y[0]) == pytest.approx(places[ROW])


@pytest.mark.parametrize("taught", [False, True])
def test_the_legend_says_what_that_of_the_map_says(wine: Run, taught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = lesson_of(wine)
    monkeypatch.setattr(load, "lesson", lambda run, row: lesson)
    found, words = drawn(wine, monkeypatch, ROW if taught else None), legend_of_the_map()
    bar = trace(plotly_map.figure(found), "training").marker.colorbar
    low, zero, high = bar.ticktext
    ends = ("▼ got worse", "▲ improved") if taught else ("▼ away", "▲ towards")
    assert (low.split("<br>")[0], zero, high.split("<br>")[0]) == (ends[0], "0", ends[1])
    unit, clipped = bar.title.text.rsplit(", ", 1)
    for said in (*ends, clipped, *([unit] if taught else [])):
        assert said in words


@pytest.mark.parametrize("taught", [False, True])
def test_the_filter_of_the_bar_chooses_the_points(wine: Run, taught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = lesson_of(wine)
    monkeypatch.setattr(load, "lesson", lambda run, row: lesson)
    found = drawn(wine, monkeypatch, ROW if taught else None, Filter(classes=(0, 2), sign="towards"))
    query, places, train = answers.first_query(wine), np.asarray(wine.array("coordinates-umap")), wine.meta().train
    row = lesson.train if taught else wine.row(query, "label")
    assert row is not None
    labels, tests = wine.table("train")["label"], wine.table("queries").sort_values("row")["label"].tolist()
    kept = [at for at in range(train) if labels[at] in (0, 2) and row.values[at] > 0]
    assert 0 < len(kept) < train
    if taught:
        kept = sorted({*kept, ROW})  # what is taught stays on the map, as the prediction does
    assert np.allclose(found.train, places[kept])
    assert found.test_rows.tolist() == [at for at, label in enumerate(tests) if label in (0, 2) or at == query]
    known = {tuple(place) for place in [*found.train.tolist(), *found.test.tolist()]}
    assert {tuple(place) for place in found.strongest.tolist()} <= known


def test_a_lesson_that_failed_leaves_the_influence(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(run: Run, row: int) -> None:
        raise RunError("Expected smaller steps; found NaN.")

    monkeypatch.setattr(load, "lesson", refused)
    found = drawn(wine, monkeypatch, ROW)
    assert found.taught is None
    assert found.scale.high == "towards"


def test_without_a_row_nothing_is_colored_and_no_limit_is_claimed(wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "row", lambda *_: None)
    monkeypatch.setattr(Run, "top", lambda *_: None)
    found = drawn(wine, monkeypatch)
    assert not found.values.any()
    assert trace(plotly_map.figure(found), "training").marker.colorbar.ticktext == ("0",)


@pytest.mark.browser
@pytest.mark.slow
def test_teaching_colors_the_map_without_webgl(tmp_path: Path) -> None:
    run = compute(tmp_path, Request("digits", flip=0.08, recipe=Recipe(epochs=3), queries=20))
    name, port = run.table("train")["id"][ROW], chromium.free_port()
    legend = ".js-plotly-plot .infolayer .colorbar"
    with (
        chromium.open_browser(chromium.NO_WEBGL) as plain,
        opened(run, port) as address,
        visit(plain, f"{address}&row={name}") as page,
    ):
        page.locator(legend, has_text="towards").wait_for()
        page.get_by_role("button", name="Teach the model this once").click()
        page.get_by_text("After one lesson").wait_for()
        page.locator(legend, has_text="improved").wait_for()
        page.locator(legend, has_text="got worse").wait_for()
        page.get_by_role("button", name="Back to influence").click()
        page.locator(legend, has_text="towards").wait_for()
