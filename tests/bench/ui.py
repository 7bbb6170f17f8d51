"""How long does a person wait for the screen? Real clicks in a real Chromium, beside the least that a click can cost.

    python -m tests.bench.ui [--run DIR] [--only points|million] [--small] [--json OUT]

Medians over twenty clicks each. The floor is an empty Streamlit fragment, measured in the same browser just before. It
is a measurement, not a test: the exit code is 0 however slow, and 1 when something did not work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import Error as BrowserError

from explorer.errors import ExplorerError
from explorer.store import Run
from tests.bench import crowd, data, servers
from tests.bench.report import Row, Target, heading
from tests.bench.servers import BenchError, Server
from tests.bench.visitor import Times, Visitor, visit
from tests.ui.chromium import open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CANDIDATES = 400
"""Test points of which the loneliest are clicked."""
DRAG_S = 2.0
LONG_MS = 100
MB = 2**20


@dataclass(frozen=True)
class Effort:
    """How often everything is done."""

    clicks: int = 20
    loads: int = 5
    sessions: int = 5


@dataclass(frozen=True)
class Limits:
    """What the times of one size are held against, ms."""

    panel: Target
    recolor: Target
    painted: Target | None
    load: Target
    key: Target | None = None


POINTS = Limits(Target(150, above=100), Target(100), Target(200), Target(2500), Target(150))
MILLION = Limits(Target(300), Target(400), None, Target(4000))
CROWD = Target(2, strict=True)
BYTES_A_POINT = Target(16, strict=True)
NO_LONG_TASK = Target(0)


def main() -> int:
    asked = _arguments()
    rows: dict[str, list[Row]] = {}
    try:
        parts = _parts(asked)
        with open_browser() as browser:
            _introduce(browser)
            for name, measure in parts.items():
                rows[name] = measure(browser)
    except (BenchError, ExplorerError, BrowserError, pytest.skip.Exception, pytest.fail.Exception) as error:
        print(f"\nSomething did not work: {error}", file=sys.stderr)
        return 1
    finally:
        if asked.json:
            told = {part: [row.as_json() for row in found] for part, found in rows.items()}
            asked.json.write_text(json.dumps(told, indent=1))
    return 0


def _parts(asked: argparse.Namespace) -> dict[str, Callable[[Browser], list[Row]]]:
    """What is measured, with the runs it needs written or computed."""
    small = data.synthetic(2_500, 500)
    if asked.small:
        return {"small": lambda browser: points_part(browser, small, Effort(clicks=3, loads=1, sessions=2))}
    parts: dict[str, Callable[[Browser], list[Row]]] = {}
    if asked.only != "million":
        run = data.given(asked.run) if asked.run else data.mnist() or data.synthetic(60_000, 10_000)
        parts["points"] = lambda browser: points_part(browser, run, Effort())
    if asked.only != "points":
        million = data.synthetic(950_000, 50_000)
        parts["million"] = lambda browser: million_part(browser, million, small, Effort(loads=3))
    return parts


def points_part(browser: Browser, run: Run, effort: Effort) -> list[Row]:
    """The page at the size people have: clicks on map and list, keys, loads, several sessions at once."""
    meta = run.meta()
    print(heading(f"{meta.train:,} training + {meta.test:,} test points ({meta.name})"))
    floor = measured_floor(browser, effort)
    tell = Teller(floor.median)
    tell.add(floor)
    with servers.product(run.path) as server:
        first_load(browser, server.address, run, tell)
        loads(browser, server.address, run, effort, POINTS, tell)
        with visit(browser, server.address, run) as visitor:
            visitor.loaded()
            clicks(visitor, run, effort, POINTS, tell)
            list_clicks(visitor, effort, tell)
            keys(visitor, effort, tell)
        _crowds(browser, server.address, run, effort, tell)
    tell.again(browser, effort)
    return tell.rows


def million_part(browser: Browser, run: Run, small: Run, effort: Effort) -> list[Row]:
    """A million points: loads, clicks, memory beyond that of a small run, dragging."""
    meta = run.meta()
    print(heading(f"{meta.train:,} training + {meta.test:,} test points ({meta.name})"))
    floor = measured_floor(browser, effort)
    tell = Teller(floor.median)
    tell.add(floor)
    with servers.product(run.path) as server:
        bare = server.memory()
        with visit(browser, server.address, small) as visitor:
            visitor.loaded()
            map_clicks(
                visitor, small, 2 * effort.clicks
            )  # as many as below: what they leave behind is not of the points
        ready = server.memory()
        first_load(browser, server.address, run, tell)
        with visit(browser, server.address, run) as visitor:
            visitor.loaded()
            clicks(visitor, run, effort, MILLION, tell)
            memory(server, bare, ready, meta.train + meta.test, tell)
            drag(visitor, tell)
        loads(browser, server.address, run, effort, MILLION, tell, details=True)
    tell.again(browser, effort)
    return tell.rows


class Teller:
    """Prints rows as they come, and keeps them; what a floor belongs to is held beside it."""

    def __init__(self, floor: float) -> None:
        self.rows: list[Row] = []
        self._floor = floor

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(row.line(), flush=True)

    def again(self, browser: Browser, effort: Effort) -> None:
        """The floor once more: how far the machine itself has moved meanwhile."""
        self.add(replace(measured_floor(browser, effort), what="floor at the end"))
        print(f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores at the end")

    def times(self, what: str, values: Sequence[float], target: Target | None = None) -> None:
        """A row of milliseconds beside the floor."""
        self.add(Row(what, tuple(values), "ms", self._floor, target))


def measured_floor(browser: Browser, effort: Effort) -> Row:
    """Click to painted text of the empty fragment."""
    with servers.floor() as server, visit(browser, server.address) as visitor:
        visitor.arm_count()
        visitor.press()
        visitor.answer()  # the first click also loads code
        found = []
        for _ in range(effort.clicks):
            visitor.pause(0.3)
            visitor.arm_count()
            visitor.press()
            found.append(visitor.answer()["text"])
    return Row("floor: an empty fragment, click to painted text", tuple(found))


def first_load(browser: Browser, address: str, run: Run, tell: Teller) -> None:
    """The first visitor of a fresh server pays for what all later ones find ready."""
    with visit(browser, address, run, finished=True) as visitor:
        times = visitor.loaded()
    tell.times("first load by a fresh server: answer and map", [max(times["painted"], times["whole"])])


def loads(
    browser: Browser, address: str, run: Run, effort: Effort, limits: Limits, tell: Teller, details: bool = False
) -> None:
    """Cold loads in fresh contexts, until the answer's text is there and every point of the map is drawn."""
    found = []
    for _ in range(effort.loads):
        with visit(browser, address, run, finished=True) as visitor:
            found.append(visitor.loaded())
            visitor.pause(0.5)
    tell.times(
        "cold load: explained panel and map drawn", [max(one["text"], one["whole"]) for one in found], limits.load
    )
    if not details:
        return
    steps: dict[str, Callable[[Times], float | None]] = {
        "of it: points asked for at": lambda one: (one["points"] or {}).get("asked"),
        "of it: points answered at": lambda one: (one["points"] or {}).get("answered"),
        "of it: points read at": lambda one: (one["points"] or {}).get("read"),
        "of it: decoded, gridded, on the card at": lambda one: one["ready"],
        "of it: influence row read at": lambda one: (one["influence"] or {}).get("read"),
        "of it: list of predictions read at": lambda one: (one["queries"] or {}).get("read"),
        "of it: map in the answer's colors at": lambda one: one["map"],
        "of it: every point drawn at": lambda one: one["whole"],
        "of it: panel text at": lambda one: one["text"],
        "of it: longest task of the page": lambda one: max(one["long"], default=0.0),
    }
    for what, of in steps.items():
        taken = [value for one in found if (value := of(one)) is not None]
        if taken:  # the page may do without a request
            tell.times(what, taken)


def clicks(visitor: Visitor, run: Run, effort: Effort, limits: Limits, tell: Teller) -> None:
    """Clicks on test points of the map: first as they are, then waiting for the graphics card."""
    answers = map_clicks(visitor, run, effort.clicks)
    tell.times("click on the map to panel text", [one["text"] for one in answers], limits.panel)
    tell.times("click to map recolored: frame handed over", [one["map"] for one in answers], limits.recolor)
    pictures = int(np.median([one["pictures"] for one in answers]))
    tell.times(
        f"click to thumbnails painted ({pictures} pictures)", [one["painted"] for one in answers], limits.painted
    )
    visitor.measure(True)
    finished = map_clicks(visitor, run, effort.clicks)
    visitor.measure(False)
    tell.times("click to map recolored: last pixel drawn", [one["map"] for one in finished], limits.recolor)
    tell.times("click to map recolored, every point drawn anew", [one["whole"] for one in finished])


def map_clicks(visitor: Visitor, run: Run, count: int) -> list[Times]:
    """That many answered clicks on test points not asked about before."""
    rest = _rest(run)
    found: list[Times] = []
    for query in visitor.points(candidates(run, visitor.seen)):
        visitor.pause(rest)
        times = visitor.click_point(query)
        if times is not None:
            found.append(times)
        if len(found) == count:
            return found
    raise BenchError(f"Expected {count} test points that can be clicked on the map; found {len(found)}.")


def candidates(run: Run, seen: set[int], seed: int = 0) -> list[int]:
    """Test rows whose influence is there, in a random order that is the same every time."""
    planned = np.setdiff1d(run.plan("label"), np.array(sorted(seen), dtype=np.int64))
    return [int(row) for row in np.random.default_rng(seed).permutation(planned)[:CANDIDATES]]


def list_clicks(visitor: Visitor, effort: Effort, tell: Teller) -> None:
    """Clicks on rows of the list, no two next to each other, so that none was fetched ahead."""
    found: list[Times] = []
    page = 0
    while len(found) < effort.clicks:
        rows = visitor.rows(page)
        page += 1
        if not rows:
            raise BenchError(f"Expected rows of the list on its page {page}; found none that can be clicked.")
        for row in rows[1::5]:
            if row[0] not in visitor.seen and len(found) < effort.clicks:
                visitor.pause(0.4)
                found.append(visitor.click_row(row))
    tell.times("click on a row of the list to panel text", [one["text"] for one in found])
    tell.times("click on a row to map recolored", [one["map"] for one in found])


def keys(visitor: Visitor, effort: Effort, tell: Teller) -> None:
    """From the top of the list down with ArrowDown, and up again with ArrowUp."""
    top = visitor.rows(0)[0]
    visitor.click_row(top)
    for key, what in (("ArrowDown", "next by key to answer and map"), ("ArrowUp", "previous by key to answer and map")):
        found = []
        for _ in range(effort.clicks):
            visitor.pause(0.8)
            found.append(visitor.key(key))
        tell.times(what, [_both(one) for one in found], POINTS.key)


def memory(server: Server, bare: int, ready: int, points: int, tell: Teller) -> None:
    """What opening the run and clicking in it added to the server that had answered as much in a small run, by point."""
    now = server.memory()
    what = "server memory added by opening the run and the clicks"
    tell.add(Row(what, ((now - ready) / points,), "B/point", target=BYTES_A_POINT))
    tell.add(Row("of it: before the first page of any run", (bare / MB,), "MB"))
    tell.add(Row("of it: after load and clicks in a small run", (ready / MB,), "MB"))
    tell.add(Row("of it: after load and clicks", (now / MB,), "MB"))


def drag(visitor: Visitor, tell: Teller) -> None:
    """Two seconds of dragging the map."""
    visitor.pause(2)
    times = visitor.drag(DRAG_S)
    longest = max(times["long"], default=0.0)
    many = sum(duration > LONG_MS for duration in times["long"])
    tell.add(Row(f"dragging: tasks longer than {LONG_MS} ms", (float(many),), "", target=NO_LONG_TASK))
    tell.add(Row("dragging: longest task (0: none over 50 ms)", (longest,), "ms"))
    tell.add(Row("dragging: from frame to frame", tuple(times["gaps"]), "ms"))


def _crowds(browser: Browser, address: str, run: Run, effort: Effort, tell: Teller) -> None:
    wanted = candidates(run, set(), seed=1)
    alone, many = (crowd.visits(browser, address, run, wanted, n, effort.clicks) for n in (1, effort.sessions))
    tell.times("one session at random pauses: panel text", alone)
    tell.times(f"{effort.sessions} sessions at once: panel text", many)
    ratio = float(np.median(many) / np.median(alone))
    tell.add(Row(f"{effort.sessions} sessions: times that of one", (ratio,), "x", target=CROWD))


def _rest(run: Run) -> float:
    """Seconds until everything of the last click is over, drawing in software included."""
    meta = run.meta()
    return 0.4 + 2.0 * (meta.train + meta.test) / 1_000_000


def _both(times: Times) -> float:
    return float(max(times["text"], times["map"]))


def _introduce(browser: Browser) -> None:
    load = os.getloadavg()[0]
    print(
        f"Chromium {browser.version}, software GL, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {load:.1f} at the start"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run to measure in the place of MNIST")
    parser.add_argument("--only", choices=("points", "million"), help="one part of the two")
    parser.add_argument("--small", action="store_true", help="3,000 made-up points and 3 clicks, to see that it works")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
