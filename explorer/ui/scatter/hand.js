/* What does the hand mean: which point, which camera, which polygon?
 *
 * Between gestures.js and the map: finds points under the cursor, moves the camera, draws lassos. Nothing but this moves
 * a camera, except a link. `map` is asked for `points` and `shown`, and told `click(i)`, `hover(i)`, `moved()`, `selected(polygon)`.
 */

const HOVER_PX = 12;
const TEST_WINS_PX = 8;
const PICK_PX = 14;
const GLIDE_MS = 180;
/* Gliding through more points than this is no help to the eye. */
const GLIDE_UP_TO = 200_000;

class Hand {
  constructor(picture, map, signal) {
    this.picture = picture;
    this.camera = picture.camera;
    this.map = map;
    this.tool = "pan";
    this.hovered = -1;
    this.drawing = new Drawing(this.camera);
    gestures(picture.canvas, signal, {
      tool: (event) => (event.shiftKey ? "box" : this.tool),
      pan: (dx, dy) => this.move(() => this.camera.pan(dx, dy)),
      zoom: (factor, x, y) => this.move(() => this.camera.zoom(factor, x, y)),
      click: (x, y) => this.click(x, y),
      hover: (x, y) => this.hover(x, y),
      draw: (tool, at, step) => this.draw(tool, at, step),
    });
  }

  /* Point index near CSS px (x, y), or -1. */
  near(x, y, radius, from, to) {
    const { points, shown } = this.map;
    if (!points) return -1;
    return nearest(points, shown, ...this.camera.toMap(x, y), radius / this.camera.scale, from, to);
  }

  click(x, y) {
    const { points } = this.map;
    if (!points) return;
    const test = this.near(x, y, TEST_WINS_PX, points.nTrain, points.total);
    const i = test >= 0 ? test : this.near(x, y, PICK_PX);
    if (i >= 0) this.map.click(i);
  }

  hover(x, y) {
    this.pointer = x === null ? null : [x, y];
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.over(this.pointer ? this.near(...this.pointer, HOVER_PX) : -1);
    });
  }

  over(i) {
    if (i === this.hovered) return;
    this.hovered = i;
    this.picture.canvas.toggleAttribute("data-over", i >= 0);
    this.map.hover(i);
    this.picture.redraw(false);
  }

  draw(tool, at, step) {
    const { drawing } = this;
    if (!this.map.points) return;
    if (step === "begin") {
      this.over(-1);
      drawing.begin(tool, at);
    } else if (step === "on") drawing.on(at);
    else if (step === "cancel") drawing.cancel();
    else {
      const polygon = drawing.end();
      this.take("pan");
      if (polygon) this.map.selected(polygon);
    }
    this.picture.redraw(false);
  }

  /* Takes a tool in hand, or lays it down if it is there already. */
  take(tool) {
    this.tool = tool === this.tool ? "pan" : tool;
    this.map.took(this.tool);
  }

  /* Lays down what is in hand; false if there was nothing. */
  letGo() {
    const busy = this.drawing.corners !== null || this.tool !== "pan";
    this.drawing.cancel();
    if (this.tool !== "pan") this.take("pan");
    this.picture.redraw(false);
    return busy;
  }

  /* ---- the camera ---- */

  move(change) {
    this.stopGlide?.();
    change();
    this.moved();
  }

  moved() {
    this.over(-1);
    this.map.moved();
    this.picture.redraw();
  }

  goTo(goal) {
    this.stopGlide?.();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches || (this.map.points?.total ?? 0) > GLIDE_UP_TO;
    this.stopGlide = glide(this.camera, goal, still ? 0 : GLIDE_MS, () => this.moved());
  }

  /* Shows all of these points. */
  frameOn(indices) {
    const { at } = this.map.points;
    this.goTo(this.camera.framing(indices.map((i) => [at[2 * i], at[2 * i + 1]])));
  }

  /* Forgets what was under it: there are other points now. */
  reset() {
    this.stopGlide?.();
    this.drawing.cancel();
    this.hovered = -1;
  }

  dispose() {
    this.stopGlide?.();
    cancelAnimationFrame(this.frame);
  }
}
