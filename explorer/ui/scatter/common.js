/* What do the map and the list both need: fetching with readable errors, keys, theme, pacing, mounting?
 *
 * Nothing here knows points or predictions. Text from outside is only ever put on screen with textContent.
 */

class LoadError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function refusal(what, status) {
  if (status === 401 || status === 403) {
    return `The server refused this page's access token, so ${what} could not be loaded. Reload the page to get a new one.`;
  }
  if (status === 404) return `The server has no ${what} for this run. Compute it again, or choose another run.`;
  return `The server answered with error ${status} when asked for ${what}. Try again; its log says why.`;
}

/* The body of `url`, or a LoadError that says what could not be loaded and what to do; `said` is the JSON that came with it. */
async function load(url, what, { signal, json = false, urgent = true } = {}) {
  let answer;
  try {
    answer = await fetch(url, { signal, credentials: "same-origin", priority: urgent ? "high" : "low" });
    if (answer.ok) return await (json ? answer.json() : answer.arrayBuffer());
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (answer) throw new LoadError(`What the server sent for ${what} could not be read. Try again.`, 0);
    throw new LoadError(`The server did not answer, so ${what} could not be loaded. Check that it runs, then try again.`, 0);
  }
  const said = json ? await answer.json().catch(() => null) : null;
  throw Object.assign(new LoadError(refusal(what, answer.status), answer.status), { said });
}

/* Where a run's route is: only ever on the server that served this page. */
function route(data, path) {
  const run = encodeURIComponent(data.run);
  return `${data.base || ""}/api/runs/${run}/${path}?token=${encodeURIComponent(data.token)}`;
}

const TYPING_ROLES = new Set(
  ["textbox", "searchbox", "combobox", "spinbutton", "slider", "menu", "menuitem", "grid", "treegrid", "tree", "dialog"]);
const BUTTON_INPUTS = new Set(["button", "submit", "reset", "checkbox"]);

/* Does this key press belong to something else: a field, a slider, a table, a dialog, the browser? */
function belongsElsewhere(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return true;
  return event.composedPath().some((node) => {
    if (!(node instanceof Element)) return false;
    if (node.tagName === "INPUT") return !BUTTON_INPUTS.has(node.type);
    if (node.tagName === "TEXTAREA" || node.tagName === "SELECT" || node.isContentEditable) return true;
    return TYPING_ROLES.has(node.getAttribute("role")) || node.dataset.testid === "stDataFrame";
  });
}

/* `keys` maps a key (lower case) to [what it does in words, action]; a held key calls it again with event.repeat.
 * The words go to the page's one list of keys (bus.keys, shown on "?") under the heading `where`. */
function onKeys(signal, keys, where = "This page") {
  const actionOf = (key) => (Array.isArray(keys[key]) ? keys[key][1] : keys[key]);
  window.addEventListener("keydown", (event) => {
    const action = actionOf(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!action || belongsElsewhere(event)) return;
    event.preventDefault();
    action(event);
  }, { signal });
  const bus = theBus();
  bus.keys ??= new Set();
  const entry = { where, keys: Object.entries(keys).map(([key, what]) => ({ key, words: Array.isArray(what) ? what[0] : "" })) };
  bus.keys.add(entry);
  signal.addEventListener("abort", () => bus.keys.delete(entry));
}

/* Sends a single pick at once and a burst (held keys) only when it has rested: the server hears the first and last. */
class Paced {
  constructor(send, restMs = 60) {
    this.send = send;
    this.restMs = restMs;
    this.timer = 0;
    this.last = -Infinity;
  }

  push(value, held = false) {
    const now = performance.now();
    clearTimeout(this.timer);
    if (!held && now - this.last > this.restMs) this.send(value);
    else this.timer = setTimeout(() => this.send(value), this.restMs);
    this.last = now;
  }

  cancel() {
    clearTimeout(this.timer);
  }
}

/* Any CSS color as [r, g, b] in 0..1. */
const swatch = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
function rgb(color) {
  swatch.clearRect(0, 0, 1, 1);
  swatch.fillStyle = "#808080";
  swatch.fillStyle = color;
  swatch.fillRect(0, 0, 1, 1);
  return [...swatch.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((part) => part / 255);
}

const mix = (a, b, t) => a.map((part, i) => part + (b[i] - part) * t);
const css = (color) => `rgb(${color.map((part) => Math.round(part * 255)).join(" ")})`;

/* Streamlit's theme as the canvas needs it. Blue and orange stay apart for every kind of color vision. */
function readTheme(node) {
  const style = getComputedStyle(node);
  const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const background = rgb(read("--st-background-color", "#ffffff"));
  const text = rgb(read("--st-text-color", "#31333f"));
  const dark = background[0] * 0.3 + background[1] * 0.59 + background[2] * 0.11 < 0.5;
  return {
    dark, background, text,
    font: read("--st-font", "sans-serif"),
    muted: mix(background, text, dark ? 0.5 : 0.42),
    towards: rgb(dark ? "#58a6ff" : "#1765cc"),
    away: rgb(dark ? "#ff9b3d" : "#b85500"),
    onMark: dark ? [0.05, 0.07, 0.1] : [1, 1, 1],
  };
}

/* Calls `changed` whenever the theme may have: Streamlit restyles an ancestor, or the system goes dark. */
function watchTheme(node, signal, changed) {
  const observer = new MutationObserver(changed);
  for (let at = node; at; at = at.parentElement ?? at.getRootNode().host) {
    observer.observe(at, { attributes: true, attributeFilter: ["class", "style", "data-theme"] });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed, { signal });
  signal.addEventListener("abort", () => observer.disconnect());
}

/* One object per place on the page: Streamlit calls a component again on new data and cleans up once, at the end.
 * The cleanup of a call that another call has overtaken does nothing. */
function mountOnce(mounted, component, make) {
  const place = component.parentElement;
  let entry = mounted.get(place);
  if (!entry) {
    entry = { object: make(component), turn: 0 };
    mounted.set(place, entry);
  }
  entry.turn += 1;
  const turn = entry.turn;
  entry.object.update(component);
  return () => {
    if (entry.turn !== turn || mounted.get(place) !== entry) return;
    mounted.delete(place);
    entry.object.dispose();
  };
}

/* Numbers as people read them: four digits at most, a real minus sign. */
function number(value) {
  if (value === null || value === undefined || !Number.isFinite(Number(value))) return "-";
  const size = Math.abs(value);
  const shown = size === 0 ? "0" : size >= 0.001 && size < 1e5 ? String(Number(size.toPrecision(3))) : size.toExponential(1);
  return (value < 0 ? "−" : "") + shown;
}
const signed = (value) => (value > 0 ? "+" : "") + number(value);
const count = (value) => value.toLocaleString("en-US");
