/* How is the influence on this prediction spread, and which part of it should be shown?
 *
 * Draws how many training examples have how much influence (64 bins over +-scale, towards on the left as everywhere,
 * heights by the logarithm of the count) and lets two limits be set by drag or by key. An influence row holds whole
 * levels from -127 to 127: they are counted once a row, and a limit lies half-way between two of them, so that which
 * examples it lets through does not hang on rounding.
 */

const LEVELS = 127;
const END = LEVELS + 0.5;
const BIN = 4;
const SIDE = 32;
const DRAG_PX = 3;
const PAGE = 16;

/* counts[level + 128]: how many examples have that level. Four tables: neighbors are often equal, and adding twice in
 * a row to one place makes the second wait for the first. */
function countLevels(values) {
  const [a, b, c, d] = Array.from({ length: 4 }, () => new Uint32Array(256));
  const whole = values.length - (values.length % 4);
  for (let i = 0; i < whole; i += 4) {
    a[values[i] + 128] += 1;
    b[values[i + 1] + 128] += 1;
    c[values[i + 2] + 128] += 1;
    d[values[i + 3] + 128] += 1;
  }
  for (let i = whole; i < values.length; i++) a[values[i] + 128] += 1;
  return a.map((one, level) => one + b[level] + c[level] + d[level]);
}

/* 32 bins a side of four levels each, from the smallest influence out (the last has three), and those at level zero. */
function binLevels(counts) {
  const towards = new Uint32Array(SIDE), away = new Uint32Array(SIDE);
  for (let level = 1; level <= LEVELS; level++) {
    towards[(level - 1) >> 2] += counts[128 + level];
    away[(level - 1) >> 2] += counts[128 - level];
  }
  away[SIDE - 1] += counts[0];
  return { towards, away, zero: counts[128] };
}

/* How many examples have a level above, at and below zero. */
function signCounts(counts) {
  const sum = (from, to) => counts.subarray(from, to).reduce((all, one) => all + one, 0);
  return { towards: sum(129, 256), zero: counts[128], away: sum(0, 128) };
}

/* A limit in units of influence as a place among the levels, and back. */
const edgeOf = (value, scale) => (scale > 0 ? Math.max(-END, Math.min(END, (value / scale) * LEVELS)) : 0);
const valueOf = (edge, scale) => (Math.abs(edge) >= END ? null : Number(((edge / LEVELS) * scale).toPrecision(6)));
const halfWay = (edge) => Math.max(-END, Math.min(END, Math.floor(edge) + 0.5));

class Histogram {
  /* `changed({ low, high })` on every change of the limits, null for none; `resting` says whether the hand let go. */
  constructor(root, signal, changed) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.handles = { high: root.querySelector("[data-limit=high]"), low: root.querySelector("[data-limit=low]") };
    this.changed = changed;
    this.row = this.counts = this.theme = null;
    this.limits = { low: null, high: null };
    this.unit = "";
    this.listen(signal);
  }

  listen(signal) {
    const stage = this.root.querySelector(".brush");
    const on = (node, name, heard) => node.addEventListener(name, heard, { signal });
    on(stage, "pointerdown", (event) => this.grab(event, stage));
    on(stage, "pointermove", (event) => this.drag(event));
    on(stage, "pointerup", () => this.release());
    on(stage, "pointercancel", () => this.release());
    on(stage, "dblclick", () => this.set({ low: null, high: null }));
    for (const [name, handle] of Object.entries(this.handles)) on(handle, "keydown", (event) => this.key(event, name));
    const observer = new ResizeObserver(() => this.draw());
    observer.observe(this.canvas);
    signal.addEventListener("abort", () => observer.disconnect());
  }

  /* `row`: the decoded influence row or null, `counts` its levels counted. */
  show(row, counts, { low, high }, unit) {
    this.row = row;
    this.counts = counts;
    this.unit = unit ? ` ${unit}` : "";
    if (!this.held) this.limits = { low, high };
    this.draw();
  }

  retheme(theme) {
    this.theme = theme;
    this.draw();
  }

  get edges() {
    const { low, high } = this.limits;
    const { scale } = this.row;
    return { low: low === null ? -END : edgeOf(low, scale), high: high === null ? END : edgeOf(high, scale) };
  }

  /* ---- the hand ---- */

  edgeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return END - ((event.clientX - box.left) / box.width) * 2 * END;
  }

  grab(event, stage) {
    if (!this.row || event.button !== 0) return;
    const name = event.target.closest("[data-limit]")?.dataset.limit;
    this.held = { name, from: this.edgeAt(event), x: event.clientX, moved: false };
    stage.setPointerCapture(event.pointerId);
    if (name) this.handles[name].focus();
    event.preventDefault();
  }

  drag(event) {
    const { held } = this;
    if (!held || (!held.moved && Math.abs(event.clientX - held.x) < DRAG_PX)) return;
    held.moved = true;
    const at = this.edgeAt(event);
    if (held.name) this.move(held.name, at, false);
    else this.span(Math.min(held.from, at), Math.max(held.from, at), false);
  }

  release() {
    const { held } = this;
    this.held = null;
    if (held?.moved) this.changed(this.limits, true);
  }

  /* Left is towards more influence, as it looks. */
  key(event, name) {
    if (!this.row || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: 1, ArrowUp: 1, ArrowRight: -1, ArrowDown: -1, PageUp: PAGE, PageDown: -PAGE };
    const end = name === "high" ? END : -END;
    if (event.key in steps) this.move(name, this.edges[name] + steps[event.key], true);
    else if (["Home", "End", "Delete", "Backspace"].includes(event.key)) this.move(name, end, true);
    else return;
    event.preventDefault();
  }

  move(name, edge, resting) {
    const { low, high } = this.edges;
    if (name === "low") this.span(Math.min(edge, high - 1), high, resting);
    else this.span(low, Math.max(edge, low + 1), resting);
  }

  span(low, high, resting) {
    const { scale } = this.row;
    const from = halfWay(low), to = Math.max(halfWay(high), from + 1);
    this.set({ low: valueOf(from, scale), high: valueOf(to, scale) }, resting);
  }

  set(limits, resting = true) {
    this.limits = limits;
    this.draw();
    this.changed(limits, resting);
  }

  /* ---- the picture ---- */

  draw() {
    this.root.toggleAttribute("data-empty", !this.row);
    this.words();
    const { canvas, theme } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!theme || !width) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (this.row) this.bars(pen, width, height, theme);
  }

  bars(pen, width, height, theme) {
    const { towards, away, zero } = binLevels(this.counts);
    const most = Math.log1p(Math.max(zero, ...towards, ...away)) || 1;
    const { low, high } = this.edges;
    const x = (edge) => ((END - edge) / (2 * END)) * width;
    const bar = (from, to, n, color) => {
      if (!n) return;
      const tall = Math.max(1.5, (Math.log1p(n) / most) * (height - 2));
      pen.fillStyle = css(from + 0.5 >= low && to - 0.5 <= high ? color : mix(theme.background, color, 0.28));
      pen.fillRect(x(to), height - tall, Math.max(1, x(from) - x(to) - 0.5), tall);
    };
    for (let bin = 0; bin < SIDE; bin++) {
      const from = BIN * bin + 0.5, to = Math.min(from + BIN, END);
      bar(from, to, towards[bin], theme.towards);
      bar(-to, -from, away[bin], theme.away);
    }
    bar(-0.5, 0.5, zero, theme.muted);
    pen.fillStyle = css(theme.muted);
    pen.fillRect(0, height - 1, width, 1);
  }

  words() {
    const { row, root, handles, unit } = this;
    const say = (name, text) => { root.querySelector(`[data-show=${name}]`).textContent = text; };
    say("plus", row ? `▲ ${signed(row.scale)}${row.tests ? "" : unit}` : "");
    say("minus", row ? `▼ ${signed(-row.scale)}` : "");
    say("range", row ? this.range() : "influence: no row yet");
    this.canvas.setAttribute("aria-label", row ? this.spread() : "Influence on this prediction: not here yet");
    for (const [name, handle] of Object.entries(handles)) {
      handle.hidden = !row;
      if (!row) continue;
      const edge = this.edges[name];
      const limit = this.limits[name];
      const values = { min: -row.scale, max: row.scale, now: (Math.max(-LEVELS, Math.min(LEVELS, edge)) / LEVELS) * row.scale };
      for (const [part, value] of Object.entries(values)) handle.setAttribute(`aria-value${part}`, String(Number(value.toPrecision(6))));
      handle.setAttribute("aria-valuetext", limit === null ? "no limit" : `${signed(limit)}${unit}`);
      handle.style.left = `${((END - edge) / (2 * END)) * 100}%`;
    }
  }

  range() {
    const { low, high } = this.limits;
    if (low === null && high === null) return `${this.row.tests ? "change by the lesson" : "influence"}, drag to limit`;
    const { low: from, high: to } = this.edges;
    let inside = 0;
    for (let level = Math.ceil(from); level <= Math.floor(to); level++) inside += this.counts[level + 128] ?? 0;
    const words = low === null ? `up to ${signed(high)}` : high === null ? `from ${signed(low)}` : `${signed(low)} to ${signed(high)}`;
    return `${words}: ${count(inside)} training`;
  }

  spread() {
    const { towards, zero, away } = signCounts(this.counts);
    if (this.row.tests) return `Change by this lesson: ${count(towards)} training examples improved, ${count(away)} got worse, ${count(zero)} about the same`;
    return `Influence on this prediction: ${count(towards)} training examples towards, ${count(away)} away, ${count(zero)} about zero`;
  }
}
