"""Can everyone use the pages? axe-core on every page in both themes, names of controls, focus, and the way of the Tab key.

axe-core comes with axe-playwright-python. What it calls serious or critical fails; `NOT_OURS` says what is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from explorer.contracts import Recipe
from explorer.jobs.planning import Request
from explorer.store import Run
from tests.conftest import compute
from tests.ui import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
SERVER = Path(__file__).resolve().parents[2] / "explorer" / "ui" / "server.py"
BARS = Path(__file__).parent / "harness" / "bar_app.py"
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
WAIT_MS = 60_000
NOT_OURS: dict[str, str] = {}
"""Selector of what is Streamlit's own: why it is left out."""
GRAVE = {"serious", "critical"}
DEEP = """(() => {
  const found = [];
  const walk = (root) => {
    for (const one of root.querySelectorAll("*")) {
      found.push(one);
      if (one.shadowRoot) walk(one.shadowRoot);
    }
  };
  walk(document);
  return found;
})()"""
"""Every element of the page, inside components too."""
FOCUSED = """(() => {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  return at;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Images with planted faults; a few predictions explained."""
    request = Request("digits", flip=0.08, duplicate=0.02, recipe=Recipe(epochs=3), queries=20)
    return compute(tmp_path_factory.mktemp("access"), request)


@pytest.fixture(scope="module")
def address(digits: Run) -> Iterator[str]:
    with chromium.serve(SERVER, env={"EXPLORER_RUNS": str(digits.path.parent)}) as url:
        yield url


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium.serve(SERVER, env={"EXPLORER_RUNS": str(tmp_path_factory.mktemp("empty"))}) as url:
        yield url


@pytest.fixture(scope="module")
def bars() -> Iterator[str]:
    with chromium.serve(BARS) as url:
        yield url


@contextmanager
def visited(browser: Browser, url: str, sign: str, **context: Any) -> Iterator[Page]:
    """The page once `sign` is on it and nothing is running any more."""
    session = browser.new_context(viewport={"width": 1400, "height": 900}, **context)
    try:
        page = session.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(url)
        page.wait_for_selector(sign)
        page.wait_for_function(
            "!document.querySelector('[data-testid=stStatusWidget], [data-testid=stSkeleton], [data-stale=true]')"
        )
        yield page
    finally:
        session.close()


def graves(page: Page) -> list[str]:
    """What axe-core finds serious or critical: rule, element and how to mend it."""
    if importlib.util.find_spec("axe_playwright_python") is None:
        chromium.unavailable("axe-core is not installed (pip install axe-playwright-python).")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context={"exclude": [[selector] for selector in NOT_OURS]} if NOT_OURS else None)
    assert len(found.response["passes"]) > 5  # it did look
    return [
        f"{fault['id']} ({fault['impact']}): {node['target']} {node['html'][:200]} {node.get('failureSummary', '')}"
        for fault in found.response["violations"]
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]


EXPLORE = ("/", ".ie-list .row")
PAGES = (
    EXPLORE,
    ("/memorized", ".js-plotly-plot"),
    ("/laboratory", "text=What does one sample teach?"),
    ("/runs", ".ix-run"),
)


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("path", "sign"), PAGES)
def test_axe_finds_nothing_grave(browser: Browser, address: str, path: str, sign: str, scheme: Any) -> None:
    with visited(browser, address + path, sign, color_scheme=scheme) as page:
        if (path, sign) == EXPLORE:
            page.wait_for_function(f"{CHANNEL}?.view?.lastDraw > 0")
        assert graves(page) == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_grave_on_the_page_without_runs(browser: Browser, empty: str, scheme: Any) -> None:
    with visited(browser, empty, "text=No runs yet", color_scheme=scheme) as page:
        assert graves(page) == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_grave_in_what_opens(browser: Browser, bars: str, scheme: Any) -> None:
    """The class picker, a filter at work, a pinned prediction, and the list of keys."""
    with visited(browser, f"{bars}/?many=1", ".ie-list .row", color_scheme=scheme) as page:
        row = "{ row: { scale: 0.5, towards: [], away: [], values: Int8Array.from({ length: 1500 }, (_, i) => i % 255 - 127) } }"
        page.evaluate(f"{CHANNEL}.publish({row}, 'map')")
        page.keyboard.press("p")
        page.locator(".ie-bar .classes").click()
        page.locator(".choices label").first.click()
        assert page.locator(".popover").is_visible()
        assert graves(page) == []
        page.keyboard.press("Escape")
        page.locator(".ie-list .box").focus()
        page.keyboard.press("?")
        page.get_by_role("dialog", name="Keys").wait_for()
        assert graves(page) == []


def test_axe_finds_a_planted_fault(browser: Browser, bars: str) -> None:
    """The check can fail: a control without a name inside a component is found."""
    with visited(browser, bars, ".ie-bar") as page:
        page.locator(".ie-bar").evaluate("bar => { bar.appendChild(document.createElement('select')); }")
        assert [fault for fault in graves(page) if fault.startswith("select-name (critical)")]


def test_every_control_has_a_name(browser: Browser, address: str) -> None:
    with visited(browser, address, ".ie-list .row") as page:
        nameless = page.evaluate(f"""{DEEP}
          .filter((one) => one.matches("button, input, select, [role=button], [role=slider], [role=listbox]") && one.checkVisibility())
          .filter((one) => !(one.innerText || one.getAttribute("aria-label") || one.labels?.[0]?.innerText
            || (one.getAttribute("aria-labelledby") || "").split(" ").some((id) => one.getRootNode().getElementById(id)?.innerText)
            || "").trim())
          .map((one) => one.outerHTML.slice(0, 200))""")
        assert nameless == []


def test_the_focus_is_seen_on_every_control_of_ours(browser: Browser, address: str) -> None:
    """Each control of the components, reached by key, has an outline that is not the one it has at rest."""
    with visited(browser, address, ".ie-list .row") as page:
        page.keyboard.press("Tab")  # the browser shows focus from now on, as for someone at the keyboard
        seen = page.evaluate(f"""{DEEP}
          .filter((one) => one.closest(".ie") && one.matches("button, input, select, [tabindex='0']"))
          .filter((one) => one.checkVisibility() && !one.disabled)
          .map((one) => {{
            one.focus({{ focusVisible: true }});
            const {{ outlineStyle, outlineWidth }} = getComputedStyle(one);
            return [one.outerHTML.slice(0, 160), outlineStyle, parseFloat(outlineWidth)];
          }})""")
        assert len(seen) > 10
        assert [one for one in seen if one[1] != "solid" or one[2] < 2] == []


def test_the_tab_key_reaches_bar_list_map_and_panel(browser: Browser, address: str) -> None:
    with visited(browser, address, ".ie-list .row") as page:
        page.wait_for_selector(".ie-bar")
        page.wait_for_selector(".ix-card")
        reached: list[str] = []
        for _ in range(120):
            page.keyboard.press("Tab")
            part = page.evaluate(f"""(() => {{
              const at = {FOCUSED};
              const part = ["bar", "list", "map"].find((name) => at?.closest(`.ie-${{name}}`));
              return part ?? (at?.closest("[class*='st-key-answer']") ? "panel" : "");
            }})()""")
            if part and part not in reached:
                reached.append(part)
        assert sorted(reached) == ["bar", "list", "map", "panel"]
        assert reached.index("bar") < reached.index("map")
        assert reached.index("list") < reached.index("map") < reached.index("panel")
