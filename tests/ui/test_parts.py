"""The panel's parts in a real browser: a cell opens its pair, the drawer has name, focus and Esc, an edit is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from explorer.store import Run
from tests.ui import chromium
from tests.ui.conftest import Finished

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
APP = Path(__file__).parent / "harness" / "parts.py"
WAIT_MS = 60_000
CELL = """([x, y]) => {
  const chart = document.querySelector(".js-plotly-plot"), layout = chart._fullLayout, at = chart.getBoundingClientRect();
  return [at.x + layout._size.l + layout.xaxis.d2p(x), at.y + layout._size.t + layout.yaxis.d2p(y)];
}"""


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return Run.at(finished.digits)


@pytest.fixture(scope="module")
def url(run: Run) -> Iterator[str]:
    with chromium.serve(APP, env={"EXPLORER_TEST_RUN": str(run.path)}) as address:
        yield address


@pytest.fixture(scope="module", params=["light", pytest.param("dark", marks=pytest.mark.slow)])
def page(url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    with chromium.open_browser() as browser:
        session = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme=request.param)
        one = session.new_page()
        one.set_default_timeout(WAIT_MS)
        errors: list[str] = []
        one.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        one.on("pageerror", lambda error: errors.append(str(error)))
        one.goto(url)
        one.wait_for_selector(".js-plotly-plot .heatmaplayer")
        yield one
        assert not errors
        session.close()


def focused(page: Page) -> str:
    """The accessible name of what has the focus."""
    return str(page.evaluate("document.activeElement.getAttribute('aria-label')"))


def point_at(page: Page, training: int, test: int) -> None:
    """Move the mouse onto a cell until its hover text is there: Plotly takes clicks on what it hovers."""
    words = f"training examples of {training}on"
    for _ in range(50):
        x, y = page.evaluate(CELL, [test, training])
        page.mouse.move(x + 3, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(100)
        if words in (page.locator(".hoverlayer").text_content() or ""):
            return
    raise AssertionError(f"no hover text with {words!r}")


def test_a_cell_opens_its_pair_and_the_button_filters_to_it(page: Page) -> None:
    for training, test in ((7, 7), (3, 5), (7, 7)):
        point_at(page, training, test)
        page.mouse.down()
        page.mouse.up()
        who = "its own class" if training == test else str(test)
        page.wait_for_selector(f".ix-trust:has-text('A training example of {training}'):has-text('{who} on average')")
    page.get_by_role("button", name="Show only this class").click()
    page.wait_for_selector("text=filter (7,)")


def test_the_drawer_has_name_focus_escape_and_gives_the_focus_back(page: Page, run: Run) -> None:
    tile = page.locator("[data-inspect]").first
    tile.scroll_into_view_if_needed()
    row = int(tile.get_attribute("data-inspect") or -1)
    name = f"Training example {run.table('train')['id'][row]}"
    tile.focus()
    page.keyboard.press("Enter")
    drawer = page.get_by_role("dialog", name=name)
    drawer.wait_for()
    page.wait_for_function("name => document.activeElement.getAttribute('aria-label') === name", arg=name)
    box = drawer.bounding_box()
    assert box is not None
    assert (round(box["x"] + box["width"]), round(box["width"])) == (1400, 380)
    near = drawer.locator("section[aria-label^='Nearest'] [data-inspect]").first
    near.wait_for()
    other = f"Training example {run.table('train')['id'][int(near.get_attribute('data-inspect') or -1)]}"
    near.click()
    page.wait_for_function("name => document.activeElement.getAttribute('aria-label') === name", arg=other)
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert focused(page).startswith("training example")


def test_a_prediction_that_it_helps_is_picked_from_the_drawer(page: Page) -> None:
    page.locator("[data-inspect]").first.click()
    helped = page.get_by_role("dialog").locator("[data-query]").first
    query = helped.get_attribute("data-query")
    helped.click()
    page.wait_for_selector(f"text=query {query},")
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")


def test_two_answers_stand_side_by_side_without_overflow(page: Page) -> None:
    page.get_by_text("Compare", exact=True).click()
    page.locator(".ix-compare").or_(page.get_by_text("is pinned as A")).first.wait_for()
    for side in page.locator(".ix-compare-side").all():
        assert side.evaluate("part => part.scrollWidth <= part.clientWidth + 1")


def test_an_edit_is_answered_by_the_worker(page: Page) -> None:
    page.get_by_text("Edit", exact=True).click()
    page.get_by_text("Nothing is edited yet").wait_for()
    contrast = page.get_by_role("slider").nth(2)
    contrast.focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    page.locator(".ix-edit").wait_for()
    page.wait_for_selector("text=contrast 0.6")
    assert page.locator(".ix-edit img").count() == 2
    assert page.locator(".ix-galleries [data-inspect]").count() > 0
    page.get_by_role("button", name="Reset").click()
    page.get_by_text("Nothing is edited yet").wait_for()
