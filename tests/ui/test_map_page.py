"""The map beyond a click, on its page: filter, lasso, colors, hover card, camera in the address, picture to save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from explorer.shown.filters import Filter
from explorer.shown.selection import Selection, in_map_units
from tests.ui import chromium
from tests.ui.harness import synthetic
from tests.ui.test_scatter import CHANNEL, HARNESS, WRONG, Stage, staged

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RUN = "made-1500-300-image"
N_TRAIN, N_TEST = 1500, 300


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with chromium.serve(HARNESS) as url:
        yield url


@pytest.fixture
def stage(browser: Browser, server: str) -> Iterator[Stage]:
    with staged(browser, server) as one:
        yield one


def publish(stage: Stage, **change: Any) -> None:
    stage.js(f"{CHANNEL}.publish(argument, 'bar')", change)


def redrawn(stage: Stage, act: Callable[[], object]) -> None:
    before = stage.js(f"{CHANNEL}.view.lastRing")
    act()
    stage.until(f"{CHANNEL}.view.lastRing > {before}")


def choice(**fields: Any) -> dict[str, Any]:
    return Filter(**fields).as_data()


@pytest.mark.slow
@pytest.mark.browser
def test_what_is_filtered_out_is_neither_drawn_nor_found_nor_counted(stage: Stage) -> None:
    stage.open("q=17")
    run = synthetic.made(RUN)
    marks = synthetic.marks(run)
    only = Filter(classes=(3, 4), outcome="right")
    expected = only.shown(run.classes, (marks & 2) > 0, (marks[:N_TRAIN] & 1) > 0)
    gone = next(q for q in range(N_TEST) if not expected[N_TRAIN + q] and q not in (17, synthetic.NOT_COMPUTED))
    camera = stage.camera
    publish(stage, filter=only.as_data())
    train, test = int(expected[:N_TRAIN].sum()), int(expected[N_TRAIN:].sum())
    assert stage.js(f"{CHANNEL}.state.counts") == {
        "train": N_TRAIN, "test": N_TEST, "selected": False, "shownTrain": train, "shownTest": test, "selectedTrain": 0, "selectedTest": 0,
    }  # fmt: skip
    stage.page.get_by_text(f"{train + test} of 1,800 points shown").wait_for()
    box = stage.page.locator("canvas.points").bounding_box()
    assert box
    far = [i for i in range(N_TRAIN) if not expected[i]][:400]
    places = np.array(stage.js("argument.map((i) => " + CHANNEL + ".view.screenOf(i))", far))
    left = np.array(
        stage.js("argument.map((i) => " + CHANNEL + ".view.screenOf(i))", np.flatnonzero(expected).tolist())
    )
    alone = next(place for place in places if np.linalg.norm(left - place, axis=1).min() > 25)
    stage.page.mouse.move(*alone)
    stage.page.wait_for_timeout(150)
    assert stage.page.locator(".card").is_hidden()
    stage.page.mouse.click(*alone)
    stage.click_point(N_TRAIN + gone)
    stage.page.wait_for_timeout(150)
    assert stage.state["query"] in {17, *np.flatnonzero(expected[N_TRAIN:]).tolist()}
    assert stage.camera == camera
    publish(stage, filter=choice(classes=()))
    stage.page.get_by_text("0 of 1,800 points shown").wait_for()
    stage.page.wait_for_timeout(300)
    assert stage.colors() == {"towards": 0, "away": 0}


@pytest.mark.slow
@pytest.mark.browser
def test_a_filter_by_influence_follows_the_prediction(stage: Stage) -> None:
    stage.open("q=17")
    publish(stage, filter=choice(sign="towards", low=0.0005))
    for query in (17, 22):
        stage.recolored(lambda query=query: publish(stage, query=query, target="label")) if query != 17 else None
        blob = synthetic.influence(RUN, "label", query)
        values = np.frombuffer(blob, "i1")[-N_TRAIN:]
        scale = float(np.frombuffer(blob, "<f4", 1, 12)[0])
        expected = int(((values / 127 * scale >= 0.0005) & (values > 0)).sum())
        assert 10 < expected < N_TRAIN
        counts = stage.js(f"{CHANNEL}.state.counts")
        assert (counts["shownTrain"], counts["shownTest"]) == (expected, N_TEST)
    stage.page.wait_for_timeout(200)
    assert stage.js(f"{CHANNEL}.state.row.values.length") == N_TRAIN


def drag(stage: Stage, path: list[tuple[float, float]]) -> None:
    mouse = stage.page.mouse
    mouse.move(*path[0])
    mouse.down()
    for place in path[1:]:
        mouse.move(*place)
    mouse.up()


def held(stage: Stage) -> tuple[int, int]:
    """Points in the published selection, as Python counts them."""
    selection = Selection.from_data(stage.js(f"{CHANNEL}.state.selection"))
    assert selection is not None
    inside = selection.inside(in_map_units(synthetic.made(RUN).places["pca"]))
    return int(inside[:N_TRAIN].sum()), int(inside[N_TRAIN:].sum())


@pytest.mark.slow
@pytest.mark.browser
def test_a_lasso_selects_without_moving_anything_and_escape_lets_go(stage: Stage) -> None:
    stage.open("q=17")
    camera = stage.camera
    box = stage.page.locator("canvas.points").bounding_box()
    assert box
    x, y = box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.35
    turn = np.linspace(0, 2 * np.pi, 60)
    before = stage.page.locator("canvas.points").screenshot()
    stage.page.keyboard.press("l")
    assert stage.page.get_by_role("button", name="Lasso L").get_attribute("aria-pressed") == "true"
    drag(stage, [(x + 130 * float(np.cos(t)), y + 100 * float(np.sin(t))) for t in turn])
    counts = stage.js(f"{CHANNEL}.state.counts")
    assert (counts["selectedTrain"], counts["selectedTest"]) == held(stage)
    assert counts["selectedTrain"] > 100
    assert (counts["shownTrain"], counts["shownTest"]) == (N_TRAIN, N_TEST)
    corners = len(stage.js(f"{CHANNEL}.state.selection.polygon"))
    assert 10 < corners <= 64
    total = counts["selectedTrain"] + counts["selectedTest"]
    stage.page.locator(".selected").get_by_text(f"{total} selected").wait_for()
    stage.page.wait_for_timeout(200)
    assert stage.page.locator("canvas.points").screenshot() != before  # the others are dimmed
    assert (stage.camera, stage.state["query"]) == (camera, 17)
    assert stage.page.get_by_role("button", name="Lasso L").get_attribute("aria-pressed") == "false"
    stage.page.keyboard.press("Escape")
    assert stage.js(f"{CHANNEL}.state.selection") is None
    assert stage.page.locator(".selected").is_hidden()
    assert stage.js(f"{CHANNEL}.state.counts.selectedTrain") == 0


@pytest.mark.slow
@pytest.mark.browser
def test_shift_and_drag_is_a_box_and_escape_while_drawing_draws_nothing(stage: Stage) -> None:
    stage.open("q=17")
    camera = stage.camera
    box = stage.page.locator("canvas.points").bounding_box()
    assert box
    corner = (box["x"] + 200, box["y"] + 150)
    stage.page.keyboard.down("Shift")
    drag(stage, [corner, (corner[0] + 100, corner[1] + 90), (corner[0] + 260, corner[1] + 180)])
    stage.page.keyboard.up("Shift")
    selection = stage.js(f"{CHANNEL}.state.selection")
    assert len(selection["polygon"]) == 4
    counts = stage.js(f"{CHANNEL}.state.counts")
    assert (counts["selectedTrain"], counts["selectedTest"]) == held(stage)
    assert stage.camera == camera
    stage.page.get_by_role("button", name="Clear Esc").click()
    assert stage.js(f"{CHANNEL}.state.selection") is None
    stage.page.keyboard.press("b")
    stage.page.mouse.move(*corner)
    stage.page.mouse.down()
    stage.page.mouse.move(corner[0] + 90, corner[1] + 90)
    stage.page.keyboard.press("Escape")
    stage.page.mouse.up()
    assert stage.js(f"{CHANNEL}.state.selection") is None
    drag(stage, [corner, (corner[0] + 40, corner[1] + 30)])  # the tool is laid down: this is a pan
    assert stage.js(f"{CHANNEL}.state.selection") is None
    assert stage.camera != camera


@pytest.mark.slow
@pytest.mark.browser
def test_two_fingers_zoom_and_one_draws(browser: Browser, server: str) -> None:
    with staged(browser, server, has_touch=True) as stage:
        stage.open("q=17")
        box = stage.page.locator("canvas.points").bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        hand = stage.page.context.new_cdp_session(stage.page)

        def touch(kind: str, *fingers: tuple[float, float]) -> None:
            points = [{"x": fx, "y": fy, "id": n} for n, (fx, fy) in enumerate(fingers)]
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (x - 50, y), (x + 50, y))
        for step in range(1, 6):
            touch("touchMove", (x - 50 - 10 * step, y), (x + 50 + 10 * step, y))
        touch("touchEnd")
        assert stage.camera["k"] == pytest.approx(2, rel=0.1)
        stage.page.get_by_role("button", name="Box B").tap()
        touch("touchStart", (x - 100, y - 100))
        touch("touchMove", (x, y))
        touch("touchMove", (x + 100, y + 100))
        touch("touchEnd")
        assert len(stage.js(f"{CHANNEL}.state.selection.polygon")) == 4


@pytest.mark.slow
@pytest.mark.browser
def test_each_color_mode_names_what_its_colors_mean(stage: Stage) -> None:
    stage.open("q=17")
    legend, camera = stage.page.locator(".ie-map .colors"), stage.camera
    height = stage.page.locator("canvas.points").evaluate("one => one.clientHeight")
    shots = {stage.page.locator("canvas.points").screenshot()}
    said = {
        "label": [*"0123456789"], "prediction": [*"0123456789"], "outcome": ["predicted rightly", "predicted wrongly"],
        "self-influence": ["0.5", "64, 2 (median)", "by rank"], "split": ["training", "test"],
    }  # fmt: skip
    for mode, words in said.items():
        publish(stage, color=mode)
        stage.page.wait_for_timeout(150)
        for word in words:
            assert word in legend.inner_text(), mode
        shots.add(stage.page.locator("canvas.points").screenshot())
    assert len(shots) == 1 + len(said)
    numbered = stage.js(f"{CHANNEL}.view.drawn.numbered")
    assert numbered == 20  # those of the prediction stay on top
    publish(stage, color="influence")
    stage.page.get_by_text("clipped at the 99.5th percentile").wait_for()
    assert stage.camera == camera
    assert stage.page.locator("canvas.points").evaluate("one => one.clientHeight") == height


@pytest.mark.slow
@pytest.mark.browser
def test_the_card_shows_a_picture_after_a_rest_and_a_pointed_point_a_halo(stage: Stage) -> None:
    stage.open("q=17")
    camera = stage.camera
    stage.page.evaluate("document.fonts.ready")
    redrawn(stage, lambda: publish(stage, pointed=41))
    redrawn(stage, lambda: publish(stage, pointed=-1))
    before = stage.page.locator("canvas.marks").evaluate("one => one.toDataURL()")
    redrawn(stage, lambda: publish(stage, pointed=40))
    assert stage.page.locator("canvas.marks").evaluate("one => one.toDataURL()") != before
    redrawn(stage, lambda: publish(stage, pointed=-1))
    assert stage.page.locator("canvas.marks").evaluate("one => one.toDataURL()") == before
    assert stage.camera == camera
    wrong = stage.find(WRONG)
    stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(argument)", N_TRAIN + wrong))
    image = stage.page.locator(".card img")
    image.wait_for()
    stage.page.wait_for_function(
        "[...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')].some((host) => "
        "host.shadowRoot.querySelector('.card img')?.naturalWidth > 0)"
    )
    assert f"/thumb/test/{wrong}.png" in (image.get_attribute("src") or "")
    run = synthetic.made(RUN)
    said = f"says {run.predictions[wrong]}, labeled {run.classes[N_TRAIN + wrong]} ✗"
    assert said in stage.page.locator(".card").inner_text()


# ---- the address ----


def address(stage: Stage) -> str:
    return stage.js("window.location.search")


@pytest.mark.slow
@pytest.mark.browser
def test_the_camera_is_in_the_address_and_comes_back_from_it(stage: Stage) -> None:
    stage.open("q=17&other=a%3Ab,c")
    stage.js("window.history.replaceState({ kept: 1 }, '')")
    stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(40)"))
    stage.page.mouse.wheel(0, -400)
    stage.until(f"{CHANNEL}.view.camera.k > 1 && window.location.search.includes('camera=')")
    assert address(stage).startswith("?q=17&other=a%3Ab,c&camera=")
    assert stage.js("window.history.state") == {"kept": 1}
    camera, link = stage.camera, address(stage)
    stage.page.goto(f"{stage.url}/{link}")
    stage.until(f"{CHANNEL}?.view?.lastDraw > 0")
    for name in "xyk":
        assert stage.camera[name] == pytest.approx(camera[name], rel=1e-3, abs=1e-3)
    stage.page.keyboard.press("0")
    stage.until("!window.location.search.includes('camera')")
    assert address(stage) == "?q=17&other=a%3Ab,c"


@pytest.mark.slow
@pytest.mark.browser
def test_the_back_button_brings_the_camera_back_and_another_run_is_left_alone(stage: Stage) -> None:
    stage.open("q=17&camera=0.1,-0.2,3")
    assert stage.camera == {"x": 0.1, "y": -0.2, "k": 3}
    stage.js(
        "window.history.pushState({}, '', window.location.search.replace('camera=0.1,-0.2,3', 'camera=0%2C0%2C2'))"
    )
    stage.page.keyboard.press("+")
    stage.until("window.location.search.includes('4.5')")
    stage.page.go_back()
    stage.until(f"{CHANNEL}.view.camera.k === 3")
    assert stage.camera == {"x": 0.1, "y": -0.2, "k": 3}
    stage.js("window.history.pushState({}, '', '?q=17&run=another')")
    stage.page.keyboard.press("-")
    stage.page.wait_for_timeout(700)
    assert address(stage) == "?q=17&run=another"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("text", ["", "1,2", "1,2,x", "NaN,0,1", "0,0,-3", "0,0,0", "1,2,3,4", "Infinity,0,2", "0,,2"])
def test_a_camera_that_is_none_is_home(stage: Stage, text: str) -> None:
    stage.open(f"q=17&camera={text}")
    assert stage.camera == {"x": 0, "y": 0, "k": 1}


# ---- the picture to save ----


@pytest.mark.slow
@pytest.mark.browser
def test_the_saved_picture_shows_the_map_and_says_what_it_is(stage: Stage) -> None:
    stage.open("q=17")
    width, height = stage.page.locator("canvas.points").evaluate("one => [one.width, one.height]")
    with stage.page.expect_download() as waiting:
        stage.page.get_by_role("button", name="PNG").click()
    assert waiting.value.suggested_filename == f"{RUN}-test-00017-map.png"
    saved = Image.open(waiting.value.path())
    assert saved.size[0] == width
    assert height + 40 < saved.size[1] < height + 200
    pixels = np.asarray(saved.convert("RGB"), dtype=int)
    picture, words = pixels[:height], pixels[height:]
    red, blue = picture[..., 0], picture[..., 2]
    assert ((blue - red) > 70).sum() > 100
    assert ((red - blue) > 70).sum() > 100
    assert (words.sum(axis=2) < 400).sum() > 500  # dark ink on the light theme's ground
    again = stage.js(f"{CHANNEL}.view.png().then((blob) => blob.arrayBuffer()).then((all) => [...new Uint8Array(all)])")
    assert Image.open(BytesIO(bytes(again))).size == saved.size


@pytest.mark.slow
@pytest.mark.browser
def test_a_large_map_is_whole_at_rest_and_says_so_until_then(browser: Browser, server: str) -> None:
    with staged(browser, server) as stage:
        stage.open("n=120000&m=3000&kind=table&q=17")
        stage.until(f"{CHANNEL}.view.drawn.train === 120000 && {CHANNEL}.view.drawn.test === 3000")
        stage.page.get_by_text("123,000 of 123,000 points shown").wait_for()
        assert stage.page.get_by_role("button", name="Density D").get_attribute("aria-pressed") == "true"
        stage.page.mouse.move(*stage.js(f"{CHANNEL}.view.screenOf(100)"))
        for _ in range(4):
            stage.page.mouse.wheel(0, -120)
            said = stage.js(f"({{ drawn: {CHANNEL}.view.drawn, whole: {CHANNEL}.view.lastWhole }})")
            assert said["drawn"]["train"] <= 120_000
        stage.until(f"{CHANNEL}.view.drawn.train === 120000 && {CHANNEL}.view.lastWhole > {said['whole']}")
        stage.page.get_by_text("in view").wait_for()
        assert "% drawn" not in stage.page.inner_text("[data-show=shown]")
