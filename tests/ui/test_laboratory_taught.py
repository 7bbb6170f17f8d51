"""Teach the model this once: the drawer's part, the bytes of a lesson, the state in the address, and the map in its colors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from explorer.contracts import Recipe
from explorer.errors import RunError
from explorer.jobs import asking
from explorer.jobs.lesson import Changed, Lesson
from explorer.jobs.planning import Request
from explorer.store import Row, Run
from explorer.ui import load, selected, server, state, wire
from explorer.ui.parts import taught
from explorer.ui.scatter import assets
from tests.conftest import compute
from tests.ui import chromium
from tests.ui.parts import Screen, buttons, nothing, page
from tests.ui.parts import screen as screen
from tests.ui.test_app import opened, visit
from tests.ui.test_server import asked

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROW = 3
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
REASON = "Expected *smaller* steps; found NaN."


def changed(rows: list[int], sign: float) -> Changed:
    values = sign * np.linspace(0.5, 0.1, len(rows))
    return Changed(np.array(rows), values, np.full(len(rows), -1.0))


def lesson_of(run: Run) -> Lesson:
    """A lesson drawn by lot, of the sizes of the run."""
    draw, meta = np.random.default_rng(0), run.meta()
    train, test = (draw.integers(-127, 128, size).astype(np.int8) for size in (meta.train, meta.test))
    rows = draw.permutation(meta.test)[:16].tolist()
    none = changed([], 1)
    return Lesson(
        Row(train, 0.25),
        Row(test, 0.25),
        changed(rows[:8], 1),
        changed(rows[8:], -1),
        none,
        none,
        (0.5, 0.25),
        0.1,
        1e-9,
        "1 step of SGD on all layers, rate 0.1",
        0.3,
    )


def shown(run: Run, screen: Screen, monkeypatch: pytest.MonkeyPatch, said: Lesson | Exception) -> AppTest:
    """The drawer's part on `ROW`; `teaches` in the session keeps what `on_teach` was told."""

    def teach(run: Run, *, train_row: int) -> Lesson:
        assert train_row == ROW
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr(asking, "teach", teach)
    monkeypatch.setattr(asking, "warm", nothing)

    def told(row: int | None) -> None:
        state.put("lesson", row)
        state.put("teaches", [*state.get("teaches", []), row])

    def part() -> None:
        taught.show(run, ROW, nothing, nothing, told)

    return page(part)


class TestDrawer:
    def test_a_click_teaches_and_another_goes_back(
        self, wine: Run, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lesson = lesson_of(wine)
        app = shown(wine, screen, monkeypatch, lesson)
        assert [button.label for button in app.button] == ["Teach the model this once"]
        assert screen.html == {}
        app.button(key="lesson-teach").click().run()
        assert buttons(screen.tags("lesson-tiles"), "query") == [
            *lesson.improved.rows[: wire.NAMED],
            *lesson.worsened.rows[: wire.NAMED],
        ]
        counts = [int((sign * lesson.test.values > 0).sum()) for sign in (1, -1)]
        assert f"<b>{counts[0]}</b> improved, <b>{counts[1]}</b> got worse" in screen.html["lesson-tiles"]
        assert "its own loss 0.500 → 0.250" in screen.html["lesson-tiles"]
        app.button(key="lesson-back").click().run()
        assert app.session_state["teaches"] == [ROW, None]
        assert [button.label for button in app.button] == ["Teach the model this once"]

    def test_what_cannot_be_taught_is_said_and_the_map_goes_back(
        self, wine: Run, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = shown(wine, screen, monkeypatch, RunError(REASON))
        app.button(key="lesson-teach").click().run()
        app.run()
        assert app.session_state["teaches"] == [ROW, None]
        assert "Expected \\*smaller\\* steps" in app.warning[0].value

    def test_a_run_without_a_worker_says_why_not(
        self, wine: Run, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(asking, "obstacle", lambda run: REASON)
        app = shown(wine, screen, monkeypatch, lesson_of(wine))
        assert app.button[0].disabled
        assert "Expected \\*smaller\\*" in app.button[0].help


class TestBytes:
    def test_a_lesson_is_a_row_over_all_points_with_its_strongest_test_points(
        self, wine: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = lesson_of(wine)
        raw = wire.lesson(found)
        train, test, named = len(found.train.values), len(found.test.values), wire.NAMED
        assert np.frombuffer(raw, "<u4", 3).tolist() == [train + test, named, named]
        assert np.frombuffer(raw, "<f4", 1, 12).tolist() == [0.25]
        points = np.frombuffer(raw, "<i4", 2 * named, 16) - train
        assert points.tolist() == [*found.improved.rows[:named], *found.worsened.rows[:named]]
        values = np.frombuffer(raw, "i1", train + test, 16 + 8 * named)
        assert values.tolist() == [*found.train.values, *found.test.values]
        assert len(raw) == 16 + 8 * named + train + test
        monkeypatch.setenv("EXPLORER_RUNS", str(wine.path.parent))
        monkeypatch.setattr(load, "lesson", lambda run, row: found if row == ROW else None)
        assert bytes(asked(server.lesson, wine.key, row=ROW).body) == raw
        assert asked(server.lesson, wine.key, row=train).status_code == 404
        assert asked(server.lesson, wine.key, token="none", row=ROW).status_code == 403

    def test_without_predictions_that_improved_nothing_is_named(self, wine: Run) -> None:
        found = replace(lesson_of(wine), improved=changed([], 1))
        assert np.frombuffer(wire.lesson(found), "<u4", 3).tolist()[1:] == [0, wire.NAMED]


class TestState:
    def app(self, wine: Run, act: Any, **link: str) -> AppTest:
        def part() -> None:
            state.put("missing", selected.follow(wine))
            act()

        def script(part):  # no annotations: it runs as a script of its own
            part()

        app = AppTest.from_function(script, default_timeout=60, kwargs={"part": part})
        app.query_params.update({"run": wine.key, **link})
        app.run()
        assert [found.message for found in app.exception] == []
        return app

    def test_the_address_carries_the_lesson(self, wine: Run) -> None:
        name = str(wine.table("train")["id"][ROW])
        app = self.app(wine, lambda: None, taught=name)
        assert app.session_state["lesson"] == ROW
        assert app.query_params["taught"] in (name, [name])
        unknown = self.app(wine, lambda: None, taught="nobody")
        assert unknown.session_state["lesson"] is None
        assert "no training example 'nobody'" in unknown.session_state["missing"][0]

    def test_a_lesson_is_colored_by_and_another_prediction_ends_it(self, wine: Run) -> None:
        def act() -> None:
            state.put("color", "label")
            selected.teach(wine, ROW)
            state.put("seen", dict(selected.as_data()))
            query = state.get("query")
            selected.select(wine, query, state.get("target"))
            state.put("same", state.get("lesson"))
            selected.select(wine, next(row for row in range(9) if row != query), state.get("target"))

        app = self.app(wine, act)
        assert (app.session_state["seen"]["lesson"], app.session_state["seen"]["color"]) == (ROW, "influence")
        assert app.session_state["same"] == ROW
        assert app.session_state["lesson"] is None

    @pytest.mark.parametrize(
        ("said", "kept"), [(ROW, ROW), (None, None), (-1, None), (10**9, None), ("3", None), (True, None)]
    )
    def test_the_browser_is_believed_only_where_it_fits(self, said: object, kept: int | None, wine: Run) -> None:
        def act() -> None:
            selected.viewed(wine, selected.as_data() | {"lesson": said})

        assert self.app(wine, act).session_state["lesson"] == kept


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def bare(browser: Browser) -> Iterator[Page]:
    """A page with nothing on it but the map's functions."""
    names = "decodeInfluence tintPoints paletteOf hues readTheme changeLine FIRST_COLOR LESSON_STEPS DIMMED"
    page = browser.new_page()
    script = assets.map_assets().js.replace("export default function", "function")
    page.add_script_tag(content=f"{script}\nObject.assign(window, {{ {', '.join(names.split())} }});")
    yield page
    page.close()


@pytest.mark.browser
class TestMap:
    def test_the_browser_reads_what_the_server_sends(self, bare: Page, wine: Run) -> None:
        found, meta = lesson_of(wine), wine.meta()
        read = bare.evaluate(
            """([bytes, nTrain, nTest]) => {
              const row = decodeInfluence(new Uint8Array(bytes).buffer, nTrain, nTest);
              return { scale: row.scale, towards: [...row.towards], away: [...row.away], values: [...row.values], tests: [...row.tests] };
            }""",
            [list(wire.lesson(found)), meta.train, meta.test],
        )
        assert read["scale"] == 0.25
        assert read["towards"] == [meta.train + row for row in found.improved.rows[: wire.NAMED]]
        assert read["away"] == [meta.train + row for row in found.worsened.rows[: wire.NAMED]]
        assert read["values"] == found.train.values.tolist()
        assert read["tests"] == found.test.values.tolist()

    def test_a_lesson_of_another_size_is_refused_in_words(self, bare: Page, wine: Run) -> None:
        said = bare.evaluate(
            """([bytes, nTrain, nTest]) => {
              try { decodeInfluence(new Uint8Array(bytes).buffer, nTrain, nTest); } catch (error) { return error.message; }
              return "";
            }""",
            [list(wire.lesson(lesson_of(wine))), wine.meta().train, wine.meta().test + 1],
        )
        assert "for this lesson where" in said

    def test_test_points_go_from_worse_over_plain_to_improved(self, bare: Page) -> None:
        levels = [-127, -64, 0, 64, 127]
        tints, palette, theme = bare.evaluate(
            """(levels) => {
              const n = levels.length, total = n + 1;
              const points = { nTrain: 1, nTest: n, total, order: new Uint32Array([0]), classes: new Uint8Array(total),
                predictions: new Uint8Array(total), marks: new Uint8Array(total), codes: null };
              const inside = new Uint8Array(total).fill(1);
              inside[total - 1] = 0;
              const theme = readTheme(document.body);
              const row = { tests: new Int8Array(levels) };
              const tints = tintPoints(points, "lesson", new Uint8Array(total).fill(1), inside, new Uint8Array(total), row);
              return [[...tints], [...paletteOf("lesson", theme, 0.5)], theme];
            }""",
            levels,
        )
        assert tints[0] == 1  # training points are drawn by their strength
        assert tints[-1] >= 128
        dimmed = [tint % 128 for tint in tints[1:]]
        assert dimmed == sorted(dimmed)
        shades = [np.array(palette[4 * tint : 4 * tint + 3]) / 255 for tint in dimmed]
        for shade, name in ((shades[0], "away"), (shades[2], "muted"), (shades[4], "towards")):
            np.testing.assert_allclose(shade, theme[name], atol=0.01)  # bytes
        assert max(dimmed) < 128

    def test_the_card_says_what_changed(self, bare: Page) -> None:
        said = bare.evaluate("[127, -64, 0].map((level) => changeLine({ task: 'classification' }, level, 0.5))")
        assert said[0] == "▲ improved +0.5 or more nats"
        assert said[1].startswith("▼ got worse −0.252")
        assert said[2].startswith("no change (less than 0.00197")

    @pytest.mark.slow
    def test_taught_colored_and_back_in_the_product(
        self, browser: Browser, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        root = tmp_path_factory.mktemp("taught")
        run = compute(root, Request("digits", flip=0.08, recipe=Recipe(epochs=3), queries=20))
        name = run.table("train")["id"][ROW]
        with opened(run, chromium.free_port()) as address, visit(browser, f"{address}&row={name}") as page:
            page.get_by_role("button", name="Teach the model this once").click()
            page.locator(".ie-map .ramp .towards", has_text="improved").wait_for()
            page.get_by_text("After one lesson").wait_for()
            assert f"taught={name}" in page.url
            numbers = page.evaluate(f"{CHANNEL}.state.row.tests.length")
            assert numbers == run.meta().test
            named = page.evaluate(f"[...{CHANNEL}.state.row.towards]")
            tiles = page.locator("[aria-label='Improved most'] [data-point]")
            assert [int(tiles.nth(at).get_attribute("data-point") or -1) for at in range(tiles.count())] == named
            page.locator(".ie-map .lesson button").click()
            page.locator(".ie-map .ramp .towards", has_text="towards").wait_for()
            page.get_by_role("button", name="Teach the model this once").wait_for()
            page.wait_for_function("!location.href.includes('taught=')")
            assert page.evaluate(f"{CHANNEL}.state.row.tests") is None
