"""Every page in every state a run can be in: what it says, that it never breaks, and that data stays text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from explorer import jobs
from explorer.contracts import Recipe
from explorer.jobs.planning import Request
from explorer.memorization import FLAG_Z, QUADRANTS
from explorer.store import Run, read_json
from explorer.ui import answers, drawn, memorized
from tests.conftest import compute
from tests.ui.conftest import HOSTILE, LATE, Copier, Finished, line, working
from tests.ui.parts import Screen
from tests.ui.parts import screen as screen

APP = Path(__file__).resolve().parents[2] / "explorer" / "ui" / "app.py"
PAGES = ("explore", "memorized", "laboratory", "runs")
OF_A_RUN = ("explore", "memorized", "laboratory")
LIMIT_S = 60
PICTURE = "![x](https://example.org/x.png)"
"""What Markdown would fetch from outside."""


def visit(page: str, **link: str) -> AppTest:
    """The page at that address, run once; no exception and no raw markup are allowed to be on it."""
    app = AppTest.from_file(str(APP), default_timeout=LIMIT_S)
    app.query_params.update(link)
    app.run()
    if page != "explore":
        app.switch_page(f"screens/{page}.py")
        app.query_params.update(link)
        app.run()
    assert [found.message for found in app.exception] == []
    assert HOSTILE not in html(app)
    return app


def html(app: AppTest) -> str:
    """All HTML on the page, the style sheet too."""
    return "\n".join(found.proto.body for found in app.get("html"))


def text(app: AppTest) -> str:
    """All words on the page."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error", "code", "text")
    words = [str(found.value) for kind in kinds for found in app.get(kind)]
    links = [found.proto.label for found in app.get("page_link")]
    return "\n".join([*words, *links, *(button.label for button in app.button), html(app)])


def open_links(app: AppTest) -> list[str]:
    """Addresses that the page's links lead to."""
    return [found.proto.query_string for found in app.get("page_link")]


class TestWithoutARunToShow:
    @pytest.mark.parametrize("page", PAGES)
    def test_no_runs_says_what_to_type(self, page: str, root: Path) -> None:
        shown = text(visit(page))
        assert "No runs yet" in shown
        assert "explorer demo" in shown

    def test_a_folder_that_does_not_exist_is_no_runs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path / "nowhere"))
        assert "No runs yet" in text(visit("runs"))

    @pytest.mark.parametrize("page", OF_A_RUN)
    def test_an_unknown_run_in_the_address_lists_the_runs_that_are_there(
        self, page: str, finished: Finished, copied: Copier
    ) -> None:
        run = copied(finished.digits)
        app = visit(page, run=f"nothing{HOSTILE}")
        assert "This run cannot be shown" in text(app)
        assert run.key in text(app)

    def test_the_list_of_runs_needs_no_run_in_the_address(self, finished: Finished, copied: Copier) -> None:
        assert copied(finished.digits).key in text(visit("runs", run="nothing"))

    def test_an_address_cannot_make_the_page_fetch_a_picture(self, finished: Finished, copied: Copier) -> None:
        copied(finished.digits)
        assert PICTURE not in text(visit("explore", run=PICTURE))

    def test_an_address_cannot_open_what_lies_outside_the_folder(self, finished: Finished, root: Path) -> None:
        (root / "bare00000001").mkdir()
        (root / "bare00000001" / "spec.json").write_bytes((finished.digits / "spec.json").read_bytes())
        assert "This run cannot be shown" in text(visit("explore", run=str(finished.digits)))

    @pytest.mark.parametrize("page", OF_A_RUN)
    def test_another_format_version_says_what_to_do(self, page: str, finished: Finished, copied: Copier) -> None:
        run = other_version(copied(finished.digits))
        assert "found version 2" in text(visit(page, run=run.key))


def other_version(run: Run) -> Run:
    spec = dict(run.spec) | {"format_version": 2}
    (run.path / "spec.json").write_text(json.dumps(spec))
    return run


STATES: dict[str, dict[str, Any]] = {
    "running": working(),
    "failed": {"state": "failed", "reason": f"Expected finite losses; found NaN. {HOSTILE}"},
    "cancelled": {"state": "cancelled", "reason": "Cancelled on request; what was computed is kept."},
    "interrupted": {"state": "running", "pid": 2**22 - 1, "born": 1.0},
}


class TestEveryState:
    def test_the_first_visit_of_a_server_may_be_to_any_page(self, root: Path) -> None:
        app = AppTest.from_file(str(APP), default_timeout=LIMIT_S)
        app.switch_page("screens/runs.py")
        app.run()
        assert "ix-chip" in html(app)  # the frame's style sheet

    @pytest.mark.parametrize("page", PAGES)
    @pytest.mark.parametrize("state", STATES)
    def test_partial_runs_are_shown_with_their_state(
        self, page: str, state: str, finished: Finished, copied: Copier
    ) -> None:
        run = copied(finished.digits, without=LATE, **STATES[state])
        shown = text(visit(page, run=run.key))
        assert ("scores 25%" if state == "running" else state) in shown

    @pytest.mark.parametrize("page", ["explore", "runs"])
    def test_a_reason_cannot_make_the_page_fetch_a_picture(self, page: str, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits, without=LATE, state="failed", reason=f"Expected {PICTURE}")
        app = visit(page, run=run.key)
        assert PICTURE in html(app)
        assert PICTURE not in text(app).replace(html(app), "")

    @pytest.mark.parametrize("page", PAGES)
    def test_a_run_that_has_only_its_spec(self, page: str, finished: Finished, root: Path) -> None:
        (root / "bare00000001").mkdir()
        (root / "bare00000001" / "spec.json").write_bytes((finished.digits / "spec.json").read_bytes())
        assert "never started" in text(visit(page, run="bare00000001"))

    @pytest.mark.parametrize("page", PAGES)
    @pytest.mark.parametrize("name", ["digits", "hostile", "regression", "given"])
    def test_done(self, page: str, name: str, finished: Finished, copied: Copier) -> None:
        run = copied(getattr(finished, name))
        app = visit(page, run=run.key)
        assert run.key in text(app) or run.key in app.selectbox[0].value

    def test_hostile_names_are_shown_as_text(self, finished: Finished, copied: Copier, screen: Screen) -> None:
        run = copied(finished.hostile)
        visit("explore", run=run.key)
        answer = json.loads(drawn.answer(run, answers.first_query(run), "label"))
        visit("memorized", run=run.key)
        for shown in (screen.html["memorized-gallery"], answer["card"], answer["galleries"]):
            assert "&lt;img src=x onerror=alert(1)&gt;" in shown
            assert HOSTILE not in shown

    @pytest.mark.parametrize("page", OF_A_RUN)
    def test_planted_copies_of_a_regression(self, page: str, folder: Path, copied: Copier) -> None:
        data = str(line(folder / "copies.npz"))
        run = copied(compute(folder, Request(data, duplicate=0.05, recipe=Recipe(epochs=2))).path)
        train = run.table("train")
        assert (train["true_label"] == train["label"]).all()
        assert "planted: was" not in html(visit(page, run=run.key))


class TestMemorized:
    def test_the_headline_counts_what_the_table_holds(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        shown, table = html(visit("memorized", run=run.key)), run.table("memorization")
        assert f"{table['memorized'].sum():,} of {len(table):,} training examples are suspect" in shown
        assert f"{(table['self_influence_z'] > FLAG_Z).sum():,} have a high self-influence" in shown
        assert f"let about {round(0.05 * (table['self_influence_z'] > FLAG_Z).sum())} through" in shown
        assert "mean loss over 3 epochs plus how unlikely the ten nearest inputs make the label" in shown
        refused = int((run.table("outcomes-train")["wrong"] & table["memorized"]).sum())
        assert f"for {refused:,} of the {table['memorized'].sum():,} the model gives another label" in shown
        assert "damping λ = " in shown
        assert "needed" not in shown

    def test_planted_flips_are_reported_as_measured(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        shown, numbers = html(visit("memorized", run=run.key)), read_json(run.path / "summary.json")
        assert f"{numbers['flips_flagged']:,} of {numbers['flips_planted']:,}" in shown
        for score in ("flips_score", "flips_self_influence"):
            assert f"<td>{numbers[score]['auc']:.3f}</td>" in shown
        assert "training log and nearest inputs" in shown
        train, outcomes = run.table("train"), run.table("outcomes-train")
        fitted = int(((train["true_label"] != train["label"]) & ~outcomes["wrong"]).sum())
        assert f"The model gives the flipped label for {fitted:,} of the {numbers['flips_planted']:,}" in shown

    def test_without_a_training_log_the_flag_rests_on_self_influence(self, finished: Finished, copied: Copier) -> None:
        shown = html(visit("memorized", run=copied(finished.given).key))
        assert "The flag rests on self-influence" in shown
        assert "training log and nearest inputs" not in shown

    def test_nothing_planted_nothing_checked(self, finished: Finished, copied: Copier) -> None:
        assert "flipped on purpose" not in html(visit("memorized", run=copied(finished.regression).key))

    def test_each_quadrant_shows_its_meaning_and_its_examples(
        self, finished: Finished, copied: Copier, screen: Screen
    ) -> None:
        run = copied(finished.digits)
        app, table = visit("memorized", run=run.key), run.table("memorization")
        for name, meaning in QUADRANTS.items():
            next(group for group in app.get("button_group") if group.label == "Quadrant").set_value(name).run()
            members, shown = int((table["quadrant"] == name).sum()), screen.html["memorized-gallery"]
            assert meaning in text(app)
            assert shown.count('class="ix-example') == min(members, memorized.TILES) + bool(members)
            assert members or f"No training example of this run is “{name}”" in shown

    def test_classes_add_up(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        found, table = visit("memorized", run=run.key).dataframe[0].value, run.table("memorization")
        assert found["n"].sum() == len(table)
        assert found["flagged"].sum() == table["memorized"].sum()
        assert list(found["class"]) == [str(digit) for digit in range(10)]

    def test_a_regression_is_told_by_quarters(self, finished: Finished, copied: Copier) -> None:
        found = visit("memorized", run=copied(finished.regression).key).dataframe[0].value
        assert found["n"].tolist() == [15, 15, 15, 15]

    def test_all_rows_can_be_kept_with_class_names(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.hostile)
        kept = memorized.whole_table(run)
        assert len(kept) == run.meta().train
        assert set(kept["label"]) == set(run.meta().classes)
        assert {"self_influence", "held_out", "held_out_se", "quadrant", "memorized", "csl"} <= set(kept)

    def test_a_running_job_says_where_it_is(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits, without=LATE, **working())
        assert "The job: ▶ 6/9 scores 25% · 6 s left" in text(visit("memorized", run=run.key))


class TestRuns:
    def test_newest_first_with_facts(self, finished: Finished, copied: Copier) -> None:
        for age, name in enumerate(("newest000001", "middle000001", "oldest000001")):
            spec = copied(finished.digits, name).path / "spec.json"
            os.utime(spec, (1e9 - age, 1e9 - age))
        shown = html(visit("runs"))
        places = [shown.index(name) for name in ("newest000001", "middle000001", "oldest000001")]
        assert places == sorted(places)
        numbers = read_json(finished.digits / "summary.json")
        assert f"test accuracy {numbers['test_accuracy']:.1%}" in shown

    def test_open_leads_to_the_run(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        assert open_links(visit("runs")) == [f"run={run.key}"]

    def test_a_running_job_shows_rate_and_time_left_and_can_be_cancelled(
        self, finished: Finished, copied: Copier
    ) -> None:
        run = copied(finished.digits, without=LATE, **working())
        app = visit("runs")
        assert "6/9 scores 25% · 6 s left" in html(app)
        assert "5 of 20 · 2.5 a second" in html(app)
        assert [button.label for button in app.button] == ["Cancel"]
        app.button[0].click().run()
        assert (run.path / "cancel").exists()

    def test_a_failure_is_told_in_full_with_its_log(self, finished: Finished, copied: Copier) -> None:
        reason = "Expected " + "a very long sentence " * 60 + HOSTILE
        run = copied(finished.digits, state="failed", reason=reason)
        (run.path / "log").write_text(f"first line\n{'x' * 5000}\nlast line {HOSTILE}\n")
        app = visit("runs")
        assert "a very long sentence " * 60 in html(app)
        log = app.code[0].value
        assert log.endswith(f"last line {HOSTILE}")
        assert "first line" not in log

    @pytest.mark.parametrize("state", ["failed", "cancelled", "interrupted"])
    def test_stopped_jobs_can_be_resumed(
        self, state: str, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resumed: list[str] = []
        monkeypatch.setattr(jobs, "start", lambda run: resumed.append(run.key))
        run = copied(finished.digits, without=LATE, **STATES[state])
        app = visit("runs")
        assert [button.label for button in app.button] == ["Resume"]
        app.button[0].click().run()
        assert resumed == [run.key]

    def test_unreadable_runs_are_listed_with_their_sentence(self, finished: Finished, copied: Copier) -> None:
        run = other_version(copied(finished.digits))
        app = visit("runs")
        assert "unreadable" in html(app)
        assert f"Expected a run of format version 1 in {run.path}" in html(app)
        assert len(app.button) == 0

    def test_many_runs_come_in_portions(self, finished: Finished, root: Path) -> None:
        for number in range(30):
            (root / f"run{number:09d}").mkdir()
            (root / f"run{number:09d}" / "spec.json").write_bytes((finished.digits / "spec.json").read_bytes())
        app = visit("runs")
        assert "25 of 30 shown" in text(app)
        next(button for button in app.button if button.label == "Show 5 more").click().run()
        assert "30 of 30 shown" in text(app)
