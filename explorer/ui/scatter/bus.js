/* Which prediction is selected, and who else on this page should know?
 *
 * One small registry on the window, shared by the map and the list, whichever is mounted first:
 *
 *   window.__influenceExplorer.channel(run)   the Channel of a run, made on first use
 *     .state    the last word on each of these, for those who come later:
 *               query, target      what is explained
 *               order, queries     what the list shows, and all that it knows
 *               filter, color      which points are shown, and how
 *               selection          null or { layout, polygon }: what was lassoed, in map units
 *               inspected          the training row that the drawer is open on, or null
 *               pinned             null or { query, target }: the A of a comparison
 *               lesson             the training row whose lesson colors the map, or null for influence
 *               likely             the test row that the hand rests on and may choose next, or null
 *               pointed            the point under the pointer in a gallery or list, or -1
 *               row, counts        what the map is colored by, and how many points it shows
 *     .publish(change, source)                    merges into `state` and tells every subscriber what changed
 *     .subscribe(fn) -> unsubscribe               fn(state, changed: string[], source: string)
 *     .fromPython(query, target, revision, view)  Python's wish; see below for when it wins
 *     .sent(query, target)                        remembers a pick on its way to Python
 *     .view     the map's probe (camera, drawn, screenOf, lastDraw), or null while no map is mounted
 *     .panel    the answer's probe (shown, textAt, paintedAt), or null
 *   .cameras    Map(run + layout -> camera): a camera outlives the component that moved it
 *   .measure    true: the map waits for the graphics card before it writes `lastDraw` (benchmarks only)
 *
 * It never fetches and never draws. `source` is "map", "list", "bar", "panel" or "python".
 */

/* A pick comes back from Python as data a moment later, when the selection may have moved on: not a new wish. */
const ECHO_MS = 3000;

const NO_FILTER = { classes: null, outcome: "all", suspect: false, retrained: false, sign: "both", low: null, high: null };

/* Filters and selections arrive as new objects that may say the same as before. */
function sameChoice(a, b) {
  if (a === b) return true;
  const plain = (value) => value && (value.constructor === Object || Array.isArray(value));
  if (!plain(a) || !plain(b) || ArrayBuffer.isView(a.values) || a.length !== b.length || a.length > 80) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => sameChoice(a[name], b[name]));
}

class Channel {
  constructor(run) {
    this.run = run;
    this.state = {
      query: null, target: "label", order: null, queries: null,
      filter: NO_FILTER, color: "influence", selection: null, inspected: null, pinned: null, lesson: null,
      likely: null, pointed: -1, row: null, counts: null,
    };
    this.view = this.panel = null;
    this.subscribers = new Set();
    this.picks = [];
    this.wish = null;
    this.revision = null;
  }

  publish(change, source) {
    const changed = Object.keys(change).filter((name) => !sameChoice(change[name], this.state[name]));
    if (!changed.length) return;
    for (const name of changed) this.state[name] = change[name];
    for (const subscriber of [...this.subscribers]) subscriber(this.state, changed, source);
  }

  subscribe(subscriber) {
    this.subscribers.add(subscriber);
    return () => this.subscribers.delete(subscriber);
  }

  sent(query, target) {
    const now = performance.now();
    this.picks = this.picks.filter((pick) => now - pick.at < ECHO_MS).slice(-200);
    this.picks.push({ query, target, at: now });
  }

  /* Python wins when it raises `revision`, and when it asks for something it did not ask before and we did not
   * just pick ourselves. The map and the list both say what Python wants: the second to say it changes nothing.
   * `view` (filter, color, selection, inspected, pinned, lesson) is taken over when `revision` is raised, and only then. */
  fromPython(query, target, revision, view = {}) {
    const wish = `${revision}/${query}/${target}`;
    if (wish === this.wish) return;
    const insists = this.revision !== revision;
    const now = performance.now();
    const echo = this.picks.some(
      (pick) => pick.query === query && pick.target === target && now - pick.at < ECHO_MS);
    this.wish = wish;
    this.revision = revision;
    if (insists) this.publish({ query, target, ...view }, "python");
    else if (!echo) this.publish({ query, target }, "python");
  }
}

class Bus {
  constructor() {
    this.version = 1;
    this.channels = new Map();
    this.cameras = new Map();
    this.measure = false;
  }

  channel(run) {
    if (!this.channels.has(run)) this.channels.set(run, new Channel(run));
    return this.channels.get(run);
  }
}

/* The map and the list are two bundles with a copy of this file each: the first to load makes the bus of both. */
function theBus() {
  window.__influenceExplorer ??= new Bus();
  return window.__influenceExplorer;
}
