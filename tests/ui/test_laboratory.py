"""The Laboratory page on real experiments: what is drawn is what was measured, and every part in every state."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from explorer import jobs
from explorer.contracts import silent
from explorer.jobs import laboratory, laboratory_stage, worlds
from explorer.jobs.laboratory import Asked
from explorer.jobs.planning import ingredients_of
from explorer.jobs.scorecards import regime, wish
from explorer.jobs.state import StateWriter
from explorer.jobs.subject import subject_of
from explorer.laboratory import desiderata
from explorer.store import Run, write_bundle, write_json
from explorer.ui import load
from explorer.ui.laboratory import cell, compare, form, found, matrix, statements
from explorer.ui.laboratory.experiments import title
from tests.ui.conftest import HOSTILE, Copier, Finished
from tests.ui.test_pages import html, text, visit

WORLD = "known:\na dog is a pet\n\nnew:\na wug is a blicket\nall blickets have a tove\na dax is a blicket\n"
SAMPLES = 12


@pytest.fixture(scope="module")
def taught(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three experiments: a square one with noise, one by Adam, and one on test examples."""
    path = tmp_path_factory.mktemp("laboratory") / finished.digits.name
    shutil.copytree(finished.digits, path)
    run = Run.at(path)
    ingredients = ingredients_of(run)
    dataset, subject = subject_of(run, ingredients)
    rows = laboratory.evenly(run, count=SAMPLES)
    asked = (
        Asked(rows),
        Asked(rows, optimizer="adam", noise=False),
        Asked(rows[:5], probes=(3, 1, 4, 15, 9, 2), rate=0.5, steps=3, layers=("3",), noise=False),
    )
    for number, one in enumerate(asked):
        key = laboratory.ask(run, one)
        os.utime(path / "laboratory" / key / "asked.json", (1000 + number, 1000 + number))
        laboratory_stage.write_experiment(run, ingredients, dataset, subject, silent)
    assert not laboratory.pending(run)
    return path


@pytest.fixture
def run(taught: Path, copied: Copier) -> Run:
    """A copy of it in the folder of runs, its experiments in their order."""
    run = copied(taught)
    for number, one in enumerate(reversed(laboratory.listed(Run.at(taught)))):
        os.utime(run.path / "laboratory" / one.key / "asked.json", (1000 + number, 1000 + number))
    return run


def experiment(run: Run, **like: Any) -> laboratory.Experiment:
    """The experiment whose request has these fields."""
    return next(
        one for one in laboratory.listed(run) if all(getattr(one.asked, name) == value for name, value in like.items())
    )


def chart(app: AppTest) -> dict[str, Any]:
    figure: dict[str, Any] = json.loads(app.get("plotly_chart")[0].proto.spec)
    return figure


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click().run()
    assert [error.message for error in app.exception] == []
    return app


def part(app: AppTest, name: str) -> AppTest:
    app.session_state["lab-part"] = name
    app.run()
    assert [error.message for error in app.exception] == []
    return app


class TestExperiments:
    def test_the_newest_is_shown_and_the_address_names_another(self, run: Run) -> None:
        assert "5 samples, 6 probes · 3 steps of SGD on 3, rate 0.5" in html(visit("laboratory", run=run.key))
        other = experiment(run, optimizer="adam")
        app = visit("laboratory", run=run.key, experiment=other.key)
        assert "step of Adam on all layers" in html(app)
        assert "Not in the linear regime" in html(app)
        square = experiment(run, noise=True)
        picker = next(one for one in app.selectbox if one.label == "Experiment")
        picker.set_value(square.key).run()
        assert app.query_params["experiment"] == square.key
        assert "Linear regime" in html(visit("laboratory", run=run.key, experiment=experiment(run, noise=True).key))

    def test_every_cell_that_is_drawn_is_the_effect_that_was_measured(self, run: Run) -> None:
        one = experiment(run, noise=True)
        held = laboratory.matrices(one)
        assert held is not None
        app = visit("laboratory", run=run.key, experiment=one.key)
        values, ids, labels = held["values"], run.table("train")["id"], run.table("train")["label"]
        said = chart(app)["data"][1]
        drawn = {tuple(words.split("<br>")[0].split(" → ")): words.split("<br>")[1] for words in said["text"]}
        for i, row in enumerate(held["samples"]):
            for j, other in enumerate(held["probes"]):
                assert drawn[str(ids[row]), str(ids[other])] == f"{values[i, j]:+.3g} nats"
        order = [said["text"][SAMPLES * at].split(" → ")[0] for at in range(SAMPLES)]
        classes = [int(labels[ids == name].iloc[0]) for name in order]
        assert classes == sorted(classes)

    def test_the_open_cell_says_both_ways_and_the_pickers_move_it(self, run: Run) -> None:
        one = experiment(run, noise=True)
        matrices = found.matrices(one)
        assert matrices is not None
        opened = cell.opened(run, matrices, (2, 7), {})
        held = laboratory.matrices(one)
        assert held is not None
        E, F = held["values"], held["first_order"]
        assert (opened.effect, opened.reverse) == (E[2, 7], E[7, 2])
        assert (opened.first_order, opened.reverse_first_order) == (F[2, 7], F[7, 2])
        app = visit("laboratory", run=run.key, experiment=one.key)
        app.selectbox(key=cell.LESSON).set_value(2).run()
        app.selectbox(key=cell.PROBE).set_value(7).run()
        ids = run.table("train")["id"]
        name = f'aria-label="{ids[held["samples"][2]]} taught, {ids[held["samples"][7]]} asked"'
        assert name in html(app)

    def test_it_opens_with_the_strongest_effect_on_another(self, run: Run) -> None:
        matrices = found.matrices(experiment(run, noise=True))
        assert matrices is not None
        away = np.where(np.eye(SAMPLES, dtype=bool), 0, np.abs(matrices.values))
        assert away[cell.strongest(matrices)] == away.max()

    def test_test_examples_have_no_way_back_and_the_reason_is_said(self, run: Run) -> None:
        app = visit("laboratory", run=run.key)
        assert "there is no other way round" in html(app)
        assert "who teaches whom cannot be turned round" in html(app)

    def test_other_orders_and_numbers_draw_the_same_matrix(self, run: Run) -> None:
        matrices = found.matrices(experiment(run, noise=True))
        assert matrices is not None
        assert matrices.first_order is not None
        for ordered in (matrix.BY_LABEL, matrix.BY_CLUSTER):
            rows, columns = matrix.orders(run, matrices, ordered)
            assert sorted(rows.tolist()) == sorted(columns.tolist()) == list(range(SAMPLES))
            for shown, numbers in (
                (matrix.FIRST, matrices.first_order),
                (matrix.DIFFERENCE, matrices.values - matrices.first_order),
            ):
                data = matrix.drawn(run, matrices, (4, 5), rows, columns, shown)
                assert data.values[data.chosen] == numbers[4, 5]

    def test_failed_lessons_are_named_and_their_cells_say_why(self, run: Run) -> None:
        one = experiment(run, optimizer="adam")
        held = dict(laboratory.matrices(one) or {})
        name = str(run.table("train")["id"][held["samples"][0]])
        held["values"] = held["values"].copy()
        held["values"][0] = np.nan
        write_bundle(one.folder / laboratory.MATRIX, held)
        assert one.found is not None
        write_json(one.folder / laboratory.SCORECARD, one.found | {"failed": {name: f"too large {HOSTILE}"}})
        app = visit("laboratory", run=run.key, experiment=one.key)
        assert f"1 lesson failed, the rest went on. {name}: too large <img" in text(app).replace("\\", "")
        app.selectbox(key=cell.LESSON).set_value(0).run()
        assert "not measured: too large &lt;img" in html(app)
        assert f"{SAMPLES} of {SAMPLES**2} cells are empty" in text(app)

    def test_without_experiments_the_form_is_open_and_says_what_it_does(
        self, finished: Finished, copied: Copier
    ) -> None:
        app = visit("laboratory", run=copied(finished.digits).key)
        assert "Nothing was taught yet" in text(app)
        assert "Teach each of them once" in text(app)

    def test_what_could_not_be_done_and_what_is_on_its_way_are_said(self, run: Run) -> None:
        one = experiment(run, optimizer="adam")
        write_json(one.folder / laboratory.SCORECARD, {"left_out": f"Expected *more*; found {HOSTILE}"})
        assert "Expected \\*more\\*" in text(visit("laboratory", run=run.key, experiment=one.key))
        (one.folder / laboratory.SCORECARD).unlink()
        shown = visit("laboratory", run=run.key, experiment=one.key)
        assert "The scorecard comes when" in html(shown)
        (one.folder / laboratory.MATRIX).unlink()
        waiting = visit("laboratory", run=run.key, experiment=one.key)
        assert "its lessons are being taught" in html(waiting)
        assert "Go on with what was asked" in text(waiting)

    @pytest.mark.parametrize("name", ["hostile", "regression", "given"])
    def test_every_kind_of_run_has_the_page(self, name: str, finished: Finished, copied: Copier) -> None:
        run = copied(getattr(finished, name))
        ingredients = ingredients_of(run)
        dataset, subject = subject_of(run, ingredients)
        laboratory.ask(run, Asked(laboratory.evenly(run, count=6), noise=False))
        laboratory_stage.write_experiment(run, ingredients, dataset, subject, silent)
        app = visit("laboratory", run=run.key)
        assert "6 samples, 6 probes" in html(app)
        assert HOSTILE not in app.get("plotly_chart")[0].proto.spec


class TestForm:
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        begun: list[str] = []
        monkeypatch.setattr(jobs, "start", lambda run: begun.append(run.key))
        return begun

    def test_what_is_chosen_is_what_is_asked_for(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, run = self.started(monkeypatch), copied(finished.digits)
        app = visit("laboratory", run=run.key)
        app.number_input(key="lab-samples").set_value(2)
        app.session_state["lab-optimizer"] = "adam"
        app.number_input(key="lab-steps").set_value(3)
        app.number_input(key="lab-rate").set_value(0.01)
        app.multiselect(key="lab-layers").set_value(["3"])
        app.checkbox(key="lab-noise").set_value(False)
        app.run()
        press(app, "Teach each of them once")
        (one,) = laboratory.listed(run)
        rows = laboratory.evenly(run, count=20)
        assert one.asked == Asked(rows, None, "adam", 3, 0.01, ("3",), noise=False)
        assert begun == [run.key]
        assert np.bincount(run.table("train")["label"].to_numpy()[list(rows)]).tolist() == [2] * 10

    def test_test_examples_are_asked_evenly_too(self, finished: Finished) -> None:
        run = Run.at(finished.digits)
        found = form.wanted(run, 20, 10, steps=2)
        assert found == Asked(laboratory.evenly(run, count=20), laboratory.evenly(run, "test", 10), steps=2)
        assert sorted(run.table("test")["label"].to_numpy()[list(found.probes or ())]) == list(range(10))

    def test_the_layers_offered_are_those_of_the_model(self, finished: Finished) -> None:
        run = Run.at(finished.digits)
        _, subject = subject_of(run, ingredients_of(run))
        known = {name.rpartition(".")[0] for name, _ in subject.model.named_parameters()}
        assert set(form.layers_of(str(run.path))) == known

    def test_a_refusal_is_said_in_place(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = copied(finished.digits, without=("neighbors.json",), state="cancelled")
        self.started(monkeypatch)
        app = press(visit("laboratory", run=run.key), "Teach each of them once")
        assert "Expected a run that is done" in html(app)
        assert laboratory.listed(run) == []


class TestCompare:
    def test_every_number_is_that_of_its_scorecard(self, run: Run) -> None:
        app = part(visit("laboratory", run=run.key), "Compare")
        cards = [one.found for one in laboratory.listed(run)]
        table = laboratory.compare([card for card in cards if card is not None])
        shown = app.dataframe[0].value
        assert shown["value"].tolist() == table["value"].tolist()
        assert all(title(one) in html(app) for one in laboratory.listed(run))

    def test_a_world_is_two_lines(self) -> None:
        one = {"name": "symmetry", "sentence": "", "value": 1.0, "low": 0.0, "high": 2.0, "parts": {}, "controls": {}}
        card = compare.Card("w", {"desiderata": [one | {"by": "weights"}, one | {"by": "prompt"}]})
        assert [name for name, _ in compare.told(card)] == ["w · in the weights", "w · in the prompt"]

    def test_without_scorecards_it_says_what_to_do(self, finished: Finished, copied: Copier) -> None:
        app = visit("laboratory", run=copied(finished.digits).key, part="compare")
        assert "There is no scorecard yet" in text(app)


@pytest.fixture
def world(root: Path) -> worlds.Experiment:
    """A world as its worker leaves it, with effects drawn by lot."""
    key = worlds.ask(root, worlds.Asked(WORLD))
    folder = root / worlds.FOLDER / key
    draw = np.random.default_rng(0)
    E, P = draw.normal(size=(2, 3, 3))
    write_bundle(
        folder / worlds.MATRIX, {"values": E, "prompt": P, "first_order": E / 2, "before": draw.normal(size=3)}
    )
    both = [wish(desiderata.symmetry(one), by) for one, by in ((E, "weights"), (P, "prompt"))]
    told = {
        "left_out": "",
        "words": "tiny transformer, 1 step of SGD",
        "desiderata": both,
        "missing": {"transitive causality": f"no chains {HOSTILE}"},
        "linear": regime(desiderata.linear_regime(E, E / 2)),
        "failed": {},
        "knows": {"known": {"count": 1, "share": 1.0}, "new": {"count": 0, "share": None}},
    }
    write_json(folder / worlds.SCORECARD, told)
    StateWriter(folder, os.getpid(), 3, 1).finish("done")
    return worlds.find(root, key)


class TestLanguage:
    def test_both_ways_stand_side_by_side_and_the_cell_has_both_numbers(
        self, world: worlds.Experiment, finished: Finished, copied: Copier
    ) -> None:
        app = visit("laboratory", run=copied(finished.digits).key, part="language")
        shown = html(app)
        assert shown.index("in the weights") < shown.index("in the prompt")
        assert "100 % of 1 known sentences likelier than their negation" in shown
        assert "no chains &lt;img" in shown
        held = worlds.matrices(world)
        assert held is not None
        one = statements.cell(held, ["a", "b", "c"], (0, 2))
        assert one.change["in the prompt"] == held["prompt"][0, 2]
        assert one.back["in the weights"] == held["values"][2, 0]

    def test_what_is_typed_is_asked_for_and_started(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = copied(finished.digits)
        begun: list[str] = []
        monkeypatch.setattr(worlds, "start", lambda root, key: begun.append(key))
        app = visit("laboratory", run=run.key, part="language")
        app.text_area(key="world-text").set_value(WORLD)
        app.number_input(key="world-rank").set_value(4)
        press(app, "Teach and tell each new sentence")
        (one,) = worlds.listed(run.path.parent)
        assert (one.asked.text, one.asked.rank, one.asked.model) == (
            WORLD.rstrip("\n"),
            4,
            "tiny",
        ) or one.asked.text == WORLD
        assert begun == [one.key]
        assert load.run_names() == [run.key]  # the folder of worlds is no run

    @pytest.mark.parametrize(
        ("typed", "said"),
        [("known:\nthis is nothing\n", "line 2"), ("known:\na wug is a blicket\n", "nothing below")],
    )
    def test_a_world_that_cannot_be_read_is_refused_with_its_line(
        self, typed: str, said: str, finished: Finished, copied: Copier
    ) -> None:
        run = copied(finished.digits)
        app = visit("laboratory", run=run.key, part="language")
        app.text_area(key="world-text").set_value(typed)
        press(app, "Teach and tell each new sentence")
        assert said in html(app)
        assert worlds.listed(run.path.parent) == []
