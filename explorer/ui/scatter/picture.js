/* When is what drawn again?
 *
 * Owns the two canvases, the camera and the theme, and draws at most once per frame: the points only when they or the
 * camera changed, what lies on top of them always. `scene()` says what is there; `drawn(recolored)` hears when a frame
 * with new points is on its way. It decides nothing about the selection.
 */

class Picture {
  /* Throws if the browser has no WebGL2. */
  constructor(root, { scene, drawn, measure }) {
    this.root = root;
    this.stage = root.querySelector(".stage");
    this.canvas = root.querySelector("canvas.points");
    this.gl = new PointsGL(this.canvas);
    this.marks = new Marks(root.querySelector("canvas.marks"));
    this.camera = new Camera();
    this.scene = scene;
    this.drawn = drawn;
    this.measure = measure;
    this.frame = 0;
    this.ratio = 0;
    this.dirty = this.recolored = false;
  }

  listen(signal) {
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.stage);
    signal.addEventListener("abort", () => observer.disconnect());
    window.addEventListener("resize", () => this.resize(), { signal });
    watchTheme(this.root, signal, () => this.retheme());
  }

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
    this.redraw();
  }

  open(points, camera) {
    this.camera.open(points, camera);
    this.gl.setPoints(points);
    this.redraw();
  }

  /* Int8Array of influence per training row; null mutes every point. */
  color(values) {
    this.gl.setValues(values);
    this.recolored = values !== null;
    this.redraw();
  }

  /* Draws in the next frame: the points as well, or only what lies on top of them. */
  redraw(points = true) {
    this.dirty ||= points;
    if (this.ratio && this.theme) this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    const scene = this.scene();
    const { dirty, recolored } = this;
    this.dirty = this.recolored = false;
    if (dirty) this.gl.draw(this.camera, this.theme, this.ratio);
    this.marks.draw(this.camera, this.theme, this.ratio, scene);
    if (recolored && this.measure()) this.gl.finish();
    setTimeout(() => this.drawn(scene, dirty, recolored), 0);
  }

  /* Page px of point i. */
  pagePlace(points, i) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.camera.toScreen(points.at[2 * i], points.at[2 * i + 1]);
    return [box.left + x, box.top + y];
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    this.gl.dispose();
  }
}
