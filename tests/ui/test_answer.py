"""The answer in a real browser: what is drawn and when, what a click on an example does, and what HTML may not do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from explorer.errors import SettingsError
from explorer.ui.scatter import AnswerData, assets
from tests.ui import chromium
from tests.ui.harness import synthetic

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

HARNESS = Path(__file__).parent / "harness" / "answer_app.py"
ROOM = Path(assets.__file__).parent
CHANNEL = "window.__influenceExplorer.channel('made-1500-300-image')"
WAIT_MS = 20_000
SLOW_MS = 150
"""After this long the answer may be covered by a skeleton, and not before."""


# ---- without a browser ----


def test_sections_are_checked_where_they_are_named() -> None:
    with pytest.raises(SettingsError, match="card, trust, galleries as sections; found \\('table',\\)"):
        AnswerData("r", "t", 0, 1, 1, sections=("table",))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="found 'x'"):
        AnswerData("r", "t", 0, 1, 1, target="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [assets.ANSWER_JS, assets.PART_JS])
def test_files_join_into_one_module(names: tuple[str, ...]) -> None:
    texts = [(ROOM / name).read_text(encoding="utf-8") for name in names]
    assert ["export default" in text for text in texts] == [False] * (len(texts) - 1) + [True]
    declared = re.findall(r"^(?:const|let|class|function|async function) (\w+)", "\n".join(texts), re.M)
    assert len(declared) == len(set(declared))
    assert not [name for name, text in zip(names, texts, strict=True) if "innerHTML" in text]


# ---- what HTML may not do ----

ATTACKS = [
    "<script>window.__pwned = 1</script>",
    "<img src=x onerror='window.__pwned = 1'>",
    "<img src='https://example.org/x.png'>",
    "<img src='//example.org/x.png'>",
    "<img src='/\\example.org/api/runs/x.png'>",
    "<img src='/api/../../component/x.png'>",
    "<img src='data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+'>",
    "<img src='data:text/html,<script>window.__pwned = 1</script>'>",
    "<img srcset='https://example.org/x.png 1x' src='data:image/png;base64,AAAA'>",
    "<svg onload='window.__pwned = 1'><circle r=1></svg>",
    "<svg><style><img src=x onerror='window.__pwned = 1'></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror='window.__pwned = 1'>",
    "<form action='https://example.org'><button formaction='javascript:window.__pwned = 1'>x</button></form>",
    "<a href='javascript:window.__pwned = 1'>x</a>",
    "<iframe srcdoc='<script>parent.__pwned = 1</script>'></iframe>",
    "<object data='javascript:window.__pwned = 1'></object><embed src='javascript:window.__pwned = 1'>",
    "<details open ontoggle='window.__pwned = 1'><summary>x</summary></details>",
    "<div style='background: url(https://example.org/x.png)' id='root' name='x' onclick='window.__pwned = 1'>x</div>",
    "<link rel=stylesheet href='https://example.org/x.css'><meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href='https://example.org/'><style>@import 'https://example.org/x.css';</style>",
    "<template><img src=x onerror='window.__pwned = 1'></template>",
    "<noscript><p title='</noscript><img src=x onerror=window.__pwned=1>'></noscript>",
    "<div data-query='1 or 1' data-inspect='-1' data-point='1e9' class='stApp ix-tile' tabindex='5'>x</div>",
    "<video src='https://example.org/x.mp4' poster='https://example.org/x.png' autoplay></video>",
    "<p><b is='x-y' slot='s' part='p' contenteditable accesskey='c'>x</b></p>",
]
HARMLESS = [
    "section",
    "div",
    "p",
    "span",
    "b",
    "button",
    "img",
    "table",
    "tbody",
    "tr",
    "td",
    "th",
    "caption",
    "strong",
    "h4",
    "br",
    "sup",
    "details",
    "summary",
    "figure",
]
HARMLESS_ATTRIBUTES = [
    "class",
    "title",
    "alt",
    "role",
    "tabindex",
    "scope",
    "colspan",
    "src",
    "type",
    "open",
    "data-query",
    "data-inspect",
    "data-point",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def cleaner(browser: Browser) -> Iterator[Page]:
    """An empty page with the sanitizer in it; every request for another server is noted and answered by nothing."""
    page = browser.new_context().new_page()
    page.route("**/*", lambda route: route.fulfill(body="<p>empty</p>", content_type="text/html"))
    page.goto("http://harness.test/")
    page.add_script_tag(content=(ROOM / "tiles.js").read_text(encoding="utf-8"))
    yield page
    page.context.close()


CLEAN = """html => {
  document.body.replaceChildren(sanitized(html));
  const all = [...document.body.querySelectorAll("*")];
  return { tags: all.map((one) => one.localName), html: document.body.innerHTML,
           attributes: all.flatMap((one) => [...one.attributes].map(({ name, value }) => [name, value])) };
}"""


@pytest.mark.browser
@pytest.mark.parametrize("attack", ATTACKS)
def test_html_can_do_no_harm(cleaner: Page, attack: str) -> None:
    asked: list[str] = []
    cleaner.on("request", lambda request: asked.append(request.url))
    left = cleaner.evaluate(CLEAN, attack)
    cleaner.wait_for_timeout(30)
    assert set(left["tags"]) <= set(HARMLESS)
    for name, value in left["attributes"]:
        assert name in HARMLESS_ATTRIBUTES or name.startswith("aria-")
        assert name != "src" or value.startswith("data:image/png;base64,")
        assert not name.startswith("data-") or value.isdecimal()
        assert name != "class" or all(one.startswith("ix-") for one in value.split())
    assert asked == []
    assert cleaner.evaluate("window.__pwned") is None
    assert cleaner.evaluate("!document.querySelector('#root, [style], [onclick]')")


@pytest.mark.browser
def test_what_views_draw_is_left_as_it_is(cleaner: Page) -> None:
    html = (
        '<section class="ix-gallery ix-towards" aria-label="A &amp; B"><h4><span aria-hidden="true">▲</span> Towards</h4>'
        '<div class="ix-tile" role="button" tabindex="0" data-inspect="7" data-point="7" title="&quot;id&quot;">'
        '<img class="ix-picture" src="data:image/png;base64,iVBORw0KGgo=" alt="&lt;b&gt;"><b>+0.25</b> 10×10<sup>−3</sup><br></div>'
        '<table class="ix-values"><caption>2 of 9</caption><tbody><tr><th scope="row">x</th><td colspan="2">1</td></tr></tbody></table>'
        '<img src="/base/api/runs/r/thumb/test/1.png?token=t" alt=""></section>'
    )
    assert cleaner.evaluate(CLEAN, html)["html"] == html
    assert cleaner.evaluate(CLEAN, '<button data-query="3">x</button>')["html"] == (
        '<button data-query="3" type="button">x</button>'
    )


# ---- the answer ----


class Stage:
    """One page of the harness and everything the browser said about it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, query: str = "q=17") -> Stage:
        self.page.goto(f"{self.url}/?{query}")
        if "list=0" not in query:
            self.page.wait_for_selector(".ie-list .row")
        return self

    def js(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    def until(self, condition: str) -> None:
        self.page.wait_for_function(f"window.__influenceExplorer && ({condition})")

    def shows(self, query: int, target: str = "label") -> None:
        """Wait until the whole answer to a query is there."""
        self.until(f"{CHANNEL}.panel?.shown === '{target}/{query}'")
        assert self.page.locator(".ix-card .ix-id").inner_text() == f"test-{query:05d}"
        assert self.page.locator(".ix-galleries b").all_inner_texts() == [str(query + 1), str(query + 2)]

    def heard(self, *words: str) -> None:
        for word in words:
            self.page.wait_for_function("word => document.querySelector('#heard').innerText.includes(word)", arg=word)

    def pick(self, query: int) -> None:
        self.js(f"{CHANNEL}.publish({{query: {query}}}, 'test')")

    def count(self, query: int) -> int:
        return sum(f"/{query}.json?" in url for url in self.asked)

    def ahead(self, query: int) -> list[int]:
        order = self.js(f"{CHANNEL}.state.order")
        return order[order.index(query) + 1 :][:3]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with chromium.serve(HARNESS) as url:
        yield url


@pytest.fixture
def stage(browser: Browser, server: str) -> Iterator[Stage]:
    """A page that logged nothing but refused requests, and asked nobody but the server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    one = Stage(context.new_page(), server)
    try:
        yield one
        assert not [error for error in one.errors if "Failed to load resource" not in error]
        assert not [url for url in one.asked if not url.startswith((server, "blob:", "data:"))]
        assert one.js("window.__pwned") is None
    finally:
        context.close()


@pytest.mark.browser
def test_the_first_answer_is_there_without_a_pick(stage: Stage) -> None:
    stage.open("q=17")
    stage.shows(17)
    assert stage.page.inner_text(".ix-trust") == "trusted"
    stage.until(f"{CHANNEL}.panel.paintedAt > 0")
    probe = stage.js(f"{CHANNEL}.panel")
    assert probe["pictures"] == 2
    assert probe["paintedAt"] >= probe["textAt"] > 0
    assert stage.page.inner_text(".ix-answer [role=status] >> nth=0") == "Explained: test-00017"


@pytest.mark.browser
def test_it_works_without_a_list(stage: Stage) -> None:
    stage.open("q=23&list=0")
    stage.shows(23)


@pytest.mark.browser
def test_the_next_answers_are_there_before_they_are_asked_for(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    following = [query for query in stage.ahead(17) if query != synthetic.NOT_COMPUTED]
    for query in following:
        stage.until(f"{CHANNEL}.answers.kept.has('label/{query}')")
    stage.page.route("**/answer/**", lambda route: None)  # never answers again
    stage.pick(following[0])
    shown = stage.js("document.querySelector('.ix-card .ix-id').innerText")
    assert shown == f"test-{following[0]:05d}"  # in the same turn of the page's loop
    stage.shows(following[0])
    stage.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.browser
def test_the_answer_to_what_the_hand_rests_on_is_there_before_the_click(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    far = stage.js(f"{CHANNEL}.state.order")[-2]
    stage.js(f"{CHANNEL}.publish({{likely: {far}}}, 'map')")
    stage.until(f"{CHANNEL}.answers.kept.has('label/{far}')")
    stage.shows(17)
    stage.js(f"{CHANNEL}.publish({{likely: {synthetic.NOT_COMPUTED}}}, 'map')")  # would cost the server a second
    stage.page.wait_for_timeout(200)
    assert stage.count(synthetic.NOT_COMPUTED) == 0
    stage.page.route("**/answer/**", lambda route: None)  # never answers again
    stage.pick(far)
    stage.shows(far)
    stage.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.browser
def test_a_late_answer_is_covered_in_the_height_of_the_old_one_and_then_drawn(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    waiting: list[Route] = []
    stage.page.route("**/answer/label/200.json*", lambda route: waiting.append(route))
    old = "document.querySelector('.ix-answer').offsetHeight"
    height = stage.js(old)
    early = stage.js(
        f"""async () => {{ {CHANNEL}.publish({{query: 200}}, 'test');
        await new Promise((done) => setTimeout(done, {SLOW_MS // 3}));
        return document.querySelector('.ix-card .ix-id').innerText; }}"""
    )
    assert early == "test-00017"
    stage.page.wait_for_selector(".ix-skeleton-tile")
    assert stage.page.locator(".ix-card .ix-id").inner_text() == "test-00200"
    assert stage.js(old) >= height
    assert stage.js("document.querySelector('.ix-answer').getAttribute('aria-busy')") == "true"
    waiting[0].continue_()
    stage.shows(200)
    assert stage.page.locator(".ix-skeleton-tile").count() == 0
    assert stage.js("document.querySelector('.ix-answer').getAttribute('aria-busy')") is None


@pytest.mark.browser
def test_an_overtaken_answer_is_never_drawn(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    waiting: list[Route] = []
    stage.page.route("**/answer/label/200.json*", lambda route: waiting.append(route))
    stage.pick(200)
    stage.until(f"{CHANNEL}.answers.coming.has('label/200')")
    stage.pick(210)
    stage.shows(210)
    assert not stage.js(f"{CHANNEL}.answers.coming.has('label/200')")  # stopped
    stage.page.unroute_all(behavior="ignoreErrors")
    stage.page.wait_for_timeout(100)
    stage.shows(210)


@pytest.mark.browser
def test_a_refused_answer_is_said_and_can_be_asked_for_again(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    stage.page.route("**/answer/label/200.json*", lambda route: route.fulfill(status=500, body="no"))
    stage.pick(200)
    note = stage.page.locator(".ix-answer-note >> visible=true")
    note.wait_for()
    assert "error 500" in note.inner_text()
    assert stage.page.locator(".ix-galleries").count() == 0
    stage.page.unroute("**/answer/label/200.json*")
    note.get_by_role("button", name="Retry").click()
    stage.shows(200)
    assert note.count() == 0


@pytest.mark.browser
def test_what_is_being_computed_says_so_and_comes_by_itself(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    stage.pick(synthetic.NOT_COMPUTED)
    stage.page.get_by_text("It is being computed.").first.wait_for()
    assert stage.page.locator(".ix-card .ix-id").inner_text() == f"test-{synthetic.NOT_COMPUTED:05d}"
    ready = stage.page.request.get(
        f"{stage.url}/api/runs/made-1500-300-image/answer/label/40.json?token={synthetic.TOKEN}"
    ).text()
    stage.page.route(
        "**/answer/label/5.json*", lambda route: route.fulfill(body=ready.replace("test-00040", "test-00005"))
    )
    stage.until(f"{CHANNEL}.panel?.shown === 'label/5'")


@pytest.mark.browser
def test_a_walk_over_what_is_not_computed_asks_only_for_the_last(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    stage.until(f"{CHANNEL}.state.queries")
    stage.js(f"{CHANNEL}.state.queries.ready.fill(0)")
    stage.js(f"""async () => {{ for (const query of [200, 210, 220]) {{
        {CHANNEL}.publish({{query}}, 'test'); await new Promise((done) => setTimeout(done, 20)); }} }}""")
    stage.shows(220)
    assert (stage.count(200), stage.count(210), stage.count(220)) == (0, 0, 1)


@pytest.mark.browser
def test_a_rerun_of_the_page_changes_nothing_and_a_grown_run_is_asked_again(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    stage.js("document.querySelector('.ix-card').same = true")
    asked = stage.count(17)
    stage.page.get_by_role("button", name="Rerun").click()
    stage.heard("panels 2;")
    assert stage.js("document.querySelector('.ix-card').same") is True
    assert stage.count(17) == asked
    stage.page.get_by_role("button", name="Grow").click()
    stage.until("!document.querySelector('.ix-card').same")
    stage.shows(17)
    assert any("/17.json?" in url and "version=1" in url for url in stage.asked)


@pytest.mark.browser
@pytest.mark.parametrize("key", [None, "Enter", "Space"])
def test_a_tile_opens_its_example_here_and_in_python(stage: Stage, key: str | None) -> None:
    stage.open()
    stage.shows(17)
    tile = stage.page.locator("[data-inspect='19']")
    if key is None:
        tile.click()
    else:
        tile.focus()
        stage.page.keyboard.press(key)
    assert stage.js(f"{CHANNEL}.state.inspected") == 19
    stage.heard("inspected 19;", "inspections 1;", "query 17;")
    stage.shows(17)


@pytest.mark.browser
def test_a_button_in_html_picks_a_prediction_once(stage: Stage) -> None:
    stage.open("q=17&t=prediction")
    stage.until(f"{CHANNEL}.state.queries")
    target = {True: "prediction", False: "label"}[bool(synthetic.made("made-1500-300-image").wrong[3])]
    stage.page.locator("[data-query='3']").click()
    stage.shows(3, target)
    stage.heard("query 3;", f"target {target};", "picks 1;")
    stage.page.locator("[data-query='3']").press("Enter")
    stage.page.locator("[data-query='7']").press("Space")
    stage.heard("query 7;", "picks 2;")
    assert stage.js("document.activeElement.className") == "ix-answer"  # the button is gone, the place is not lost


@pytest.mark.browser
def test_pointing_at_a_tile_points_at_the_map(stage: Stage) -> None:
    stage.open()
    stage.shows(17)
    stage.page.locator("[data-point='18']").hover()
    stage.until(f"{CHANNEL}.state.pointed === 18")
    stage.page.mouse.move(0, 0)
    stage.until(f"{CHANNEL}.state.pointed === -1")
    stage.page.locator("[data-point='30']").focus()
    stage.until(f"{CHANNEL}.state.pointed === 30")
    stage.page.locator("[data-point='19']").hover()
    stage.pick(100)
    stage.shows(100)
    assert stage.js(f"{CHANNEL}.state.pointed") in (-1, 101, 102)  # what lies under the resting pointer now, or nothing
