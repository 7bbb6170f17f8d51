/* Where does the link say that one was looking?
 *
 * `camera=x,y,k` in the address, written once the camera rests and read when a run opens or the back button was pressed. All
 * other parameters and the history stay as they are, and nothing is written into the address of another run. Python writes
 * the address without it: it is put back a moment later.
 */

const CAMERA_REST_MS = 400;
const CAMERA_KEEP_MS = 500;

class CameraLink {
  constructor(data) {
    this.data = data;
    this.last = null;
    this.keeping = setInterval(() => this.keep(), CAMERA_KEEP_MS);
  }

  /* Is it this run and this layout that the address speaks of? */
  get ours() {
    const asked = new URLSearchParams(window.location.search);
    const { run, layout } = this.data;
    return [["run", run], ["map", layout]].every(([name, own]) => [null, own].includes(asked.get(name)));
  }

  /* The camera of the address, or null. */
  read() {
    const text = this.ours ? new URLSearchParams(window.location.search).get("camera") : null;
    const numbers = text?.split(",").map((part) => (part.trim() && part.length < 32 ? Number(part) : NaN)) ?? [];
    if (numbers.length !== 3 || !numbers.every(Number.isFinite) || numbers[2] <= 0) return null;
    const [x, y, k] = numbers;
    this.last = { x, y, k };
    return { x, y, k };
  }

  /* Writes the camera when it has rested; Home takes it out. */
  write(camera) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.last = { ...camera };
      if (this.ours) this.put(camera);
    }, CAMERA_REST_MS);
  }

  put({ x, y, k }) {
    const digits = 4 + Math.max(0, Math.ceil(Math.log10(k)));
    const short = [x.toFixed(digits), y.toFixed(digits), k.toPrecision(4)].map(Number);
    const home = short.every((value, i) => value === [HOME.x, HOME.y, HOME.k][i]);
    const { pathname, search, hash } = window.location;
    const parts = search.slice(1).split("&").filter((part) => part && !part.startsWith("camera="));
    if (!home) parts.push(`camera=${short.join("%2C")}`);
    const now = parts.length ? `?${parts.join("&")}` : "";
    if (now !== search) window.history.replaceState(window.history.state, "", `${pathname}${now}${hash}`);
  }

  /* The camera that rested last goes back into an address that says nothing of it, or something older. */
  keep() {
    if (this.last && this.ours) this.put(this.last);
  }

  /* A camera on its way into the address stays out of it; `camera` is the one that is there now. */
  cancel(camera = null) {
    clearTimeout(this.timer);
    this.last = camera;
  }

  dispose() {
    this.cancel();
    clearInterval(this.keeping);
  }
}
