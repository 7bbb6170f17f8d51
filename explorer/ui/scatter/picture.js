/* When is what drawn again?
 *
 * Owns the two canvases, the camera and the theme. What the graphics card draws within a frame is drawn whole in every
 * frame. What is more work is drawn in parts over some frames, the strong points first, and begins again when there is
 * something else to show; while the camera moves, what was drawn before moves along, and parts fill what comes into view.
 * `scene()` says what lies on top; `drawn(about)` hears what a frame brought; `themed(theme)` when the colors changed.
 * It decides nothing about the selection.
 */

/* The camera has come to rest when it has not moved for so long. */
const REST_MS = 90;
/* Parts that only fill in are put on the screen together. */
const SHOW_EVERY_MS = 120;

class Picture {
  /* Throws if the browser has no WebGL2. */
  constructor(root, { scene, drawn, themed, measure }) {
    this.root = root;
    this.stage = root.querySelector(".stage");
    this.canvas = root.querySelector("canvas.points");
    this.gl = new PointsGL(this.canvas);
    this.pace = new Pace(this.gl.gl);
    this.marks = new Marks(root.querySelector("canvas.marks"));
    this.camera = new Camera();
    Object.assign(this, { scene, drawn, themed, measure });
    this.frame = 0;
    this.ratio = 0;
    this.movedAt = this.shownAt = -Infinity;
    this.unseen = false;
    this.dirty = this.overlay = this.recolored = false;
    this.waiting = [];
  }

  listen(signal) {
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.stage);
    signal.addEventListener("abort", () => observer.disconnect());
    window.addEventListener("resize", () => this.resize(), { signal });
    watchTheme(this.root, signal, () => this.retheme());
  }

  resize() {
    const { stage, camera } = this;
    const ratio = window.devicePixelRatio || 1;
    if (camera.width === stage.clientWidth && camera.height === stage.clientHeight && this.ratio === ratio) return;
    this.ratio = ratio;
    camera.resize(stage.clientWidth, stage.clientHeight);
    for (const canvas of stage.querySelectorAll("canvas")) {
      canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio));
    }
    this.redraw();
  }

  retheme() {
    const theme = readTheme(this.root);
    if (JSON.stringify(theme) === JSON.stringify(this.theme)) return;
    this.theme = theme;
    this.root.toggleAttribute("data-dark", theme.dark);
    this.root.style.setProperty("--muted", css(theme.muted));
    this.themed(theme);
    this.redraw();
  }

  open(points, camera) {
    this.camera.open(points, camera);
    this.gl.setPoints(points);
    this.redraw();
  }

  /* `recolored`: these are the colors of another prediction. */
  strong(strong, recolored) {
    this.gl.setStrong(strong);
    this.recolored ||= recolored;
    this.redraw();
  }

  tint(tints) {
    this.gl.setTints(tints);
    this.redraw();
  }

  /* `plain`: test points have no color of their own. */
  paint(palette, plain) {
    this.gl.plain = plain;
    this.gl.setPalette(palette);
    this.redraw();
  }

  density(density) {
    this.gl.setDensity(density);
    this.redraw();
  }

  restored() {
    this.gl.build();
    this.redraw();
  }

  /* Draws in the next frame: the points as well, or only what lies on top of them. */
  redraw(points = true) {
    this.dirty ||= points;
    this.overlay = true;
    this.ask();
  }

  ask() {
    if (this.ratio && this.theme) this.frame ||= requestAnimationFrame((now) => this.draw(now));
  }

  draw(now) {
    this.frame = 0;
    const { gl, overlay } = this;
    const began = performance.now();
    const scene = this.scene();
    const view = this.view();
    const moving = now - this.movedAt < REST_MS;
    const spent = gl.points && !gl.gl.isContextLost() ? this.advance(view, moving) : 0;
    const whole = !gl.points || this.isWhole(view);
    this.unseen ||= spent > 0;
    const colored = this.recolored && Boolean(gl.points) && gl.layers.strong.isWhole(view);
    const dirty = this.dirty || colored || (this.unseen && (whole || moving || now - this.shownAt > SHOW_EVERY_MS));
    if (dirty && !gl.gl.isContextLost()) {
      gl.show(view, this.theme);
      this.unseen = false;
      this.shownAt = now;
    }
    if (spent) this.pace.given(spent, began);
    if (overlay) this.marks.draw(this.camera, this.theme, this.ratio, scene);
    this.dirty = this.overlay = false;
    if (colored) {
      this.recolored = false;
      if (this.measure()) gl.finish();
    }
    if (!whole) this.ask();
    else for (const done of this.waiting.splice(0)) done();
    if (dirty || overlay) setTimeout(() => this.drawn({ scene, dirty, overlay, recolored: colored, whole }), 0);
  }

  /* The camera as layers know it. */
  view() {
    const { x, y, k } = this.camera.at;
    const id = `${x}/${y}/${k}/${this.canvas.width}/${this.canvas.height}`;
    if (id !== this.seen) this.movedAt = this.seen === undefined ? -Infinity : performance.now();
    this.seen = id;
    return { id, ...this.camera.clip };
  }

  isWhole(view) {
    return Object.values(this.gl.layers).every((layer) => layer.isWhole(view));
  }

  /* Draws as much as fits; says how much work that was. */
  advance(view, moving) {
    const { gl, pace } = this;
    gl.fit();
    if (pace.busy) return 0;
    const layers = Object.values(gl.layers);
    gl.price(this.camera, this.ratio);
    const light = pace.isLight(layers.reduce((sum, layer) => sum + layer.total * layer.cost, 0));
    for (const layer of layers) {
      const elsewhere = layer.fresh && layer.now.view.id !== view.id && layer.total > 0;
      const later = moving && layer.covers(view);
      if (layer.fresh && !(elsewhere && (light || !later))) continue;
      layer.start(view);
      this.dirty = true;
    }
    const budget = light ? Infinity : pace.budget(moving);
    let spent = 0;
    while (spent < budget) {
      const [layer] = layers.filter((one) => one.waits(view)).sort((a, b) => a.rank - b.rank);
      if (!layer) break;
      spent += gl.step(layer, this.camera, this.theme, this.ratio, budget - spent);
    }
    return spent;
  }

  /* Resolves once everything is drawn. */
  whole() {
    return new Promise((done) => {
      this.waiting.push(done);
      this.redraw();
    });
  }

  /* The share of the points that is drawn, 0..1. */
  get share() {
    const { ground, tests } = this.gl.layers;
    return ground.total + tests.total ? (ground.done + tests.done) / (ground.total + tests.total) : 1;
  }

  /* Page px of point i. */
  pagePlace(points, i) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.camera.toScreen(points.at[2 * i], points.at[2 * i + 1]);
    return [box.left + x, box.top + y];
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    for (const done of this.waiting.splice(0)) done();
    this.pace.dispose();
    this.gl.dispose();
  }
}
