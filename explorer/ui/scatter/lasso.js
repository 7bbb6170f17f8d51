/* What is being drawn on the map by hand, and which polygon is it in the end?
 *
 * Collects a lasso or a box in map units while it is drawn. It selects nothing: `end` gives corners as polygon.js makes them.
 */

/* A drawn line may be moved by so many px to save corners. */
const DRAWN_WITHIN_PX = 1;

class Drawing {
  constructor(camera) {
    this.camera = camera;
    this.tool = null;
    this.path = [];
  }

  begin(tool, at) {
    this.tool = tool;
    this.path = [this.camera.toMap(...at)];
  }

  on(at) {
    const here = this.camera.toMap(...at);
    if (this.tool === "lasso") this.path.push(here);
    else this.path = [this.path[0], here];
  }

  /* The corners so far, or null while nothing is drawn. */
  get corners() {
    if (this.path.length < 2) return null;
    if (this.tool === "lasso") return this.path;
    const [[u0, v0], [u1, v1]] = this.path;
    return [[u0, v0], [u1, v0], [u1, v1], [u0, v1]];
  }

  /* The polygon that was drawn; null if it holds nothing. */
  end() {
    const { corners } = this;
    this.path = [];
    return corners && corners.length >= 3 ? simplified(corners, DRAWN_WITHIN_PX / this.camera.scale) : null;
  }

  cancel() {
    this.path = [];
  }
}
