"""The part "Selection" in a real browser: it counts what the map counts, and its tiles can be clicked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from explorer.store import Run
from tests.ui import chromium
from tests.ui.conftest import Finished
from tests.ui.test_app import CHANNEL, opened, visit
from tests.ui.test_special import BOX, words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def address(finished: Finished) -> Iterator[str]:
    with opened(Run.at(finished.digits), chromium.free_port()) as url:
        yield url


def link(address: str, **more: str) -> str:
    return f"{address}&{urlencode({'part': 'Selection', 'map': 'pca', **more})}"


def head(page: Page) -> str:
    """The first line of the part, once it is there."""
    return words(page.locator(".ix-selected").inner_html())


@pytest.mark.parametrize("filtered", ["", "classes:1.3.5,right,towards"])
def test_a_link_with_a_selection_counts_the_same_points_as_the_map(
    browser: Browser, address: str, filtered: str
) -> None:
    with visit(browser, link(address, select=BOX.text(), filter=filtered)) as page:
        shown = head(page)
        page.wait_for_function(
            f"() => window.__influenceExplorer && {CHANNEL}?.state.counts?.selected && {CHANNEL}.state.row"
        )
        counts = page.evaluate(f"() => {CHANNEL}.state.counts")
        numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", shown)]
        wanted = [counts["selectedTrain"], counts["train"], counts["selectedTest"], counts["test"]]
        assert numbers[:4] == wanted
        assert min(counts["selectedTrain"], counts["selectedTest"]) > 0
        assert numbers[4:] == ([counts["shownTrain"], counts["shownTest"]] if filtered else [])


def test_a_member_points_at_the_map_and_a_test_member_is_explained(browser: Browser, address: str) -> None:
    with visit(browser, link(address, select=BOX.text())) as page:
        member = page.locator("[data-inspect][data-point]").first
        member.hover()
        page.wait_for_function(
            f"point => {CHANNEL}.state.pointed === point", arg=int(member.get_attribute("data-point") or -1)
        )
        prediction = page.locator(".ix-items [data-query]").last
        row = int(prediction.get_attribute("data-query") or -1)
        prediction.click()
        page.wait_for_function(f"row => {CHANNEL}.state.query === row", arg=row)


def test_without_a_selection_it_says_how_to_select(browser: Browser, address: str) -> None:
    with visit(browser, link(address, select="umap:nonsense")) as page:
        page.get_by_text("Nothing is selected.").wait_for()
    with visit(browser, link(address, select=BOX.text().replace("pca", "umap"))) as page:
        page.get_by_text("The selection was drawn on the map UMAP").wait_for()
