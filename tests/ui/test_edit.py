"""Edit the input: only what was changed is asked, the answer is shown beside the one before, and refusals are sentences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from explorer.contracts import ImagePreview, Preview, TablePreview
from explorer.errors import RunError
from explorer.jobs import asking
from explorer.jobs.asking import Answer
from explorer.sources.edited import Edit
from explorer.store import Run
from explorer.ui.parts import edit
from explorer.ui.views import edit as views
from tests.ui.conftest import HOSTILE, Finished
from tests.ui.parts import Screen, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_views import PICTURE, TABLE, Tags

BEFORE = views.Version(PICTURE, "3", wrong=True, confidence=0.75, loss=1.5)
EDITED = views.Edited(
    id=HOSTILE,
    label=HOSTILE,
    classification=True,
    before=BEFORE,
    after=replace(BEFORE, prediction=HOSTILE, confidence=0.5),
    changes=(f"{HOSTILE} 1 → 2",),
    moved=views.Moved(13, 20, 0.456, 1000),
)


class Worker:
    """Answers with stored rows: another test prediction's where something is edited."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.asked: list[Edit | None] = []
        monkeypatch.setattr(asking, "warm", lambda run: None)
        monkeypatch.setattr(asking, "ask", self.ask)

    def ask(self, run: Run, query: int, target: str, wanted: Edit | None = None) -> Answer:
        self.asked.append(wanted)
        stored = query if wanted is None else int(run.plan("label")[1])
        top, row = run.top(stored, "label"), run.row(stored, "label")
        assert top is not None
        assert row is not None
        known = run.table("queries").set_index("row").loc[query]
        change = 0 if wanted is None else 1
        prediction = (
            (int(known["prediction"]) + change) % 3 if run.meta().classes else float(known["prediction"]) + change
        )
        return Answer(
            top=top,
            row=row,
            prediction=prediction,
            label=known["label"],
            confidence=0.75 - change / 4,
            loss=1.5,
            wrong=True,
            probabilities=None,
            preview=shown(run.preview("test", query), change),
            target="label",
            seconds=0.1,
        )


def shown(preview: Preview, change: int) -> Preview:
    if isinstance(preview, TablePreview):
        return replace(preview, values=preview.values + np.float32(change))
    pixels: NDArray[np.uint8] = preview.pixels.copy()
    pixels[0, 0] = 100 * change
    return ImagePreview(pixels)


class TestView:
    def test_markup_stays_text(self) -> None:
        html = views.edited(EDITED)
        assert HOSTILE not in html
        assert len(Tags(html).named("img")) == 2
        assert HOSTILE not in views.edited(replace(EDITED, before=replace(BEFORE, face=TABLE)))

    def test_what_changed_is_said_in_numbers(self) -> None:
        assert "The answer changes from 3 to &lt;img" in views.edited(EDITED)
        assert "13 of the 20 strongest training examples are still among the 20 strongest" in views.edited(EDITED)
        assert "rank correlation with the answer before 0.46, over all 1,000" in views.edited(EDITED)
        stays = replace(EDITED, after=replace(BEFORE, confidence=0.5))
        assert "The answer stays 3; confidence down 25.0 points" in views.edited(stays)
        assert "less than 0.1 points" in views.edited(replace(EDITED, after=BEFORE))
        line = replace(EDITED, classification=False, before=replace(BEFORE, prediction="1.5"))
        assert "The output goes from 1.5 to &lt;img" in views.edited(line)
        assert "confidence" not in views.edited(line)


class TestPictures:
    @pytest.fixture
    def worker(self, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Worker:
        return Worker(Run.at(finished.digits), monkeypatch)

    def test_nothing_is_asked_until_something_is_edited(self, worker: Worker, screen: Screen) -> None:
        query = int(worker.run.plan("label")[0])
        app = page(lambda: edit.show(worker.run, query, "label", nothing, nothing))
        assert "Nothing is edited yet" in app.caption[0].value
        assert (worker.asked, screen.html) == ([], {})

    def test_an_edit_is_asked_and_its_answer_shown_beside_the_one_before(self, worker: Worker, screen: Screen) -> None:
        run, (query, other) = worker.run, (int(row) for row in worker.run.plan("label")[:2])
        app = page(lambda: edit.show(run, query, "label", nothing, nothing))
        app.slider[0].set_value(0.2)
        app.slider[1].set_value(-0.5)
        app.run()
        assert worker.asked == [None, Edit(noise=0.2, brightness=-0.5)]
        shown_html = app.get("html")[0].proto.body
        pictures = [image["src"] for image in Tags(shown_html).named("img")]
        assert len(set(pictures)) == 2
        assert "noise 0.2, brightness -0.5" in shown_html
        top, before = run.top(other, "label"), run.top(query, "label")
        assert top is not None
        assert before is not None
        stay = len({*before.towards[:10]} & {*top.towards[:10]}) + len({*before.away[:10]} & {*top.away[:10]})
        assert f"{stay} of the 20 strongest" in shown_html
        assert buttons_of(screen) == [*top.towards[:10], *top.away[:10]]

    def test_new_noise_draws_again_and_reset_takes_all_back(self, worker: Worker, screen: Screen) -> None:
        query = int(worker.run.plan("label")[0])
        app = page(lambda: edit.show(worker.run, query, "label", nothing, nothing))
        assert next(button for button in app.button if button.label == "New noise").disabled
        app.slider[0].set_value(0.2).run()
        next(button for button in app.button if button.label == "New noise").click().run()
        assert [one.seed for one in worker.asked if one is not None] == [0, 1]
        next(button for button in app.button if button.label == "Reset").click().run()
        assert [slider.value for slider in app.slider] == [0.0, 0.0, 1.0]
        assert "Nothing is edited yet" in app.caption[0].value

    def test_a_refusal_is_shown_as_it_is(self, worker: Worker, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> Answer:
            raise RunError("Expected an answer within 60 s; found none.")

        monkeypatch.setattr(asking, "ask", refuse)
        query = int(worker.run.plan("label")[0])
        app = page(lambda: edit.show(worker.run, query, "label", nothing, nothing))
        app.slider[0].set_value(0.2).run()
        assert app.warning[0].value == "Expected an answer within 60 s; found none."
        assert screen.html == {}

    def test_runs_of_objects_of_another_process_say_so(self, worker: Worker, screen: Screen) -> None:
        foreign = replace(worker.run, spec={**worker.run.spec, "source": {"kind": "memory"}})
        app = page(lambda: edit.show(foreign, int(foreign.plan("label")[0]), "label", nothing, nothing))
        assert "made by explorer.show from objects" in app.warning[0].value
        assert len(app.slider) == 0


def buttons_of(screen: Screen) -> list[int]:
    """Training rows of the galleries, in their order."""
    return [
        int(attributes["data-inspect"] or -1)
        for _, attributes in screen.tags("edit-tiles").seen
        if "data-inspect" in attributes
    ]


class TestTables:
    @pytest.fixture
    def worker(self, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Worker:
        return Worker(Run.at(finished.hostile), monkeypatch)

    def test_only_touched_values_are_sent(self, worker: Worker, screen: Screen) -> None:
        run, query = worker.run, int(worker.run.plan("label")[0])
        app = page(lambda: edit.show(run, query, "label", nothing, nothing))
        preview = run.preview("test", query)
        assert isinstance(preview, TablePreview)
        order = np.argsort(-np.abs(preview.unusual), kind="stable")
        inputs = [app.number_input(key=f"edit-{run.key}-{query}-0-value-{column}") for column in order]
        assert [found.value for found in inputs] == [float(preview.values[column]) for column in order]
        inputs[1].set_value(2.5).run()
        assert worker.asked == [None, Edit(values={preview.names[order[1]]: 2.5})]
        assert "→ 2.5" in app.get("html")[0].proto.body
        assert HOSTILE not in app.get("html")[0].proto.body

    def test_any_column_can_be_added(self, worker: Worker, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(edit, "OFFERED", 1)
        run, query = worker.run, int(worker.run.plan("label")[0])
        preview = run.preview("test", query)
        assert isinstance(preview, TablePreview)
        last = int(np.argsort(-np.abs(preview.unusual), kind="stable")[-1])
        app = page(lambda: edit.show(run, query, "label", nothing, nothing))
        app.multiselect[0].set_value([last]).run()
        app.number_input[1].set_value(-3.0).run()
        assert worker.asked[-1] == Edit(values={preview.names[last]: -3.0})

    def test_a_regression_has_an_output_and_no_confidence(
        self, finished: Finished, monkeypatch: pytest.MonkeyPatch, screen: Screen
    ) -> None:
        worker = Worker(Run.at(finished.regression), monkeypatch)
        query = int(worker.run.plan("label")[0])
        app = page(lambda: edit.show(worker.run, query, "label", nothing, nothing))
        app.number_input[0].set_value(9.0).run()
        said = app.get("html")[0].proto.body
        assert "The output goes from" in said
        assert "confidence" not in said


def test_a_click_changes_a_value_in_its_second_digit() -> None:
    assert [edit._step(value) for value in (0.0, 1.0, -250.0, 0.03)] == pytest.approx([0.01, 0.1, 10, 0.001])
