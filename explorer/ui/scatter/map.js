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

/* Points of the last layouts, so that coming back to one needs no network. */
const keptPoints = new Map();

class InfluenceMap {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ie-map");
    this.stop = new AbortController();
    this.face = new Face(this.root);
    this.stage = this.root.querySelector(".stage");
    this.canvas = this.root.querySelector("canvas.points");
    this.bus = theBus();
    this.data = this.points = this.row = this.rows = this.channel = null;
    this.camera = new Camera();
    this.hovered = this.inspected = -1;
    this.numbered = [];
    this.frame = 0;
    this.dirty = false;
    this.pace = new Paced((pick) => this.send("pick", pick));
    this.probe = this.makeProbe();
    try {
      this.gl = new PointsGL(this.canvas);
    } catch (error) {
      this.gl = null;
      if (error.message !== "no WebGL2") console.warn(error.message);
      return;
    }
    this.marks = new Marks(this.root.querySelector("canvas.marks"));
    this.listen();
  }

  listen() {
    const { signal } = this.stop;
    const on = (name, heard) => this.canvas.addEventListener(name, heard, { signal });
    on("webglcontextlost", (event) => {
      event.preventDefault();
      this.face.cover("The browser took the graphics card away from the map. It comes back by itself in a moment.");
    });
    on("webglcontextrestored", () => {
      this.gl.build();
      this.face.cover(null);
      this.redraw();
    });
    gestures(this.canvas, signal, {
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
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.stage);
    signal.addEventListener("abort", () => observer.disconnect());
    window.addEventListener("resize", () => this.resize(), { signal });
    watchTheme(this.root, signal, () => this.retheme());
  }

  /* ---- what Python says ---- */

  update(component) {
    const before = this.data;
    const { data } = component;
    this.component = component;
    this.data = data;
    this.face.open(data);
    if (!this.gl) return this.withoutWebGL();
    const sameRun = before && ["run", "token", "base", "n_train", "n_test"].every((name) => before[name] === data[name]);
    if (!sameRun) this.openRun();
    if (!sameRun || before.layout !== data.layout) this.openLayout();
    this.channel.fromPython(data.query, data.target, data.revision);
    this.retheme();
    if (!sameRun) this.selected();
    return undefined;
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
      else if (changed.includes("queries")) this.describe();
    });
  }

  leaveRun() {
    this.unsubscribe?.();
    this.rows?.keepOnly([]);
    if (this.channel?.view === this.probe) this.channel.view = null;
  }

  async openLayout() {
    const { data } = this;
    const key = `${data.run}/${data.layout}`;
    let points = keptPoints.get(key);
    if (!points) {
      const slow = setTimeout(() => this.face.cover("Loading the map …"), SLOW_MS);
      try {
        const buffer = await load(route(data, `points/${data.layout}.bin`), `the ${LAYOUTS[data.layout]} map`, { signal: this.stop.signal });
        points = decodePoints(buffer, data.n_train, data.n_test);
      } catch (error) {
        if (this.wantsLayout(key) && error.name !== "AbortError") this.face.cover(error.message, () => this.openLayout());
        return;
      } finally {
        clearTimeout(slow);
      }
      keptPoints.set(key, points);
      if (keptPoints.size > 3) keptPoints.delete(keptPoints.keys().next().value);
    }
    if (!this.wantsLayout(key)) return;
    this.face.cover(null);
    this.stopGlide?.();
    this.points = points;
    this.place = key;
    this.hovered = this.inspected = -1;
    this.face.card(null);
    this.camera.open(points, this.bus.cameras.get(key));
    this.gl.setPoints(points);
    this.probe.ready = performance.now();
    if (this.row && this.shown === this.wanted) this.apply(this.row);
    else this.selected();
    this.redraw();
  }

  wantsLayout(key) {
    return `${this.data.run}/${this.data.layout}` === key && !this.stop.signal.aborted;
  }

  /* ---- the selection ---- */

  get query() {
    return this.channel?.state.query ?? null;
  }

  same(query) {
    return coincide(this.data.task, this.channel.state.queries, this.points, query);
  }

  targetOf(query) {
    return this.same(query) ? "label" : this.channel.state.target;
  }

  get target() {
    return this.targetOf(this.query);
  }

  known(query) {
    return Number.isInteger(query) && query >= 0 && query < this.data.n_test;
  }

  /* The ring moves at once; the colors follow when the row is here. */
  selected() {
    this.inspected = -1;
    this.face.target(this.query !== null, this.query === null ? "label" : this.target, this.query !== null && this.same(this.query));
    this.redraw(false);
    const needsPoints = this.channel.state.target === "prediction" && !this.points;
    if (this.known(this.query) && !needsPoints) this.loadRow();
    else this.face.note(this.query === null || needsPoints ? null : `There is no test row ${this.query} in this run.`);
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
    if (this.points) this.gl.setValues(null);
    this.face.legend(this.data, this.row);
    this.redraw();
  }

  apply(row) {
    clearTimeout(this.slow);
    this.row = row;
    this.shown = this.wanted;
    if (!this.points) return;
    this.face.note(null);
    this.numbered = numberedOf(row);
    this.gl.setValues(row.values);
    this.recolored = true;
    this.face.legend(this.data, this.row);
    this.redraw();
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
      this.redraw(false);
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
      this.canvas.toggleAttribute("data-over", i >= 0);
      this.showCard(i);
      this.redraw(false);
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
    this.redraw();
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

  resize() {
    const { stage } = this;
    this.ratio = window.devicePixelRatio || 1;
    this.camera.resize(stage.clientWidth, stage.clientHeight);
    for (const canvas of stage.querySelectorAll("canvas")) {
      canvas.width = Math.max(1, Math.round(stage.clientWidth * this.ratio));
      canvas.height = Math.max(1, Math.round(stage.clientHeight * this.ratio));
    }
    this.redraw();
  }

  retheme() {
    this.theme = readTheme(this.root);
    this.root.toggleAttribute("data-dark", this.theme.dark);
    this.root.style.setProperty("--muted", css(this.theme.muted));
    if (this.ratio) this.redraw();
  }

  /* Draws in the next frame: the points as well, or only what lies on top of them. */
  redraw(points = true) {
    this.dirty ||= points;
    if (!this.gl || !this.ratio) return;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    const { camera, theme, ratio, points, probe } = this;
    if (this.dirty) {
      this.gl.draw(camera, theme, ratio);
      clearTimeout(this.counting);
      this.counting = setTimeout(() => this.showCounts(), 120);
    }
    this.dirty = false;
    const query = points && this.known(this.query) ? points.nTrain + this.query : -1;
    this.marks.draw(camera, theme, ratio,
      { points, query, inspected: this.inspected, hovered: this.hovered, numbered: this.numbered });
    probe.drawn = points ? { train: points.nTrain, test: points.nTest, numbered: this.numbered.length, query: this.query } : null;
    const recolored = this.recolored && points;
    this.recolored = false;
    if (recolored && this.bus.measure) this.gl.finish();
    setTimeout(() => {
      probe.lastRing = performance.now();
      if (recolored) probe.lastDraw = probe.lastRing;
    }, 0);
  }

  /* ---- the words ---- */

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
    this.canvas.setAttribute("aria-label", mapName(this.data, this.points, about));
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
      screenOf(i) {
        const box = map.canvas.getBoundingClientRect();
        const [x, y] = map.camera.toScreen(map.points.at[2 * i], map.points.at[2 * i + 1]);
        return [box.left + x, box.top + y];
      },
    };
  }

  dispose() {
    this.stop.abort();
    this.pace.cancel();
    this.stopGlide?.();
    cancelAnimationFrame(this.frame);
    for (const timer of [this.slow, this.idle, this.counting]) clearTimeout(timer);
    this.leaveRun();
    this.face.dispose();
    this.gl?.dispose();
  }
}

const maps = new WeakMap();
export default function influenceMap(component) {
  return mountOnce(maps, component, (first) => new InfluenceMap(first));
}
