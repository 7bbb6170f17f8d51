/* Which classes should be shown?
 *
 * A list of boxes that opens from a button: ticking some shows only these, none ticked means all. Class names are
 * somebody else's text and only ever put on screen as text.
 */

const SEARCHED = 12;
const NAMED = 3;

class ClassPicker {
  /* `changed(classes)`: the ticked class numbers in ascending order, or null for all. */
  constructor(root, signal, changed) {
    this.button = root.querySelector(".classes");
    this.popover = root.querySelector(".popover");
    this.choices = root.querySelector(".choices");
    this.search = this.popover.querySelector("input[type=search]");
    this.changed = changed;
    this.names = [];
    this.listen(signal);
  }

  listen(signal) {
    const on = (node, name, heard, more) => node.addEventListener(name, heard, { signal, ...more });
    on(this.popover, "beforetoggle", (event) => { if (event.newState === "open") this.place(); });
    on(this.popover, "toggle", (event) => this.button.setAttribute("aria-expanded", String(event.newState === "open")));
    on(this.choices, "change", () => this.changed(this.ticked()));
    on(this.search, "input", () => this.narrow());
    on(window, "scroll", () => this.place(), { capture: true, passive: true });
    on(window, "resize", () => this.place());
  }

  /* `counts`: { train, test } numbers a class, or null. */
  open(names, counts) {
    this.names = names;
    this.button.hidden = names.length < 2;
    this.search.hidden = names.length <= SEARCHED;
    this.choices.replaceChildren(...names.map((name, number_) => {
      const label = document.createElement("label");
      const box = label.appendChild(document.createElement("input"));
      box.type = "checkbox";
      box.value = String(number_);
      const text = label.appendChild(document.createElement("span"));
      text.className = "name";
      text.textContent = label.title = name;
      if (!counts) return label;
      const many = label.appendChild(document.createElement("span"));
      many.className = "quiet";
      many.textContent = `(${count(counts.train[number_] ?? 0)} · ${count(counts.test[number_] ?? 0)})`;
      return label;
    }));
  }

  get boxes() {
    return [...this.choices.querySelectorAll("input")];
  }

  ticked() {
    const numbers = this.boxes.filter((box) => box.checked).map((box) => Number(box.value));
    return numbers.length && numbers.length < this.names.length ? numbers : null;
  }

  /* What the filter says now. */
  show(classes) {
    const { names, button } = this;
    const some = new Set(classes ?? []);
    for (const box of this.boxes) box.checked = some.has(Number(box.value));
    const listed = [...some].slice(0, NAMED).map((one) => names[one] ?? `class ${one}`).join(", ");
    const said = !classes ? "all" : classes.length <= NAMED ? listed || "none" : `${classes.length} of ${names.length}`;
    button.textContent = `Classes: ${said} ▾`;
    button.toggleAttribute("data-some", Boolean(classes));
    this.popover.querySelector("[data-show=ticked]").textContent = classes
      ? `Only the ${count(classes.length)} ticked of ${count(names.length)} shown` : "None ticked: all are shown";
  }

  narrow() {
    const words = this.search.value.trim().toLowerCase();
    for (const label of this.choices.children) label.hidden = !label.title.toLowerCase().includes(words);
  }

  /* Under its button, inside the window. */
  place() {
    const { left, bottom } = this.button.getBoundingClientRect();
    const room = window.innerWidth - Math.min(300, window.innerWidth * 0.92) - 8;
    this.popover.style.left = `${Math.max(8, Math.min(left, room))}px`;
    this.popover.style.top = `${bottom + 4}px`;
  }
}
