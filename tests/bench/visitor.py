"""How does a person act on the page? Real mouse clicks and keys in a real browser; each act says when it was answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Error

from explorer.store import Run
from tests.bench.servers import BenchError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WATCH = (Path(__file__).with_name("watch.js")).read_text()
VIEWPORT = {"width": 1400, "height": 1000}
PATIENCE_MS = 120_000
AIM_MS = 80
"""Between moving the mouse somewhere and pressing it."""
PICTURES = 20
Times = dict[str, Any]


class Visitor:
    """One page in a context of its own: nothing cached, no cookie."""

    def __init__(self, page: Page, run: Run | None) -> None:
        self._page = page
        self._train, self._test = (0, 0) if run is None else (run.meta().train, run.meta().test)
        self._errors: list[str] = []
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("console", lambda one: self._errors.append(one.text) if one.type == "error" else None)
        self.seen: set[int] = set()

    def pause(self, seconds: float) -> None:
        """Do nothing; the page goes on."""
        self._page.wait_for_timeout(1000 * seconds)

    def measure(self, finished: bool) -> None:
        """Whether the map counts as recolored when its last pixel is drawn, or when the frame is handed over."""
        self._page.evaluate("finished => { window.__influenceExplorer.measure = finished; }", finished)

    def loaded(self) -> Times:
        """When the first answer was there, in ms since the navigation began."""
        times = self._answer("__bench.loaded()")
        self.seen.add(times["query"])
        return times

    def points(self, queries: Sequence[int]) -> list[int]:
        """Those of `queries` that a click on the map can reach, the loneliest first."""
        return [
            int(query)
            for query, _, _ in self._page.evaluate(
                "some => __bench.points(some)", [list(queries), self._train, self._test]
            )
        ]

    def arm_point(self, query: int) -> tuple[float, float] | None:
        """Aim at a test point; None if something lies over it."""
        place = self._page.evaluate("some => __bench.place(some)", [query, self._train])
        return self._arm("pointerup", "answer", place) if place else None

    def click_point(self, query: int) -> Times | None:
        """Click a test point; None when it cannot be reached, or another one was nearer."""
        place = self.arm_point(query)
        if place is None:
            return None
        self.press()
        times = self.answer()
        return times if times.get("query") == query else None

    def rows(self, page: int) -> list[tuple[int, float, float]]:
        """The rows of the list that are in view, `page` times its height from its top: query and place."""
        return [tuple(one) for one in self._page.evaluate("page => __bench.rows(page)", page)]

    def click_row(self, row: tuple[int, float, float]) -> Times:
        """Click a row of the list."""
        self._arm("pointerup", "answer", row[1:])
        self.press()
        return self._expect(row[0])

    def key(self, name: str) -> Times:
        """Press a key that selects another prediction."""
        self._page.evaluate("__bench.arm('keydown', 'answer')")
        self._page.keyboard.press(name)
        times = self.answer()
        if "missed" in times:
            raise BenchError(f"Expected {name} to select another prediction; found the same one selected.")
        return times

    def arm_count(self) -> None:
        """Aim at the floor's button."""
        box = self._page.locator("button", has_text="Again").bounding_box()
        if box is None:
            raise BenchError("Expected the button of the floor; found none.")
        self._arm("pointerup", "count", (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))

    def press(self) -> None:
        """Press and release the mouse where it is."""
        self._page.mouse.down()
        self._page.mouse.up()

    def answer(self) -> Times:
        """Wait for what the last act led to; `missed` where it changed nothing."""
        times = self._answer("__bench.pending")
        if "query" in times:
            self.seen.add(times["query"])
        return times

    @property
    def answered(self) -> bool:
        """Whether what the last act led to is there."""
        return bool(self._page.evaluate("Boolean(__bench.result)"))

    def drag(self, seconds: float) -> Times:
        """Drag the map to and fro; frames and long tasks meanwhile."""
        box = max(
            (one for one in (canvas.bounding_box() for canvas in self._page.locator("canvas").all()) if one),
            key=lambda one: one["width"] * one["height"],
        )
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self._page.mouse.move(x, y)
        self._page.mouse.down()
        self._page.evaluate("__bench.frames()")
        began = time.monotonic()
        while (gone := time.monotonic() - began) < seconds:  # each move waits for its frame
            side = 1 - abs(4 * gone / seconds % 4 - 2)  # a triangle between -1 and 1
            self._page.mouse.move(x + side * box["width"] / 4, y + side * box["height"] / 6)
            self._page.wait_for_timeout(1000 / 60)
        times = self._answer("__bench.stop()")
        self._page.mouse.up()
        return times

    def _arm(self, kind: str, what: str, place: Sequence[float]) -> tuple[float, float]:
        x, y = place
        self._page.mouse.move(x, y)
        self._page.wait_for_timeout(AIM_MS)
        self._page.evaluate("([kind, what]) => { __bench.arm(kind, what); }", [kind, what])
        return x, y

    def _expect(self, query: int) -> Times:
        times = self.answer()
        if times["query"] != query:
            raise BenchError(
                f"Expected prediction {query} to be selected by a click on its row; found {times['query']}."
            )
        return times

    def _answer(self, promise: str) -> Times:
        try:
            times: Times = self._page.evaluate(promise)
        except Error as error:
            times = {"error": error.message}
        if "error" in times:
            said = "; ".join(self._errors) or "nothing"
            raise BenchError(f"Expected an answer on the page; found: {times['error']}. Its console says: {said}")
        return times


@contextmanager
def visit(browser: Browser, address: str, run: Run | None = None, finished: bool = False) -> Iterator[Visitor]:
    """A new visitor of a server, and of one of its runs; `finished` as in `Visitor.measure`, from the start."""
    context = browser.new_context(viewport=VIEWPORT)
    try:
        context.add_init_script(WATCH)
        context.add_init_script(f"window.__bench.measure = {str(finished).lower()}")
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        visitor = Visitor(page, run)
        page.goto(address if run is None else f"{address}/?run={run.key}", wait_until="commit")
        yield visitor
    finally:
        context.close()
