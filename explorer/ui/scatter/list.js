/* Which predictions are there, and which one do I want explained?
 *
 * The list component: test predictions as the server sorted them, filtered here, walked with the arrow keys. A
 * choice is on the bus at once, so the map recolors now; Python hears of it when the keys rest.
 */

const ROW_PX = { image: 52, table: 46 };

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
    this.only = "all";
    this.shown = [];
    this.heard = new Heard();
    this.pace = new Paced((pick) => this.component.setTriggerValue("pick", pick));
    this.listen();
  }

  listen() {
    const { signal } = this.stop;
    const actions = {
      previous: (event) => this.step(-1, event.repeat), next: (event) => this.step(1, event.repeat),
      retry: () => this.open(), clear: () => this.clear(),
    };
    this.root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.do) actions[button.dataset.do](event);
      if (button?.dataset.only) this.filter(button.dataset.only);
    }, { signal });
    const search = this.find("input");
    search.addEventListener("input", () => this.filter(), { signal });
    search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && event.key !== "Enter") return;
      if (event.key === "Escape") this.clear();
      this.box.focus();
    }, { signal });
    onKeys(signal, { ArrowUp: actions.previous, k: actions.previous, ArrowDown: actions.next, j: actions.next });
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
      this.unsubscribe = this.channel.subscribe((state, changed, source) => {
        if (changed.includes("query")) this.follow(source === "list" ? "edge" : "center");
      });
    }
    this.channel.fromPython(data.query, data.target, data.revision);
    if (["run", "token", "base", "version"].some((name) => before?.[name] !== data[name])) this.open();
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
      const lengths = ["rows", "ids", "labels", "predictions", "confidence", "loss", "wrong", "ready"].map((name) => queries[name]?.length);
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
    queries.at = new Map(queries.rows.map((row, i) => [row, i]));
    queries.text = queries.rows.map((row, i) =>
      `${queries.ids[i]}\n${queries.labels[i]}\n${queries.predictions[i]}`.toLowerCase());
    this.queries = queries;
    this.rows?.dispose();
    this.find(".all").replaceChildren();
    const picture = queries.kind === "image" ? (row) => route(data, `thumb/test/${row}.png`) : null;
    this.rows = new RowsView(this.box, { picture, chosen: (row) => this.choose(row) });
    this.find(".segments").hidden = queries.task === "regression";
    const wrong = queries.wrong.reduce((sum, one) => sum + (one ? 1 : 0), 0);
    const counts = { all: queries.rows.length, wrong, right: queries.rows.length - wrong };
    for (const button of this.root.querySelectorAll("[data-only]")) {
      button.textContent = `${{ all: "All", wrong: "Wrong", right: "Right" }[button.dataset.only]} ${count(counts[button.dataset.only])}`;
    }
    this.channel.publish({ queries }, "list");
    this.filter();
  }

  /* ---- what is shown ---- */

  filter(only = this.only) {
    this.only = only;
    for (const button of this.root.querySelectorAll("[data-only]")) {
      button.setAttribute("aria-pressed", String(button.dataset.only === only));
    }
    if (!this.queries) return;
    const { rows, wrong, text } = this.queries;
    const asked = this.find("input").value.trim().toLowerCase();
    this.shown = [];
    for (let i = 0; i < rows.length; i++) {
      if (only !== "all" && Boolean(wrong[i]) !== (only === "wrong")) continue;
      if (!asked || text[i].includes(asked)) this.shown.push(i);
    }
    this.channel.publish({ order: this.shown.map((i) => rows[i]) }, "list");
    this.find("[data-show=shown]").textContent = `${count(this.shown.length)} of ${count(rows.length)}`;
    if (!rows.length) this.say("This run has no test predictions to explain.");
    else if (!this.shown.length) this.say(this.nothingFound(asked), "clear");
    else this.say(null);
    this.rows.show(this.shown, (i) => this.facts(i), ROW_PX[this.queries.kind] ?? ROW_PX.table);
    this.follow("center");
  }

  nothingFound(asked) {
    const kind = { all: "", wrong: "wrong ", right: "right " }[this.only];
    return asked ? `No ${kind}prediction has “${asked}” in its id, label or answer.` : `There are no ${kind}predictions.`;
  }

  clear() {
    this.find("input").value = "";
    this.filter("all");
    this.box.focus();
  }

  facts(i) {
    const { rows, ids, labels, predictions, confidence, wrong, ready, task } = this.queries;
    const row = rows[i];
    const note = ready[i] ? "" : "not computed";
    if (task === "regression") {
      const off = Number(predictions[i]) - Number(labels[i]);
      return { row, id: String(ids[i]), says: `says ${number(predictions[i])}, labeled ${number(labels[i])}`, sure: `off ${signed(off)}`, note };
    }
    return {
      row, id: String(ids[i]), wrong: Boolean(wrong[i]), verdict: wrong[i] ? "✗" : "✓",
      says: `says ${predictions[i]}, labeled ${labels[i]}`, sure: percent(confidence[i]), note: note || "sure",
    };
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
    return i === undefined ? -1 : this.shown.indexOf(i);
  }

  follow(reveal) {
    const { position } = this;
    this.rows?.select(position, reveal);
    this.find("[data-do=previous]").disabled = !this.next(-1);
    this.find("[data-do=next]").disabled = !this.next(1);
  }

  /* The neighbor of the selected row in the shown order, even if a filter hides the selected one itself. */
  next(step) {
    if (!this.shown.length) return null;
    const at = this.queries.at.get(this.channel.state.query) ?? -1;
    const after = this.shown.findIndex((i) => i > at);
    const before = (after < 0 ? this.shown.length : after) - (this.position >= 0 ? 2 : 1);
    const i = this.shown[step > 0 ? (after < 0 ? this.shown.length : after) : before];
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

  dispose() {
    this.stop.abort();
    this.stopLoading?.abort();
    this.pace.cancel();
    this.heard.cancel();
    this.unsubscribe?.();
    this.rows?.dispose();
    cancelAnimationFrame(this.scrolling);
  }
}

const lists = new WeakMap();
export default function queryList(component) {
  return mountOnce(lists, component, (first) => new QueryList(first));
}
