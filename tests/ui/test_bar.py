"""The filter bar and the list in a real browser: one filter for both, what Python hears of it, and the list of keys.

`harness/bar_page.py` is the page under test. It has no map: `act_as_map` publishes an influence row in its place. Every
test ends by checking that the browser logged no error and asked nobody but the server.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorer.ui.scatter import assets, bar
from tests.ui import chromium
from tests.ui.harness import synthetic

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

HARNESS = Path(__file__).parent / "harness" / "bar_app.py"
ROOM = Path(assets.__file__).parent
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
RUN = "made-1500-300-image"
NOTHING = {
    "classes": None, "outcome": "all", "suspect": False, "sign": "both", "low": None, "high": None, "retrained": False,
}  # fmt: skip
WAIT_MS = 20_000
REST_MS = 700
"""Longer than a change has to rest before Python hears of it."""


# ---- the door, without a browser ----


VIEW = {
    "filter": NOTHING,
    "color": "label",
    "selection": None,
    "inspected": 3,
    "pinned": {"query": 1, "target": "label"},
}


@pytest.mark.parametrize(
    "change",
    [
        {}, {"inspected": None, "pinned": None}, {"selection": {"layout": "umap", "polygon": [[0, 0]] * 64}},
        {"extra": "nobody reads this"},
    ],
)  # fmt: skip
def test_a_view_of_the_right_shape_is_delivered_without_extras(change: dict[str, Any]) -> None:
    said = VIEW | change
    assert bar._view(said) == {name: said[name] for name in VIEW}


@pytest.mark.parametrize(
    "said",
    [
        None, 3, [], {}, VIEW | {"filter": None}, VIEW | {"filter": [1]}, VIEW | {"color": "blue"}, VIEW | {"color": ["label"]},
        VIEW | {"selection": "umap"}, VIEW | {"selection": {"polygon": [[0, 0]] * 9_000}}, VIEW | {"inspected": -1},
        VIEW | {"inspected": True}, VIEW | {"inspected": "3"}, VIEW | {"pinned": [1, "label"]},
        VIEW | {"pinned": {"query": 1}}, VIEW | {"pinned": {"query": 1.5, "target": "label"}},
    ],
)  # fmt: skip
def test_a_view_of_another_shape_is_dropped(said: Any) -> None:
    assert bar._view(said) is None


def test_counts_are_those_of_a_slow_count() -> None:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 4, 200), draw.integers(0, 4, 50)
    wrong, suspect = (draw.random(200) < 0.2, draw.random(50) < 0.2), draw.random(200) < 0.1
    retrained = draw.random(200) < 0.3
    found = bar.counted(6, labels, wrong, suspect, retrained)
    slow = [Counter(part.tolist()) for part in labels]
    assert (found.train, found.test) == (200, 50)
    assert found.classes_train == tuple(slow[0][number] for number in range(6))
    assert found.classes_test == tuple(slow[1][number] for number in range(6))
    assert found.wrong_train == len([one for one in wrong[0] if one])
    assert found.wrong_test == len([one for one in wrong[1] if one])
    assert found.suspect == len([one for one in suspect if one])
    assert found.retrained == len([one for one in retrained if one])
    regression = bar.counted(0, None, (np.ones(20), np.ones(5)), None, outcomes=False)
    assert regression == bar.Counts(20, 5, (), (), 0, 0, None)


@pytest.mark.parametrize("names", [assets.BAR_JS, assets.LIST_JS])
def test_files_join_into_one_module(names: tuple[str, ...]) -> None:
    texts = [(ROOM / name).read_text(encoding="utf-8") for name in names]
    assert ["export default" in text for text in texts] == [False] * (len(texts) - 1) + [True]
    declared = re.findall(r"^(?:const|let|class|function|async function) (\w+)", "\n".join(texts), re.M)
    assert len(declared) == len(set(declared))
    for name, text in zip(names, texts, strict=True):
        assert re.match(r"/\* [A-Z][^\n]*\?\n", text), f"{name} does not open with its question"
        assert len(text.splitlines()) < 400, name
        assert "innerHTML" not in text, name


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
    """One page of the harness."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def open(self, query: str = "", act_as_map: bool = True) -> Stage:
        self.page.goto(f"{self.url}/?{query}")
        self.page.wait_for_selector(".ie-list .row")
        self.page.wait_for_selector(".ie-bar")
        self.page.wait_for_function(f"{CHANNEL}?.state.queries && {CHANNEL}.subscribers.size === 2")
        if act_as_map:
            self.act_as_map()
        return self

    def act_as_map(self, query: int = 17, run: str = RUN) -> tuple[float, np.ndarray]:
        """Publish an influence row as the map does; scale and levels as Python reads them."""
        body = synthetic.influence(run, "label", query)
        n_train, towards, away = np.frombuffer(body, "<u4", 3)
        scale = float(np.frombuffer(body, "<f4", 1, 12)[0])
        levels = np.frombuffer(body, "i1", int(n_train), 16 + 4 * int(towards + away))
        self.publish({"row": {"scale": scale}}, levels.tolist())
        return scale, levels

    def publish(self, change: dict[str, Any], values: list[int] | None = None, source: str = "map") -> None:
        self.page.evaluate(
            f"""([change, values, source]) => {{
              if (values) change.row.values = Int8Array.from(values);
              {CHANNEL}.publish(change, source);
            }}""",
            [change, values, source],
        )

    def state(self, name: str) -> Any:
        return self.page.evaluate(f"(name) => {CHANNEL}.state[name]", name)

    @property
    def filter(self) -> dict[str, Any]:
        found: dict[str, Any] = self.state("filter")
        return found

    @property
    def heard(self) -> dict[str, Any]:
        """What Python heard, and how often which part of the page ran."""
        found: dict[str, Any] = json.loads(self.page.inner_text("#heard"))
        return found

    def heard_until(self, words: str) -> dict[str, Any]:
        self.page.wait_for_function(
            "words => document.querySelector('#heard')?.innerText.includes(words)",
            arg=words,
            timeout=WAIT_MS,
        )
        return self.heard

    def button(self, name: str, where: str = ".ie-bar") -> Locator:
        return self.page.locator(where).get_by_role("button", name=name, exact=True)

    def press(self, name: str) -> bool:
        return self.button(name).get_attribute("aria-pressed") == "true"

    def listed(self) -> list[int]:
        found: list[int] = self.state("order")
        return found

    def say(self, name: str) -> str:
        return self.page.locator(f".ie-bar [data-show={name}]").inner_text()

    def settle(self) -> None:
        self.page.wait_for_timeout(REST_MS)


@contextmanager
def staged(browser: Browser, url: str, expected: str | None = None, **settings: Any) -> Iterator[Stage]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 1100}, **settings})
    errors: list[str] = []
    asked: list[str] = []
    try:
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        yield Stage(page, url)
        assert not [error for error in errors if not (expected and re.search(expected, error))]
        assert not [one for one in asked if not one.startswith((url, "blob:", "data:"))]
    finally:
        context.close()


@pytest.fixture
def stage(browser: Browser, server: str) -> Iterator[Stage]:
    with staged(browser, server) as one:
        yield one


# ---- choosing ----


@pytest.mark.browser
def test_choices_say_how_many_examples_they_are_about(stage: Stage) -> None:
    stage.open()
    run = synthetic.made(RUN)
    wrong = int((np.random.default_rng(2).random(1500) < 0.02).sum()), int(run.wrong.sum())
    suspect, retrained = (int((np.random.default_rng(seed).random(1500) < 0.05).sum()) for seed in (1, 3))
    stage.button(f"Wrong {wrong[0]} · {wrong[1]}").wait_for()
    stage.button(f"Right {1500 - wrong[0]:,} · {300 - wrong[1]}").wait_for()
    stage.button(f"Suspect only {suspect}").wait_for()
    stage.button(f"Memorized only {retrained}").wait_for()
    stage.button("Classes: all ▾").click()
    lines = stage.page.locator(".choices label").all_inner_texts()
    assert [re.split(r"\s+", line.strip(), maxsplit=1) for line in lines] == [
        [str(number), f"({(run.classes[:1500] == number).sum()} · {(run.classes[1500:] == number).sum()})"]
        for number in range(10)
    ]


@pytest.mark.browser
def test_choices_are_on_the_bus_at_once_and_python_hears_once_when_they_rest(stage: Stage) -> None:
    stage.open()
    before = stage.heard["runs"]
    stage.page.evaluate("""() => {
      const bar = [...document.querySelectorAll("[data-testid=stBidiComponentIsolated]")]
        .map((host) => host.shadowRoot.querySelector(".ie-bar")).find(Boolean);
      for (const name of ["[data-outcome=wrong]", "[data-sign=away]", "[data-do=suspect]", "[data-do=retrained]", "[data-sign=towards]"]) {
        bar.querySelector(name).click();
      }
    }""")
    chosen = NOTHING | {"outcome": "wrong", "suspect": True, "retrained": True, "sign": "towards"}
    assert stage.filter == chosen
    assert stage.heard["views"] == 0
    heard = stage.heard_until('"outcome": "wrong"')
    assert heard["view"] == {
        "filter": chosen, "color": "influence", "selection": None, "inspected": None, "pinned": None
    }  # fmt: skip
    stage.settle()
    assert stage.heard["views"] == 1
    assert stage.heard["runs"]["page"] == before["page"]
    stage.page.locator(".ie-bar select").select_option("self-influence")
    assert stage.state("color") == "self-influence"
    assert stage.heard_until('"self-influence"')["views"] == 2
    stage.button("Clear filters").click()
    assert stage.filter == NOTHING
    assert stage.button("Clear filters").is_hidden()
    assert stage.state("color") == "self-influence"  # a color hides nothing


@pytest.mark.browser
def test_ticked_classes_alone_are_shown_and_none_means_all(stage: Stage) -> None:
    stage.open("many=1")
    stage.button("Classes: all ▾").click()
    for name in ("7", "3"):
        stage.page.get_by_label("Find a class").fill(name)
        stage.page.locator(".choices label:visible").filter(has_text=re.compile(rf"^\s*{name}\s*\(")).click()
    assert stage.filter["classes"] == [3, 7]
    stage.page.get_by_text("Only the 2 ticked of 30 shown").wait_for()
    stage.button("Classes: 3, 7 ▾").wait_for()
    stage.page.get_by_label("Find a class").fill("29")
    assert stage.page.locator(".choices label:visible").count() == 1
    stage.button("All", ".popover").click()
    assert stage.filter["classes"] is None
    assert stage.page.locator(".choices input:checked").count() == 0
    stage.page.keyboard.press("Escape")
    assert stage.page.locator(".popover").is_hidden()


@pytest.mark.browser
def test_hostile_class_names_are_text(stage: Stage) -> None:
    stage.open("named=1")
    stage.page.locator(".ie-bar .classes").click()
    stage.page.locator(".choices").get_by_text(f"{synthetic.HOSTILE_ID}4").click()
    assert synthetic.HOSTILE_ID in stage.page.locator(".ie-bar .classes").inner_text()
    assert stage.page.evaluate("window.__pwned") is None
    assert stage.filter["classes"] == [4]


# ---- the histogram ----


def inside(scale: float, levels: np.ndarray, chosen: dict[str, Any]) -> int:
    """How many training examples a filter's limits let through, as iface defines influence: level / 127 * scale."""
    influence = levels.astype(np.float64) / 127 * scale
    low = -np.inf if chosen["low"] is None else chosen["low"]
    high = np.inf if chosen["high"] is None else chosen["high"]
    return int(((influence >= low) & (influence <= high)).sum())


@pytest.mark.browser
def test_signs_are_counted_on_every_pick(stage: Stage) -> None:
    stage.open()
    for query in (17, 40):
        _, levels = stage.act_as_map(query)
        stage.button(f"▲ Towards {(levels > 0).sum()}").wait_for()
        away = stage.button(f"▼ Away {(levels < 0).sum()}")
        assert f"the influence of {(levels == 0).sum()} is about zero" in (away.get_attribute("title") or "")
        label = stage.page.locator(".histogram canvas").get_attribute("aria-label") or ""
        assert (
            f"{(levels > 0).sum()} training examples towards, {(levels < 0).sum()} away, {(levels == 0).sum()}" in label
        )
    stage.publish({"row": None})
    stage.button("▲ Towards").wait_for()
    assert stage.page.locator(".limit:visible").count() == 0


@pytest.mark.browser
def test_bins_are_those_of_a_slow_count(stage: Stage) -> None:
    """The bars' heights, read from the canvas, rise as log(1 + count) of bins of four levels."""
    stage.open()
    _, levels = stage.act_as_map()
    canvas = stage.page.locator(".histogram canvas")
    tops = canvas.evaluate("""(canvas) => {
      const { width, height } = canvas, pen = canvas.getContext("2d");
      const data = pen.getImageData(0, 0, width, height).data;
      return Array.from({ length: 64 }, (_, bin) => {
        const level = bin < 32 ? 4 * (31 - bin) + 2.5 : -4 * (bin - 32) - 2.5;
        const x = Math.round(((127.5 - level) / 255) * width);
        for (let y = 0; y < height - 1; y++) if (data[4 * (y * width + x) + 3] > 128) return height - y;
        return 0;
      });
    }""")
    counts = [sum(4 * b < level <= 4 * b + 4 for level in levels) for b in range(31, -1, -1)]
    counts += [sum(4 * b < -level <= 4 * b + 4 for level in levels) for b in range(32)]
    tallest = np.log1p(max(*counts, int((levels == 0).sum())))
    height = canvas.evaluate("canvas => canvas.height")
    expected = [max(1.5, np.log1p(n) / tallest * (height - 2)) if n else 0 for n in counts]
    assert tops == pytest.approx(expected, abs=1.6)  # the top edge of a bar is blended over one pixel


@pytest.mark.browser
def test_a_drag_limits_the_influence_and_a_double_click_lets_go(stage: Stage) -> None:
    stage.open()
    scale, levels = stage.act_as_map()
    box = stage.page.locator(".brush").bounding_box()
    assert box
    y = box["y"] + 18
    stage.page.mouse.move(box["x"] + 0.2 * box["width"], y)
    stage.page.mouse.down()
    stage.page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=5)
    for _ in range(50):  # a busy machine hears the hand late
        if stage.filter["low"] is not None and stage.filter["low"] < -0.19 * scale:
            break
        stage.page.wait_for_timeout(100)
    assert stage.filter["high"] is not None  # the map follows the hand
    stage.page.mouse.up()
    chosen = stage.filter
    # towards is on the left: 0.2 of the way is +0.6 of the scale, 0.6 of the way is -0.2
    assert chosen["high"] == pytest.approx(0.6 * scale, abs=0.01 * scale)
    assert chosen["low"] == pytest.approx(-0.2 * scale, abs=0.01 * scale)
    many = inside(scale, levels, chosen)
    assert 0 < many < 1500
    assert stage.say("range").endswith(f": {many:,} training")
    assert stage.heard_until('"low": -')["view"]["filter"] == chosen
    stage.act_as_map(40)  # the next prediction: the limits stay, in units of influence
    assert stage.filter == chosen
    stage.page.mouse.dblclick(box["x"] + 0.9 * box["width"], y)
    assert stage.filter == NOTHING
    assert stage.button("Clear filters").is_hidden()


@pytest.mark.browser
def test_limits_are_moved_by_keys_one_level_at_a_time(stage: Stage) -> None:
    stage.open()
    scale, levels = stage.act_as_map()
    low, high = stage.page.get_by_label("Least influence shown"), stage.page.get_by_label("Most influence shown")
    assert low.get_attribute("aria-valuetext") == "no limit"
    low.focus()
    for _ in range(5):
        stage.page.keyboard.press("PageUp")
    reached = stage.filter["low"]
    before = inside(scale, levels, stage.filter)
    stage.page.keyboard.press("ArrowLeft")  # left is towards
    assert stage.filter["low"] == pytest.approx(reached + scale / 127, rel=1e-4)
    step = round(reached / scale * 127 + 0.5)
    assert inside(scale, levels, stage.filter) == before - int((levels == step).sum())
    assert "nats" in (low.get_attribute("aria-valuetext") or "")
    values = [float(low.get_attribute(f"aria-value{part}") or "nan") for part in ("min", "now", "max")]
    assert values == sorted(values)
    assert values[1] == pytest.approx(stage.filter["low"], rel=1e-4)
    high.focus()
    for _ in range(30):
        stage.page.keyboard.press("PageDown")
    assert stage.filter["high"] > stage.filter["low"]  # one limit never passes the other
    assert inside(scale, levels, stage.filter) == int((levels == step + 1).sum())
    stage.page.keyboard.press("Home")
    low.focus()
    stage.page.keyboard.press("Delete")
    assert stage.filter == NOTHING
    assert stage.state("query") == 17  # the arrows belonged to the limits


# ---- Python's view, and what it hears ----


@pytest.mark.browser
def test_pythons_view_is_taken_over_once_for_each_revision(stage: Stage) -> None:
    wish = {"filter": NOTHING | {"sign": "away", "outcome": "right"}, "color": "split"}
    stage.open("wish=" + json.dumps(wish).replace(" ", ""))
    assert stage.filter == wish["filter"]
    assert stage.page.locator(".ie-bar select").input_value() == "split"
    assert stage.press("▼ Away " + str((stage.act_as_map()[1] < 0).sum()))
    stage.button("Clear filters").click()
    stage.page.get_by_role("button", name="Rerun").click()
    stage.heard_until('"page": 2')
    assert stage.filter == NOTHING  # said before: no new wish
    stage.heard_until('"views": 1')
    stage.page.get_by_role("button", name="Wish").click()
    stage.page.wait_for_function(f"{CHANNEL}.state.filter.outcome === 'wrong'")
    assert stage.filter == NOTHING | {"classes": [3], "outcome": "wrong", "sign": "away", "high": 0.001}
    assert stage.state("color") == "label"
    stage.button("Classes: 3 ▾").wait_for()
    stage.settle()
    assert stage.heard["views"] == 1  # what Python asked for is not told to it


@pytest.mark.browser
def test_what_the_map_and_the_panel_choose_reaches_python_too(stage: Stage) -> None:
    stage.open()
    selection = {"layout": "pca", "polygon": [[0, 0], [0.5, 0], [0.5, 0.25]]}
    stage.publish({"selection": selection})
    stage.publish({"inspected": 12}, source="panel")
    heard = stage.heard_until('"inspected": 12')
    assert heard["view"]["selection"] == selection
    assert heard["views"] == 1
    stage.publish({"pointed": 4}, source="panel")
    stage.publish({"selection": json.loads(json.dumps(selection))})
    stage.publish({"inspected": 30}, source="python")
    stage.settle()
    assert stage.heard["views"] == 1


@pytest.mark.browser
def test_the_line_says_what_the_map_shows(stage: Stage) -> None:
    stage.open()
    counts = {"train": 1500, "test": 300, "shownTrain": 1204, "shownTest": 25, "selectedTrain": 0, "selectedTest": 0}
    stage.publish({"counts": counts})
    assert stage.say("counts") == "1,204 of 1,500 training, 25 of 300 test shown"
    stage.publish({"counts": counts | {"selectedTrain": 12, "selectedTest": 3}})
    assert stage.say("counts").endswith("shown; 12 and 3 selected")


@pytest.mark.browser
def test_a_server_that_forgot_the_page_is_said(browser: Browser, server: str) -> None:
    with staged(browser, server, expected="status of 403") as stage:
        stage.page.route("**/api/session**", lambda route: route.fulfill(status=403))
        stage.open()
        assert stage.page.locator(".forgotten").is_hidden()
        stage.button("Both").click()
        stage.page.locator("[data-sign=away]").click()
        stage.page.get_by_text("does not know this page any more").wait_for()


# ---- the list ----


@pytest.mark.browser
def test_list_and_bar_show_one_filter(stage: Stage) -> None:
    stage.open()
    run = synthetic.made(RUN)
    wrong = np.flatnonzero(run.wrong)
    stage.button(f"Wrong {len(wrong)}", ".ie-list").click()
    assert set(stage.listed()) == set(wrong.tolist())
    assert stage.page.locator(".ie-bar [data-outcome=wrong]").get_attribute("aria-pressed") == "true"
    stage.page.locator(".ie-bar [data-outcome=right]").click()
    assert stage.page.locator(".ie-list [data-only=right]").get_attribute("aria-pressed") == "true"
    stage.button("Classes: all ▾").click()
    stage.page.locator(".choices label").nth(3).click()
    labels = run.classes[1500:]
    assert set(stage.listed()) == set(np.flatnonzero(~run.wrong & (labels == 3)).tolist())
    stage.page.keyboard.press("Escape")
    stage.page.get_by_label("Filter by id, label or answer").fill("no such thing")
    stage.page.get_by_text("No right prediction of the classes shown has “no such thing”").wait_for()
    stage.button("Clear filter", ".ie-list").click()
    assert stage.filter == NOTHING
    assert len(stage.listed()) == 300


@pytest.mark.browser
def test_a_search_needs_every_word_and_a_name_comes_first(stage: Stage) -> None:
    stage.open()
    run = synthetic.made(RUN)
    sent = json.loads(synthetic.queries(RUN))
    texts = [
        f"{i}\n{label}\n{said}" for i, label, said in zip(sent["ids"], sent["labels"], sent["predictions"], strict=True)
    ]
    field = stage.page.get_by_label("Filter by id, label or answer")
    field.fill("  9  TEST-0001 ")
    assert stage.listed() == [
        row for row, text in zip(sent["rows"], texts, strict=True) if "9" in text and "test-0001" in text
    ]
    field.fill("#123")
    assert stage.listed() == [123]
    field.press("Enter")
    assert stage.state("query") == 123
    field.fill("test-00012")
    assert stage.listed() == [12]
    field.fill("#4000")
    stage.page.get_by_text("has “#4000” in its id").wait_for()
    field.press("Escape")
    assert len(stage.listed()) == 300
    assert run.n_test == 300


@pytest.mark.browser
def test_a_named_row_comes_before_those_that_only_hold_its_name(browser: Browser, server: str) -> None:
    with staged(browser, server) as stage:
        sent = json.loads(synthetic.queries(RUN))
        sent["ids"] = [f"{'x' if row == 77 else f'x-{row}'}" for row in sent["rows"]]
        stage.page.route("**/queries.json**", lambda route: route.fulfill(json=sent))
        stage.open()
        stage.page.get_by_label("Filter by id, label or answer").fill("X")
        assert stage.listed() == [77, *(row for row in sent["rows"] if row != 77)]


@pytest.mark.browser
def test_the_order_can_be_chosen_and_the_keys_follow_it(stage: Stage) -> None:
    stage.open()
    sent = json.loads(synthetic.queries(RUN))
    rows, confidence, loss = (np.array(sent[name]) for name in ("rows", "confidence", "loss"))
    choose = stage.page.get_by_label("Order of the predictions")
    for name, key in {"sure": -confidence, "unsure": confidence, "loss": -loss, "row": rows}.items():
        choose.select_option(name)
        assert stage.listed() == rows[np.argsort(key, kind="stable")].tolist(), name
    assert "row order" in (stage.page.get_by_role("listbox").get_attribute("aria-label") or "")
    stage.page.keyboard.press("Escape")
    stage.page.locator(".ie-list .box").focus()
    stage.page.keyboard.press("ArrowDown")
    assert stage.state("query") == 18
    stage.page.keyboard.press("k")
    assert stage.state("query") == 17
    stage.page.locator(".ie-list [data-only=wrong]").click()  # 17 may be hidden now: the neighbors are those around it
    wrong = np.flatnonzero(synthetic.made(RUN).wrong)
    stage.page.keyboard.press("ArrowDown")
    assert stage.state("query") == wrong[wrong > 17][0]
    choose.select_option("worst")
    assert stage.listed() == [row for row in sent["rows"] if row in wrong]


@pytest.mark.browser
def test_a_prediction_is_pinned_as_a_and_let_go(stage: Stage) -> None:
    stage.open()
    pin = stage.page.locator(".ie-list [data-do=pin]")
    assert pin.inner_text().split() == ["Pin", "as", "A", "P"]
    stage.page.keyboard.press("p")
    assert stage.state("pinned") == {"query": 17, "target": "label"}
    assert pin.get_attribute("aria-pressed") == "true"
    assert stage.page.locator(".pinned:visible").count() == 1
    assert stage.page.locator("#row-17 .pinned").is_visible()
    assert stage.heard_until('"pinned": {')["view"]["pinned"] == {"query": 17, "target": "label"}
    stage.page.keyboard.press("ArrowDown")
    assert pin.get_attribute("aria-pressed") == "false"
    assert stage.state("pinned") == {"query": 17, "target": "label"}
    pin.click()  # another one takes its place
    other = stage.state("query")
    assert stage.state("pinned")["query"] == other
    pin.click()
    assert stage.state("pinned") is None
    assert stage.page.locator(".pinned:visible").count() == 0


# ---- the list of keys ----


@pytest.mark.browser
def test_the_list_of_keys_is_what_is_listened_to(stage: Stage) -> None:
    stage.open()
    stage.page.locator(".ie-list .box").focus()
    stage.page.keyboard.press("?")
    dialog = stage.page.get_by_role("dialog", name="Keys")
    dialog.wait_for()
    terms = [term.locator("kbd").all_inner_texts() for term in dialog.locator("dt").all()]
    assert ["↑", "K"] in terms
    registered = stage.page.evaluate(
        "[...window.__influenceExplorer.keys].flatMap((entry) => entry.keys.map((one) => [one.key, one.words]))"
    )
    assert all(words for _, words in registered)
    assert sum(len(term) for term in terms) == len(registered)
    assert {words for _, words in registered} == set(dialog.locator("dd").all_text_contents())
    query = stage.state("query")
    stage.page.keyboard.press("ArrowDown")  # keys rest while the dialog is open
    assert stage.state("query") == query
    stage.page.keyboard.press("Escape")
    assert dialog.is_hidden()
    focused = "(() => { let at = document.activeElement; while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement; return at.className; })()"
    assert stage.page.evaluate(focused) == "box"
    stage.page.keyboard.press("ArrowDown")
    assert stage.state("query") != query
    stage.page.get_by_label("Elsewhere").click()
    stage.page.keyboard.type("p?")
    assert dialog.is_hidden()
    assert stage.state("pinned") is None
    stage.button("Keys ?").click()
    dialog.wait_for()
    dialog.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()


# ---- other runs, other windows ----


@pytest.mark.browser
def test_regression_has_no_classes_and_no_outcome(stage: Stage) -> None:
    stage.open("kind=regression", act_as_map=False)
    stage.act_as_map(run="made-1500-300-regression")
    for name in (".classes", "[data-group=outcome]"):
        assert stage.page.locator(f".ie-bar {name}").is_hidden()
    options = stage.page.locator(".ie-bar select option").all_inner_texts()
    assert options == ["influence", "self-influence", "split"]
    assert stage.page.locator(".ie-bar [data-sign=away]").is_visible()
    assert stage.page.locator(".limit:visible").count() == 2
    orders = stage.page.get_by_label("Order of the predictions").locator("option:not([hidden])")
    assert orders.all_inner_texts() == ["worst first", "highest loss", "row order"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 640, 420])
def test_the_bar_wraps_instead_of_hiding_anything(browser: Browser, server: str, width: int) -> None:
    with staged(browser, server, viewport={"width": width, "height": 1100}) as stage:
        stage.open()
        box = stage.page.locator(".ie-bar").bounding_box()
        assert box
        for one in stage.page.locator(".ie-bar :is(button, select, canvas):visible").all():
            place = one.bounding_box()
            assert place
            assert place["x"] >= box["x"]
            assert place["x"] + place["width"] <= box["x"] + box["width"] + 1
            assert place["y"] + place["height"] <= box["y"] + box["height"] + 1
