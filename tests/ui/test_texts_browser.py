"""A run of sequences in a real browser: a prediction is chosen by its words, and texts are read where a point is pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from explorer.store import Run
from tests.ui import chromium, texts
from tests.ui.test_access import CHANNEL, SERVER, WAIT_MS, graves, visited
from tests.ui.test_access import browser as browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
ROW = ".ie-list .row"


@pytest.fixture
def run(sequences: Run) -> Run:
    return sequences


@pytest.fixture(scope="module")
def address(sequences: Run) -> Iterator[str]:
    with chromium.serve(SERVER, env={"EXPLORER_RUNS": str(sequences.path.parent)}) as url:
        yield url


def card_shows(page: Page, words: str) -> None:
    """Wait until the first card has these words."""
    page.wait_for_function(
        "words => document.querySelector('.ix-card')?.innerText.includes(words)", arg=words, timeout=WAIT_MS
    )


def state(page: Page, name: str) -> Any:
    return page.evaluate(f"{CHANNEL}.state.{name}")


def test_a_prediction_is_chosen_and_found_by_its_words(browser: Browser, address: str, run: Run) -> None:
    queries, test = run.table("queries"), run.table("texts-test")
    with visited(browser, address, ROW) as page:
        other = queries.iloc[3]
        row = page.locator(f"#row-{other['row']}")
        assert other["label"] in (row.get_attribute("title") or "")
        assert test["prompt"][other["row"]] in (row.get_attribute("title") or "")
        row.click()
        card_shows(page, other["id"])
        card = page.locator(".ix-card").first
        assert test["prompt"][other["row"]].strip() in card.inner_text()
        assert f"✗ the model says {other['prediction']}" in card.inner_text().replace(" ∅", "")
        page.wait_for_function("id => new URL(location).searchParams.get('query') === id", arg=other["id"])
        for word in ("otter", "river bank", "nothing had changed"):
            page.locator(".ie-list input").fill(word)
            expected = [
                int(one.row)
                for one in queries.itertuples()
                if all(
                    part in f"{one.id} {one.label} {one.prediction} {test['prompt'][one.row]}".lower()
                    for part in word.split()
                )
            ]
            assert 0 < len(expected) < len(queries)
            page.wait_for_function(f"expected => {CHANNEL}.state.order.length === expected", arg=len(expected))
            assert state(page, "order") == expected
        page.locator(".ie-list input").fill("no such words")
        page.get_by_text("in its id, prompt, continuation or answer").wait_for()
        assert page.evaluate("window.__pwned") is None


def test_a_link_opens_a_prediction_and_an_example_with_their_texts(browser: Browser, address: str, run: Run) -> None:
    query, train = run.table("queries").iloc[5], run.table("texts-train")
    link = f"{address}/?run={run.key}&query={query['id']}&row=train-3&part=Edit&color=label"
    with visited(browser, link, ROW) as page:
        card_shows(page, query["id"])
        drawer = page.locator(".st-key-ix-drawer")
        drawer.get_by_text("Which predictions does it help and hurt?").wait_for(timeout=WAIT_MS)
        shown = drawer.locator(".ix-card").inner_text()
        assert all(train[name][3] in shown for name in ("prompt", "continuation"))
        assert state(page, "color") == "influence"
        offered = page.locator(".ie-bar select option").all_inner_texts()
        assert offered == ["influence", "outcome", "self-influence", "split"]
        assert not page.locator(".ie-bar .classes").is_visible()
        assert page.evaluate("window.__pwned") is None


def test_the_card_of_a_point_says_its_text(browser: Browser, address: str, run: Run) -> None:
    train, queries = run.table("texts-train"), run.table("queries")
    with visited(browser, address, ROW) as page:
        page.wait_for_function(f"{CHANNEL}?.view?.lastDraw > 0")
        box = page.locator("canvas.points").bounding_box()
        assert box is not None
        places = page.evaluate(f"Array.from({{ length: 180 }}, (_, i) => {CHANNEL}.view.screenOf(i))")
        for kind, first in (("Training", 0), ("Test", texts.N_TRAIN)):
            point = most_alone(places, range(first, first + 60))
            page.mouse.move(*places[point])
            page.locator(".ie-map .card .passage").wait_for(timeout=WAIT_MS)
            card = page.locator(".ie-map .card")
            assert card.inner_text().startswith(f"{kind} row {point - first}")
            prompt, continuation = (
                train.iloc[point]
                if kind == "Training"
                else (
                    run.table("texts-test")["prompt"][point - first],
                    queries.set_index("row")["label"][point - first],
                )
            )
            passage = page.locator(".ie-map .card .passage").inner_text()
            assert "the model says" in card.inner_text()
            assert passage.endswith(continuation)
            assert prompt.endswith(passage.removesuffix(continuation).strip().removeprefix("…"))
            place = card.bounding_box()
            assert place is not None
            assert place["x"] >= box["x"]
            assert place["x"] + place["width"] <= box["x"] + box["width"]
            page.mouse.move(box["x"] + 3, box["y"] + 3)
            card.wait_for(state="hidden")


def most_alone(places: list[list[float]], among: range) -> int:
    """The point that is farthest from all others."""

    def nearest(i: int) -> float:
        return min((places[i][0] - x) ** 2 + (places[i][1] - y) ** 2 for j, (x, y) in enumerate(places) if j != i)

    return max(among, key=nearest)


LONG = (f"/?query=test-{texts.LONG}", ".ix-card .ix-prompt[tabindex]")
"""The Explore page with a prompt that has to be scrolled."""


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("path", "sign"), [LONG, pytest.param("/memorized", ".ix-example .ix-passage", marks=pytest.mark.slow)]
)
def test_axe_finds_nothing_grave(browser: Browser, address: str, path: str, sign: str, scheme: Any) -> None:
    with visited(browser, address + path, sign, color_scheme=scheme) as page:
        if (path, sign) == LONG:
            page.wait_for_selector(".ix-tile .ix-passage")
            prompt = page.locator(sign).first
            assert prompt.evaluate("(one) => one.scrollHeight > one.clientHeight")
            card, end = (
                page.locator(f".ix-card {part}").first.bounding_box() for part in (".ix-prompt", ".ix-prompt > div")
            )
            assert card is not None
            assert end is not None
            assert abs(end["y"] + end["height"] - card["y"] - card["height"]) < 1  # its end is in sight
            assert page.locator(".ix-card .ix-asked").first.is_visible()
        assert graves(page) == []
