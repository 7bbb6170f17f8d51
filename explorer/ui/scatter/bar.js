/* Which examples do I want to see, and what should their color say?
 *
 * The filter bar: classes, outcome, suspect, memorized, sign and range of influence, and the color. A choice is on the bus at
 * once, so the map and the list obey now. It is also the one component that tells Python what the page looks at, once
 * that has rested: filter, color, selection, inspected example, pinned prediction and lesson, whoever of the page changed them.
 */

const VIEW = ["filter", "color", "selection", "inspected", "pinned", "lesson"];
const REST_MS = 250;
const FORGOTTEN_MS = 4000;
const LIVE_UP_TO = 200_000;
const COLORS = ["influence", "label", "prediction", "outcome", "self-influence", "split"];
/* Flags of training examples that one can ask for, as the filter names them. */
const FLAGS = { suspect: "Suspect only", retrained: "Memorized only" };
/* As in explorer/ui/offers.py: which colors only some runs have. */
const offersColor = (task) => (color) => (
  color === "label" || color === "prediction" ? hasClasses(task) : color !== "outcome" || hasOutcomes(task)
);

class FilterBar {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ie-bar");
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.find = (selector) => this.root.querySelector(selector);
    this.bus = theBus();
    this.data = this.channel = this.levels = null;
    this.picker = new ClassPicker(this.root, signal, (classes) => this.filter({ classes }));
    this.histogram = new Histogram(this.find(".histogram"), signal, (limits, resting) => this.limit(limits, resting));
    this.help = new KeysHelp(this.find(".help"), this.bus, signal);
    this.listen(signal);
  }

  listen(signal) {
    const actions = {
      suspect: () => this.filter({ suspect: !this.state.filter.suspect }),
      retrained: () => this.filter({ retrained: !this.state.filter.retrained }),
      every: () => this.filter({ classes: null }),
      clear: () => this.filter(NO_FILTER),
      keys: () => this.help.toggle(),
      reload: () => window.location.reload(),
    };
    this.root.addEventListener("click", (event) => {
      const { dataset } = event.target.closest("button") ?? {};
      if (dataset?.do in actions) actions[dataset.do]();
      for (const name of ["outcome", "sign"]) if (dataset?.[name]) this.filter({ [name]: dataset[name] });
    }, { signal });
    const select = this.find("select");
    select.addEventListener("change", () => this.channel.publish({ color: select.value }, "bar"), { signal });
    onKeys(signal, { "?": ["Show this list of keys", actions.keys] }, EVERYWHERE);
    watchTheme(this.root, signal, () => this.retheme());
  }

  update(component) {
    const before = this.data;
    const { data } = component;
    this.component = component;
    this.data = data;
    if (before?.run !== data.run) {
      this.leave();
      this.channel = this.bus.channel(data.run);
      this.unsubscribe = this.channel.subscribe((state, changed, source) => this.heard(changed, source));
    }
    this.find(".color").hidden = this.find(".histogram").hidden = data.drawn === false;
    if (["run", "task", "classes", "counts"].some((name) => !sameChoice(before?.[name], data[name]))) this.furnish();
    this.adopt();
    this.retheme();
  }

  /* Python's view is taken over once for each revision, also when the map was told of the revision before. */
  adopt() {
    const { channel, data } = this;
    if (data.view && channel.viewed !== data.revision) {
      channel.viewed = data.revision;
      clearTimeout(this.resting);
      channel.publish(data.view, "python");
      this.told = JSON.stringify(this.view);
    }
    this.told ??= JSON.stringify(this.view);
    this.show(["filter", "color", "row", "counts"]);
  }

  get state() { return this.channel.state; }

  get view() {
    return Object.fromEntries(VIEW.map((name) => [name, this.state[name]]));
  }

  retheme() {
    const theme = readTheme(this.root);
    this.root.toggleAttribute("data-dark", theme.dark);
    this.histogram.retheme(theme);
  }

  /* What this run has to offer. */
  furnish() {
    const { data } = this;
    const classes = hasClasses(data.task) ? data.classes : [];
    this.picker.open(classes, data.counts && { train: data.counts.classes_train, test: data.counts.classes_test });
    this.find("[data-group=outcome]").hidden = !hasOutcomes(data.task);
    for (const [name, word] of Object.entries(FLAGS)) {
      const flagged = data.counts?.[name] ?? null, button = this.find(`[data-do=${name}]`);
      button.hidden = flagged === null;
      button.textContent = `${word}${flagged === null ? "" : ` ${count(flagged)}`}`;
    }
    this.find("select").replaceChildren(...COLORS.filter(offersColor(data.task)).map((color) => {
      const option = document.createElement("option");
      option.value = option.textContent = color;
      return option;
    }));
    if (data.counts) this.outcomes(data.counts);
  }

  outcomes({ train, test, wrong_train: wrongTrain, wrong_test: wrongTest }) {
    const counts = { all: [train, test], wrong: [wrongTrain, wrongTest], right: [train - wrongTrain, test - wrongTest] };
    for (const [name, [ofTrain, ofTest]] of Object.entries(counts)) {
      const button = this.find(`[data-outcome=${name}]`);
      const word = { all: "All", wrong: "Wrong", right: "Right" }[name];
      button.textContent = name === "all" ? word : `${word} ${count(ofTrain)} · ${count(ofTest)}`;
      button.title = `${count(ofTrain)} training and ${count(ofTest)} test examples`;
    }
  }

  /* ---- choosing ---- */

  filter(change) {
    this.channel.publish({ filter: { ...this.state.filter, ...change } }, "bar");
  }

  /* While the hand drags the map follows only where that is cheap. */
  limit(limits, resting) {
    if (resting || (this.state.row?.values.length ?? 0) <= LIVE_UP_TO) this.filter(limits);
  }

  heard(changed, source) {
    this.show(changed);
    if (source !== "python" && changed.some((name) => VIEW.includes(name))) this.tell();
  }

  tell() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      const view = this.view, text = JSON.stringify(view);
      if (text === this.told) return;
      this.told = text;
      this.component.setTriggerValue("view", view);
      clearTimeout(this.doubting);
      this.doubting = setTimeout(() => this.doubt(), FORGOTTEN_MS);
    }, REST_MS);
  }

  /* A server that was started anew hears nothing of this page: say so, instead of losing choices in silence. */
  async doubt() {
    const { base, token } = this.data;
    try {
      const answer = await fetch(`${base || ""}/api/session?token=${encodeURIComponent(token)}`, { signal: this.stop.signal });
      this.find(".forgotten").hidden = answer.status !== 403;
    } catch {
      // no answer: Streamlit itself says that the connection is lost
    }
  }

  /* ---- showing ---- */

  show(changed) {
    const { filter, color, row } = this.state;
    if (changed.includes("filter")) this.pressed(filter);
    if (changed.includes("color")) this.find("select").value = color;
    if (changed.includes("row")) this.levels = row ? countLevels(row.values) : null;
    if (changed.includes("row")) this.signs();
    if (changed.includes("row") || changed.includes("filter")) this.histogram.show(row, this.levels, filter, this.data.unit);
    if (changed.includes("counts")) this.shown();
  }

  pressed(filter) {
    for (const name of ["outcome", "sign"]) {
      for (const button of this.root.querySelectorAll(`[data-${name}]`)) {
        button.setAttribute("aria-pressed", String(button.dataset[name] === filter[name]));
      }
    }
    for (const name of Object.keys(FLAGS)) this.find(`[data-do=${name}]`).setAttribute("aria-pressed", String(filter[name]));
    this.picker.show(filter.classes);
    this.find("[data-do=clear]").hidden = sameChoice(filter, NO_FILTER);
  }

  signs() {
    const counts = this.levels && signCounts(this.levels);
    const lesson = Boolean(this.state.row?.tests);
    for (const [name, word] of [["towards", lesson ? "▲ Improved" : "▲ Towards"], ["away", lesson ? "▼ Worse" : "▼ Away"]]) {
      const button = this.find(`[data-sign=${name}]`);
      button.textContent = counts ? `${word} ${count(counts[name])}` : word;
      button.title = counts ? `${count(counts[name])} training examples; the ${lesson ? "change" : "influence"} of ${count(counts.zero)} is about zero` : "";
    }
  }

  shown() {
    const { counts } = this.state;
    const selected = counts?.selectedTrain + counts?.selectedTest;
    this.find("[data-show=counts]").textContent = !counts ? ""
      : `${count(counts.shownTrain)} of ${count(counts.train)} training, ${count(counts.shownTest)} of ${count(counts.test)} test shown`
        + (selected ? `; ${count(counts.selectedTrain)} and ${count(counts.selectedTest)} selected` : "");
  }

  leave() {
    this.unsubscribe?.();
    clearTimeout(this.resting);
    clearTimeout(this.doubting);
    this.told = undefined;
  }

  dispose() {
    this.stop.abort();
    this.leave();
  }
}

const bars = new WeakMap();
export default function filterBar(component) {
  return mountOnce(bars, component, (first) => new FilterBar(first));
}
