/* Which predictions are there, and which one do I want explained?
 *
 * The list component: test predictions, searched, sorted and filtered here, walked with the arrow keys. A choice is on
 * the bus at once, so the map recolors now; Python hears of it when the keys rest. Which outcomes and classes are shown
 * is the page's filter, which the bar and the map obey too.
 */

const ROW_PX = { image: 52, table: 46, text: 70 };
const SEARCHED = { text: "id, prompt, continuation or answer", other: "id, label or answer" };

function percent(share) {
  if (share === null || share === undefined) return "";
  if (share > 0.9995) return "> 99.9 %";
  return `${share > 0.99 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
}

class QueryList {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ie-list");
    this.stop = new AbortController();
    this.find = (selector) => this.root.querySelector(selector);
    this.box = this.find(".box");
    this.bus = theBus();
    this.data = this.queries = this.channel = null;
    this.sort = "worst";
    this.shown = [];
    this.heard = new Heard();
    this.likely = new Likely("list");
    this.pace = new Paced((pick) => this.component.setTriggerValue("pick", pick));
    this.listen();
  }

  listen() {
    const { signal } = this.stop;
    const actions = {
      previous: (event) => this.step(-1, event.repeat), next: (event) => this.step(1, event.repeat),
      pin: () => this.pin(), retry: () => this.open(), clear: () => this.clear(),
    };
    this.root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.do) actions[button.dataset.do](event);
      if (button?.dataset.only) this.only({ outcome: button.dataset.only });
    }, { signal });
    const input = this.find("input");
    input.addEventListener("input", () => this.filter(), { signal });
    input.addEventListener("keydown", (event) => this.searchKey(event), { signal });
    this.find("select").addEventListener("change", (event) => this.sortBy(event.target.value), { signal });
    const [previous, next] = [["Previous prediction", actions.previous], ["Next prediction", actions.next]];
    onKeys(signal, {
      ArrowUp: previous, k: previous, ArrowDown: next, j: next,
      p: ["Pin this prediction as A of a comparison, or unpin it", actions.pin],
    }, "Predictions");
    const over = (event) => this.likely.over(this.channel, rowOf(event.target));
    this.box.addEventListener("pointerover", over, { signal });
    this.box.addEventListener("pointerleave", () => this.likely.over(this.channel, null), { signal });
    this.box.addEventListener("scroll", () => {
      this.scrolling ??= requestAnimationFrame(() => {
        this.scrolling = undefined;
        this.rows?.render();
      });
    }, { signal });
    const observer = new ResizeObserver(() => this.rows?.render());
    observer.observe(this.box);
    signal.addEventListener("abort", () => observer.disconnect());
    watchTheme(this.root, signal, () => this.retheme());
  }

  update(component) {
    const before = this.data;
    const { data } = component;
    this.component = component;
    this.data = data;
    this.root.style.setProperty("--height", `${data.height}px`);
    this.retheme();
    if (before?.run !== data.run) {
      this.unsubscribe?.();
      this.channel = this.bus.channel(data.run);
      this.unsubscribe = this.channel.subscribe((state, changed, source) => this.follows(changed, source));
    }
    this.channel.fromPython(data.query, data.target, data.revision, data.view);
    if (["run", "token", "base", "version"].some((name) => before?.[name] !== data[name])) this.open();
  }

  follows(changed, source) {
    if (changed.includes("filter") && !sameChoice(this.chosen, this.choices)) this.filter();
    else if (changed.includes("query")) this.follow(source === "list" ? "edge" : "center");
    if (["query", "target", "pinned"].some((name) => changed.includes(name))) this.showPin();
  }

  retheme() {
    this.root.toggleAttribute("data-dark", readTheme(this.root).dark);
  }

  async open() {
    const { data } = this;
    this.say("Loading the predictions …");
    this.stopLoading?.abort();
    this.stopLoading = new AbortController();
    try {
      const queries = await load(route(data, "queries.json"), "the list of predictions", { signal: this.stopLoading.signal, json: true });
      const names = ["rows", "ids", "labels", "predictions", "confidence", "loss", "wrong", "ready", ...(queries.kind === "text" ? ["prompts"] : [])];
      const lengths = names.map((name) => queries[name]?.length);
      if (lengths.some((length) => length !== lengths[0])) {
        throw new LoadError(`The list of predictions has columns of different lengths (${lengths.join(", ")}). Compute the run again.`, 0);
      }
      if (!this.stop.signal.aborted) this.take(queries);
    } catch (error) {
      if (error.name !== "AbortError") this.say(error.message, "retry");
    }
  }

  take(queries) {
    const { data } = this;
    this.queries = prepare(queries);
    this.rows?.dispose();
    this.find(".all").replaceChildren();
    const picture = queries.kind === "image" ? (row) => route(data, `thumb/test/${row}.png`) : null;
    this.rows = new RowsView(this.box, { picture, chosen: (row) => this.choose(row) });
    const regression = !hasOutcomes(queries.task);
    const input = this.find("input");
    input.setAttribute("aria-label", `Filter by ${this.searched}`);
    input.title = `Words of an ${this.searched}, all of which must be there; #12 is test row 12`;
    this.find(".segments").hidden = regression;
    for (const option of this.find("select").options) option.hidden = regression && !SORTS_OF_REGRESSION.includes(option.value);
    const wrong = queries.wrong.reduce((sum, one) => sum + (one ? 1 : 0), 0);
    const counts = { all: queries.rows.length, wrong, right: queries.rows.length - wrong };
    for (const button of this.root.querySelectorAll("[data-only]")) {
      button.textContent = `${{ all: "All", wrong: "Wrong", right: "Right" }[button.dataset.only]} ${count(counts[button.dataset.only])}`;
    }
    this.channel.publish({ queries }, "list");
    this.sortBy(this.sort);
    this.showPin();
  }

  /* ---- what is shown ---- */

  /* What the page's filter says that concerns predictions. */
  get choices() {
    const { outcome, classes } = this.channel.state.filter;
    return hasOutcomes(this.queries?.task) ? { outcome, classes } : { outcome: "all", classes: null };
  }

  /* What a search looks through, in words. */
  get searched() { return SEARCHED[this.queries?.kind] ?? SEARCHED.other; }

  only(change) {
    this.channel.publish({ filter: { ...this.channel.state.filter, ...change } }, "list");
  }

  sortBy(sort) {
    this.sort = sort;
    this.order = sorted(this.queries, sort);
    this.rank = new Uint32Array(this.order.length);
    this.order.forEach((i, rank) => { this.rank[i] = rank; });
    this.box.setAttribute("aria-label", `Test predictions, ${SORTS[sort]}`);
    this.filter();
  }

  filter() {
    this.chosen = this.choices;
    const { outcome, classes } = this.chosen;
    for (const button of this.root.querySelectorAll("[data-only]")) {
      button.setAttribute("aria-pressed", String(button.dataset.only === outcome));
    }
    if (!this.queries) return;
    const { rows, wrong, labels, kind } = this.queries;
    const names = classes && new Set(classes.map((one) => this.data.classes[one]));
    const fits = (i) => (outcome === "all" || Boolean(wrong[i]) === (outcome === "wrong")) && (!names || names.has(labels[i]));
    const asked = this.find("input").value.trim().toLowerCase();
    this.shown = search(this.queries, this.order, asked, fits);
    this.place = new Int32Array(rows.length).fill(-1);
    this.shown.forEach((i, position) => { this.place[i] = position; });
    this.channel.publish({ order: this.shown.map((i) => rows[i]) }, "list");
    this.find("[data-show=shown]").textContent = `${count(this.shown.length)} of ${count(rows.length)}`;
    if (!rows.length) this.say("This run has no test predictions to explain.");
    else if (!this.shown.length) this.say(this.nothingFound(asked), "clear");
    else this.say(null);
    this.rows.show(this.shown, (i) => this.facts(i), ROW_PX[kind] ?? ROW_PX.table);
    this.follow("center");
  }

  nothingFound(asked) {
    const { outcome, classes } = this.chosen;
    const kind = { all: "", wrong: "wrong ", right: "right " }[outcome];
    const where = classes ? " of the classes shown" : "";
    return asked ? `No ${kind}prediction${where} has “${asked}” in its ${this.searched}.` : `There are no ${kind}predictions${where}.`;
  }

  /* Enter chooses what was named outright (an id, #row), or the only one found. */
  searchKey(event) {
    if (event.key !== "Escape" && event.key !== "Enter") return;
    const input = this.find("input");
    const first = this.shown[0];
    if (event.key === "Escape") {
      input.value = "";
      this.filter();
    } else if (this.shown.length === 1 || (this.shown.length && named(this.queries, input.value.trim().toLowerCase()) === first)) {
      this.choose(this.queries.rows[first]);
    }
    this.box.focus();
  }

  clear() {
    this.find("input").value = "";
    this.only({ outcome: "all", classes: null });
    this.filter();
    this.box.focus();
  }

  facts(i) {
    const { rows, ids, labels, predictions, confidence, wrong, ready, task, prompts } = this.queries;
    const row = rows[i];
    const note = ready[i] ? "" : "not computed";
    const says = saidLine(task, { prediction: predictions[i], label: labels[i], wrong: wrong[i] });
    if (!hasOutcomes(task)) {
      return { row, id: String(ids[i]), says, sure: `off ${signed(Number(predictions[i]) - Number(labels[i]))}`, note };
    }
    const known = {
      row, id: String(ids[i]), wrong: Boolean(wrong[i]), verdict: wrong[i] ? "✗" : "✓", says, sure: percent(confidence[i]), note: note || "sure",
    };
    if (!prompts) return known;
    return { ...known, prompt: prompts[row], ...(wrong[i] ? sideBySide(labels[i], predictions[i]) : { pieces: [[labels[i], false]] }) };
  }

  /* A sentence in place of the rows, or the rows. */
  say(text, button = null) {
    const cover = this.find(".cover");
    cover.hidden = !text;
    this.box.hidden = Boolean(text);
    cover.querySelector("p").textContent = text ?? "";
    for (const one of cover.querySelectorAll("button")) one.hidden = one.dataset.do !== button;
  }

  /* ---- the selection ---- */

  /* Where the selected row is among the shown ones, or -1. */
  get position() {
    const i = this.queries?.at.get(this.channel.state.query);
    return i === undefined ? -1 : this.place[i];
  }

  follow(reveal) {
    this.rows?.select(this.position, reveal);
    this.find("[data-do=previous]").disabled = !this.next(-1);
    this.find("[data-do=next]").disabled = !this.next(1);
  }

  /* The neighbor of the selected row in the shown order, even if a filter hides the selected one itself. */
  next(step) {
    if (!this.shown.length) return null;
    const { position, rank } = this;
    const selected = this.queries.at.get(this.channel.state.query);
    let after = position + 1;
    if (position < 0) after = selected === undefined ? 0 : this.shown.findIndex((i) => rank[i] > rank[selected]);
    if (after < 0) after = this.shown.length;
    const i = this.shown[step > 0 ? after : (position < 0 ? after : position) - 1];
    return i === undefined ? null : { row: this.queries.rows[i] };
  }

  step(step, held) {
    const goal = this.next(step);
    if (goal) this.choose(goal.row, held);
  }

  choose(query, held = false) {
    if (query === this.channel.state.query) return;
    const target = this.channel.state.target;
    this.channel.publish({ query }, "list");
    const pick = { query, target: coincide(this.queries.task, this.queries, null, query) ? "label" : target };
    this.channel.sent(pick.query, pick.target);
    this.heard.expect(this.data, queryFacts(this.queries, query)?.id, pick.target);
    this.pace.push(pick, held);
  }

  /* ---- A of a comparison ---- */

  get current() {
    const { query, target } = this.channel.state;
    return { query, target: coincide(this.queries?.task, this.queries, null, query) ? "label" : target };
  }

  pin() {
    if (!queryFacts(this.queries, this.channel.state.query)) return;
    this.channel.publish({ pinned: sameChoice(this.channel.state.pinned, this.current) ? null : this.current }, "list");
  }

  showPin() {
    const { pinned, query } = this.channel.state;
    const here = sameChoice(pinned, this.current);
    const button = this.find("[data-do=pin]");
    button.disabled = !queryFacts(this.queries, query);
    button.setAttribute("aria-pressed", String(here));
    button.title = here ? "This prediction is A of the comparison: let it go" : "Keep this prediction as A and compare it with the next ones";
    this.rows?.pin(pinned?.query ?? -1);
  }

  dispose() {
    this.stop.abort();
    this.stopLoading?.abort();
    this.pace.cancel();
    this.heard.cancel();
    this.likely.dispose();
    this.unsubscribe?.();
    this.rows?.dispose();
    cancelAnimationFrame(this.scrolling);
  }
}

const lists = new WeakMap();
export default function queryList(component) {
  return mountOnce(lists, component, (first) => new QueryList(first));
}
