/* Which prediction is selected, and who else on this page should know?
 *
 * One small registry on the window, shared by the map and the list, whichever is mounted first:
 *
 *   window.__influenceExplorer.channel(run)   the Channel of a run, made on first use
 *     .state    { query, target, order, queries } - the last word on each, for those who come later
 *     .publish(change, source)                    merges into `state` and tells every subscriber what changed
 *     .subscribe(fn) -> unsubscribe               fn(state, changed: string[], source: string)
 *     .fromPython(query, target, revision)        Python's wish; see below for when it wins
 *     .sent(query, target)                        remembers a pick on its way to Python
 *     .view     the map's probe (camera, drawn, screenOf, lastDraw), or null while no map is mounted
 *   .cameras    Map(run + layout -> camera): a camera outlives the component that moved it
 *   .measure    true: the map waits for the graphics card before it writes `lastDraw` (benchmarks only)
 *
 * It never fetches and never draws. `source` is "map", "list" or "python".
 */

/* A pick comes back from Python as data a moment later, when the selection may have moved on: not a new wish. */
const ECHO_MS = 3000;

class Channel {
  constructor(run) {
    this.run = run;
    this.state = { query: null, target: "label", order: null, queries: null };
    this.view = null;
    this.subscribers = new Set();
    this.picks = [];
    this.wish = null;
    this.revision = null;
  }

  publish(change, source) {
    const changed = Object.keys(change).filter((name) => change[name] !== this.state[name]);
    if (!changed.length) return;
    Object.assign(this.state, change);
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
   * just pick ourselves. The map and the list both say what Python wants: the second to say it changes nothing. */
  fromPython(query, target, revision) {
    const wish = `${revision}/${query}/${target}`;
    if (wish === this.wish) return;
    const insists = this.revision !== revision;
    const now = performance.now();
    const echo = this.picks.some(
      (pick) => pick.query === query && pick.target === target && now - pick.at < ECHO_MS);
    this.wish = wish;
    this.revision = revision;
    if (insists || !echo) this.publish({ query, target }, "python");
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
