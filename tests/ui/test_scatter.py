"""The map and the list in a real browser: what is seen, what a click or key does, and what never happens.

`harness/` is the page under test. Every test ends by checking that the browser logged no error and asked nobody but
the server; `expected` names the failures a test provokes on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from explorer.errors import SettingsError
from explorer.ui.scatter import ListData, MapData, assets, doors
from tests.ui import chromium
from tests.ui.harness import synthetic

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HARNESS = Path(__file__).parent / "harness" / "app.py"
ROOM = Path(assets.__file__).parent
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
WAIT_MS = 20_000
WRONG, RIGHT = 0, 1
"""Places in `find`'s answer."""


# ---- the stage ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with chromium.serve(HARNESS) as url:
        yield url


class Stage:
    """One page of the harness and everything the browser said about it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, query: str = "q=0", drawn: bool = True) -> Stage:
        self.page.goto(f"{self.url}/?{query}")
        if drawn:
            self.until(f"{CHANNEL}?.view?.lastDraw > 0")
            self.page.wait_for_selector(".ie-list .row")
        return self

    def until(self, condition: str) -> None:
        self.page.wait_for_function(f"window.__influenceExplorer && ({condition})", timeout=WAIT_MS)

    def js(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(f"(argument) => {expression}", argument)

    @property
    def state(self) -> dict[str, Any]:
        return self.js(f"({{query: {CHANNEL}.state.query, target: {CHANNEL}.state.target}})")

    @property
    def camera(self) -> dict[str, float]:
        return self.js(f"{CHANNEL}.view.camera")

    @property
    def panel(self) -> str:
        return self.page.inner_text("#panel")

    def panel_says(self, *words: str) -> None:
        for word in words:
            self.page.wait_for_function(
                "word => document.querySelector('#panel')?.innerText.includes(word)", arg=word, timeout=WAIT_MS
            )

    def click_point(self, index: int) -> None:
        self.page.mouse.click(*self.js(f"{CHANNEL}.view.screenOf(argument)", index))

    def recolored(self, act: Callable[[], object]) -> None:
        before = self.js(f"{CHANNEL}.view.lastDraw")
        act()
        self.until(f"{CHANNEL}.view.lastDraw > {before}")

    def colors(self) -> dict[str, int]:
        """How many pixels of the map's canvas are clearly blue, clearly orange."""
        shot = self.page.locator("canvas.points").screenshot()
        red, _, blue = np.moveaxis(np.asarray(Image.open(BytesIO(shot)).convert("RGB"), dtype=int), 2, 0)
        return {"towards": int((blue - red > 70).sum()), "away": int((red - blue > 70).sum())}

    def top(self) -> None:
        """The list from its beginning: the worst mistakes."""
        self.page.locator(".box").evaluate("box => { box.scrollTop = 0; }")
        self.page.wait_for_selector(".row[aria-posinset='1']")

    def find(self, kind: int, apart: float = 9) -> int:
        """A wrong or right test row with no other test point near it on the screen and influence computed."""
        run = synthetic.made("made-1500-300-image")
        places = np.array(self.js(f"Array.from({{length: 300}}, (_, i) => {CHANNEL}.view.screenOf(1500 + i))"))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(gaps, np.inf)
        fits = (gaps.min(1) > apart) & (run.wrong == (kind == WRONG))
        fits[[0, synthetic.NOT_COMPUTED]] = False
        return int(np.flatnonzero(fits)[0])


@contextmanager
def staged(browser: Browser, url: str, expected: str | None = None, **settings: Any) -> Iterator[Stage]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    try:
        stage = Stage(context.new_page(), url)
        yield stage
        surprises = [error for error in stage.errors if not (expected and re.search(expected, error))]
        assert not surprises
        abroad = [asked for asked in stage.asked if not asked.startswith((url, "blob:", "data:"))]
        assert not abroad
    finally:
        context.close()


@pytest.fixture
def stage(browser: Browser, server: str) -> Iterator[Stage]:
    with staged(browser, server) as one:
        yield one


# ---- the doors, without a browser ----


def test_data_is_checked_where_it_is_made() -> None:
    with pytest.raises(SettingsError, match="label, prediction; found 'nonsense'"):
        MapData("r", "t", "pca", 1, 1, 0, target="nonsense")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="n_train >= 0; found -1"):
        MapData("r", "t", "pca", -1, 1, 0)
    with pytest.raises(SettingsError, match="found 'x'"):
        ListData("r", "t", 0, target="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said",
    [
        None, 3, "query", {}, {"query": "3", "target": "label"}, {"query": -1, "target": "label"},
        {"query": 10, "target": "label"}, {"query": True, "target": "label"}, {"query": 3, "target": "other"},
        {"query": 3.5, "target": "label"},
    ],
)  # fmt: skip
def test_a_pick_that_does_not_fit_the_run_is_dropped(said: object) -> None:
    heard: list[object] = []
    doors._deliver_pick(said, lambda *pick: heard.append(pick), 10)
    assert heard == []


def test_a_pick_that_fits_is_delivered() -> None:
    heard: list[object] = []
    doors._deliver_pick({"query": 9, "target": "prediction"}, lambda *pick: heard.append(pick), 10)
    assert heard == [(9, "prediction")]


@pytest.mark.parametrize("names", [assets.MAP_JS, assets.LIST_JS])
def test_files_join_into_one_module(names: tuple[str, ...]) -> None:
    texts = [(ROOM / name).read_text(encoding="utf-8") for name in names]
    assert ["export default" in text for text in texts] == [False] * (len(texts) - 1) + [True]
    declared = re.findall(r"^(?:const|let|class|function|async function) (\w+)", "\n".join(texts), re.M)
    assert len(declared) == len(set(declared))
    for name, text in zip(names, texts, strict=True):
        assert re.match(r"/\* [A-Z][^\n]*\?\n", text), f"{name} does not open with its question"
        assert len(text.splitlines()) < 400, name
        assert "innerHTML" not in text, name


# ---- the map ----


@pytest.mark.browser
def test_first_paint_explains_the_deep_linked_query_in_both_colors(stage: Stage) -> None:
    stage.open("q=17&t=label")
    assert stage.state == {"query": 17, "target": "label"}
    assert stage.js(f"{CHANNEL}.view.drawn") == {"train": 1500, "test": 300, "numbered": 20, "query": 17}
    seen = stage.colors()
    assert seen["towards"] > 100
    assert seen["away"] > 100
    assert stage.page.inner_text("[data-show=clip]") == "nats, clipped at the 99.5th percentile"
    stage.page.wait_for_function("document.querySelector('.stBidiComponent') !== null")
    plus, minus = stage.page.inner_text("[data-show=plus]"), stage.page.inner_text("[data-show=minus]")
    assert plus[1:] == minus[1:]
    assert (plus[0], minus[0]) == ("+", "−")
    stage.page.get_by_text("1,800 of 1,800 points shown").wait_for()


@pytest.mark.browser
def test_a_click_recolors_tells_the_panel_and_moves_nothing(stage: Stage) -> None:
    stage.open()
    camera, before = stage.camera, stage.page.locator("canvas.points").screenshot()
    stage.js("document.querySelectorAll('[data-testid=stBidiComponentIsolated]').forEach(host => "
             "host.shadowRoot.querySelectorAll('canvas, .box').forEach(one => { one.same = true; }))")  # fmt: skip
    query = stage.find(WRONG)
    stage.recolored(lambda: stage.click_point(1500 + query))
    assert stage.state["query"] == query
    stage.panel_says(f"query {query};", "picks 1;", "panel runs 2;", "map runs 1;", "list runs 1;", "page runs 1")
    assert stage.camera == camera
    assert stage.page.locator("canvas.points").screenshot() != before
    assert stage.page.locator("canvas.points").evaluate("one => one.same")
    assert stage.page.locator(".box").evaluate("one => one.same")
    assert f"test-{query:05d}" in stage.page.inner_text(".row[aria-selected=true]")


@pytest.mark.browser
def test_the_ring_does_not_wait_for_the_network(stage: Stage) -> None:
    stage.open()
    stage.page.route("**/influence/**", lambda route: None)  # never answers
    query = stage.find(WRONG)
    before = stage.js(f"{CHANNEL}.view.lastRing")
    stage.click_point(1500 + query)
    stage.until(f"{CHANNEL}.view.drawn.query === {query} && {CHANNEL}.view.lastRing > {before}")
    stage.page.get_by_text("Loading the influence").wait_for()
    stage.page.unroute_all(behavior="ignoreErrors")


NEAREST = """(argument) => {
  const view = CHANNEL.view, [x, y] = argument;
  const gaps = Array.from({length: 1800}, (_, i) => { const [px, py] = view.screenOf(i); return Math.hypot(px - x, py - y); });
  const best = (from, to) => gaps.slice(from, to).reduce((b, gap, i, all) => gap < all[b] ? i : b, 0) + from;
  const test = best(1500, 1800), any = best(0, 1800);
  return gaps[test] <= 8 ? test : gaps[any] <= 14 ? any : -1;
}""".replace("CHANNEL", CHANNEL)


@pytest.mark.browser
@pytest.mark.parametrize(
    "wheel", [0, pytest.param(-300, marks=pytest.mark.slow), -1500, pytest.param(300, marks=pytest.mark.slow)]
)
def test_picking_is_right_at_every_zoom(stage: Stage, wheel: int) -> None:
    stage.open()
    box = stage.page.locator("canvas.points").bounding_box()
    assert box
    stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(1520)"))
    for _ in range(abs(wheel) // 100):
        stage.page.mouse.wheel(0, 100 if wheel > 0 else -100)
    stage.page.wait_for_timeout(100)
    rng = np.random.default_rng(abs(wheel))
    places = np.array(stage.js(f"Array.from({{length: 1800}}, (_, i) => {CHANNEL}.view.screenOf(i))"))
    low, high = np.array([box["x"], box["y"]]) + 30, np.array([box["x"] + box["width"], box["y"] + box["height"]]) - 30
    seen = places[((places > low) & (places < high)).all(1)]
    assert len(seen) >= 3
    kinds = set()
    for _ in range(25):
        # whole px, as a mouse has them: near a point, on it, or beside it
        x, y = (float(part) for part in np.rint(rng.choice(seen) + rng.uniform(-16, 16, 2)))
        expected = stage.page.evaluate(NEAREST, [x, y])
        before = stage.state["query"]
        stage.page.mouse.click(x, y)
        kinds.add("none" if expected < 0 else "test" if expected >= 1500 else "train")
        assert stage.state["query"] == (expected - 1500 if expected >= 1500 else before)
        if len(kinds) == 3:
            break
    assert len(kinds) >= 2
    assert stage.state["query"] is not None


@pytest.mark.browser
def test_the_wheel_zooms_at_the_cursor_and_a_drag_pans_without_picking(stage: Stage) -> None:
    stage.open()
    here = stage.js(f"{CHANNEL}.view.screenOf(40)")
    stage.page.mouse.move(*here)
    stage.page.mouse.wheel(0, -200)
    stage.until(f"{CHANNEL}.view.camera.k > 1")
    assert stage.js(f"{CHANNEL}.view.screenOf(40)") == pytest.approx(here, abs=1)  # a wheel event has whole px
    zoomed = stage.camera["k"]
    stage.page.mouse.down()
    stage.page.mouse.move(here[0] + 60, here[1] - 30, steps=4)
    stage.page.mouse.up()
    assert stage.js(f"{CHANNEL}.view.screenOf(40)") == pytest.approx([here[0] + 60, here[1] - 30], abs=1)
    assert stage.camera["k"] == zoomed
    stage.page.mouse.dblclick(here[0] - 100, here[1] + 60)
    assert stage.camera["k"] == pytest.approx(2 * zoomed)
    stage.page.keyboard.press("0")
    stage.until(f"{CHANNEL}.view.camera.k === 1")
    assert stage.camera == {"x": 0, "y": 0, "k": 1}
    stage.page.wait_for_timeout(100)


@pytest.mark.browser
def test_frame_shows_the_query_and_its_numbered_examples(stage: Stage) -> None:
    stage.open("q=17")
    stage.page.get_by_role("button", name="Frame F").click()
    stage.page.wait_for_timeout(400)
    at_rest(stage)
    row = synthetic.influence("made-1500-300-image", "label", 17)
    towards, away = np.frombuffer(row, "<i4", 20, 16)[:10], np.frombuffer(row, "<i4", 20, 96)[:10]
    box = stage.page.locator("canvas.points").bounding_box()
    assert box
    for index in [1517, *towards.tolist(), *away.tolist()]:
        x, y = stage.js(f"{CHANNEL}.view.screenOf(argument)", index)
        assert box["x"] < x < box["x"] + box["width"]
        assert box["y"] < y < box["y"] + box["height"]
    assert stage.camera["k"] > 1.1


def at_rest(stage: Stage) -> None:
    """Waits until the camera no longer moves: a busy machine draws the way there late."""
    before = None
    for _ in range(100):
        now = stage.js(f"({{...{CHANNEL}.view.camera}})")
        if now == before:
            return
        before = now
        stage.page.wait_for_timeout(200)
    raise AssertionError("the camera never comes to rest")


@pytest.mark.browser
def test_a_training_point_is_inspected_and_stays_explained(stage: Stage) -> None:
    stage.open("q=17")
    row = synthetic.influence("made-1500-300-image", "label", 17)
    stage.page.keyboard.press("f")
    stage.page.wait_for_timeout(400)
    at_rest(stage)
    for train in np.frombuffer(row, "<i4", 20, 16)[:10].tolist():
        if stage.page.evaluate(NEAREST, stage.js(f"{CHANNEL}.view.screenOf(argument)", train)) == train:
            break
    stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(argument)", train))
    card = stage.page.locator(".card")
    card.get_by_text(f"Training row {train}").wait_for()
    assert "▲ towards +0.0" in card.inner_text()
    assert "nats" in card.inner_text()
    stage.click_point(train)
    stage.panel_says(f"inspected {train};", "query 17;", "map runs 1;")
    assert stage.state["query"] == 17


@pytest.mark.browser
def test_the_target_is_switched_in_place_where_there_are_two(stage: Stage) -> None:
    stage.open()
    wrong, right = stage.find(WRONG), stage.find(RIGHT)
    stage.recolored(lambda: stage.click_point(1500 + wrong))
    answer = stage.page.locator("[data-target=prediction]")
    assert answer.is_enabled()
    camera = stage.camera
    stage.recolored(lambda: stage.page.keyboard.press("t"))
    stage.panel_says(f"query {wrong};", "target prediction;")
    assert answer.get_attribute("aria-pressed") == "true"
    assert stage.camera == camera
    stage.recolored(lambda: stage.page.get_by_role("button", name="given label").click())
    stage.panel_says("target label;")
    stage.recolored(lambda: stage.click_point(1500 + right))
    assert answer.is_disabled()
    assert "one explanation for both" in (answer.get_attribute("title") or "")
    assert not [url for url in stage.asked if f"/influence/prediction/{right}.bin" in url]


@pytest.mark.browser
def test_python_moves_the_selection_and_never_the_camera(stage: Stage) -> None:
    stage.open("q=17")
    stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(1517)"))
    stage.page.mouse.wheel(0, -300)
    stage.until(f"{CHANNEL}.view.camera.k > 1")
    stage.top()
    stage.recolored(lambda: stage.page.locator(".row", has_text="✗").first.click())
    picked, camera = stage.state["query"], stage.camera
    assert picked != 17
    stage.page.get_by_role("button", name="Rerun").click()
    stage.panel_says("page runs 2")
    assert stage.state["query"] == picked  # a rerun that says what it said before is no wish
    stage.page.get_by_role("button", name="Go to 7").click()
    stage.until(f"{CHANNEL}.state.query === 7 && {CHANNEL}.view.shown === 'label/7'")
    stage.top()
    stage.recolored(lambda: stage.page.locator(".row", has_text="✗").nth(1).click())
    stage.page.get_by_role("button", name="Go to 7").click()  # the same again, with a new revision: wins at once
    stage.until(f"{CHANNEL}.state.query === 7")
    assert stage.camera == camera
    stage.page.get_by_role("button", name="Other layout").click()
    stage.until(f"{CHANNEL}.view.camera.k === 1")  # another layout is at home
    stage.page.get_by_role("button", name="Other layout").click()
    stage.until(f"{CHANNEL}.view.camera.k !== 1")
    assert stage.camera == camera
    assert len([url for url in stage.asked if "/points/pca.bin" in url]) == 1


@pytest.mark.browser
def test_a_remount_keeps_camera_and_selection_and_leaves_nothing_behind(stage: Stage) -> None:
    stage.open("q=17")
    stage.page.keyboard.press("+")
    stage.page.keyboard.press("ArrowDown")
    stage.page.wait_for_timeout(200)
    camera, query = stage.camera, stage.state["query"]
    listeners = stage.js(f"{CHANNEL}.subscribers.size")
    for _ in range(3):
        stage.page.get_by_role("button", name="Hide or show").click()
        stage.until(f"{CHANNEL}.view === null")
        assert stage.js(f"{CHANNEL}.subscribers.size") == listeners - 1
        stage.page.get_by_role("button", name="Hide or show").click()
        stage.until(f"{CHANNEL}.view?.lastDraw > 0")
    assert stage.js(f"{CHANNEL}.subscribers.size") == listeners
    assert (stage.camera, stage.state["query"]) == (camera, query)
    stage.page.keyboard.press("+")
    assert stage.camera["k"] == pytest.approx(camera["k"] * 1.5)  # one map listens to the keys, not four
    order = stage.js(f"{CHANNEL}.state.order")
    stage.page.keyboard.press("0")
    stage.recolored(lambda: stage.page.keyboard.press("ArrowDown"))
    assert stage.state["query"] == order[order.index(query) + 1]
    stage.page.wait_for_timeout(300)
    assert min(stage.colors().values()) > 100


@pytest.mark.browser
def test_the_next_predictions_are_there_before_they_are_asked_for(stage: Stage) -> None:
    stage.open("q=17")
    order = stage.js(f"{CHANNEL}.state.order")
    stage.top()
    stage.recolored(lambda: stage.page.locator(".row[aria-posinset='1']").click())
    stage.page.wait_for_timeout(500)
    for query in order[1:4]:
        assert any(url.split("?")[0].endswith(f"/{query}.bin") for url in stage.asked), query
    stage.page.route("**/influence/**", lambda route: None)
    stage.recolored(lambda: stage.page.keyboard.press("ArrowDown"))
    assert stage.js(f"{CHANNEL}.view.shown") == f"label/{order[1]}"
    stage.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.browser
@pytest.mark.parametrize("on", ["map", "list"])
def test_what_the_hand_rests_on_is_there_before_the_click(stage: Stage, on: str) -> None:
    stage.open("q=17")
    stage.top()
    stage.page.wait_for_timeout(500)
    ahead = stage.js(f"{CHANNEL}.state.order")[:8]
    query = stage.find(WRONG) if on == "map" else ahead[6]

    def rest() -> None:
        if on == "map":
            stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(argument)", 1500 + query))
        else:
            stage.page.locator(f"#row-{query}").hover()

    def mine() -> list[str]:
        return [url for url in stage.asked if url.split("?")[0].endswith(f"/{query}.bin")]

    assert not mine()
    before = stage.state["query"]
    with stage.page.expect_response(lambda answer: answer.url.split("?")[0].endswith(f"/{query}.bin")):
        rest()
    stage.until(f"{CHANNEL}.state.likely === {query}")
    assert stage.state["query"] == before
    stage.page.route("**/influence/**", lambda route: None)  # never answers again
    stage.page.wait_for_timeout(100)
    stage.recolored(lambda: (stage.page.mouse.down(), stage.page.mouse.up()))
    assert stage.js(f"{CHANNEL}.view.shown") == f"label/{query}"
    assert len(mine()) == 1
    stage.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.browser
def test_a_hand_that_passes_over_asks_for_nothing(stage: Stage) -> None:
    stage.open("q=17")
    stage.top()
    stage.page.wait_for_timeout(500)
    asked = len(stage.asked)
    places = [stage.js(f"{CHANNEL}.view.screenOf(argument)", 1500 + query) for query in range(40)]
    stage.js(
        """places => { const canvas = document.querySelector("canvas.points") ?? [...document.querySelectorAll("*")]
            .map((one) => one.shadowRoot?.querySelector("canvas.points")).find(Boolean);
          for (const [x, y] of places) canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y, bubbles: true }));
          canvas.dispatchEvent(new PointerEvent("pointerleave")); }""",
        places,
    )
    stage.page.wait_for_timeout(300)
    assert not [url for url in stage.asked[asked:] if "/influence/" in url]


@pytest.mark.browser
def test_the_map_works_without_a_list(stage: Stage) -> None:
    stage.page.goto(f"{stage.url}/?q=17&list=0")
    stage.until(f"{CHANNEL}?.view?.lastDraw > 0")
    query = stage.find(WRONG)
    stage.recolored(lambda: stage.click_point(1500 + query))
    assert stage.page.locator("[data-target=prediction]").is_enabled()
    stage.panel_says(f"query {query};")


@pytest.mark.browser
def test_a_lost_graphics_card_comes_back(stage: Stage) -> None:
    stage.open("q=17")
    before = stage.colors()
    stage.page.locator("canvas.points").evaluate(
        "canvas => { window.card = canvas.getContext('webgl2').getExtension('WEBGL_lose_context'); card.loseContext(); }"
    )
    stage.page.get_by_text("took the graphics card away").wait_for()
    stage.js("window.card.restoreContext()")
    stage.page.get_by_text("took the graphics card away").wait_for(state="hidden")
    stage.page.wait_for_timeout(200)
    for hue, pixels in stage.colors().items():
        assert pixels == pytest.approx(before[hue], rel=0.1)  # labels may have settled in between


@pytest.mark.browser
def test_a_fine_screen_gets_fine_pixels(browser: Browser, server: str) -> None:
    with staged(browser, server, device_scale_factor=2) as stage:
        stage.open("q=17")
        width, shown = stage.page.locator("canvas.points").evaluate("one => [one.width, one.clientWidth]")
        assert width == 2 * shown
        query = stage.find(WRONG)
        stage.recolored(lambda: stage.click_point(1500 + query))
        assert stage.state["query"] == query
        stage.page.set_viewport_size({"width": 1000, "height": 900})
        finer = """(one, shown) => new Promise((done) => {
          const fits = () => one.clientWidth < shown && one.width === 2 * one.clientWidth;
          const end = performance.now() + 20000;
          const look = () => (fits() || performance.now() > end ? done(fits()) : requestAnimationFrame(look));
          look();
        })"""
        assert stage.page.locator("canvas.points").evaluate(finer, shown)


# ---- the list ----


@pytest.mark.browser
def test_arrow_keys_walk_the_list_from_anywhere_but_a_field(stage: Stage) -> None:
    stage.open("q=17")
    order = stage.js(f"{CHANNEL}.state.order")
    at = order.index(17)
    for key, step in [("ArrowDown", 1), ("j", 1), ("ArrowUp", -1), ("k", -1), ("ArrowUp", -1)]:
        at += step
        stage.page.keyboard.press(key)
        assert stage.state["query"] == order[at], key
    stage.panel_says(f"query {order[at]};", "map runs 1;", "list runs 1;")
    for modifier in ("Control", "Alt", "Meta"):
        stage.page.keyboard.press(f"{modifier}+ArrowDown")
    stage.page.get_by_label("Filter by id, label or answer").click()
    stage.page.keyboard.type("jkft0")
    stage.page.keyboard.press("ArrowDown")
    stage.page.get_by_label("Elsewhere").click()
    stage.page.keyboard.type("jkft0")
    stage.page.keyboard.press("ArrowDown")
    assert stage.state == {"query": order[at], "target": "label"}
    assert stage.camera == {"x": 0, "y": 0, "k": 1}


@pytest.mark.browser
def test_the_selected_row_stays_in_view_and_the_buttons_stop_at_the_ends(stage: Stage) -> None:
    stage.open("q=17")
    stage.top()
    stage.page.locator(".row").first.click()
    previous = stage.page.get_by_role("button", name="Previous ↑")
    assert previous.is_disabled()
    for _ in range(30):
        stage.page.keyboard.press("ArrowDown")
    assert previous.is_enabled()
    row, box = stage.page.locator(".row[aria-selected=true]").bounding_box(), stage.page.locator(".box").bounding_box()
    assert row
    assert box
    assert box["y"] <= row["y"] <= box["y"] + box["height"] - row["height"]
    active = stage.page.locator(".box").get_attribute("aria-activedescendant")
    assert active == stage.page.locator(".row[aria-selected=true]").get_attribute("id")


@pytest.mark.browser
def test_a_held_key_recolors_often_and_reruns_seldom(stage: Stage) -> None:
    stage.open("q=17")
    stage.top()
    stage.page.locator(".row[aria-posinset='1']").click()
    stage.panel_says("picks 1;")
    order = stage.js(f"{CHANNEL}.state.order")
    stage.page.evaluate("""async () => {
      for (let i = 0; i < 25; i++) {
        window.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", repeat: i > 0, cancelable: true }));
        await new Promise((done) => setTimeout(done, 33));
      }
    }""")
    start = order.index(stage.state["query"])
    stage.panel_says(f"query {stage.state['query']};")
    assert start >= 25
    picks = int(re.search(r"picks (\d+)", stage.panel)[1])  # type: ignore[index]
    assert picks <= 4


@pytest.mark.browser
def test_filters_count_and_an_empty_answer_offers_a_way_out(stage: Stage) -> None:
    stage.open("q=17")
    wrong = int(synthetic.made("made-1500-300-image").wrong.sum())
    shown = stage.page.locator(".ie-list [data-show=shown]")
    stage.page.get_by_role("button", name=f"Wrong {wrong}").click()
    assert shown.inner_text() == f"{wrong} of 300"
    assert set(stage.page.locator(".verdict").all_inner_texts()) == {"✗"}
    assert len(stage.js(f"{CHANNEL}.state.order")) == wrong
    stage.page.get_by_role("button", name=f"Right {300 - wrong}").click()
    assert shown.inner_text() == f"{300 - wrong} of 300"
    stage.page.get_by_role("button", name="All 300").click()
    stage.page.get_by_label("Filter by id, label or answer").fill("test-0001")
    assert shown.inner_text() == "10 of 300"
    stage.page.get_by_label("Filter by id, label or answer").fill("no such thing")
    stage.page.get_by_text("No prediction has “no such thing” in its id, label or answer.").wait_for()
    assert stage.state["query"] == 17
    stage.page.get_by_role("button", name="Clear filter").click()
    assert shown.inner_text() == "300 of 300"


@pytest.mark.browser
def test_ten_thousand_rows_are_only_as_many_as_are_seen(stage: Stage) -> None:
    stage.open("n=1500&m=10000&kind=table&q=17")
    assert stage.page.locator(".row").count() < 40
    stage.page.locator(".box").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    stage.page.wait_for_selector(".row[aria-posinset='10000']")
    assert stage.page.locator(".row").count() < 40
    assert stage.page.locator(".row img").count() == 0


@pytest.mark.browser
def test_hostile_ids_are_text(stage: Stage) -> None:
    stage.open("kind=hostile&q=17")
    stage.top()
    stage.page.get_by_text(synthetic.HOSTILE_ID).wait_for()
    stage.recolored(lambda: stage.page.locator(".row").first.click())
    stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(1500 + {CHANNEL}.state.query)"))
    stage.page.locator(".card").get_by_text(synthetic.HOSTILE_ID).wait_for()
    assert stage.js("window.__pwned") is None


@pytest.mark.browser
def test_regression_has_no_right_and_wrong_and_always_two_targets(stage: Stage) -> None:
    stage.open("kind=regression&q=17")
    assert stage.page.locator(".ie-list .segments").is_hidden()
    assert stage.page.locator(".verdict").count() == 0
    assert re.match(r"says [\d.]+, labeled [\d.]+", stage.page.locator(".says").first.inner_text())
    assert stage.page.locator("[data-target=prediction]").is_enabled()


# ---- when something is wrong ----


@pytest.mark.browser
@pytest.mark.parametrize(
    ("path", "says", "button"),
    [
        ("**/points/**", "error 500 when asked for the PCA map", "Retry"),
        ("**/influence/**", "error 500 when asked for this prediction's influence", "Retry"),
        ("**/queries.json**", "error 500 when asked for the list of predictions", "Retry"),
    ],
)
def test_a_failing_route_is_said_and_can_be_retried(
    browser: Browser, server: str, path: str, says: str, button: str
) -> None:
    with staged(browser, server, expected="status of 500") as stage:
        stage.page.route(path, lambda route: route.fulfill(status=500))
        stage.open("q=17", drawn=False)
        stage.page.get_by_text(says).wait_for()
        stage.page.unroute_all(behavior="wait")
        stage.page.get_by_role("button", name=button).click()
        stage.until(f"{CHANNEL}?.view?.lastDraw > 0")
        stage.page.wait_for_selector(".ie-list .row")
        stage.page.get_by_text(says).wait_for(state="hidden")
        assert min(stage.colors().values()) > 100


@pytest.mark.browser
def test_a_server_that_does_not_answer_and_bytes_that_do_not_fit_are_said(browser: Browser, server: str) -> None:
    with staged(browser, server, expected="ERR_FAILED") as stage:
        stage.page.route("**/queries.json**", lambda route: route.abort())
        stage.page.route("**/points/**", lambda route: route.fulfill(status=200, body=b"\0" * 100))
        stage.open("q=17", drawn=False)
        stage.page.get_by_text("The server did not answer, so the list of predictions could not be loaded").wait_for()
        stage.page.get_by_text("The server sent 100 bytes for the map where 19,816 were expected").wait_for()


@pytest.mark.browser
def test_a_wrong_token_is_said_and_shows_nothing(browser: Browser, server: str) -> None:
    with staged(browser, server, expected="status of 403") as stage:
        stage.open("q=17&token=stolen", drawn=False)
        stage.page.get_by_text("refused this page's access token, so the PCA map could not be loaded").wait_for()
        stage.page.get_by_text("so the list of predictions could not be loaded").wait_for()
        assert stage.page.locator(".row").count() == 0
        assert stage.js(f"{CHANNEL}.view.drawn") is None


@pytest.mark.browser
def test_what_is_not_computed_yet_is_said_and_muted(browser: Browser, server: str) -> None:
    with staged(browser, server, expected="status of 404") as stage:
        stage.open(f"q={synthetic.NOT_COMPUTED}", drawn=False)
        stage.page.get_by_text("Not computed yet").wait_for()
        stage.page.wait_for_selector(".ie-list .row")
        stage.until(f"{CHANNEL}.view.drawn?.query === {synthetic.NOT_COMPUTED}")
        assert stage.colors() == {"towards": 0, "away": 0}
        assert len([url for url in stage.asked if f"/{synthetic.NOT_COMPUTED}.bin" in url]) == 1
        height = stage.page.locator("canvas.points").evaluate("one => one.height")
        stage.page.get_by_role("button", name="Check again").wait_for()
        assert "not computed" in stage.page.inner_text(".row[aria-selected=true]")
        stage.recolored(lambda: stage.page.keyboard.press("ArrowDown"))
        stage.page.get_by_text("Not computed yet").wait_for(state="hidden")
        assert stage.page.locator("canvas.points").evaluate("one => one.height") == height  # nothing jumps


@pytest.mark.browser
def test_an_unknown_query_is_said(stage: Stage) -> None:
    stage.open("q=9999", drawn=False)
    stage.page.get_by_text("There is no test row 9999 in this run.").wait_for()
    stage.page.wait_for_selector(".ie-list .row")
    stage.recolored(lambda: stage.page.keyboard.press("ArrowDown"))
    assert stage.state["query"] == stage.js(f"{CHANNEL}.state.order[0]")


@pytest.mark.browser
def test_without_webgl_python_hears_of_it_and_the_list_still_works(server: str) -> None:
    with chromium.open_browser(chromium.NO_WEBGL) as browser, staged(browser, server) as stage:
        stage.open("q=17", drawn=False)
        stage.page.get_by_text("This browser offers no WebGL2").wait_for()
        stage.panel_says("webgl False;")
        stage.page.get_by_text("Here the page draws the Plotly map.").wait_for()
        stage.page.wait_for_selector(".ie-list .row")
        stage.page.keyboard.press("ArrowDown")
        stage.panel_says(f"query {stage.state['query']};")
        runs = int(re.search(r"map runs (\d+)", stage.panel)[1])  # type: ignore[index]
        assert runs == 2  # said once, not at every run


# ---- for every eye and ear ----

TEXTS = """() => [...document.querySelectorAll("[data-testid=stBidiComponentIsolated]")].flatMap((host) => {
  const found = [];
  const walk = document.createTreeWalker(host.shadowRoot, NodeFilter.SHOW_TEXT);
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
  const resolve = (color) => {
    const pen = new OffscreenCanvas(1, 1).getContext("2d");
    pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !parent.checkVisibility() || parent.closest("style, .unseen")) continue;
    const style = getComputedStyle(parent);
    let ground = parent, color = [0, 0, 0, 0];
    while (ground && color[3] === 0) { color = resolve(getComputedStyle(ground).backgroundColor); ground = ground.parentElement; }
    found.push({ text: walk.currentNode.textContent.trim(), size: parseFloat(style.fontSize), ink: resolve(style.color), ground: color,
      disabled: Boolean(parent.closest(":disabled")) });
  }
  return found;
})"""


def luminance(color: list[float]) -> float:
    parts = [part / 255 for part in color[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


READABLE = 4.5
"""WCAG AA for text; colored words that repeat a shape may have 3 : 1 like graphics."""
GRAPHIC = 3.0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_is_readable_in_both_themes(browser: Browser, server: str, scheme: Any) -> None:
    with staged(browser, server, color_scheme=scheme) as stage:
        stage.open("q=17")
        stage.page.get_by_text("points shown").wait_for()
        texts = stage.page.evaluate(TEXTS)
        assert len(texts) > 40
        assert min(text["size"] for text in texts) >= 12
        for text in texts:
            floor = GRAPHIC if text["text"][0] in "▲▼" else READABLE
            assert text["disabled"] or contrast(text["ink"], text["ground"]) >= floor, text
        ground = stage.page.locator(".ie-map").evaluate("one => getComputedStyle(one).backgroundColor")
        values = [int(part) for part in re.findall(r"\d+", ground)[:3]]
        assert (max(values) < 60) == (scheme == "dark")
        assert min(stage.colors().values()) > 100


@pytest.mark.browser
def test_the_theme_follows_the_system_without_losing_the_place(stage: Stage) -> None:
    stage.open("q=17")
    stage.page.keyboard.press("+")
    camera = stage.camera
    light = stage.page.locator("canvas.points").screenshot()
    stage.page.emulate_media(color_scheme="dark")
    stage.page.wait_for_function(
        "[...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].every(host => host.shadowRoot.querySelector('.ie[data-dark]'))"
    )
    stage.page.wait_for_timeout(300)
    dark = stage.page.locator("canvas.points").screenshot()
    means = [np.asarray(Image.open(BytesIO(shot)).convert("L")).mean() for shot in (light, dark)]
    assert means[0] > 200
    assert means[1] < 80
    assert stage.camera == camera
    assert min(stage.colors().values()) > 100


@pytest.mark.browser
def test_names_roles_and_summaries_are_there_for_those_who_listen(stage: Stage) -> None:
    stage.open("q=17")
    canvas = stage.page.locator("canvas.points")
    assert canvas.get_attribute("role") == "img"
    name = canvas.get_attribute("aria-label") or ""
    assert "1,500 training and 300 test examples" in name
    assert "Test row 17" in name
    stage.page.wait_for_function(
        "[...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].some(host => "
        "host.shadowRoot.querySelector('.unseen[aria-live=polite]')?.textContent.includes('Test row 17'))"
    )
    box = stage.page.get_by_role("listbox")
    assert "worst confident mistakes first" in (box.get_attribute("aria-label") or "")
    assert box.get_by_role("option", selected=True).count() == 1
    for button in stage.page.locator(".ie button:visible").all():
        assert (button.get_attribute("aria-label") or button.inner_text()).strip()
    stage.page.get_by_role("button", name="Home 0").focus()
    outline = stage.page.get_by_role("button", name="Home 0").evaluate("one => getComputedStyle(one).outlineStyle")
    stage.page.keyboard.press("Tab")
    focused = stage.page.get_by_role("button", name="Frame F").evaluate("one => getComputedStyle(one).outlineStyle")
    assert "solid" in {outline, focused}
