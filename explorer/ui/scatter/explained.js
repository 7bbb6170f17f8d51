/* Which prediction is explained, by which row of influence or of what lesson, and is it here?
 *
 * One for each run: follows the channel's query and target, fetches the row (influence.js), and makes picks. `told` hears
 * `row(row | null)`, `target()` (what is asked, or what is known of it, changed) and `note(text, button)`. It draws nothing.
 */

const SLOW_MS = 150;
const AHEAD = 3;
const SOON_MS = 30;

class Explained {
  constructor(data, channel, heard, send, told) {
    this.data = data;
    this.channel = channel;
    this.heard = heard;
    this.told = told;
    this.rows = new InfluenceRows(data);
    this.pace = new Paced((pick) => send("pick", pick));
    /* `wanted` and `shown` are keys of rows: what is asked for, what is on the map. */
    this.points = this.row = this.wanted = this.shown = null;
    this.gone = false;
  }

  get query() { return this.channel.state.query; }

  get target() { return this.targetOf(this.query); }

  /* The training row whose lesson is shown in place of influence, or null. */
  get lesson() {
    const { lesson } = this.channel.state;
    return Number.isInteger(lesson) && lesson >= 0 && lesson < this.data.n_train ? lesson : null;
  }

  /* What the map is to show: [number, target], as rows are asked for. */
  get asking() { return this.lesson === null ? [this.query, this.target] : [this.lesson, LESSON]; }

  get known() {
    const { query } = this;
    return Number.isInteger(query) && query >= 0 && query < this.data.n_test;
  }

  same(query) {
    return coincide(this.data.task, this.channel.state.queries, this.points, query);
  }

  targetOf(query) {
    return this.same(query) ? "label" : this.channel.state.target;
  }

  /* The ring moves at once; the colors follow when the row is here. */
  asked() {
    this.told.target();
    const needsPoints = this.channel.state.target === "prediction" && !this.points;
    if (this.known && !needsPoints) this.load();
    else this.told.note(this.query === null || needsPoints ? null : `There is no test row ${this.query} in this run.`);
  }

  /* Points or predictions came, and with them whether label and answer differ here. */
  learned() {
    this.told.target();
    if (this.query === null) return;
    if (!this.known || this.rows.key(...this.asking) !== this.wanted) this.asked();
  }

  /* These are the points now; what is here of their influence is shown. */
  open(points) {
    this.points = points;
    this.learned();
    if (this.row && this.shown === this.wanted) this.apply(this.row);
  }

  load() {
    const { rows, asking, lesson } = this;
    const key = rows.key(...asking);
    this.wanted = key;
    clearTimeout(this.slow);
    rows.keepOnly([key, ...this.ahead().map((next) => rows.key(...next))]);
    const row = rows.peek(...asking);
    if (row) return this.apply(row);
    this.slow = setTimeout(() => {
      this.mute();
      this.told.note(lesson === null ? "Loading the influence on this prediction …" : "Teaching the model this example …");
    }, SLOW_MS);
    return rows.get(...asking).then(
      (come) => this.wanted === key && !this.gone && this.apply(come),
      (error) => this.wanted === key && !this.gone && error.name !== "AbortError" && this.missing(error));
  }

  missing(error) {
    clearTimeout(this.slow);
    this.mute();
    if (this.lesson !== null && error.status === 404) this.told.note("This example could not be taught; the panel says why.", "Retry");
    else if (error.status === 404) this.told.note("Not computed yet: the influence on this prediction.", "Check again");
    else this.told.note(error.message, "Retry");
  }

  mute() {
    this.row = this.shown = null;
    this.told.row(null);
  }

  apply(row) {
    clearTimeout(this.slow);
    this.row = row;
    this.shown = this.wanted;
    if (!this.points) return;
    this.told.note(null);
    this.told.row(row);
    clearTimeout(this.idle);
    this.idle = setTimeout(() => {
      for (const [query, target] of this.ahead()) this.rows.prefetch(query, target);
    }, SOON_MS);
  }

  /* [query, target] of what the user will likely ask next. */
  ahead() {
    if (this.lesson !== null) return [];
    const few = Math.min(AHEAD, this.rows.room - 1);
    return upcoming(this.channel.state, few, this.data.n_test).map((query) => [query, this.targetOf(query)]);
  }

  /* The hand rests on this prediction: a click is to find its row here. */
  prepare(query) {
    const facts = queryFacts(this.channel.state.queries, query);
    if (query !== null && query !== this.query && (facts?.ready ?? true)) this.rows.prefetch(query, this.targetOf(query));
  }

  pick(query, target) {
    this.channel.publish({ query, target }, "map");
    const pick = { query, target: this.target };
    this.channel.sent(pick.query, pick.target);
    this.heard.expect(this.data, queryFacts(this.channel.state.queries, query)?.id, pick.target);
    this.pace.push(pick);
  }

  explain(target) {
    if (this.query === null || this.same(this.query) || target === this.target) return;
    this.pick(this.query, target);
  }

  dispose() {
    this.gone = true;
    this.pace.cancel();
    clearTimeout(this.slow);
    clearTimeout(this.idle);
    this.rows.keepOnly([]);
  }
}
