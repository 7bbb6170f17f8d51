"""How long from a click to the recolored map and to the panel? Medians over clicks on test points.

    python tests/ui/harness/measure.py [n_train ...]

Software GL: a graphics card draws faster. `drawn` waits for the last pixel; the influence row is made beforehand.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.ui import chromium  # noqa: E402

CLICKS = 15
CHANNEL = "[...window.__influenceExplorer.channels.values()].at(-1)"
CLICK = """async ([query, x, y]) => {
  const view = CHANNEL.view, before = view.lastDraw, panel = document.querySelector("#panel");
  const heard = new Promise((done) => new MutationObserver((_, watch) => {
    if (document.querySelector("#panel")?.innerText.includes(`query ${query};`)) { watch.disconnect(); done(performance.now()); }
  }).observe(document.body, { subtree: true, childList: true, characterData: true }));
  const start = performance.now();
  await new Promise((done) => { window.addEventListener("pointerup", () => done(), { once: true, capture: true }); window.__armed = true; });
  const clicked = performance.now();
  const drawn = new Promise((done) => { const look = () => view.lastDraw > before ? done(view.lastDraw) : setTimeout(look, 1); look(); });
  const ring = new Promise((done) => { const was = view.lastRing; const look = () => view.lastRing > was ? done(view.lastRing) : setTimeout(look, 1); look(); });
  const row = () => performance.getEntriesByType("resource").filter((one) => one.name.includes(`/${query}.bin`)).at(-1);
  const [drawnAt, heardAt, ringAt] = await Promise.all([drawn, heard, ring]);
  return { ring: ringAt - clicked, drawn: drawnAt - clicked, panel: heardAt - clicked, bytes: row() ? row().responseEnd - clicked : NaN };
}""".replace("CHANNEL", CHANNEL)


def measure(n_train: int) -> None:
    with chromium.serve(Path(__file__).parent / "app.py") as url, chromium.open_browser() as browser:
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.goto(f"{url}/?n={n_train}&m=300&q=0&kind=table")
        page.wait_for_function(f"window.__influenceExplorer && {CHANNEL}?.view?.lastDraw > 0", timeout=120_000)
        page.evaluate("window.__influenceExplorer.measure = true")
        found = page.evaluate(
            f"""() => Array.from({{length: 300}}, (_, q) => [q, ...{CHANNEL}.view.screenOf({n_train} + q)])"""
        )
        apart = [
            one
            for one in found
            if one[0] not in (0, 5)
            and min(abs(one[1] - o[1]) + abs(one[2] - o[2]) for o in found if o[0] != one[0]) > 12
        ]
        taken = []
        for query, x, y in apart[:CLICKS]:
            # the server computes the row once, so that the click measures the explorer and not numpy
            page.request.get(
                f"{url}/api/runs/made-{n_train}-300-table/influence/label/{query}.bin?token=harness-token", timeout=60_000
            )
            page.wait_for_timeout(400)
            page.evaluate(f"window.__armed = false; window.__took = ({CLICK})([{query}, {x}, {y}]); null")
            page.mouse.click(x, y)
            taken.append(page.evaluate("window.__took"))
        for name in ("ring", "bytes", "drawn", "panel"):
            values = sorted(one[name] for one in taken if one[name] is not None)
            print(f"{n_train:>9,} {name:>6}: median {statistics.median(values):6.1f} ms  [{values[0]:.1f} to {values[-1]:.1f}]")
        after = statistics.median(one["drawn"] - one["bytes"] for one in taken if one["bytes"] is not None)
        print(f"{n_train:>9,} bytes to drawn: median {after:.1f} ms; {len(taken)} clicks")


if __name__ == "__main__":
    for size in [int(one) for one in sys.argv[1:]] or [1_500, 60_000, 1_000_000]:
        measure(size)
