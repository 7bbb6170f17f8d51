"""The Memorized page in a real browser: examples open by key and by click, and everyone can use what opens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.ui.test_access import WAIT_MS, graves, visited
from tests.ui.test_access import address as address
from tests.ui.test_access import browser as browser
from tests.ui.test_access import digits as digits

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
TILE = ".ix-example[role=button]"


@pytest.mark.slow
def test_an_example_opens_by_key_closes_and_is_found_on_the_map(browser: Browser, address: str) -> None:
    with visited(browser, f"{address}/memorized", TILE) as page:
        tile = page.locator(TILE).first
        name = tile.locator(".ix-id").inner_text()
        tile.focus()
        page.keyboard.press("Enter")
        page.locator(".ix-card").get_by_text(name).wait_for(timeout=WAIT_MS)
        page.get_by_text("Nearest training examples of").wait_for(timeout=WAIT_MS)
        assert graves(page) == []
        page.get_by_role("button", name="Close").click()
        page.get_by_text("By class").wait_for(timeout=WAIT_MS)
        tile.click()
        page.get_by_role("link", name="See it on the map").click()
        page.wait_for_function(
            "name => location.pathname === '/' && new URL(location).searchParams.get('row') === name",
            arg=name,
            timeout=WAIT_MS,
        )


def test_what_is_opened_from_far_below_comes_into_view(browser: Browser, address: str) -> None:
    with visited(browser, f"{address}/memorized", TILE) as page:
        tile = page.locator(TILE).last
        name = tile.locator(".ix-id").inner_text()
        tile.scroll_into_view_if_needed()
        assert page.evaluate("document.querySelector('.ix-counts').getBoundingClientRect().bottom") < 0
        tile.click()
        card = page.locator(".ix-card", has_text=name)
        card.wait_for(timeout=WAIT_MS)
        page.wait_for_function(
            """() => {
              const { top } = document.querySelector('.st-key-ix-opened').getBoundingClientRect();
              return top > 0 && top < innerHeight / 2;
            }""",
            timeout=WAIT_MS,
        )


@pytest.mark.slow
def test_a_slider_moves_the_counts_by_key(browser: Browser, address: str) -> None:
    with visited(browser, f"{address}/memorized", TILE) as page:
        counts = page.locator(".ix-counts")
        before = counts.inner_text()
        page.get_by_role("slider", name="Suspect above z").focus()
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
        page.wait_for_function(
            "before => document.querySelector('.ix-counts').innerText !== before", arg=before, timeout=WAIT_MS
        )
        page.wait_for_url(re.compile(r"[?&]suspect="))
        moved, link = counts.inner_text(), page.url
        page.go_back()
        page.wait_for_function(
            "moved => document.querySelector('.ix-counts').innerText !== moved", arg=moved, timeout=WAIT_MS
        )
        page.goto(link)
        page.wait_for_function(
            "moved => document.querySelector('.ix-counts')?.innerText === moved", arg=moved, timeout=WAIT_MS
        )
        page.get_by_role("button", name="Back to the run’s own thresholds").click()
        page.wait_for_function(
            "before => document.querySelector('.ix-counts').innerText === before", arg=before, timeout=WAIT_MS
        )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["Groups", "Agreement of scores", "Clean in rounds"])
def test_every_part_can_be_used_by_everyone(browser: Browser, address: str, part: str) -> None:
    with visited(browser, f"{address}/memorized", TILE) as page:
        page.get_by_role("radio", name=part).or_(page.get_by_role("button", name=part, exact=True)).first.click()
        signs = {
            "Groups": "flagged examples",
            "Agreement of scores": "What each score is",
            "Clean in rounds": "Start cleaning",
        }
        page.get_by_text(signs[part]).first.wait_for(timeout=WAIT_MS)
        assert graves(page) == []
