"""What do several people at one server do to each other? Sessions in the same browser that click at random pauses."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from explorer.store import Run
from tests.bench.servers import BenchError
from tests.bench.visitor import Visitor, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAUSE_S = (0.3, 1.0)
LOOK_S = 0.02


class _Person:
    """A visitor, what it will ask about, and when it clicks again."""

    def __init__(self, visitor: Visitor, queries: list[int], pause: random.Random) -> None:
        self.visitor, self.queries, self.pause = visitor, queries, pause
        self.found: list[float] = []
        self.waiting = False
        self.rest()

    def rest(self) -> None:
        self.due = time.monotonic() + self.pause.uniform(*PAUSE_S)

    def look(self) -> None:
        """Take the answer if it is there, click if it is time."""
        if self.waiting and self.visitor.answered:
            times = self.visitor.answer()
            if "missed" not in times:
                self.found.append(times["text"])
            self.waiting = False
            self.rest()
        elif not self.waiting and time.monotonic() >= self.due:
            if not self.queries:
                raise BenchError(f"Expected more test points to click; found none after {len(self.found)} clicks.")
            if self.visitor.arm_point(self.queries.pop(0)) is not None:
                self.visitor.press()
                self.waiting = True


def visits(browser: Browser, address: str, run: Run, wanted: list[int], sessions: int, clicks: int) -> list[float]:
    """Milliseconds from click to panel text, of all sessions; each asks about predictions of its own."""
    with ExitStack() as open_pages:
        people = []
        for number in range(sessions):
            visitor = open_pages.enter_context(visit(browser, address, run))
            visitor.loaded()
            people.append(
                _Person(
                    visitor,
                    visitor.points([one for one in wanted if one not in visitor.seen])[number::sessions],
                    random.Random(number),
                )
            )
        while any(len(person.found) < clicks for person in people):
            for person in people:
                if len(person.found) < clicks:
                    person.look()
            people[0].visitor.pause(LOOK_S)
        return [time for person in people for time in person.found]
