"""The form that starts a run: what it may name, what it asks of the command line, and what it says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from streamlit.testing.v1 import AppTest

from explorer import influence, models, sources
from explorer.contracts import Recipe
from explorer.errors import RunError, SettingsError
from explorer.jobs import planning
from explorer.jobs.planning import Request
from explorer.jobs.settings import descriptions
from explorer.jobs.state import read_state
from explorer.store import Run, list_runs
from explorer.ui import commands, start
from explorer.ui.commands import Wish
from explorer.ui.views import start as views
from tests.conftest import compute
from tests.ui import chromium
from tests.ui.conftest import HOSTILE
from tests.ui.test_access import graves
from tests.ui.test_pages import html, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SERVER = Path(__file__).resolve().parents[2] / "explorer" / "ui" / "server.py"
WAIT_MS = 90_000
DONE_S = 120
TOLD: list[dict[str, Any]] = [
    {"name": "last-layer", "summary": "", "question": "Which?", "limits": "Only the head.", "settings": [
        {"name": "damping", "kind": "a number or auto", "default": "auto", "choices": [], "help": "λ"}]},
    {"name": "other", "summary": "", "question": f"What? {HOSTILE}", "limits": "Nothing.", "settings": [
        {"name": "form", "kind": "one of a, b", "default": "a", "choices": ["a", "b"], "help": "Form."},
        {"name": "steps", "kind": "a whole number", "default": "10", "choices": [], "help": HOSTILE}]},
    {"name": "two-stage", "summary": "", "question": "Whose?", "limits": "", "settings": [], "python_only": True},
]  # fmt: skip
PRICE: dict[str, Any] = {
    "seconds": {"data": 1.0, "scores": None}, "basis": {"data": "loaded", "scores": "not known"}, "sure": "Within a tenth.",
    "memory": 5e8, "memory_free": 2e9, "disk": 3.2e6, "disk_free": 1e12, "train": 1000, "test": 100, "queries": 7,
    "answers": 1, "parameters": 12345, "total": 61.0, "warnings": ["Too large."],
}  # fmt: skip


class TestWhatAPageMayName:
    def test_models_and_data_are_those_of_the_product(self) -> None:
        assert (planning.AUTO, *models.MODELS) == commands.MODELS
        for data in (*sources.BUILT_IN, "/some/where.npz", "/some/texts.jsonl"):
            assert f"--data={data}" in Wish(data).words()

    @pytest.mark.parametrize("model", ["net.py:make", "os:system", "/tmp/x.py:f", "--weights=x"])
    def test_code_is_refused(self, model: str) -> None:
        with pytest.raises(SettingsError, match="A model of your own is code: name it in a terminal"):
            Wish("wine", model=model).words()

    @pytest.mark.parametrize("data", ["", " ", "/etc/passwd", "net.py:make", "--weights", "x.csv"])
    def test_data_is_built_in_or_an_array_file(self, data: str) -> None:
        with pytest.raises(SettingsError, match=r"Expected (data|the path of an \.npz or \.jsonl file)"):
            Wish(data).words()

    def test_no_value_can_become_an_option(self) -> None:
        wish = Wish(
            "--weights=/x.npz", method="--json", settings={"a": "--runs=/", "--weights": "/x.pt"}, queries=" 3 "
        )
        words = wish.words()
        assert words[0] == "--data=--weights=/x.npz"
        assert words[4:] == ["--method=--json", "--set=a=--runs=/", "--set=--weights=/x.pt", "--queries=3"]
        assert all(
            word.split("=")[0] in {"--data", "--flip", "--duplicate", "--model", "--method", "--set", "--queries"}
            for word in words
        )

    @pytest.mark.parametrize(
        "change", [{"flip": "many"}, {"duplicate": ""}, {"queries": "1.5"}, {"queries": "/etc/passwd"}]
    )
    def test_numbers_are_numbers(self, change: dict[str, str]) -> None:
        with pytest.raises(SettingsError, match=f"Expected {next(iter(change))} to be a"):
            Wish("wine", **change).words()


class TestAsked:
    def test_methods_are_those_of_the_product_in_its_own_words(self) -> None:
        told = commands.methods()
        assert [one["name"] for one in told] == list(influence.METHODS)
        for one, known in zip(told, descriptions(), strict=True):
            assert [setting["name"] for setting in one["settings"]] == [setting.name for setting in known.settings]
        began = time.perf_counter()
        assert commands.methods() is told
        assert time.perf_counter() - began < 0.01

    def test_a_refusal_comes_back_in_its_own_words(self, root: Path) -> None:
        with pytest.raises(SettingsError, match=r"^Expected settings of last-layer out of damping; found depth\. "):
            commands.start(Wish("wine", settings={"depth": "1"}))
        assert list_runs(root) == []

    def test_a_silence_and_a_crash_are_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(commands.PATIENCE, "start", 0.01)
        with pytest.raises(RunError, match="Expected an answer within 0 s; found none"):
            commands.start(Wish("wine"))
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(RunError, match="Expected to ask the command line; found"):
            commands.start(Wish("wine"))
        with pytest.raises(RunError, match="Expected to ask the command line; found"):
            commands.start(Wish("a\0.npz"))

    def test_the_page_s_process_stays_without_torch(self) -> None:
        code = "import sys, explorer.ui.start, explorer.ui.runs; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Wish]]:
    """What the form asks for, with answers made up."""
    found: list[tuple[str, Wish]] = []
    monkeypatch.setattr(commands, "methods", lambda: TOLD)
    monkeypatch.setattr(commands, "estimate", lambda wish: (found.append(("estimate", wish)), PRICE)[1])
    monkeypatch.setattr(commands, "start", lambda wish: (found.append(("start", wish)), "made00000001")[1])
    return found


def opened() -> AppTest:
    """The Runs page with the form open."""
    app = visit("runs")
    app.session_state["start-open"] = True
    app.run()
    return app


def press(app: AppTest, label: str) -> AppTest:
    return next(button for button in app.button if button.label == label).click().run()


class TestTheForm:
    def test_a_closed_form_asks_nothing(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commands, "methods", lambda: pytest.fail("asked"))
        assert [button.label for button in visit("runs").button] == []

    def test_as_it_opens_it_asks_for_the_defaults(self, root: Path, asked: list[tuple[str, Wish]]) -> None:
        app = press(opened(), "Estimate")
        assert asked == [("estimate", Wish("digits"))]
        shown = html(app)
        for words in (
            "12,345 parameters",
            "7 queries",
            "500 MB",
            "2.0 GB free",
            "3.2 MB",
            "unknown",
            "61 s",
            "⚠ Too large.",
        ):
            assert words in shown
        app.text_input(key="start-queries").set_value("5").run()
        assert "12,345 parameters" not in html(app)  # a price of something else

    def test_what_no_run_can_have_is_not_offered(self, root: Path, asked: list[tuple[str, Wish]]) -> None:
        found = opened().selectbox(key="start-method").options
        assert len(found) == 2
        assert "two-stage" not in found

    def test_what_is_chosen_is_asked(self, root: Path, asked: list[tuple[str, Wish]]) -> None:
        app = opened()
        app.selectbox(key="start-method").set_value("other").run()
        app.selectbox(key="start-other-form").set_value("b").run()
        app.text_input(key="start-flip").set_value("0.1").run()
        app.selectbox(key="start-model").set_value("mlp").run()
        app.selectbox(key="start-data").set_value(views.PATH).run()
        app.text_input(key="start-path").set_value("/data/mine.npz").run()
        press(app, "Start")
        assert asked == [("start", Wish("/data/mine.npz", "0.1", "0", "mlp", "other", {"form": "b"}))]
        assert [toast.value for toast in app.toast] == ["Run made00000001 was started; it is in the list."]

    def test_texts_begin_with_a_method_of_their_own(
        self, root: Path, asked: list[tuple[str, Wish]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(start, "OF_TEXTS", "other")
        app = opened()
        app.selectbox(key="start-data").set_value(views.PATH).run()
        app.text_input(key="start-path").set_value("/data/tales.JSONL").run()
        press(app, "Start")
        app.text_input(key="start-path").set_value("/data/mine.npz").run()
        press(app, "Start")
        assert [(wish.data, wish.method) for _, wish in asked] == [
            ("/data/tales.JSONL", "other"),
            ("/data/mine.npz", "last-layer"),
        ]

    def test_the_method_of_texts_is_that_of_the_command_line(self) -> None:
        assert planning.METHODS["sequence"] == start.OF_TEXTS
        assert planning.METHODS["classification"] == Wish("wine").method

    def test_settings_show_their_defaults_and_are_named(self, root: Path, asked: list[tuple[str, Wish]]) -> None:
        app = opened()
        field = app.text_input(key="start-last-layer-damping")
        assert (field.label, field.placeholder) == ("damping", "auto")
        assert "a number or auto" in str(field.help)
        app.selectbox(key="start-method").set_value("other").run()
        assert HOSTILE not in html(app)
        assert HOSTILE not in str(app.text_input(key="start-other-steps").help)

    def test_a_refusal_stands_beside_the_form(
        self, root: Path, asked: list[tuple[str, Wish]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(wish: Wish) -> str:
            raise SettingsError(f"Expected another {HOSTILE}; found this.")

        monkeypatch.setattr(commands, "start", refuse)
        app = press(opened(), "Start")
        assert 'role="alert"' in html(app)
        assert "Expected another &lt;img" in html(app)
        assert HOSTILE not in html(app)

    def test_where_methods_cannot_be_asked_it_says_why(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> Any:
            raise RunError("Expected an answer; found none.")

        monkeypatch.setattr(commands, "methods", fail)
        assert "Expected an answer; found none." in html(opened())

    def test_the_form_says_that_a_path_is_only_data(self, root: Path, asked: list[tuple[str, Wish]]) -> None:
        assert any("A path is read as data, never run" in caption.value for caption in opened().caption)


@pytest.mark.parametrize(("count", "words"), [(999, "0.0 MB"), (3.24e6, "3.2 MB"), (5e8, "500 MB"), (2.04e9, "2.0 GB")])
def test_sizes_are_said_as_people_do(count: float, words: str) -> None:
    assert views.size(count) == words


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_run_is_priced_and_started_in_the_browser(browser: Browser, tmp_path: Path, scheme: Any) -> None:
    before = compute(tmp_path, Request("wine", recipe=Recipe(epochs=1), queries=3))
    session = browser.new_context(viewport={"width": 1300, "height": 1300}, color_scheme=scheme)
    with chromium.serve(SERVER, env={"EXPLORER_RUNS": str(tmp_path)}) as url:
        page = session.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{url}/runs")
        page.get_by_text(before.key).first.wait_for()
        page.get_by_text("Start a run").first.click()
        page.get_by_role("textbox", name="Labels to flip").fill("lots")
        page.get_by_role("textbox", name="Labels to flip").press("Enter")
        page.get_by_role("button", name="Estimate").click()
        page.get_by_text("Expected flip to be a number; found 'lots'").wait_for()
        page.get_by_role("textbox", name="Labels to flip").fill("0.1")
        page.get_by_role("textbox", name="Labels to flip").press("Enter")
        page.get_by_text("Expected flip to be a number; found 'lots'").wait_for(state="detached")
        page.get_by_role("textbox", name="damping").fill("0.5")
        page.get_by_role("textbox", name="damping").press("Enter")
        page.get_by_role("button", name="Estimate").click()
        page.get_by_text("memory, at most").wait_for()
        assert list_runs(tmp_path) == [before.path]
        assert graves(page) == []
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_text("was started; it is in the list").wait_for()
        started = Run.at(next(path for path in list_runs(tmp_path) if path != before.path))
        page.get_by_text(started.key).first.wait_for()
        assert started.spec["method"] == {"name": "last-layer", "settings": {"damping": 0.5}}
        assert started.spec["source"]["flip"] == 0.1
        page.get_by_role("button", name="Cancel").click()
        until = time.monotonic() + DONE_S
        while read_state(started.path).active and time.monotonic() < until:
            time.sleep(0.2)
        assert read_state(started.path).state in ("cancelled", "done")
        page.get_by_role("button", name="Resume").or_(page.get_by_role("link", name="Open").nth(1)).first.wait_for()
    session.close()
