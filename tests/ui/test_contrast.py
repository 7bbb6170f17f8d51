"""Why P rather than Q: the button, what is asked first, the answer and its words, the address, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from explorer.errors import RunError
from explorer.jobs import asking
from explorer.jobs.asking import Answer
from explorer.store import Run
from explorer.ui import load, selected, state
from explorer.ui.parts import contrast
from explorer.ui.views import contrast as views
from tests.ui.conftest import HOSTILE
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_exact import labels, press
from tests.ui.test_pages import html
from tests.ui.test_views import Tags

ASK = "Why this rather than another class?"


class TestView:
    def test_both_signs_are_named_and_markup_stays_text(self) -> None:
        made = views.line(views.Contrast("8", "3", "log p(3), the given label"))
        assert "Why 8 rather than 3?" in made
        assert "towards 8 and away from 3" in made
        assert "towards 3 and away from 8" in made
        assert "influence on logit 8 − logit 3" in made
        assert "still explain log p(3), the given label" in made
        hostile = views.line(views.Contrast(HOSTILE, HOSTILE, HOSTILE))
        assert HOSTILE not in hostile
        assert len(Tags(hostile).named("img")) == 0


class Worker:
    """Answers every contrast with another prediction's stored answer, or refuses; remembers what it was asked."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch, refusal: Exception | None = None) -> None:
        self.run, self.refusal = run, refusal
        self.asked: list[tuple[int, str, tuple[int, ...]]] = []
        stored = int(run.plan("label")[1])
        top, self.row = run.top(stored, "label"), run.row(stored, "label")
        assert top is not None
        assert self.row is not None
        self.top = replace(top, agreement=0.5, overlap=0.45)
        monkeypatch.setattr(asking, "ask", self.ask)

    def ask(self, run: Run, query: int, target: str, classes: tuple[int, ...] = ()) -> Answer:
        self.asked.append((query, target, classes))
        if self.refusal is not None:
            raise self.refusal
        assert self.row is not None
        preview = run.preview("test", query)
        return Answer(self.top, self.row, 0, 0, 0.5, 1.0, False, None, preview, "contrast", 0.1, classes)


def rows(run: Run, wrong: bool) -> list[int]:
    queries = run.table("queries")
    return [int(row) for row in queries.loc[queries["wrong"] == wrong, "row"]]


def shown(run: Run, query: int) -> AppTest:
    """A page with the part alone, on a prediction or the one that `app.session_state["query"]` names."""

    def part() -> None:
        chosen = state.get("query", query)
        state.put("target", "label")
        state.put("layout", "pca")
        for name, value in selected.VIEW.items():
            state.put(name, value)
        state.put("query", chosen)
        state.put("stands-in", contrast.show(run, chosen, "label", nothing, nothing))
        contrast.offer(run)

    return page(part)


class TestPart:
    def test_nothing_is_asked_until_the_button_says_so(
        self, wine: Run, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, monkeypatch)
        app = shown(wine, rows(wine, wrong=False)[0])
        assert labels(app) == [ASK]
        assert (worker.asked, screen.html, app.session_state["stands-in"]) == ([], {}, False)

    @pytest.mark.parametrize("wrong", [True, False])
    def test_the_first_question_is_why_not_the_label_or_the_runner_up(
        self, wine: Run, wrong: bool, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        query = rows(wine, wrong)[0]
        worker = Worker(wine, monkeypatch)
        app = press(shown(wine, query), ASK)
        known, outputs = (
            wine.table("queries").set_index("row").loc[query],
            np.asarray(wine.array("outputs-test")[query]),
        )
        other = int(known["label"]) if wrong else int(np.argsort(outputs)[-2])
        assert worker.asked == [(query, "contrast", (int(known["prediction"]), other))]
        assert app.session_state["stands-in"] is True

    def test_the_answer_says_what_it_compares_and_how_to_ask_again(
        self, wine: Run, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker, query = Worker(wine, monkeypatch), rows(wine, wrong=False)[0]
        app = press(shown(wine, query), ASK)
        (_, _, (p, q)) = worker.asked[0]
        classes, name = wine.meta().classes, wine.table("queries").set_index("row").loc[query, "id"]
        assert f"Why {classes[p]} rather than {classes[q]}?" in html(app)
        assert "rank agreement 0.50, 9 of the 20 strongest shared" in html(app)
        listed = [row for row in (*worker.top.towards[:10], *worker.top.away[:10]) if row >= 0]
        assert buttons(screen.tags("contrast-tiles"), "inspect") == listed
        assert [code.value for code in app.code] == [
            f"import explorer; explorer.query({wine.key!r}, {name!r}, target='contrast', classes=({classes[p]!r}, {classes[q]!r}))",
            f"explorer export {wine.key} --query {name} --why {classes[p]} --rather {classes[q]} --format csv",
        ]
        screen.html.clear()
        press(app, "Back")
        assert (labels(app), screen.html) == ([ASK], {})

    def test_other_classes_can_be_chosen_and_one_chosen_twice_trades_places(
        self, wine: Run, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(wine, monkeypatch)
        app = press(shown(wine, rows(wine, wrong=False)[0]), ASK)
        p, q = worker.asked[-1][2]
        third = 3 - p - q
        app.selectbox[1].select(third).run()
        assert worker.asked[-1][2] == (p, third)
        app.selectbox[0].select(third).run()
        assert worker.asked[-1][2] == (third, p)
        assert [box.value for box in app.selectbox] == [third, p]
        assert [found.message for found in app.exception] == []

    def test_a_refusal_is_shown_and_the_way_back_stays(
        self, wine: Run, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        Worker(wine, monkeypatch, RunError("Expected *an* answer."))
        app = press(shown(wine, rows(wine, wrong=False)[0]), ASK)
        assert app.warning[0].value == "Expected \\*an\\* answer."
        assert (labels(app), app.session_state["stands-in"]) == (["Back"], False)

    def test_a_run_of_another_process_says_why_not_and_a_regression_has_no_button(
        self, wine: Run, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        objects = replace(wine, spec={**wine.spec, "source": {"kind": "memory"}})
        app = shown(objects, rows(wine, wrong=False)[0])
        assert app.button[0].disabled
        assert "made by explorer.show" in app.button[0].help.replace("\\", "")
        line = replace(load.meta(wine), task="regression", classes=())
        monkeypatch.setattr(load, "meta", lambda run: line)
        assert labels(shown(wine, rows(wine, wrong=False)[0])) == []


class TestAddress:
    def visited(self, chosen: Run, **said: str) -> AppTest:
        def part() -> None:
            selected.follow(chosen)

        def script(part):  # no annotations: it runs as a script of its own
            part()

        app = AppTest.from_function(script, default_timeout=60, kwargs={"part": part})
        for name, value in said.items():
            app.query_params[name] = value
        app.run()
        assert [found.message for found in app.exception] == []
        return app

    @pytest.mark.parametrize(
        ("said", "found"),
        [("2-0", (2, 0)), ("1-1", None), ("0-3", None), ("0", None), ("0-1-2", None), ("-1-2", None), ("a-b", None)],
    )
    def test_the_link_carries_the_question_if_it_is_one(self, wine: Run, said: str, found: object) -> None:
        app = self.visited(wine, run=wine.key, why=said)
        assert app.session_state["why"] == found
        assert ("why" in app.query_params) == (found is not None)

    def test_another_prediction_is_another_question(self, wine: Run) -> None:
        first, second = (int(row) for row in wine.table("queries")["row"][:2])
        seen: list[object] = []

        def part() -> None:
            selected.follow(wine)
            selected.compare_classes(wine, (2, 1))
            selected.select(wine, first, "label")
            selected.select(wine, first, "prediction")
            seen.append(state.get("why"))
            selected.select(wine, second, "label")
            seen.append(state.get("why"))

        page(part)
        assert seen == [(2, 1), None]
