"""How long from a click to the recolored map and to the panel? Medians over clicks on test points.

    python tests/ui/harness/measure.py [n_train ...]

The server made the influence row beforehand, as a job would have. Twice: `handed over` is when the frame has been
given to the graphics card (the figure of DESIGN section 6), `last pixel` waits until it is drawn, which in software
GL is mostly the machine's cores and not the explorer.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.ui import chromium
from tests.ui.harness.synthetic import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Page

CLICKS = 15
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
CLICK = """async ([query]) => {
  const view = CHANNEL.view, before = view.lastDraw, panel = document.querySelector("#panel");
  const heard = new Promise((done) => new MutationObserver((_, watch) => {
    if (document.querySelector("#panel")?.innerText.includes(`query ${query};`)) { watch.disconnect(); done(performance.now()); }
  }).observe(document.body, { subtree: true, childList: true, characterData: true }));
  await new Promise((done) => { window.addEventListener("pointerup", () => done(), { once: true, capture: true }); });
  const clicked = performance.now();
  const drawn = new Promise((done) => { const look = () => view.lastDraw > before ? done(view.lastDraw) : setTimeout(look, 1); look(); });
  const ring = new Promise((done) => { const was = view.lastRing; const look = () => view.lastRing > was ? done(view.lastRing) : setTimeout(look, 1); look(); });
  const row = () => performance.getEntriesByType("resource").filter((one) => one.name.includes(`/${query}.bin`)).at(-1);
  const [drawnAt, heardAt, ringAt] = await Promise.all([drawn, heard, ring]);
  return { ring: ringAt - clicked, drawn: drawnAt - clicked, panel: heardAt - clicked, bytes: row() ? row().responseEnd - clicked : 0 };
}""".replace("CHANNEL", CHANNEL)


def measure(n_train: int) -> None:
    with chromium.serve(Path(__file__).parent / "app.py") as url, chromium.open_browser() as browser:
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.goto(f"{url}/?n={n_train}&m=300&q=0&kind=table")
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0", timeout=120_000)
        found = page.evaluate(f"Array.from({{length: 300}}, (_, q) => [q, ...{CHANNEL}.view.screenOf({n_train} + q)])")
        apart = [one for one in found if one[0] not in (0, 5) and min(_gap(one, o) for o in found if o is not one) > 12]
        for finish, clicks in ((False, apart[:CLICKS]), (True, apart[CLICKS : 2 * CLICKS])):
            page.evaluate(f"window.__influenceExplorer.measure = {str(finish).lower()}")
            taken = [_click(page, url, n_train, *one) for one in clicks]
            for name in ("ring", "drawn", "panel"):
                shown = {"drawn": "last pixel" if finish else "handed over"}.get(name, name)
                values = sorted(one[name] for one in taken)
                print(
                    f"{n_train:>9,} {shown:>11}: median {statistics.median(values):7.1f} ms [{values[0]:.1f} to {values[-1]:.1f}]"
                )
            after = statistics.median(one["drawn"] - one["bytes"] for one in taken if one["bytes"])
            print(f"{n_train:>9,} after bytes: median {after:7.1f} ms, {len(taken)} clicks")


def _gap(one: list[float], other: list[float]) -> float:
    return abs(one[1] - other[1]) + abs(one[2] - other[2])


def _click(page: Page, url: str, n_train: int, query: int, x: float, y: float) -> dict[str, float]:
    row = f"{url}/api/runs/made-{n_train}-300-table/influence/label/{query}.bin?token={TOKEN}"
    page.request.get(row, timeout=60_000)
    page.wait_for_timeout(400 + n_train / 250)  # the last click is drawn by then, in software too
    page.evaluate(f"window.__took = ({CLICK})([{query}]); null")
    page.mouse.click(x, y)
    return page.evaluate("window.__took")


if __name__ == "__main__":
    for size in [int(one) for one in sys.argv[1:]] or [1_500, 60_000, 1_000_000]:
        measure(size)
