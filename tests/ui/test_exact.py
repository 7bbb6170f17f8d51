"""Trace exactly: the button and why it is not there, the progress, the answer beside the run's own, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from streamlit.testing.v1 import AppTest

from explorer.contracts import Target
from explorer.errors import ModelError
from explorer.jobs import asking
from explorer.jobs.asking import Traced, UnderWay
from explorer.store import Run
from explorer.ui import load, state
from explorer.ui.parts import exact
from explorer.ui.views import exact as views
from tests.jobs.test_exact import finished as traced
from tests.ui import chromium
from tests.ui.conftest import HOSTILE, Finished
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_app import card_shows, opened, visit
from tests.ui.test_pages import html
from tests.ui.test_views import Tags

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOUND = views.Exact(HOSTILE, 0.714, 9, 20, 1437, 1380, 6.6)
REASON = "Expected a training without dropout; found *some*."


class TestView:
    def test_numbers_stand_beside_what_it_is_true_of(self) -> None:
        made = views.line(replace(FOUND, method="last-layer"))
        assert "True of this training alone: its order, seed and rates." in made
        assert "rank agreement with last-layer: 0.71 over all 1,437" in made
        assert "9 of the 20 strongest shared" in made
        assert "went back through 1,380 steps in 7 s" in made
        assert "the map and the line above still show last-layer" in made

    def test_odd_numbers_and_markup_stay_text(self) -> None:
        assert HOSTILE not in views.line(FOUND)
        assert len(Tags(views.line(FOUND)).named("img")) == 0
        assert ": undefined over all" in views.line(replace(FOUND, agreement=float("nan")))
        assert ": −0.25 over all" in views.line(replace(FOUND, agreement=-0.25))
        assert "in less than 1 s" in views.line(replace(FOUND, seconds=0.02))


class Worker:
    """Says `said`, one after the other and the last again and again; a refusal is raised. Counts who asked."""

    def __init__(self, run: Run, *said: Traced | UnderWay | Exception) -> None:
        self.run = run
        self.said = list(said)
        self.asked: list[tuple[int, Target]] = []

    def trace(self, run: Run, query: int, target: Target) -> Traced | UnderWay:
        self.asked.append((query, target))
        found = self.said[0] if len(self.said) == 1 else self.said.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def answer(wine: Run) -> Traced:
    """Another prediction's stored answer in place of a trace: its agreement with the run's method is made up."""
    query = int(wine.plan("label")[1])
    top, row = wine.top(query, "label"), wine.row(query, "label")
    assert top is not None
    assert row is not None
    return Traced(replace(top, agreement=0.5, overlap=0.45), row, 15, 2.5)


def shown(
    monkeypatch: pytest.MonkeyPatch, worker: Worker, run: Run | None = None, at: int = 0, target: Target = "label"
) -> AppTest:
    """A page with the part alone, on the run's `at`-th prediction; `app.session_state["query"]` moves it on."""
    monkeypatch.setattr(asking, "trace", worker.trace)
    chosen = worker.run if run is None else run

    def part() -> None:
        query = state.get("query", int(worker.run.plan("label")[at]))
        state.put("query", query)
        state.put("target", target)
        state.put("stands-in", exact.show(chosen, query, target, nothing, nothing))
        state.put("concerned", exact.concerns(chosen, query, target))

    return page(part)


def press(app: AppTest, label: str) -> AppTest:
    app.button(key=next(found.key for found in app.button if found.label == label)).click().run()
    assert [found.message for found in app.exception] == []
    return app


def labels(app: AppTest) -> list[str]:
    return [found.label for found in app.button]


class TestPart:
    def test_nothing_is_asked_until_the_button_says_so(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, answer)
        app = shown(monkeypatch, worker)
        assert labels(app) == ["Trace exactly"]
        assert "Goes back through every step of this run's training" in app.button[0].help
        assert (worker.asked, screen.html) == ([], {})
        assert (app.session_state["stands-in"], app.session_state["concerned"]) == (False, False)

    def test_the_trace_stands_in_for_the_answer_and_back_again(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, answer)
        app = press(shown(monkeypatch, worker), "Trace exactly")
        assert worker.asked == [(int(wine.plan("label")[0]), "label")]
        assert (app.session_state["stands-in"], app.session_state["concerned"]) == (True, True)
        assert "rank agreement with last-layer: 0.50" in html(app)
        assert "9 of the 20 strongest shared" in html(app)
        assert "15 steps in 2 s" in html(app)
        rows = [*answer.top.towards[:10].tolist(), *answer.top.away[:10].tolist()]
        assert buttons(screen.tags("exact-tiles"), "inspect") == [row for row in rows if row >= 0]
        screen.html.clear()
        press(app, "Back to last-layer")
        assert (labels(app), screen.html) == (["Trace exactly"], {})
        assert app.session_state["concerned"] is False

    def test_each_prediction_has_its_own(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        app = press(shown(monkeypatch, Worker(wine, answer)), "Trace exactly")
        first, second = wine.plan("label")[:2].tolist()
        app.session_state["query"] = second
        app.run()
        assert labels(app) == ["Trace exactly"]
        app.session_state["query"] = first
        app.run()
        assert labels(app) == ["Back to last-layer"]

    def test_a_trace_under_way_says_how_far_it_is_and_can_be_stopped(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, UnderWay(0.25, "replaying *the* training", None), UnderWay(0.5, "back", 12.0))
        app = press(shown(monkeypatch, worker), "Trace exactly")
        assert labels(app) == ["Stop"]
        (bar,) = app.get("progress")
        assert (bar.proto.value, bar.proto.text) == (50, "Tracing exactly: back, about 12 s left")
        assert (app.session_state["stands-in"], screen.html) == (False, {})
        count = len(worker.asked)
        press(app, "Stop")
        assert (labels(app), len(worker.asked)) == (["Trace exactly"], count)

    def test_when_it_ends_the_page_is_drawn_again(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, UnderWay(0.25, "replaying", None), answer)
        assert labels(press(shown(monkeypatch, worker), "Trace exactly")) == ["Back to last-layer"]
        assert len(worker.asked) == 3  # the page, its progress, the page again

    @pytest.mark.parametrize("later", [False, True])
    def test_a_refusal_is_shown_as_it_is_and_can_be_tried_again(
        self, wine: Run, answer: Traced, later: bool, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        said: list[Any] = [UnderWay(0.25, "replaying", None)] if later else []
        worker = Worker(wine, *said, ModelError(REASON), answer)
        app = press(shown(monkeypatch, worker), "Trace exactly")
        assert labels(app) == ["Trace exactly"]
        assert app.warning[0].value == REASON.replace("*", "\\*").replace("_", "\\_")
        assert app.session_state["concerned"] is True  # the browser cannot take it away by itself
        press(app, "Trace exactly")
        assert (labels(app), len(app.warning)) == (["Back to last-layer"], 0)
        press(app, "Back to last-layer")
        assert (len(app.warning), app.session_state["concerned"]) == (0, False)

    def test_runs_that_cannot_be_traced_say_why_on_the_button(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, answer)
        given = replace(wine, spec={**wine.spec, "model": {**wine.spec["model"], "weights": {"path": "w.pt"}}})
        app = shown(monkeypatch, worker, given)
        assert app.button[0].disabled
        assert "made with weights from a file" in app.button[0].help.replace("\\", "")
        objects = replace(wine, spec={**wine.spec, "source": {"kind": "memory"}})
        assert "made by explorer.show" in shown(monkeypatch, worker, objects).button[0].help.replace("\\", "")

    def test_a_run_by_this_method_is_traced_already(
        self, wine: Run, answer: Traced, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        own = replace(wine, spec={**wine.spec, "method": {"name": "metagradient", "settings": {}}})
        app = shown(monkeypatch, Worker(wine, answer), own)
        assert (labels(app), app.session_state["stands-in"]) == ([], False)

    def test_a_trace_is_in_the_unit_of_the_measure(self, wine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        assert exact.unit(wine, "label") == exact.unit(wine, "prediction") == "nats"
        line = replace(load.meta(wine), task="regression")
        monkeypatch.setattr(load, "meta", lambda run: line)
        assert [exact.unit(wine, target) for target in ("label", "prediction")] == [
            "½ squared error",
            "units of the output",
        ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


def titles(page: Page) -> list[str | None]:
    """Ids on the tiles of the galleries."""
    tiles = page.locator(".ix-tile .ix-label")
    return [tiles.nth(k).get_attribute("title") for k in range(tiles.count())]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_from_the_page_and_back(browser: Browser, finished: Finished, scheme: str) -> None:
    run = Run.at(finished.digits)
    ids, names = run.table("train")["id"], run.table("queries")["id"]
    query = int(run.table("queries")["row"][0])
    try:
        expected, own = traced(run, query), run.top(query, "label")
        other = traced(run, query, "prediction")
    finally:
        asking.stop()
    assert own is not None
    exactly, stored, said = ([*ids[top.towards[:10]], *ids[top.away[:10]]] for top in (expected.top, own, other.top))
    assert exactly != stored
    with opened(run, chromium.free_port()) as url, visit(browser, url, color_scheme=scheme) as page:
        card_shows(page, names[0])
        page.wait_for_function("() => window.__influenceExplorer")
        camera = "() => JSON.stringify([...window.__influenceExplorer.channels.values()].at(-1).view?.camera)"
        page.wait_for_function(camera)
        before = page.evaluate(camera)
        page.get_by_role("button", name="Trace exactly").click()
        line = page.get_by_text("Traced exactly")
        line.wait_for()
        assert (
            f"{round(20 * expected.top.overlap)} of the 20 strongest shared"
            in page.locator(".ix-trust").last.inner_text()
        )
        assert titles(page) == exactly
        assert page.evaluate(camera) == before
        page.keyboard.press("ArrowDown")
        card_shows(page, names[1])
        page.get_by_role("button", name="Trace exactly").wait_for()
        assert line.count() == 0
        page.keyboard.press("ArrowUp")
        card_shows(page, names[0])
        line.wait_for()
        assert titles(page) == exactly
        page.keyboard.press("t")
        page.get_by_role("button", name="Trace exactly").click()
        line.wait_for()
        assert titles(page) == said
        page.keyboard.press("t")
        line.wait_for()
        page.get_by_role("button", name="Back to last-layer").click()
        page.get_by_role("button", name="Trace exactly").wait_for()
        page.wait_for_function(
            "ids => JSON.stringify([...document.querySelectorAll('.ix-tile .ix-label')].map(one => one.title)) === "
            "JSON.stringify(ids)",
            arg=stored,
        )
