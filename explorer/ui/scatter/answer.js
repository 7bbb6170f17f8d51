/* What does the panel say about the selected prediction?
 *
 * The answer component: card, trust line and galleries, or some of these (`data.sections`). It follows the selection on
 * the bus and shows the new answer as soon as it is here, which for a neighbor in the list is at once; Python's rerun
 * of the panel comes later and changes nothing. What an answer looks like is the server's business.
 */

const ANSWER_SLOW_MS = 150;
/* A prediction that is not computed costs the server a second: a walk through many of them asks only for the last. */
const ANSWER_REST_MS = 200;
const ANSWER_SOON_MS = 2000;
const ANSWER_IDLE_MS = 60;
const ANSWERS_AHEAD = 3;
const SKELETON_TILES = 10;

class AnswerPanel {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ix-answer");
    this.stop = new AbortController();
    this.bus = theBus();
    this.data = this.channel = this.component = null;
    this.wanted = this.shown = null;
    this.tiles = new Tiles(this.root, this.stop.signal, this);
    this.note = this.root.querySelector(".ix-answer-note");
    this.note.querySelector("button").addEventListener("click", () => this.ask(), { signal: this.stop.signal });
  }

  send(name, value) {
    this.component.setTriggerValue(name, value);
  }

  update(component) {
    const before = this.data;
    const { data } = component;
    this.component = component;
    this.data = data;
    for (const part of PARTS) this.place(part).hidden = !data.sections.includes(part);
    if (before?.run !== data.run) this.openRun();
    this.channel.access = { run: data.run, token: data.token, base: data.base };
    this.channel.answers.open(data);
    if (before && before.version !== data.version) this.wanted = null;
    if (this.channel.state.query === null) this.channel.publish({ query: data.query, target: data.target }, "python");
    this.selected();
  }

  openRun() {
    this.leaveRun();
    this.channel = this.bus.channel(this.data.run);
    const answers = (this.channel.answers ??= new Answers());
    this.wanted = this.shown = null;
    const unsubscribe = this.channel.subscribe((state, changed) => {
      if (["query", "target", "queries"].some((name) => changed.includes(name))) this.selected();
      if (changed.includes("likely")) this.prepare(state.likely);
      if (changed.includes("order") && this.shown === this.wanted) this.lookAhead();
    });
    const come = (answer) => this.wanted === answer.key && this.draw(answer);
    answers.listeners.add(come);
    this.leaveRun = () => {
      unsubscribe();
      answers.listeners.delete(come);
    };
  }

  leaveRun() {}

  place(part) {
    return this.root.querySelector(`[data-part=${part}]`);
  }

  get speaks() { return this.data.sections.includes("card"); }

  keyOf(query) {
    const { state } = this.channel;
    const target = coincide(state.queries?.task ?? this.data.task, state.queries, null, query) ? "label" : state.target;
    return `${target}/${query}`;
  }

  /* ---- the selection ---- */

  selected() {
    const { query } = this.channel.state;
    if (query === null) return;
    const key = this.keyOf(query);
    if (key === this.wanted) return;
    this.wanted = key;
    this.ask();
  }

  ask() {
    const { wanted: key, channel } = this;
    const { answers, state } = channel;
    for (const timer of [this.slow, this.resting, this.soon, this.idle]) clearTimeout(timer);
    answers.keepOnly([key, ...this.ahead()]);
    const answer = answers.peek(key);
    if (answer) {
      this.draw(answer);
      return;
    }
    this.slow = setTimeout(() => this.skeleton(), ANSWER_SLOW_MS);
    if (queryFacts(state.queries, state.query)?.ready ?? true) this.fetch(key);
    else this.resting = setTimeout(() => this.fetch(key), ANSWER_REST_MS);
  }

  /* What comes is heard of by all listeners, this one too. */
  fetch(key) {
    this.channel.answers.get(key).catch((error) => {
      if (this.wanted === key && !this.stop.signal.aborted && error.name !== "AbortError") this.missing(key, error);
    });
  }

  lookAhead() {
    clearTimeout(this.idle);
    this.idle = setTimeout(() => {
      for (const key of this.ahead()) this.channel.answers.prefetch(key);
    }, ANSWER_IDLE_MS);
  }

  /* The hand rests on this prediction: a click is to find its answer here. */
  prepare(query) {
    const ready = queryFacts(this.channel.state.queries, query)?.ready ?? true;
    if (query !== null && ready && this.speaks) this.channel.answers.prefetch(this.keyOf(query));
  }

  ahead() {
    return upcoming(this.channel.state, ANSWERS_AHEAD, this.data.n_test).map((query) => this.keyOf(query));
  }

  /* ---- what is seen ---- */

  draw(answer) {
    clearTimeout(this.slow);
    clearTimeout(this.soon);
    this.fill((part) => answer.nodes[part]);
    this.say(null);
    this.shown = answer.key;
    this.announce(`Explained: ${answer.id}`);
    if (this.speaks) this.measure(answer);
    this.lookAhead();
  }

  /* Puts the parts on the page; who had the focus inside does not lose the place. */
  fill(nodeOf) {
    const focused = this.root.contains(document.activeElement) && document.activeElement !== this.root;
    this.tiles.point(null);
    for (const part of this.data.sections) {
      const node = nodeOf(part);
      if (node?.parentNode !== this.place(part)) this.place(part).replaceChildren(...(node ? [node] : []));
    }
    this.root.style.minHeight = "";
    this.root.removeAttribute("aria-busy");
    if (focused && !this.root.contains(document.activeElement)) this.root.focus({ preventScroll: true });
  }

  /* Boxes in place of what is on its way, in the height of what was there. */
  skeleton() {
    const height = this.root.offsetHeight;
    const facts = queryFacts(this.channel.state.queries, this.channel.state.query);
    this.fill((part) => skeletonOf(part, facts, this.data.task));
    this.say(null);
    this.root.style.minHeight = `${height}px`;
    this.root.setAttribute("aria-busy", "true");
    this.shown = null;
    this.announce("Loading the answer");
  }

  missing(key, error) {
    clearTimeout(this.slow);
    const { said } = error;
    const known = typeof said?.card === "string" ? partOf(said.card) : null;
    this.fill((part) => (part === "card" ? known : null));
    this.shown = null;
    const soon = Boolean(said?.soon);
    this.say(typeof said?.error === "string" ? said.error : error.message, soon ? "Check again" : "Retry");
    if (!soon || !this.speaks) return;
    this.soon = setTimeout(() => {
      if (this.wanted === key && !document.hidden) this.fetch(key);
    }, ANSWER_SOON_MS);
  }

  /* A sentence with a button to ask again, or nothing. */
  say(text, button = "") {
    this.note.hidden = !text || !this.speaks;
    this.note.querySelector("p").textContent = text ?? "";
    this.note.querySelector("button").textContent = button;
    if (text) this.announce(text);
  }

  announce(text) {
    if (this.speaks) this.root.querySelector("[role=status]").textContent = text;
  }

  /* What tests and benchmarks may look at: when the text was there, and when all pictures were. */
  measure(answer) {
    requestAnimationFrame(() => setTimeout(() => {
      if (this.shown !== answer.key) return;
      const pictures = picturesOf(answer).filter((picture) => picture.isConnected);
      const probe = { shown: answer.key, textAt: performance.now(), paintedAt: 0, pictures: pictures.length };
      this.channel.panel = probe;
      decoded(pictures).then(() => requestAnimationFrame(() => setTimeout(() => { probe.paintedAt = performance.now(); })));
    }));
  }

  dispose() {
    this.stop.abort();
    for (const timer of [this.slow, this.resting, this.soon, this.idle]) clearTimeout(timer);
    this.leaveRun();
    if (this.speaks && this.channel) this.channel.panel = null;
  }
}

/* The place of a part whose content is on its way; the card already says what the list knows. */
function skeletonOf(part, facts, task) {
  const made = document.createElement("div");
  const box = (className, parent = made) => Object.assign(parent.appendChild(document.createElement("div")), { className });
  if (part === "card") {
    const card = box("ix-card");
    const text = box("ix-card-text", card);
    box("ix-id", text).textContent = facts ? String(facts.id) : "Loading …";
    if (facts) box("ix-said", text).textContent = saidLine(task, facts);
    box("ix-quiet", text).textContent = "Loading the influence on this prediction …";
  } else if (part === "trust") {
    box("ix-skeleton-line");
  } else {
    const both = box("ix-galleries");
    for (const side of ["towards", "away"]) {
      const tiles = box("ix-tiles", box(`ix-gallery ix-${side}`, both));
      for (let i = 0; i < SKELETON_TILES; i++) box("ix-skeleton-tile", tiles);
    }
  }
  return made;
}

const panels = new WeakMap();
export default function answerPanel(component) {
  return mountOnce(panels, component, (first) => new AnswerPanel(first));
}
