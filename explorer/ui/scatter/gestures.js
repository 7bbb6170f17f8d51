/* What did the hand do on the map: drag, wheel, double click, click, hover?
 *
 * Turns pointer events into calls with CSS px relative to the canvas. It knows no points and no camera.
 */

const CLICK_SLOP = 4;

function gestures(canvas, signal, { pan, zoom, click, hover }) {
  let held = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const on = (name, heard, options = {}) => canvas.addEventListener(name, heard, { signal, ...options });

  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    held = { from: at(event), last: at(event), moved: false };
  });
  on("pointermove", (event) => {
    const [x, y] = at(event);
    if (!held) return hover(x, y);
    if (Math.hypot(x - held.from[0], y - held.from[1]) > CLICK_SLOP) held.moved = true;
    if (!held.moved) return undefined;
    canvas.toggleAttribute("data-drag", true);
    pan(x - held.last[0], y - held.last[1]);
    held.last = [x, y];
    return undefined;
  });
  const release = (event) => {
    const done = held;
    held = null;
    canvas.removeAttribute("data-drag");
    if (done && !done.moved && event.type === "pointerup") click(...at(event));
  };
  on("pointerup", release);
  on("pointercancel", release);
  on("pointerleave", () => hover(null, null));
  on("dblclick", (event) => zoom(2, ...at(event)));
  on("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    const turned = Math.max(-240, Math.min(240, event.deltaY * lines));
    zoom(Math.exp(-turned * (event.ctrlKey ? 0.01 : 0.002)), ...at(event));
  }, { passive: false });
}
