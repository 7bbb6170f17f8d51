/* Where do the examples that moved this prediction lie?
 *
 * The map component: fetches the points once per layout, and joins what is explained (explained.js), what draws it
 * (picture.js, seen.js), what the hand does (hand.js) and what the page says (bus.js). A click changes the picture here
 * and now; Python hears of it and answers elsewhere on the page. Nothing but the user's own hand, or a link, moves the camera.
 */

/* A map that is here sooner needs no word. */
const LOADING_AFTER_MS = 150;
const COUNT_AFTER_MS = 120;

class InfluenceMap {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ie-map");
    this.face = new Face(this.root);
    this.passages = new Passages();
    this.stop = new AbortController();
    this.bus = theBus();
    this.data = this.points = this.channel = this.explained = null;
    this.numbered = [];
    this.heard = new Heard();
    this.likely = new Likely("map");
    this.probe = this.makeProbe();
    try {
      this.picture = new Picture(this.root, {
        scene: () => this.scene(), measure: () => this.bus.measure,
        drawn: (about) => this.drawn(about), themed: (theme) => this.themed(theme),
      });
    } catch (error) {
      this.picture = null;
      if (error.message !== "no WebGL2") console.warn(error.message);
      return;
    }
    this.seen = new Seen(this.picture, (counts) => this.counted(counts));
    this.hand = new Hand(this.picture, this, this.stop.signal);
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
      this.face.cover(null);
      this.picture.restored();
    });
    const { hand } = this;
    const { camera } = this.picture;
    const actions = {
      home: () => hand.goTo(HOME),
      frame: () => this.frameQuery(),
      in: () => hand.move(() => camera.zoom(1.5)),
      out: () => hand.move(() => camera.zoom(1 / 1.5)),
      density: () => this.toggleDensity(),
      unselect: () => this.selected(null),
      png: () => this.save(),
      retry: () => this.face.retry?.(),
      again: () => this.explained.load(),
      influence: () => this.channel.publish({ lesson: null }, "map"),
    };
    this.root.addEventListener("click", (event) => {
      const { do: action, target, tool, layout } = event.target.closest("button")?.dataset ?? {};
      if (action) actions[action]();
      if (target) this.explained.explain(target);
      if (tool) hand.take(tool);
      if (layout && layout !== this.data.layout) this.send("layout", { layout });
    }, { signal });
    onKeys(signal, {
      0: ["show the whole map", actions.home], f: ["show this prediction and its numbered examples", actions.frame],
      "+": ["zoom in", actions.in], "=": ["zoom in", actions.in], "-": ["zoom out", actions.out],
      l: ["lasso: draw around points", () => hand.take("lasso")], b: ["box: select a rectangle", () => hand.take("box")],
      Escape: ["let go of the selection", () => hand.letGo() || this.selected(null)],
      d: ["shade where points are crowded", actions.density],
      t: ["explain the other answer", () => this.explained.explain(this.explained.target === "label" ? "prediction" : "label")],
    }, "Map");
    window.addEventListener("popstate", () => this.comeBack(), { signal });
    this.picture.listen(signal);
  }

  /* ---- what Python says ---- */

  update(component) {
    const before = this.data;
    const { data } = component;
    this.component = component;
    this.data = data;
    this.face.open(data);
    this.passages.open(data);
    if (!this.picture) return this.withoutWebGL();
    const sameRun = before && ["run", "token", "base", "n_train", "n_test"].every((name) => before[name] === data[name]);
    if (!sameRun) this.openRun();
    if (!sameRun || before.layout !== data.layout) this.openLayout();
    this.channel.fromPython(data.query, data.target, data.revision, data.view ?? {});
    this.face.lesson(this.explained.lesson);
    this.picture.retheme();
    return sameRun ? undefined : this.explained.asked();
  }

  withoutWebGL() {
    this.face.withoutWebGL();
    if (this.told) return;
    this.told = true;
    this.component.setStateValue("webgl", false);
  }

  openRun() {
    this.leaveRun();
    this.points = this.place = null;
    this.numbered = [];
    this.channel = this.bus.channel(this.data.run);
    this.channel.view = this.probe;
    this.explained = new Explained(this.data, this.channel, this.heard, (name, value) => this.send(name, value), {
      row: (row) => this.showRow(row),
      target: () => this.showTarget(),
      note: (text, button) => this.face.note(text, button),
    });
    this.unsubscribe = this.channel.subscribe((state, changed, source) => this.hear(state, changed, source));
  }

  hear(state, changed, source) {
    const any = (...names) => names.some((name) => changed.includes(name));
    if (source !== "python" && any("query", "target") && state.lesson !== null) {
      this.channel.publish({ lesson: null }, source); // who asks about a prediction asks for its influence
    }
    if (any("filter", "color", "selection")) this.look();
    if (any("inspected", "pointed")) this.picture.redraw(false);
    if (any("lesson")) this.face.lesson(this.explained.lesson);
    if (any("query", "target", "lesson")) this.explained.asked();
    else if (any("queries")) this.explained.learned();
    if (any("likely")) this.explained.prepare(state.likely);
  }

  leaveRun() {
    this.link?.dispose();
    this.unsubscribe?.();
    this.explained?.dispose();
    if (this.channel?.view === this.probe) this.channel.view = null;
  }

  async openLayout() {
    const { data } = this;
    const key = layoutKey(data);
    const slow = setTimeout(() => this.face.cover("Loading the map …"), LOADING_AFTER_MS);
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
    const first = this.place === null;
    this.points = points;
    this.place = key;
    this.link?.dispose();
    this.link = new CameraLink(data);
    this.hand.reset();
    this.face.card(null);
    this.picture.open(points, this.bus.cameras.get(key) ?? (first ? this.link.read() : null));
    if (!first) this.link.write(this.picture.camera.at);
    this.look({ points, layout: data.layout, row: this.row });
    this.face.density(this.seen.wantsDensity);
    this.probe.ready = performance.now();
    this.explained.open(points);
  }

  /* The address changed by the back button: it says where one was looking. */
  comeBack() {
    if (!this.points || !this.link.ours) return;
    const seen = this.link.read() ?? HOME;
    this.hand.move(() => this.picture.camera.set(seen));
    this.link.cancel({ ...seen });
  }

  wantsLayout(key) {
    return layoutKey(this.data) === key && !this.stop.signal.aborted;
  }

  /* ---- what is explained (see explained.js) ---- */

  get query() { return this.explained?.query ?? null; }

  get row() { return this.explained.row; }

  showRow(row) {
    this.numbered = numberedOf(row);
    this.face.legend.row(row);
    this.look({ row });
    this.channel.publish({ row }, "map");
    this.describe();
  }

  showTarget() {
    const { known, query, target } = this.explained;
    this.face.target(known, known ? target : "label", known && this.explained.same(query));
    this.picture.redraw(false);
    this.describe();
  }

  send(name, value) {
    this.component.setTriggerValue(name, value);
  }

  /* ---- the hand (see hand.js) ---- */

  get shown() { return this.seen.shown; }

  click(i) {
    if (i >= this.points.nTrain) return this.explained.pick(i - this.points.nTrain, this.channel.state.target);
    this.channel.publish({ inspected: i }, "map");
    return this.send("inspect", { row: i });
  }

  hover(i) {
    const { data, points, row } = this;
    const isTrain = i < (points?.nTrain ?? Infinity);
    const own = isTrain ? i : i - points.nTrain;
    this.likely.over(this.channel, isTrain ? null : own);
    if (i < 0) return this.face.card(null);
    const lines = isTrain ? trainLines(data, points, row, own) : testLines(data, points, this.channel.state.queries, own, data.texts);
    if (!isTrain && row?.tests) lines.push(changeLine(data, row.tests[own], row.scale));
    const { camera } = this.picture;
    const shown = { picture: data.pictures ? route(data, `thumb/${isTrain ? "train" : "test"}/${own}.png`) : null };
    if (data.texts) shown.passage = isTrain ? () => this.passages.training(own) : testPassage(this.channel.state.queries, own);
    return this.face.card(lines, camera.toScreen(points.at[2 * i], points.at[2 * i + 1]), camera, shown);
  }

  moved() {
    if (!this.place) return;
    const camera = { ...this.picture.camera.at };
    this.bus.cameras.set(this.place, camera);
    this.link.write(camera);
  }

  took(tool) {
    this.face.tool(tool);
  }

  /* A polygon in map units, or null for none. */
  selected(polygon) {
    this.channel.publish({ selection: polygon && { layout: this.data.layout, polygon } }, "map");
  }

  frameQuery() {
    if (!this.points || !this.explained.known) return;
    this.hand.frameOn([this.points.nTrain + this.query, ...this.numbered.map((mark) => mark.row)]);
  }

  toggleDensity() {
    this.seen.wantDensity(!this.seen.wantsDensity);
    this.face.density(this.seen.wantsDensity);
  }

  /* ---- the picture ---- */

  /* Shows the points as the page wants them now. */
  look(change = {}) {
    const { filter, color, selection } = this.channel.state;
    const mode = this.seen.now.color;
    this.seen.update({ filter, color, selection, ...change });
    if (this.points && (change.points || mode !== this.seen.now.color)) this.explainColors();
    this.picture.redraw(false);
  }

  scene() {
    const { points, numbered, channel } = this;
    const { inspected, pointed, selection } = channel?.state ?? {};
    const fits = (i, size) => (Number.isInteger(i) && i >= 0 && points && i < size ? i : -1);
    return {
      points, numbered: points ? numbered.filter((mark) => this.shown?.[mark.row]) : [], hovered: this.hand?.hovered ?? -1,
      query: points && this.explained.known ? points.nTrain + this.query : -1,
      inspected: fits(inspected, points?.nTrain), pointed: fits(pointed, points?.total),
      drawing: this.hand?.drawing.corners ?? null,
      selection: selection?.layout === this.data?.layout ? selection?.polygon : null,
    };
  }

  drawn({ scene, dirty, overlay, recolored, whole }) {
    const { probe, points } = this;
    const { ground, tests } = this.picture.gl.layers;
    probe.drawn = points ? { train: ground.done, test: tests.done, numbered: scene.numbered.length, query: this.query } : null;
    const now = performance.now();
    if (overlay) probe.lastRing = now;
    if (recolored && points) probe.lastDraw = now;
    if (whole && dirty) probe.lastWhole = now;
    if (dirty) this.countSoon();
  }

  themed(theme) {
    this.seen?.retheme(theme);
    if (this.points) this.explainColors();
  }

  /* ---- the words ---- */

  explainColors() {
    const { color } = this.seen.now;
    this.face.legend.colors(color, color === "influence" ? null : colorKey(this.data, this.points, color, this.picture.theme));
  }

  counted(counts) {
    this.channel.publish({ counts }, "map");
    const selected = counts.selectedTrain + counts.selectedTest;
    this.face.selected(counts.selected ? `${count(selected)} selected` : null);
    this.countedFrom = null;
    this.countSoon();
  }

  /* A moment after the camera came to rest, and while points are still being drawn. */
  countSoon() {
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.showCounts(), COUNT_AFTER_MS);
  }

  showCounts() {
    const { points, picture, probe, seen } = this;
    if (!points || !seen.counts) return;
    const { camera } = picture;
    const place = picture.view().id;
    if (place !== this.countedFrom) probe.inView = countWithin(points, seen.shown, camera.toMap(0, camera.height), camera.toMap(camera.width, 0));
    this.countedFrom = place;
    this.face.legend.counts(countLine(seen.counts, probe.inView, picture.share));
  }

  /* The map as a PNG that says what it shows. */
  async png() {
    if (!this.points) throw new Error("The map is not loaded yet. Try again in a moment.");
    await this.picture.whole();
    const { data, seen, row } = this;
    const facts = queryFacts(this.channel.state.queries, this.query);
    const about = this.explained.known ? this.summary() : "";
    const mode = seen.now.color;
    const lines = [
      `Run ${data.run}, ${LAYOUTS[data.layout]} map. ${facts ? "" : `Test row ${this.query}. `}${about}`,
      `Color: ${row?.tests && mode === "influence" ? "change by the lesson" : COLOR_NAMES[mode]}${mode === "influence" && data.unit && !row?.tests ? ` in ${data.unit}` : ""}. ${countLine(seen.counts, null, 1)}.`,
    ];
    return pictureOf(this.picture, lines, swatches(data, this.points, mode, this.picture.theme, row));
  }

  async save() {
    const id = queryFacts(this.channel.state.queries, this.query)?.id ?? this.query;
    try {
      download(await this.png(), `${this.data.run}-${id}-map.png`);
    } catch (error) {
      this.face.note(error.message);
    }
  }

  summary() {
    const { data, points, row, explained } = this;
    if (row?.tests && explained.lesson !== null) return lessonSummary(data, points, row, explained.lesson);
    return summary(data, points, this.channel.state.queries, this.query, explained.target, row);
  }

  describe() {
    if (!this.points || !this.explained.known) return;
    const about = this.summary();
    this.picture.canvas.setAttribute("aria-label", mapName(this.data, this.points, about));
    this.face.say(about);
  }

  /* What tests and benchmarks may look at. */
  makeProbe() {
    const map = this;
    return {
      lastDraw: 0, lastRing: 0, lastWhole: 0, ready: 0, drawn: null, inView: 0,
      get camera() { return { ...map.picture.camera.at }; },
      get shown() { return map.explained?.shown ?? null; },
      /* Page px of a point: training row i, or n_train + test row. */
      screenOf: (i) => map.picture.pagePlace(map.points, i),
      /* What is shown, as a PNG Blob. */
      png: () => map.png(),
    };
  }

  dispose() {
    this.stop.abort();
    this.heard.cancel();
    this.likely.dispose();
    this.hand?.dispose();
    this.seen?.dispose();
    clearTimeout(this.counting);
    this.leaveRun();
    this.face.dispose();
    this.picture?.dispose();
  }
}

const maps = new WeakMap();
export default function influenceMap(component) {
  return mountOnce(maps, component, (first) => new InfluenceMap(first));
}
