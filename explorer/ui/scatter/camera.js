/* Where on the screen is a point of the map, and how does the view move?
 *
 * Points are in map units (u, v): the data centered on 0 and scaled so that the longer half side is 1, both axes
 * alike. A camera is { x, y, k }: the map point in the middle and the zoom, 1 = everything in view. Sizes in CSS px.
 * It never draws. Nothing but the user's own pan, zoom, Home and Frame may change a camera.
 */

const PADDING = 28;
const ZOOM_MIN = 0.5;
const ZOOM_MAX = 5000;
const HOME = { x: 0, y: 0, k: 1 };

class Camera {
  constructor() {
    this.at = { ...HOME };
    this.width = 1;
    this.height = 1;
    this.halfX = 1;
    this.halfY = 1;
  }

  resize(width, height) {
    this.width = Math.max(1, width);
    this.height = Math.max(1, height);
  }

  /* Shows these points as they were last seen, or whole. */
  open({ halfX, halfY }, remembered) {
    this.halfX = halfX;
    this.halfY = halfY;
    this.set(remembered ?? HOME);
  }

  /* px per map unit */
  get scale() {
    const across = Math.max(40, this.width - 2 * PADDING) / (2 * this.halfX);
    const down = Math.max(40, this.height - 2 * PADDING) / (2 * this.halfY);
    return Math.min(across, down) * this.at.k;
  }

  toScreen(u, v) {
    return [this.width / 2 + (u - this.at.x) * this.scale, this.height / 2 - (v - this.at.y) * this.scale];
  }

  toMap(px, py) {
    return [this.at.x + (px - this.width / 2) / this.scale, this.at.y - (py - this.height / 2) / this.scale];
  }

  /* For the shader: clip = point * scale + offset. */
  get clip() {
    const sx = (2 * this.scale) / this.width;
    const sy = (2 * this.scale) / this.height;
    return { scale: [sx, sy], offset: [-this.at.x * sx, -this.at.y * sy] };
  }

  set({ x, y, k }) {
    const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
    this.at.k = clamp(k, ZOOM_MIN, ZOOM_MAX);
    this.at.x = clamp(x, -1.5 * this.halfX, 1.5 * this.halfX);
    this.at.y = clamp(y, -1.5 * this.halfY, 1.5 * this.halfY);
  }

  pan(dx, dy) {
    this.set({ x: this.at.x - dx / this.scale, y: this.at.y + dy / this.scale, k: this.at.k });
  }

  /* The map point under (px, py) stays there. */
  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [u, v] = this.toMap(px, py);
    const k = Math.min(ZOOM_MAX, Math.max(ZOOM_MIN, this.at.k * factor));
    const ratio = this.at.k / k;
    this.set({ x: u + (this.at.x - u) * ratio, y: v + (this.at.y - v) * ratio, k });
  }

  /* The camera that shows all of `points` ([u, v] pairs) with room around them. */
  framing(points) {
    const us = points.map((point) => point[0]);
    const vs = points.map((point) => point[1]);
    const [left, right, low, high] = [Math.min(...us), Math.max(...us), Math.min(...vs), Math.max(...vs)];
    const room = Math.min(this.width, this.height) * 0.14;
    const fit = Math.min((this.width - 2 * room) / Math.max(right - left, 1e-4),
      (this.height - 2 * room) / Math.max(high - low, 1e-4));
    const k = Math.min(this.at.k * (fit / this.scale), 60);
    return { x: (left + right) / 2, y: (low + high) / 2, k };
  }
}

/* Glides from one camera to another; returns a function that stops it. */
function glide(camera, goal, milliseconds, moved) {
  if (!milliseconds) {
    camera.set(goal);
    moved();
    return () => {};
  }
  const from = { ...camera.at };
  const began = performance.now();
  let frame = 0;
  const step = (now) => {
    const t = Math.min(1, Math.max(0, (now - began) / milliseconds));
    const s = t * t * (3 - 2 * t);
    const k = from.k * Math.pow(goal.k / from.k, s);
    /* what is on the way stays still on the screen when position follows 1/k, not time */
    const w = from.k === goal.k ? s : (1 / from.k - 1 / k) / (1 / from.k - 1 / goal.k);
    camera.set({ x: from.x + (goal.x - from.x) * w, y: from.y + (goal.y - from.y) * w, k });
    moved();
    if (t < 1) frame = requestAnimationFrame(step);
  };
  frame = requestAnimationFrame(step);
  return () => cancelAnimationFrame(frame);
}
