"""The product as a user meets it: `explorer open` in a real browser, from first paint to killed servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import psutil
import pytest

import explorer
from explorer import jobs, shown
from explorer.contracts import Recipe
from explorer.jobs.pipeline import STAGES
from explorer.jobs.planning import Request, plan
from explorer.store import Run, create
from tests.conftest import compute
from tests.ui import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
WAIT_MS = 60_000
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Images, with wrong predictions and planted faults; the first 40 predictions explained."""
    root = tmp_path_factory.mktemp("app")
    return compute(root, Request("digits", flip=0.08, recipe=Recipe(epochs=6), queries=40))


@contextmanager
def opened(run: Run, port: int) -> Iterator[str]:
    """`explorer open RUN`; yields the address it prints, and ends it with its server."""
    command = [sys.executable, "-P", "-m", "explorer", "open", str(run.path), "--no-browser", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "is open at http://localhost:" in line
        yield line.split(" at ")[1].split()[0]
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in family:
            one.terminate()
        psutil.wait_procs(family, timeout=10)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def address(digits: Run) -> Iterator[str]:
    with opened(digits, chromium.free_port()) as url:
        yield url


@contextmanager
def visit(browser: Browser, url: str, expected: str = "nothing", **context: Any) -> Iterator[Page]:
    """A page that logged no error (but the expected one) and asked nobody but the server."""
    session = browser.new_context(viewport={"width": 1400, "height": 900}, **context)
    page = session.new_page()
    page.set_default_timeout(WAIT_MS)
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    outside = [one for one in asked if "localhost" not in one and not one.startswith(("data:", "blob:"))]
    session.close()
    assert not outside
    assert not [error for error in errors if expected not in error]


def card(page: Page) -> str:
    """The text of the query's card."""
    return page.locator(".ix-card").first.inner_text()


def card_shows(page: Page, words: str) -> None:
    """Wait until the card has these words."""
    page.wait_for_function("words => document.querySelector('.ix-card')?.innerText.includes(words)", arg=words)


def test_the_page_opens_with_the_worst_mistake_explained(browser: Browser, address: str, digits: Run) -> None:
    worst = digits.table("queries").iloc[0]
    with visit(browser, address) as page:
        card_shows(page, worst["id"])
        assert f"✗ says {worst['prediction']}, labeled {worst['label']}" in card(page)
        top = digits.top(int(worst["row"]), "label")
        assert top is not None
        ids = digits.table("train")["id"]
        shown = page.locator(".ix-tile .ix-label")
        titles = [shown.nth(k).get_attribute("title") for k in range(shown.count())]
        assert titles == [*ids[top.towards[:10]], *ids[top.away[:10]]]
        assert page.locator(".ix-towards b").first.inner_text().startswith("+")
        assert page.locator(".ix-away b").first.inner_text().startswith("−")
        assert page.locator(".ix-trust").inner_text()
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0")
        assert f"query={worst['id']}" in page.url
        assert "target=label" in page.url


def test_keys_change_the_answer_and_leave_the_camera(browser: Browser, address: str, digits: Run) -> None:
    first, second = digits.table("queries")["id"][:2]
    with visit(browser, address) as page:
        card_shows(page, first)
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0")
        page.wait_for_selector(".ie-list .row")
        box = page.locator(".ie-map canvas.points").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(300)
        zoomed = page.evaluate(f"JSON.stringify({CHANNEL}.view.camera)")
        page.keyboard.press("ArrowDown")
        card_shows(page, second)
        page.wait_for_function(f"new URL(location).searchParams.get('query') === '{second}'")
        assert page.evaluate(f"JSON.stringify({CHANNEL}.view.camera)") == zoomed
        page.wait_for_function("new URL(location).searchParams.has('camera')")  # also after Python wrote the address
        page.go_back()
        card_shows(page, first)


def test_a_click_on_the_map_is_answered_and_the_camera_stays(browser: Browser, address: str, digits: Run) -> None:
    queries = digits.table("queries")
    with visit(browser, address) as page:
        card_shows(page, queries["id"][0])
        page.wait_for_selector(".ie-list .row")
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0")
        camera = page.evaluate(f"JSON.stringify({CHANNEL}.view.camera)")
        first = digits.meta().train
        for row in queries["row"][1:40]:  # a point may lie under another: take the first that answers
            x, y = page.evaluate(f"{CHANNEL}.view.screenOf({first + row})")
            page.mouse.click(x, y)
            page.wait_for_timeout(150)
            chosen = page.evaluate(f"{CHANNEL}.state.query")
            if chosen != queries["row"][0]:
                break
        card_shows(page, queries.set_index("row").loc[chosen, "id"])
        assert page.evaluate(f"JSON.stringify({CHANNEL}.view.camera)") == camera


def test_other_pages_keep_the_run_and_the_choice(browser: Browser, address: str, digits: Run) -> None:
    create(digits.path.parent, plan(Request("wine", recipe=Recipe(epochs=1))))  # a newer run, which is not the choice
    third = digits.table("queries")["id"][2]
    with visit(browser, f"{address}&query={third}", expected="404 (Not Found)") as page:
        card_shows(page, third)
        page.get_by_role("link", name="Memorized").click()
        page.get_by_text("training examples are suspect").wait_for()
        page.get_by_role("link", name="Explore").click()
        card_shows(page, third)
        assert digits.key in page.url


def test_the_link_restores_run_query_and_target(browser: Browser, address: str, digits: Run) -> None:
    queries = digits.table("queries")
    wrong = queries[queries["wrong"]].iloc[1]
    with visit(browser, f"{address}&query={wrong['id']}&target=prediction") as page:
        card_shows(page, wrong["id"])
        assert f"log p({wrong['prediction']}), the model's own answer" in card(page)
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0")
        page.get_by_role("button", name="given label").click()
        card_shows(page, f"log p({wrong['label']}), the given label")
        page.wait_for_function("new URL(location).searchParams.get('target') === 'label'")


def selected_by_python(page: Page, run: Run) -> dict[str, int]:
    """How many points the address selects, counted without the browser."""
    said = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
    row = run.test_row(said["query"])
    kept, chosen = shown.Filter.parse(said.get("filter")), shown.Selection.parse(said.get("select"))
    mask = shown.shown(run, kept, chosen, run.row(row, "label"))
    train = run.meta().train
    return {"selectedTrain": int(mask[:train].sum()), "selectedTest": int(mask[train:].sum())}


def test_the_address_restores_everything_and_back_undoes_it(browser: Browser, address: str, digits: Run) -> None:
    first, inspected = digits.table("queries")["id"][0], str(digits.table("train")["id"][5])
    link = f"part=Table&color=label&filter=classes:1.2,right&select=umap:-1,-1;0,-1;0,1;-1,1&row={inspected}"
    with visit(browser, f"{address}&query={first}&target=label&{link}&camera=0.1,0.2,2") as page:
        card_shows(page, first)
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.state.counts?.selectedTrain > 0")
        state = page.evaluate(f"{CHANNEL}.state")
        assert (state["filter"]["classes"], state["filter"]["outcome"], state["color"]) == ([1, 2], "right", "label")
        counts = {name: state["counts"][name] for name in ("selectedTrain", "selectedTest")}
        assert counts == selected_by_python(page, digits)
        camera = page.evaluate(f"{CHANNEL}.view.camera")
        assert [camera["x"], camera["y"], camera["k"]] == pytest.approx([0.1, 0.2, 2])
        page.get_by_text("training examples, strongest").wait_for()
        page.locator(".st-key-ix-drawer").get_by_text(inspected).first.wait_for()
        page.locator(".st-key-ix-drawer").get_by_role("button", name="Close").wait_for()
        page.wait_for_function("document.activeElement?.closest('.st-key-ix-drawer')")  # it listens from here on
        page.keyboard.press("Escape")
        page.locator(".st-key-ix-drawer").wait_for(state="detached")
        page.wait_for_function("!location.search.includes('row=')")
        page.wait_for_function(f"{CHANNEL}.state.inspected === null")  # the page speaks first, the map hears it then
        page.go_back()
        page.locator(".st-key-ix-drawer").get_by_text(inspected).first.wait_for()
        assert page.evaluate("location.search").endswith("camera=0.1,0.2,2") or "camera=0.1%2C0.2%2C2" in page.url


def test_a_box_selects_what_python_counts_and_leaves_the_camera(browser: Browser, address: str, digits: Run) -> None:
    with visit(browser, f"{address}&part=Selection") as page:
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0")
        page.get_by_text("Lasso").first.wait_for()
        camera = page.evaluate(f"JSON.stringify({CHANNEL}.view.camera)")
        box = page.locator(".ie-map .stage").bounding_box()
        assert box is not None
        page.keyboard.press("b")
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.9 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_function("location.search.includes('select=')")
        page.wait_for_function(f"{CHANNEL}.state.counts?.selectedTrain > 0")
        found = page.evaluate(f"{CHANNEL}.state.counts")
        expected = selected_by_python(page, digits)
        assert {name: found[name] for name in expected} == expected
        page.get_by_text("What is special about").first.wait_for()
        assert f"{expected['selectedTrain']:,} of" in page.locator(".ix-selected").first.inner_text()
        assert page.evaluate(f"JSON.stringify({CHANNEL}.view.camera)") == camera
        page.keyboard.press("Escape")
        page.wait_for_function("!location.search.includes('select=')")


def test_what_is_shown_can_be_taken_along(browser: Browser, address: str, digits: Run) -> None:
    first = digits.table("queries")["id"][0]
    with visit(browser, f"{address}&query={first}&target=label&part=Table&filter=wrong,towards") as page:
        page.get_by_text("All that the map shows").click()
        page.get_by_text("shown by filter and selection").wait_for()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save as CSV").click()
        written = pd.read_csv(saved.value.path(), dtype={"id": str})
        expected = explorer.table(digits, first, filter="wrong,towards")
        assert written["id"].tolist() == expected["id"].tolist()
        assert written["influence"].to_numpy() == pytest.approx(expected["influence"].to_numpy(), rel=1e-5)
        assert (
            f"explorer.table('{digits.key}', '{first}', filter='wrong,towards')"
            in page.locator("code").first.inner_text()
        )
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0")
        with page.expect_download() as picture:
            page.locator(".ie-map").get_by_role("button", name="PNG").click()
        assert picture.value.suggested_filename == f"{digits.key}-{first}-map.png"
        assert picture.value.path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_unknown_ids_help_instead_of_breaking(browser: Browser, address: str, digits: Run) -> None:
    with visit(browser, f"{address}&query=<b>nobody</b>") as page:
        page.get_by_text("This run has no test example").wait_for()
        card_shows(page, digits.table("queries")["id"][0])
    with visit(browser, address.split("?")[0] + "?run=nothing") as page:
        page.get_by_text("This run cannot be shown").wait_for()
        page.get_by_role("link", name=digits.key).click()
        card_shows(page, digits.table("queries")["id"][0])


def test_what_no_job_computed_is_answered_on_demand(browser: Browser, address: str, digits: Run) -> None:
    later = digits.table("queries").iloc[60]
    assert digits.top(int(later["row"]), "label") is None
    with visit(browser, f"{address}&query={later['id']}") as page:
        card_shows(page, later["id"])
        page.wait_for_selector(".ix-tile")
        assert page.locator(".ix-tile").count() == 20
        page.wait_for_function(f"{CHANNEL}?.view?.shown === 'label/{later['row']}'")


@pytest.mark.slow
def test_table_examples_are_small_tables_in_both_themes(browser: Browser, wine: Run) -> None:
    with opened(wine, chromium.free_port()) as url:
        backgrounds = []
        for scheme in ("light", "dark"):
            with visit(browser, url, color_scheme=scheme) as page:
                page.wait_for_selector(".ix-tile .ix-values")
                assert page.locator(".ix-tile").first.locator("tr").count() == 3
                assert page.locator(".ix-tile img").count() == 0
                backgrounds.append(page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor"))
        assert backgrounds[0] != backgrounds[1]


def test_without_webgl_there_is_a_smaller_map_and_a_message(address: str, digits: Run) -> None:
    with chromium.open_browser(chromium.NO_WEBGL) as plain, visit(plain, address) as page:
        page.get_by_text("This browser has no WebGL2").wait_for()
        page.wait_for_selector(".js-plotly-plot .scatterlayer")
        assert page.locator(".ix-tile").count() == 20
        page.keyboard.press("ArrowDown")
        card_shows(page, digits.table("queries")["id"][1])


@pytest.mark.slow
def test_a_killed_server_comes_back_with_the_same_view(browser: Browser, digits: Run) -> None:
    port, third = chromium.free_port(), digits.table("queries")["id"][2]
    session = browser.new_context()
    page = session.new_page()
    page.set_default_timeout(WAIT_MS)
    with opened(digits, port) as url:
        page.goto(f"{url}&query={third}")
        card_shows(page, third)
        page.wait_for_selector(".ie-list .row")
        for process in psutil.process_iter(["pid", "cmdline"]):
            if "streamlit" in (process.info["cmdline"] or []) and str(port) in process.info["cmdline"]:
                os.kill(process.info["pid"], signal.SIGKILL)
    gone(port)
    with opened(digits, port):
        fourth = digits.table("queries")["id"][3]

        def answered() -> bool:  # a click in the moment of reconnecting may be lost: one clicks again
            page.locator(".ie-list .row").nth(3).click()
            page.wait_for_timeout(1000)
            return fourth in card(page)

        wait_for(answered)
        assert page.locator(".ix-tile").count() == 20
    session.close()


def gone(port: int) -> None:
    """Wait until nothing answers on the port."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError(f"something still answers on port {port}")


def test_a_running_job_is_shown_survives_a_reload_and_is_cancelled_from_the_page(
    browser: Browser, tmp_path: Path
) -> None:
    run = create(tmp_path, plan(Request("digits", recipe=Recipe(epochs=3000))))
    jobs.start(run)
    with opened(run, chromium.free_port()) as url, visit(browser, url) as page:
        page.get_by_text(f"2/{len(STAGES)} training").wait_for()
        worker = jobs.read_state(run.path).pid
        page.reload()
        page.get_by_text(f"2/{len(STAGES)} training").wait_for()
        assert jobs.read_state(run.path).pid == worker
        page.get_by_role("button", name="Cancel").click()
        wait_for(lambda: jobs.read_state(run.path).state == "cancelled")
        page.get_by_role("button", name="Resume").wait_for()
        page.get_by_text("Cancelled on request").first.wait_for()


def wait_for(reached: Callable[[], bool]) -> None:
    """Wait for something outside the browser."""
    deadline = time.monotonic() + WAIT_MS / 1000
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert reached()


@pytest.mark.parametrize("path", ["points/pca.bin", "influence/label/0.bin", "queries.json", "thumb/test/0.png"])
def test_routes_ask_for_a_token(address: str, digits: Run, path: str) -> None:
    base = address.split("/?")[0]
    for token in ("", "?token=guess"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/api/runs/{digits.key}/{path}{token}")
        assert refused.value.code == 403
        refused.value.close()
