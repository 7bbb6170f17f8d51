"""What can be done on the Memorized page: thresholds, damping, one example, and the requests that its buttons write."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from explorer import jobs, memorization, remedies
from explorer.jobs import cleaning, further, signs, subsets
from explorer.jobs import remedies as requests
from explorer.memorization.subsets import FEWEST
from explorer.store import Run, write_bundle, write_json
from explorer.ui import load, memorized
from explorer.ui.memorized import suspects
from tests.ui.conftest import Copier, Finished, working
from tests.ui.parts import Screen
from tests.ui.parts import screen as screen
from tests.ui.test_memorized import arm, cleaned, grid, rounds
from tests.ui.test_pages import html, text, visit

pytestmark = pytest.mark.usefixtures("screen")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs at which a worker was asked to be; none is."""
    names: list[str] = []
    monkeypatch.setattr(jobs, "start", lambda run: names.append(run.key))
    return names


def page(run: Run, part: str = "Act on suspects") -> AppTest:
    app = visit("memorized", run=run.key)
    if part != "Act on suspects":
        choose(app, "What next", part)
    return sound(app)


def choose(app: AppTest, label: str, option: str) -> None:
    next(group for group in app.get("button_group") if group.label == label).set_value(option).run()
    sound(app)


def sound(app: AppTest) -> AppTest:
    assert [found.message for found in app.exception] == []
    return app


def press(app: AppTest, key: str) -> None:
    app.button(key=key).click().run()
    sound(app)


def said(app: AppTest) -> dict[str, str]:
    """The address."""
    return {name: value if isinstance(value, str) else value[0] for name, value in app.query_params.items()}


def row_of(shown: str, name: str) -> list[str]:
    """The cells of a line of the table of counts."""
    line = next(line for line in shown.split("<tr>") if f"</span> {name}</th>" in line)
    return [cell.split("</td>")[0] for cell in line.split("<td>")[1:]]


class TestThresholds:
    def test_moving_a_threshold_counts_at_once(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        app, table = page(run), run.table("memorization")
        for z in (3.0, 1.0):
            app.select_slider(key="suspect-z").set_value(z).run()
            assert row_of(html(sound(app)), "suspect label")[0] == f"{(table['z'] > z).sum():,}"
        app.slider(key="noise-band").set_value(0.0).run()
        assert row_of(html(sound(app)), "held-out effect inside the noise")[0] == f"{(table['held_out'] == 0).sum():,}"
        assert row_of(html(app), "suspect label")[0] == f"{(table['z'] > 1).sum():,}"

    def test_the_galleries_follow(self, finished: Finished, copied: Copier, screen: Screen) -> None:
        run = copied(finished.digits)
        app = page(run)
        app.select_slider(key="own-z").set_value(5.0).run()
        high = run.table("memorization")["self_influence_z"] > 5
        seen: set[int] = set()
        for name in (memorization.HARMFUL, memorization.USEFUL, memorization.MEMORIZED_NEUTRAL):
            choose(app, "Quadrant", name)
            shown = {
                int(tag["data-inspect"] or -1)
                for _, tag in screen.tags("memorized-gallery").seen
                if "data-inspect" in tag
            }
            seen |= shown
        assert seen
        assert seen <= set(np.flatnonzero(high))

    def test_back_to_the_runs_own(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.digits))
        name = "high self-influence"
        before = row_of(html(app), name)
        app.select_slider(key="own-z").set_value(9.0).run()
        assert row_of(html(app), name) != before
        next(button for button in app.button if button.label.startswith("Back to the run")).click().run()
        assert row_of(html(sound(app)), name) == before
        assert not [button for button in app.button if button.label.startswith("Back to the run")]

    def test_thresholds_stay_while_another_page_is_read(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        app = page(run)
        app.select_slider(key="own-z").set_value(9.0).run()
        app.switch_page("screens/runs.py").run()
        app.switch_page("screens/memorized.py").run()
        assert [app.select_slider(key=key).value for key in ("suspect-z", "own-z")] == [3.0, 9.0]
        assert sound(app).slider(key="noise-band").value == 1.96

    def test_the_address_carries_what_was_chosen_to_another_session(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        grid(run, (10.0, 1.0, -1.0))
        app = page(run)
        assert said(app) == {"run": run.key}
        app.select_slider(key="suspect-z").set_value(1.5).run()
        app.select_slider(key="own-z").set_value(9.0).run()
        app.slider(key="noise-band").set_value(0.5).run()
        app.select_slider(key="memorized-damping").set_value(10.0).run()
        choose(app, "Quadrant", memorization.REDUNDANT)
        choose(app, "What next", "Groups")
        app.session_state["memorized-row"] = 17
        sound(app.run())
        link = said(app)
        name = str(run.table("train")["id"][17])
        assert link == {
            "run": run.key,
            "suspect": "1.5",
            "own": "9",
            "band": "0.5",
            "damping": "10",
            "quadrant": "redundant",
            "row": name,
            "part": "Groups",
        }
        other = visit("memorized", **link)
        assert said(other) == link
        assert [other.select_slider(key=key).value for key in ("suspect-z", "own-z", "memorized-damping")] == [
            1.5,
            9,
            10,
        ]
        assert row_of(html(other), "suspect label") == row_of(html(app), "suspect label")
        assert f'aria-label="Training example {name}"' in html(other)
        other.query_params.clear()  # the back button, to where the page was opened
        other.query_params["run"] = run.key
        sound(other.run())
        assert [other.select_slider(key=key).value for key in ("suspect-z", "own-z")] == [3.0, 3.0]
        assert said(other) == {"run": run.key}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"suspect": "nan"}, {"suspect": "3.2"}, {"own": "x" * 100}, {"own": "-1"}, {"band": "7"}, {"band": "-0.1"}, {"band": "inf"},
            {"damping": "12"}, {"quadrant": "<b>"}, {"row": "nobody"}, {"part": "None such"},
        ],
    )  # fmt: skip
    def test_what_does_not_fit_the_run_is_left_out(
        self, wrong: dict[str, str], finished: Finished, copied: Copier
    ) -> None:
        run = copied(finished.digits)
        app = visit("memorized", run=run.key, **wrong)
        assert said(app) == {"run": run.key}
        assert [app.select_slider(key=key).value for key in ("suspect-z", "own-z")] == [3.0, 3.0]

    def test_a_damping_moves_the_picture_and_says_how_stable_it_is(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        grid(run, (10.0, 1.0, -1.0))
        app = page(run)
        assert "is the run’s own" in html(app)
        app.select_slider(key="memorized-damping").set_value(10.0).run()
        shown = html(sound(app))
        assert "of the signs stay" in shown
        assert "rank correlation of held-out influence <strong>−1.00</strong>" in shown

    def test_without_other_dampings_the_reason_is_said(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        (run.path / load.GRID).unlink(missing_ok=True)
        app = page(run)
        assert "Other dampings were not measured" in html(app)
        assert "memorized-damping" not in {slider.key for slider in app.select_slider}


class TestOneExample:
    def test_a_click_in_the_gallery_opens_history_and_twins(
        self, finished: Finished, copied: Copier, screen: Screen
    ) -> None:
        run = copied(finished.digits)
        app = page(run)
        assert len(app.dataframe) == 1
        app.session_state["memorized-row"] = 17
        app.run()
        assert f"Training example {run.table('train')['id'][17]}" in html(sound(app))
        assert "epochs" in text(app)
        assert "Nearest training examples of" in screen.html["memorized-twins"]
        assert [link.proto.query_string for link in app.get("page_link")] == [
            f"run={run.key}&row={run.table('train')['id'][17]}"
        ]
        app.button(key="close-example").click().run()
        assert len(sound(app).dataframe) == 1

    def test_without_a_log_the_reason_is_said(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.given))
        app.session_state["memorized-row"] = 3
        app.run()
        assert "No history over epochs: the weights were given" in html(sound(app))

    def test_a_row_that_is_not_there_opens_nothing(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.digits))
        app.session_state["memorized-row"] = 10**6
        app.run()
        assert len(sound(app).dataframe) == 1


class TestActing:
    def test_dropping_the_most_suspect(self, finished: Finished, copied: Copier, started: list[str]) -> None:
        run = copied(finished.digits)
        app = page(run)
        count = next(field for field in app.number_input if field.label.startswith("How many"))
        assert count.value == run.table("memorization")["memorized"].sum()
        count.set_value(12).run()
        app.number_input(key="act-seeds").set_value(3).run()
        press(app, "act-start")
        (asked,) = requests.listed(run)
        assert asked.remedy == requests.Remedy(
            "drop", tuple(suspects.by_score(run, suspects.OWN)[:12].tolist()), seeds=3
        )
        assert started == [run.key]
        assert further.pending(run) == ("remedies",)

    def test_relabeling_leaves_out_what_nothing_is_suggested_for(
        self, finished: Finished, copied: Copier, started: list[str]
    ) -> None:
        run = copied(finished.digits)
        app = page(run)
        choose(app, "Do what", "relabel")
        press(app, "act-start")
        (asked,) = requests.listed(run)
        expected = requests.suggested(run, asked.remedy.rows)
        assert asked.remedy.labels == expected
        assert None not in expected
        given = run.table("train")["label"].to_numpy()
        assert all(given[row] != label for row, label in zip(asked.remedy.rows, expected, strict=True))

    def test_downweighting_the_open_corner(self, finished: Finished, copied: Copier, started: list[str]) -> None:
        run = copied(finished.digits)
        app = page(run)
        choose(app, "Quadrant", memorization.MEMORIZED_NEUTRAL)
        choose(app, "On whom", "The open corner")
        choose(app, "Do what", "downweight")
        app.slider(key="act-weight").set_value(0.25).run()
        press(app, "act-start")
        (asked,) = requests.listed(run)
        table = run.table("memorization")
        assert (asked.remedy.action, asked.remedy.weight) == ("downweight", 0.25)
        assert sorted(asked.remedy.rows) == np.flatnonzero(table["quadrant"] == memorization.MEMORIZED_NEUTRAL).tolist()

    def test_nothing_ticked_nothing_to_start(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.digits))
        choose(app, "On whom", "Ticked in the table")
        assert "Nothing is chosen to act on." in text(app)
        assert "act-start" not in {button.key for button in app.button}

    def test_what_came_out_is_shown_with_its_files(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        folder = answered(run)
        (folder / "cleaned.npz").write_bytes(b"cleaned")
        (folder / "changes.csv").write_text("id\n")
        app = page(run)
        assert "Dropping 3 examples: accuracy" in text(app)
        assert "as many at random" in text(app)
        assert "<td>" in html(app)
        assert {"Cleaned data", "List of changes"} <= {found.label for found in app.get("download_button")}

    def test_a_refused_request_is_said_in_place(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise requests.SettingsError("Expected <b>; found nothing. Do something.")

        monkeypatch.setattr(requests, "ask", refuse)
        app = page(copied(finished.digits))
        press(app, "act-start")
        assert "Expected &lt;b&gt;; found nothing." in html(app)

    def test_what_was_cancelled_can_be_gone_on_with(
        self, finished: Finished, copied: Copier, started: list[str]
    ) -> None:
        run = copied(finished.digits, state="cancelled", reason="Cancelled on request; what was computed is kept.")
        requests.ask(run, requests.Remedy("drop", (1, 2)))
        app = page(run)
        assert "What was asked is not done: the job is cancelled." in text(app)
        press(app, "go-on")
        assert started == [run.key]

    def test_while_a_job_is_at_work_nothing_else_is_started(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.digits, **working()))
        assert "At work" in html(app)
        assert "act-start" not in {button.key for button in app.button}


def answered(run: Run) -> Path:
    """The folder of a remedy that was tried, with made-up numbers."""
    key = requests.ask(run, requests.Remedy("drop", (1, 2, 3), seeds=4))
    draw = np.random.default_rng(0)
    told = remedies.Outcome(tuple(range(4)), *(arm(draw, 4, 10, 3) for _ in range(3))).as_json()
    write_json(run.path / "remedies" / key / "outcome.json", told)
    return run.path / "remedies" / key


class TestCleaning:
    def test_the_loop_is_asked_for_as_chosen(self, finished: Finished, copied: Copier, started: list[str]) -> None:
        run = copied(finished.digits)
        app = page(run, "Clean in rounds")
        app.number_input(key="clean-share").set_value(4.0).run()
        app.number_input(key="clean-rounds").set_value(5).run()
        press(app, "clean-start")
        assert [asked.cleaning for asked in cleaning.listed(run)] == [cleaning.Cleaning(0.04, 5, 2, 5)]
        assert started == [run.key]

    def test_more_than_half_cannot_be_asked_for(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.digits), "Clean in rounds")
        app.number_input(key="clean-share").set_value(20.0).run()
        assert "at most 50 % may go" in text(sound(app))
        assert "clean-start" not in {button.key for button in app.button}

    def test_the_curve_is_drawn_and_told(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        key = cleaning.ask(run, cleaning.Cleaning())
        made = cleaned(rounds([0.5, 0.3, 0.4]))
        told = {"rounds": made.rounds, "summary": made.summary, "complete": True}
        write_json(run.path / "cleaning" / key / "rounds.json", told)
        assert "2 rounds: best after removing 5 of" in text(page(run, "Clean in rounds"))


def tally(run: Run, models: int, planned: int) -> None:
    """Counts of made-up models, as the job writes them."""
    n = run.meta().train
    counts = memorization.Tally.empty(n, 0)
    counts.add(np.random.default_rng(0).random((models, n)) < 0.7, np.zeros((models, 0), dtype=bool))
    write_bundle(run.path / subsets.TALLY, subsets.arrays_of(counts, 0, planned))


class TestMeasuring:
    def test_a_time_is_asked_for(self, finished: Finished, copied: Copier, started: list[str]) -> None:
        run = copied(finished.digits)
        app = page(run, "Measure by retraining")
        assert "Nothing is measured yet" in text(app)
        app.number_input(key="subset-minutes").set_value(0.5).run()
        press(app, "subset-start")
        assert subsets.asked(run) == subsets.SubsetRequest(seconds=30)
        assert started == [run.key]

    def test_partial_results_come_after_twenty_models(self, finished: Finished, copied: Copier, screen: Screen) -> None:
        run = copied(finished.digits)
        write_json(run.path / subsets.ASKED, asdict(subsets.SubsetRequest()) | {"after": 0})
        tally(run, FEWEST - 1, 100)
        shown = text(page(run, "Measure by retraining"))
        assert f"{FEWEST - 1} of about 100 models so far" in shown
        assert "are memorized" not in shown
        tally(run, FEWEST, 100)
        found = subsets.found(run)
        assert found is not None
        shown = text(page(run, "Measure by retraining"))
        assert f"{FEWEST} of about 100 models: **{found.estimate.flagged.sum():,} of {run.meta().train:,}" in shown
        assert "by retraining <b>" in screen.html["retrained-gallery"]

    def test_a_regression_counts_no_right_answers(self, finished: Finished, copied: Copier) -> None:
        app = page(copied(finished.regression), "Measure by retraining")
        assert "a regression has none" in text(app)
        assert "subset-start" not in {button.key for button in app.button}


class TestAgreement:
    def test_missing_scores_are_named_and_can_be_asked_for(
        self, finished: Finished, copied: Copier, started: list[str]
    ) -> None:
        run = copied(finished.digits)
        app = page(run, "Agreement of scores")
        for name, why in signs.missing(run).items():
            assert f"<strong>{signs.SIGNS[name][0]}</strong>: {why}" in html(app)
        press(app, "signs-start")
        assert signs.pending(run)
        assert started == [run.key]


def from_memory(run: Run) -> None:
    spec = dict(run.spec) | {"source": {"kind": "memory"}, "model": {"kind": "memory"}}
    (run.path / "spec.json").write_text(json.dumps(spec))


class TestWhereNothingCanBeTrained:
    @pytest.mark.parametrize("part", ["Act on suspects", "Clean in rounds", "Measure by retraining"])
    @pytest.mark.parametrize(("name", "change"), [("given", None), ("digits", from_memory)])
    def test_the_reason_is_said_and_no_button_is_dead(
        self, part: str, name: str, change: Callable[[Run], None] | None, finished: Finished, copied: Copier
    ) -> None:
        run = copied(getattr(finished, name))
        if change is not None:
            change(run)
        app = page(run, part)
        words = "whose weights were given" if change is None else "made from objects of a Python process"
        assert any(words in str(found.value) for found in app.info)
        assert {"act-start", "clean-start", "subset-start"} & {button.key for button in app.button} == set()
        assert not any(button.disabled for button in app.button)

    def test_every_part_opens_on_every_kind_of_run(self, finished: Finished, copied: Copier) -> None:
        for path in (finished.hostile, finished.regression, finished.given):
            run = copied(path, path.name[:8] + "0002")
            app = page(run)
            for part in memorized.PARTS:
                choose(app, "What next", part)
