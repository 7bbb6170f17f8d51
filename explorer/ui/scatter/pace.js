/* How much can the graphics card draw at a time without holding up the page?
 *
 * Times each part by a fence and makes the next one larger or smaller (work is counted as in gl.js). Only one part is on
 * its way at a time. It draws nothing.
 */

/* A part should take about so long, with all that goes with it. */
const QUICK_MS = 9;
const SHORT_MS = 30;
const LONG_MS = 60;
const LEAST = 20_000;
const MOST = 2e7;
/* While the camera moves, parts are so much smaller. */
const MOVING_SHARE = 0.25;
const LOOK_MS = 3;

class Pace {
  constructor(gl) {
    this.gl = gl;
    this.part = 2 * LEAST;
    /* So much was done within a frame. */
    this.quick = LEAST;
    this.fence = null;
  }

  /* Is what was given last still being drawn? */
  get busy() {
    return this.fence !== null && !this.learned();
  }

  /* `began`: when giving it began, for that takes time too where the processor draws. */
  given(work, began) {
    const { gl } = this;
    this.work = work;
    this.began = began;
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    this.look();
  }

  /* Frames are too far apart to time a part by. */
  look() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.busy && this.look(), LOOK_MS);
  }

  /* Takes the time of the part if it is drawn by now. */
  learned() {
    const { gl, fence, work, part } = this;
    if (!gl.isContextLost() && gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) return false;
    gl.deleteSync(fence);
    this.fence = null;
    const took = performance.now() - this.began;
    if (took < QUICK_MS) this.quick = Math.max(this.quick, 1.5 * work);
    else if (took > SHORT_MS) this.quick = Math.max(LEAST, Math.min(this.quick, work / 2));
    if (took > LONG_MS) this.part = Math.max(LEAST, 0.6 * Math.min(part, work));
    else if (took < SHORT_MS && work > part / 2) this.part = Math.min(MOST, part * (took < QUICK_MS ? 3 : 1.6));
    return true;
  }

  budget(moving) {
    return this.part * (moving ? MOVING_SHARE : 1);
  }

  /* Is so much drawn within a frame? */
  isLight(work) {
    return work <= this.quick;
  }

  dispose() {
    clearTimeout(this.timer);
  }
}
