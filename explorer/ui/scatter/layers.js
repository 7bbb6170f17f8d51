/* What of the map is drawn already, seen from where?
 *
 * A layer is a transparent picture of some of the points (the many below, the strong ones, the test points). It is drawn in
 * parts; until it is whole again after the camera moved, the last whole one is shown where it belongs by then. Drawing a
 * layer on the screen is one textured rectangle, however many points it holds.
 */

const NOWHERE_BOX = [9, 9, 9, 9];

class Sheet {
  constructor(gl, width, height, depth) {
    this.gl = gl;
    this.view = null;
    this.whole = false;
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA8, width, height);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, gl.LINEAR);
    this.frame = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.texture, 0);
    if (depth) gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, depth);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  }

  /* Where in today's clip space lies what this sheet shows. */
  box(view) {
    const corner = (clip, axis) => ((clip - this.view.offset[axis]) / this.view.scale[axis]) * view.scale[axis] + view.offset[axis];
    return [corner(-1, 0), corner(-1, 1), corner(1, 0), corner(1, 1)];
  }

  /* For the bound texture. */
  smooth(wanted) {
    if (this.smoothed === wanted) return;
    this.smoothed = wanted;
    const { gl } = this;
    for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, wanted ? gl.LINEAR : gl.NEAREST);
  }

  dispose() {
    this.gl.deleteFramebuffer(this.frame);
    this.gl.deleteTexture(this.texture);
  }
}

/* `first` points are drawn before other layers go on: `ranks` are [of these, of the rest], the lowest comes next. `cost` is the
 * work of one point; `deep` layers sort by depth. A view is a camera's `clip` with an `id` that differs for every camera. */
class Layer {
  constructor(gl, { deep = false, first, ranks, cost }) {
    this.gl = gl;
    this.deep = deep;
    this.first = first;
    this.ranks = ranks;
    this.cost = cost;
    this.total = this.done = 0;
    this.fresh = false;
    this.now = this.old = null;
  }

  resize(width, height) {
    for (const sheet of [this.now, this.old]) sheet?.dispose();
    const { gl } = this;
    if (this.depth) gl.deleteRenderbuffer(this.depth);
    this.depth = null;
    if (this.deep) {
      this.depth = gl.createRenderbuffer();
      gl.bindRenderbuffer(gl.RENDERBUFFER, this.depth);
      gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT16, width, height);
    }
    [this.now, this.old] = [0, 1].map(() => new Sheet(gl, width, height, this.depth));
    this.clear();
  }

  /* What was drawn shows something else than what is to be shown; it stays until the next picture begins. */
  discard() {
    this.fresh = false;
  }

  /* Nothing is shown until the next picture begins. */
  clear() {
    this.fresh = false;
    for (const sheet of [this.now, this.old]) if (sheet) [sheet.view, sheet.whole] = [null, false];
  }

  /* Begins a new picture. If it shows the same from elsewhere, the last whole one stays until this one is whole. */
  start(view) {
    if (!this.fresh) this.now.whole = this.old.whole = false;
    if (this.now.whole) [this.now, this.old] = [this.old, this.now];
    this.fresh = true;
    this.done = 0;
    this.now.view = view;
    this.now.whole = this.total === 0;
    this.bind();
    this.gl.clear(this.gl.COLOR_BUFFER_BIT | this.gl.DEPTH_BUFFER_BIT);
    this.gl.bindFramebuffer(this.gl.FRAMEBUFFER, null);
  }

  bind() {
    this.gl.bindFramebuffer(this.gl.FRAMEBUFFER, this.now.frame);
  }

  /* Is there more to draw from here? */
  waits(view) {
    return this.fresh && this.now.view.id === view.id && this.done < this.total;
  }

  /* Is everything drawn as seen from here? */
  isWhole(view) {
    return this.fresh && this.now.whole && (this.total === 0 || this.now.view.id === view.id);
  }

  get rank() { return this.ranks[this.done < this.first ? 0 : 1]; }

  /* How many of the points come next, if there is work for so much. */
  next(budget) {
    const most = Math.max(1, Math.floor(budget / this.cost));
    const stop = this.done < this.first ? Math.min(this.first, this.total) : this.total;
    return Math.min(stop - this.done, most);
  }

  advanced(points) {
    this.done += points;
    this.now.whole = this.done >= this.total;
  }

  /* Does what can be shown fill today's view? */
  covers(view) {
    const sheet = this.now?.whole ? this.now : this.old;
    if (!sheet?.whole) return false;
    const [left, low, right, high] = sheet.box(view);
    return left <= -1 && low <= -1 && right >= 1 && high >= 1;
  }

  /* [sheet, box, hole] of what to put on the screen, in order. */
  sheets(view) {
    const { now, old } = this;
    if (!this.total) return [];
    const shown = [];
    const stale = !now.whole && old.whole ? old.box(view) : NOWHERE_BOX;
    if (now.view) shown.push([now, now.box(view), stale]);
    if (stale !== NOWHERE_BOX) shown.push([old, stale, NOWHERE_BOX]);
    return shown;
  }
}
