/* When did the answer to this click come? Runs in the measured page, before anything of it, as `window.__bench`.
 *
 * All times are milliseconds of the page's own clock: from the time stamp that the browser gave to the hand's event
 * (0 = the start of the navigation) to what the probes of `window.__influenceExplorer` say. It changes nothing.
 */
(() => {
  const LOOK_MS = 2;
  const PATIENCE_MS = 60000;
  const MISSED_MS = 10000; // the selection changes within the hand's own event: after so long it will not
  const SEEN_PX = 4; // a point nearer to an edge of its canvas than this is not clicked
  performance.setResourceTimingBufferSize(4000);

  /* `measure` of the page's bus as soon as there is one: the map then waits for the graphics card. */
  const bench = { measure: false, pending: null, result: null, long: [] };
  let bus;
  Object.defineProperty(window, "__influenceExplorer", {
    configurable: true, get: () => bus, set: (made) => { bus = made; bus.measure = bench.measure; },
  });
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) bench.long.push([one.startTime, one.duration]);
  }).observe({ type: "longtask", buffered: true });

  const channel = () => [...(bus?.channels.values() ?? [])].at(-1);
  const after = () => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)));

  /* What `look` finds, once it finds something. */
  const until = (look, what, patience = PATIENCE_MS) => new Promise((done, failed) => {
    const began = performance.now();
    const again = () => {
      const found = look();
      if (found) done(found);
      else if (performance.now() - began > patience) failed(new Error(`waited ${patience} ms for ${what}`));
      else setTimeout(again, LOOK_MS);
    };
    again();
  });

  /* When the text of the answer to `query` was there, and when its pictures were painted. */
  async function panel(query, since) {
    const mine = () => {
      const probe = channel()?.panel;
      return probe?.shown?.endsWith(`/${query}`) && probe.textAt > since && probe;
    };
    const { textAt: text, pictures } = await until(mine, "the panel's text");
    const painted = await until(() => mine() && mine().paintedAt, "the panel's pictures");
    return { text, painted, pictures };
  }

  /* When the map had the colors of the answer to `query`, and when every point was drawn. */
  async function map(query, since) {
    const { view } = channel();
    const drawn = await until(() => view.shown?.endsWith(`/${query}`) && view.lastDraw > since && view.lastDraw, "the recolored map");
    return { drawn, whole: await until(() => view.lastWhole >= drawn && view.lastWhole, "every point of the map") };
  }

  /* ---- one click ---- */

  /* Before the hand acts: which event counts (`pointerup`, `keydown`), and what answers it (`answer`, `count`). */
  bench.arm = (kind, what) => {
    const was = channel()?.state.query;
    const before = document.querySelector(".count")?.textContent;
    bench.result = null;
    bench.pending = new Promise((done) => {
      window.addEventListener(kind, (event) => done(event.timeStamp), { once: true, capture: true });
    }).then((since) => (what === "count" ? counted(since, before) : answered(since, was))).then(
      (result) => { bench.result = result; return result; },
      (error) => { bench.result = { error: error.message }; return bench.result; });
  };

  async function answered(since, was) {
    const changed = () => channel().state.query !== was;
    if (!(await until(changed, "another selection", MISSED_MS).catch(() => false))) return { missed: true };
    const { query } = channel().state;
    const [shown, drawn] = await Promise.all([panel(query, since), map(query, since)]);
    return { query, text: shown.text - since, painted: shown.painted - since, pictures: shown.pictures, map: drawn.drawn - since, whole: drawn.whole - since };
  }

  async function counted(since, before) {
    await until(() => document.querySelector(".count")?.textContent !== before, "the next count");
    return { text: (await after()) - since };
  }

  /* ---- one load ---- */

  bench.loaded = async () => {
    await until(() => Number.isInteger(channel()?.state.query) && channel().view, "the map and a selection");
    const { query } = channel().state;
    const [shown, drawn] = await Promise.all([panel(query, 0), map(query, 0)]);
    const route = (name) => {
      const found = performance.getEntriesByType("resource").find((one) => one.name.includes(name));
      return found ? { asked: found.startTime, answered: found.responseStart, read: found.responseEnd } : null;
    };
    return {
      query, text: shown.text, painted: shown.painted, map: drawn.drawn, whole: drawn.whole, ready: channel().view.ready,
      points: route("/points/"), influence: route("/influence/"), queries: route("/queries.json"),
      long: bench.long.map(([, duration]) => duration),
    };
  };

  /* ---- where to click ---- */

  const roots = (root = document, found = [root]) => {
    for (const node of root.querySelectorAll("*")) if (node.shadowRoot) found.push(node.shadowRoot) && roots(node.shadowRoot, found);
    return found;
  };
  const hit = (x, y) => {
    let at = document.elementFromPoint(x, y);
    for (let inner; at?.shadowRoot && (inner = at.shadowRoot.elementFromPoint(x, y)) && inner !== at;) at = inner;
    return at;
  };
  const onCanvas = (x, y) => {
    const at = hit(x, y);
    const box = at?.tagName === "CANVAS" && at.getBoundingClientRect();
    return box && x > box.left + SEEN_PX && x < box.right - SEEN_PX && y > box.top + SEEN_PX && y < box.bottom - SEEN_PX;
  };

  /* Where a test point can be clicked now, [x, y], or null. */
  bench.place = ([query, train]) => {
    const place = channel().view.screenOf(train + query);
    return onCanvas(...place) ? place : null;
  };

  /* Those of `queries` that can be clicked on the map, the loneliest first: [[query, x, y]]. */
  bench.points = ([queries, train, test]) => {
    const { view } = channel();
    const all = Array.from({ length: test }, (_, row) => view.screenOf(train + row));
    const lonely = queries.filter((query) => onCanvas(...all[query])).map((query) => {
      const [x, y] = all[query];
      let least = Infinity;
      for (let row = 0; row < test; row++) {
        if (row !== query) least = Math.min(least, (all[row][0] - x) ** 2 + (all[row][1] - y) ** 2);
      }
      return [least, query, x, y];
    });
    return lonely.sort((a, b) => b[0] - a[0]).map((one) => one.slice(1));
  };

  /* The rows of the list that can be clicked now: [[query, x, y]]; `page` scrolls it first, 0 is its top. */
  bench.rows = async (page) => {
    const list = roots().map((root) => root.querySelector(".ie-list")).find(Boolean);
    const row = await until(() => list?.querySelector(".row"), "a row of the list");
    let box = row.parentElement;
    while (box.scrollHeight <= box.clientHeight + 1 && box !== list) box = box.parentElement;
    box.scrollTop = page * box.clientHeight;
    await new Promise((done) => setTimeout(done, 400));
    const seen = () => [...list.querySelectorAll(".row")].map((one) => {
      const place = one.getBoundingClientRect();
      return [Number(one.id.replace("row-", "")), place.left + place.width / 2, place.top + place.height / 2];
    }).filter(([query, x, y]) => hit(x, y)?.closest(".row")?.id === `row-${query}`);
    return until(() => seen().length && seen(), "rows of the list that can be clicked");
  };

  /* ---- dragging ---- */

  /* Counts frames and long tasks until `stop()`. */
  bench.frames = () => {
    const from = performance.now(), seen = [];
    let going = true;
    const frame = (now) => { seen.push(now); if (going) requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
    bench.stop = async () => {
      going = false;
      await new Promise((done) => setTimeout(done, 200)); // long tasks are told late
      const gaps = seen.slice(1).map((now, i) => now - seen[i]);
      return { long: bench.long.filter(([start]) => start >= from).map(([, duration]) => duration), gaps };
    };
  };

  window.__bench = bench;
})();
