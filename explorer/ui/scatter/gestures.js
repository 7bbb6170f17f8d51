/* What did the hand do on the map: drag, pinch, wheel, double click, click, hover, draw?
 *
 * Turns pointer events into calls with CSS px relative to the canvas. Mouse, pen and finger are alike; two fingers zoom.
 * `tool(event)` says what a drag does: "pan", "lasso" or "box". It knows no points and no camera.
 */

const CLICK_SLOP = 4;

function gestures(canvas, signal, { tool, pan, zoom, click, hover, draw }) {
  const down = new Map();
  let held = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const on = (name, heard, options = {}) => canvas.addEventListener(name, heard, { signal, ...options });
  const middle = ([a, b]) => ({ x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, wide: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1 });

  const pinch = (event) => {
    const before = middle([...down.values()]);
    down.set(event.pointerId, at(event));
    const after = middle([...down.values()]);
    pan(after.x - before.x, after.y - before.y);
    zoom(after.wide / before.wide, after.x, after.y);
  };
  const drag = (x, y) => {
    if (held.tool !== "pan") return draw(held.tool, [x, y], "on");
    canvas.toggleAttribute("data-drag", true);
    return pan(x - held.last[0], y - held.last[1]);
  };

  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at(event));
    if (down.size === 1) held = { from: at(event), last: at(event), moved: false, began: false, tool: tool(event) };
    else if (held?.began) draw(held.tool, null, "cancel");
    if (down.size > 1) held = null;
  });
  on("pointermove", (event) => {
    const [x, y] = at(event);
    if (down.size === 2 && down.has(event.pointerId)) return pinch(event);
    if (!held) return down.size ? undefined : hover(x, y);
    if (Math.hypot(x - held.from[0], y - held.from[1]) > CLICK_SLOP) held.moved = true;
    if (!held.moved) return undefined;
    if (held.tool !== "pan" && !held.began) {
      draw(held.tool, held.from, "begin");
      held.began = true;
    }
    drag(x, y);
    held.last = [x, y];
    return undefined;
  });
  const release = (event) => {
    down.delete(event.pointerId);
    const done = held;
    held = null;
    canvas.removeAttribute("data-drag");
    if (!done) return;
    const kept = event.type === "pointerup";
    if (done.began) draw(done.tool, null, kept ? "end" : "cancel");
    else if (!done.moved && kept) click(...at(event));
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
