/* Where do the examples that moved this prediction lie?
 *
 * The map component: fetches the points once per layout and a row of influence per query, draws them, and says what
 * was picked. A click changes the picture here and now; Python hears of it and answers elsewhere on the page.
 * Nothing but the user's own hand moves the camera.
 */

const HOVER_PX = 12;
const TEST_WINS_PX = 8;
const PICK_PX = 14;
const SLOW_MS = 150;
const AHEAD = 3;
const GLIDE_MS = 180;

class InfluenceMap {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ie-map");
    this.face = new Face(this.root);
    this.stop = new AbortController();
    this.bus = theBus();
    this.data = this.points = this.row = this.rows = this.channel = null;
    this.hovered = this.inspected = -1;
    this.numbered = [];
    this.heard = new Heard();
    this.pace = new Paced((pick) => this.send("pick", pick));
    this.probe = this.makeProbe();
    try {
      this.picture = new Picture(this.root, {
        scene: () => this.scene(), measure: () => this.bus.measure,
        drawn: (scene, dirty, recolored) => this.drawn(scene, dirty, recolored),
      });
    } catch (error) {
      this.picture = null;
      if (error.message !== "no WebGL2") console.warn(error.message);
      return;
    }
    this.camera = this.picture.camera;
    this.listen();
  }

  listen() {
    const { signal } = this.stop;
    const { canvas } = this.picture;
    const on = (name, heard) => canvas.addEventListener(name, heard, { signal });
    on("webglcontextlost", (event) => {
      event.preventDefault();
      this.face.cover("The browser took the graphics card away from the map. It comes back by itself in a moment.");
    });
    on("webglcontextrestored", () => {
      this.picture.gl.build();
      this.face.cover(null);
      this.picture.redraw();
    });
    gestures(canvas, signal, {
      pan: (dx, dy) => this.move(() => this.camera.pan(dx, dy)),
      zoom: (factor, x, y) => this.move(() => this.camera.zoom(factor, x, y)),
      click: (x, y) => this.click(x, y),
      hover: (x, y) => this.hover(x, y),
    });
    const actions = {
      home: () => this.goTo(HOME),
      frame: () => this.frameQuery(),
      in: () => this.move(() => this.camera.zoom(1.5)),
      out: () => this.move(() => this.camera.zoom(1 / 1.5)),
      retry: () => this.face.retry?.(),
      again: () => this.loadRow(),
    };
    this.root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.do) actions[button.dataset.do]();
      if (button?.dataset.target) this.explain(button.dataset.target);
    }, { signal });
    onKeys(signal, {
      0: actions.home, f: actions.frame, "+": actions.in, "=": actions.in, "-": actions.out,
      t: () => this.explain(this.target === "label" ? "prediction" : "label"),
    });
    this.picture.listen(signal);
  }

  /* ---- what Python says ---- */

  update(component) {
    const before = this.data;
    const { data } = component;
    this.component = component;
    this.data = data;
    this.face.open(data);
    if (!this.picture) return this.withoutWebGL();
    const sameRun = before && ["run", "token", "base", "n_train", "n_test"].every((name) => before[name] === data[name]);
    if (!sameRun) this.openRun();
    if (!sameRun || before.layout !== data.layout) this.openLayout();
    this.channel.fromPython(data.query, data.target, data.revision);
    this.picture.retheme();
    return sameRun ? undefined : this.selected();
  }

  withoutWebGL() {
    this.face.withoutWebGL();
    if (this.told) return;
    this.told = true;
    this.component.setStateValue("webgl", false);
  }

  openRun() {
    this.leaveRun();
    this.rows = new InfluenceRows(this.data);
    this.row = this.wanted = this.points = null;
    this.channel = this.bus.channel(this.data.run);
    this.channel.view = this.probe;
    this.unsubscribe = this.channel.subscribe((state, changed) => {
      if (changed.includes("query") || changed.includes("target")) this.selected();
      else if (changed.includes("queries")) this.learned();
    });
  }

  leaveRun() {
    this.unsubscribe?.();
    this.rows?.keepOnly([]);
    if (this.channel?.view === this.probe) this.channel.view = null;
  }

  async openLayout() {
    const { data } = this;
    const key = layoutKey(data);
    const slow = setTimeout(() => this.face.cover("Loading the map …"), SLOW_MS);
    let points;
    try {
      points = await layoutPoints(data, this.stop.signal);
    } catch (error) {
      if (this.wantsLayout(key) && error.name !== "AbortError") this.face.cover(error.message, () => this.openLayout());
      return;
    } finally {
      clearTimeout(slow);
    }
    if (!this.wantsLayout(key)) return;
    this.face.cover(null);
    this.stopGlide?.();
    this.points = points;
    this.place = key;
    this.hovered = this.inspected = -1;
    this.face.card(null);
    this.picture.open(points, this.bus.cameras.get(key));
    this.probe.ready = performance.now();
    this.learned();
    if (this.row && this.shown === this.wanted) this.apply(this.row);
  }

  wantsLayout(key) {
    return layoutKey(this.data) === key && !this.stop.signal.aborted;
  }

  /* ---- the selection ---- */

  get query() { return this.channel?.state.query ?? null; }

  same(query) {
    return coincide(this.data.task, this.channel.state.queries, this.points, query);
  }

  targetOf(query) {
    return this.same(query) ? "label" : this.channel.state.target;
  }

  get target() { return this.targetOf(this.query); }

  known(query) {
    return Number.isInteger(query) && query >= 0 && query < this.data.n_test;
  }

  /* The ring moves at once; the colors follow when the row is here. */
  selected() {
    this.inspected = -1;
    this.showTarget();
    this.picture.redraw(false);
    const needsPoints = this.channel.state.target === "prediction" && !this.points;
    if (this.known(this.query) && !needsPoints) this.loadRow();
    else this.face.note(this.query === null || needsPoints ? null : `There is no test row ${this.query} in this run.`);
  }

  /* Points or predictions came, and with them whether label and answer differ here. */
  learned() {
    this.showTarget();
    this.describe();
    if (this.query === null) return;
    if (!this.known(this.query) || this.rows.key(this.query, this.target) !== this.wanted) this.selected();
  }

  loadRow() {
    const { query, target, rows } = this;
    const key = rows.key(query, target);
    this.wanted = key;
    clearTimeout(this.slow);
    rows.keepOnly([key, ...this.ahead().map((next) => rows.key(...next))]);
    const row = rows.peek(query, target);
    if (row) return this.apply(row);
    this.slow = setTimeout(() => {
      this.mute();
      this.face.note("Loading the influence on this prediction …");
    }, SLOW_MS);
    return rows.get(query, target).then(
      (come) => this.wanted === key && !this.stop.signal.aborted && this.apply(come),
      (error) => this.wanted === key && error.name !== "AbortError" && this.missing(error));
  }

  missing(error) {
    clearTimeout(this.slow);
    this.mute();
    if (error.status === 404) this.face.note("Not computed yet: the influence on this prediction.", "Check again");
    else this.face.note(error.message, "Retry");
    this.describe();
  }

  mute() {
    this.row = null;
    this.shown = null;
    this.numbered = [];
    if (this.points) this.picture.color(null);
    this.face.legend(this.row);
  }

  apply(row) {
    clearTimeout(this.slow);
    this.row = row;
    this.shown = this.wanted;
    if (!this.points) return;
    this.face.note(null);
    this.numbered = numberedOf(row);
    this.picture.color(row.values);
    this.face.legend(this.row);
    this.describe();
    clearTimeout(this.idle);
    this.idle = setTimeout(() => {
      for (const [query, target] of this.ahead()) this.rows.prefetch(query, target);
    }, 30);
  }

  /* [query, target] of what the user will likely ask next. */
  ahead() {
    const few = Math.min(AHEAD, this.rows.room - 1);
    return upcoming(this.channel.state, few, this.data.n_test).map((query) => [query, this.targetOf(query)]);
  }

  pick(query, target) {
    this.channel.publish({ query, target }, "map");
    const pick = { query, target: this.target };
    this.channel.sent(pick.query, pick.target);
    this.heard.expect(this.data, queryFacts(this.channel.state.queries, query)?.id, pick.target);
    this.pace.push(pick);
  }

  explain(target) {
    if (this.query === null || this.same(this.query) || target === this.target) return;
    this.pick(this.query, target);
  }

  send(name, value) {
    this.component.setTriggerValue(name, value);
  }

  /* ---- the hand ---- */

  /* Point index near CSS px (x, y), or -1. */
  near(x, y, radius, from, to) {
    if (!this.points) return -1;
    return nearest(this.points, ...this.camera.toMap(x, y), radius / this.camera.scale, from, to);
  }

  click(x, y) {
    const { points } = this;
    if (!points) return;
    const test = this.near(x, y, TEST_WINS_PX, points.nTrain, points.total);
    const i = test >= 0 ? test : this.near(x, y, PICK_PX);
    if (i < 0) return;
    if (i >= points.nTrain) this.pick(i - points.nTrain, this.channel.state.target);
    else {
      this.inspected = i;
      this.picture.redraw(false);
      this.send("inspect", { row: i });
    }
  }

  hover(x, y) {
    this.pointer = x === null ? null : [x, y];
    this.hoverFrame ??= requestAnimationFrame(() => {
      this.hoverFrame = undefined;
      const i = this.pointer ? this.near(...this.pointer, HOVER_PX) : -1;
      if (i === this.hovered) return;
      this.hovered = i;
      this.picture.canvas.toggleAttribute("data-over", i >= 0);
      this.showCard(i);
      this.picture.redraw(false);
    });
  }

  move(change) {
    this.stopGlide?.();
    change();
    this.moved();
  }

  moved() {
    this.bus.cameras.set(this.place, { ...this.camera.at });
    if (this.hovered >= 0) {
      this.hovered = -1;
      this.face.card(null);
    }
    this.picture.redraw();
  }

  goTo(goal) {
    this.stopGlide?.();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches || (this.points?.total ?? 0) > 200_000;
    this.stopGlide = glide(this.camera, goal, still ? 0 : GLIDE_MS, () => this.moved());
  }

  frameQuery() {
    if (!this.points || !this.known(this.query)) return;
    const shown = [this.points.nTrain + this.query, ...this.numbered.map((mark) => mark.row)];
    const { at } = this.points;
    this.goTo(this.camera.framing(shown.map((i) => [at[2 * i], at[2 * i + 1]])));
  }

  /* ---- the picture ---- */

  scene() {
    const { points, inspected, hovered, numbered } = this;
    const query = points && this.known(this.query) ? points.nTrain + this.query : -1;
    return { points, query, inspected, hovered, numbered };
  }

  drawn({ points, numbered }, dirty, recolored) {
    const { probe } = this;
    probe.drawn = points ? { train: points.nTrain, test: points.nTest, numbered: numbered.length, query: this.query } : null;
    probe.lastRing = performance.now();
    if (recolored && points) probe.lastDraw = probe.lastRing;
    if (!dirty) return;
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.showCounts(), 120);
  }

  /* ---- the words ---- */

  showTarget() {
    const any = this.known(this.query);
    this.face.target(any, any ? this.target : "label", any && this.same(this.query));
  }

  showCard(i) {
    const { data, points, row, camera } = this;
    if (i < 0) return this.face.card(null);
    const lines = i < points.nTrain ? trainLines(data, points, row, i)
      : testLines(data, points, this.channel.state.queries, i - points.nTrain);
    return this.face.card(lines, camera.toScreen(points.at[2 * i], points.at[2 * i + 1]), camera);
  }

  showCounts() {
    const { points, camera } = this;
    if (!points) return;
    this.probe.inView = countWithin(points, camera.toMap(0, camera.height), camera.toMap(camera.width, 0));
    this.face.counts(this.probe.inView, points.total);
  }

  describe() {
    if (!this.points || !this.known(this.query)) return;
    const about = summary(this.data, this.points, this.channel.state.queries, this.query, this.target, this.row);
    this.picture.canvas.setAttribute("aria-label", mapName(this.data, this.points, about));
    this.face.say(about);
  }

  /* What tests and benchmarks may look at. */
  makeProbe() {
    const map = this;
    return {
      lastDraw: 0, lastRing: 0, ready: 0, drawn: null, inView: 0,
      get camera() { return { ...map.camera.at }; },
      get shown() { return map.shown ?? null; },
      /* Page px of a point: training row i, or n_train + test row. */
      screenOf: (i) => map.picture.pagePlace(map.points, i),
    };
  }

  dispose() {
    this.stop.abort();
    this.pace.cancel();
    this.heard.cancel();
    this.stopGlide?.();
    cancelAnimationFrame(this.hoverFrame);
    for (const timer of [this.slow, this.idle, this.counting]) clearTimeout(timer);
    this.leaveRun();
    this.face.dispose();
    this.picture?.dispose();
  }
}

const maps = new WeakMap();
export default function influenceMap(component) {
  return mountOnce(maps, component, (first) => new InfluenceMap(first));
}
