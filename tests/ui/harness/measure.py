"""How long does the map take: from a click to ring, colors and panel, to load, to be whole, and per frame of a drag?

    python tests/ui/harness/measure.py [n_train ...]

Medians over clicks on test points; the server made the influence row beforehand, as a job would have. Twice: `handed
over` is when the colors have been given to the graphics card (the figure of DESIGN section 6), `last pixel` waits until
they are drawn, which in software GL is mostly the machine's cores and not the explorer. A map that is too much for one frame
shows the strong points first; `whole` is when the last of all points is drawn. A long task is one above 50 ms.
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
N_TEST = 300
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
WATCH = """window.__long = []; new PerformanceObserver((list) => {
  for (const task of list.getEntries()) window.__long.push(task.duration);
}).observe({ type: "longtask", buffered: true });"""
CLICK = """async ([query]) => {
  const view = CHANNEL.view, before = view.lastDraw, panel = document.querySelector("#panel");
  const heard = new Promise((done) => new MutationObserver((_, watch) => {
    if (document.querySelector("#panel")?.innerText.includes(`query ${query};`)) { watch.disconnect(); done(performance.now()); }
  }).observe(document.body, { subtree: true, childList: true, characterData: true }));
  await new Promise((done) => { window.addEventListener("pointerup", () => done(), { once: true, capture: true }); });
  const clicked = performance.now();
  const drawn = new Promise((done) => { const look = () => view.lastDraw > before ? done(view.lastDraw) : setTimeout(look, 1); look(); });
  const ring = new Promise((done) => { const was = view.lastRing; const look = () => view.lastRing > was ? done(view.lastRing) : setTimeout(look, 1); look(); });
  const [drawnAt, heardAt, ringAt] = await Promise.all([drawn, heard, ring]);
  return { ring: ringAt - clicked, drawn: drawnAt - clicked, panel: heardAt - clicked };
}""".replace("CHANNEL", CHANNEL)
FRAMES = """() => {
  window.__frames = []; window.__long = []; window.__watching = true;
  let last = performance.now();
  const step = () => {
    const now = performance.now();
    window.__frames.push(now - last);
    last = now;
    if (window.__watching) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}"""
REST = """async () => {
  const view = CHANNEL.view, began = performance.now();
  await new Promise((done) => { const look = () => view.lastWhole > began ? done() : setTimeout(look, 2); look(); });
  return view.lastWhole - began;
}""".replace("CHANNEL", CHANNEL)


def measure(n_train: int) -> None:
    with chromium.serve(Path(__file__).parent / "app.py") as url, chromium.open_browser() as browser:
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.add_init_script(WATCH)
        _load(page, url, n_train)
        found = page.evaluate(
            f"Array.from({{length: {N_TEST}}}, (_, q) => [q, ...{CHANNEL}.view.screenOf({n_train} + q)])"
        )
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
        _drag(page, n_train)


def _load(page: Page, url: str, n_train: int) -> None:
    asked = f"made-{n_train}-{N_TEST}-table"
    for path in ("points/pca.bin", "influence/label/0.bin"):
        page.request.get(f"{url}/api/runs/{asked}/{path}?token={TOKEN}", timeout=60_000)
    page.goto(f"{url}/?n={n_train}&m={N_TEST}&q=0&kind=table")
    page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0", timeout=120_000)
    page.wait_for_function(f"{CHANNEL}.view.drawn.train === {n_train} && {CHANNEL}.view.lastWhole > 0", timeout=120_000)
    colored, whole = page.evaluate(f"[{CHANNEL}.view.lastDraw, {CHANNEL}.view.lastWhole]")
    print(f"{n_train:>9,}        load: colored {colored:7.1f} ms, whole {whole:7.1f} ms after the page was asked for")


def _drag(page: Page, n_train: int) -> None:
    page.wait_for_timeout(2_000)
    box = page.locator("canvas.points").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.evaluate(FRAMES)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(x + 3 * step, y + 4 * (step % 20))
        page.wait_for_timeout(16)
    page.mouse.up()
    frames, long = page.evaluate("(window.__watching = false, [window.__frames, window.__long])")
    rest = page.evaluate(REST)
    print(
        f"{n_train:>9,}        drag: median frame {statistics.median(frames):5.1f} ms, worst {max(frames):.1f}; long tasks: "
        f"{len(long)}, worst {max(long, default=0):.0f} ms; whole {rest:.0f} ms after it"
    )


def _gap(one: list[float], other: list[float]) -> float:
    return abs(one[1] - other[1]) + abs(one[2] - other[2])


def _click(page: Page, url: str, n_train: int, query: int, x: float, y: float) -> dict[str, float]:
    row = f"{url}/api/runs/made-{n_train}-{N_TEST}-table/influence/label/{query}.bin?token={TOKEN}"
    page.request.get(row, timeout=60_000)
    page.wait_for_timeout(400 + n_train / 1_000)  # the last click is drawn by then, in software too
    page.evaluate(f"window.__took = ({CLICK})([{query}]); null")
    page.mouse.click(x, y)
    return page.evaluate("window.__took")


if __name__ == "__main__":
    for size in [int(one) for one in sys.argv[1:]] or [1_500, 60_000, 1_000_000]:
        measure(size)
