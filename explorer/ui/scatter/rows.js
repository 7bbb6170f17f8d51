/* How do ten thousand rows scroll smoothly?
 *
 * Keeps only the rows in view in the document, at fixed heights, and reuses their elements. What a row says is given
 * to it as facts and put there as text. It selects nothing and filters nothing.
 */

const SPARE = 4;
const PICTURE_REST_MS = 70;

/* The test row under this element, or null. */
function rowOf(element) {
  const row = element?.closest?.(".row");
  return row ? Number(row.id.replace("row-", "")) : null;
}

class RowsView {
  constructor(box, { picture, chosen }) {
    this.box = box;
    this.all = box.querySelector(".all");
    this.picture = picture;
    this.chosen = chosen;
    this.elements = new Map();
    this.items = [];
    this.selected = this.pinned = -1;
    this.height = 52;
  }

  /* `items` are indices into `facts`' lists; `facts(i)` says what row i shows. */
  show(items, facts, height) {
    this.items = items;
    this.facts = facts;
    this.height = height;
    this.box.style.setProperty("--row", `${height}px`);
    this.all.style.height = `${items.length * height}px`;
    for (const element of this.elements.values()) element.remove();
    this.elements.clear();
    this.render();
  }

  /* `follow`: "edge" scrolls as little as needed, "center" puts a row from elsewhere in the middle. */
  select(position, follow) {
    this.selected = position;
    if (follow && position >= 0) this.reveal(position, follow === "center");
    this.render();
  }

  /* `row`: the test row that carries the badge A, or -1. */
  pin(row) {
    this.pinned = row;
    this.render();
  }

  reveal(position, center) {
    const { box, height } = this;
    const top = position * height;
    const hidden = top < box.scrollTop || top + height > box.scrollTop + box.clientHeight;
    if (center && hidden) box.scrollTop = top - (box.clientHeight - height) / 2;
    else if (top < box.scrollTop) box.scrollTop = Math.max(0, top - height);
    else if (top + height > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight + 2 * height;
  }

  render() {
    const { box, height, items, elements } = this;
    const first = Math.max(0, Math.floor(box.scrollTop / height) - SPARE);
    const last = Math.min(items.length, Math.ceil((box.scrollTop + box.clientHeight) / height) + SPARE);
    for (const [position, element] of elements) {
      if (position >= first && position < last) continue;
      element.remove();
      elements.delete(position);
    }
    for (let position = first; position < last; position++) {
      if (!elements.has(position)) elements.set(position, this.make(position));
      const element = elements.get(position);
      element.setAttribute("aria-selected", String(position === this.selected));
      element.querySelector(".pinned").hidden = element.id !== `row-${this.pinned}`;
    }
    const active = elements.get(this.selected);
    if (active) box.setAttribute("aria-activedescendant", active.id);
    else box.removeAttribute("aria-activedescendant");
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.loadPictures(), PICTURE_REST_MS);
  }

  make(position) {
    const facts = this.facts(this.items[position]);
    const element = document.createElement("div");
    const part = (name, className, text, parent = element) => {
      const made = parent.appendChild(document.createElement(name));
      made.className = className;
      made.textContent = text;
      return made;
    };
    element.className = facts.wrong ? "row wrong" : "row";
    element.id = `row-${facts.row}`;
    element.style.top = `${position * this.height}px`;
    const attributes = { role: "option", "aria-setsize": this.items.length, "aria-posinset": position + 1 };
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    if (this.picture) {
      const image = part("img", "", "");
      image.alt = `picture of ${facts.id}`;
      image.dataset.row = facts.row;
      image.addEventListener("error", () => image.removeAttribute("src"), { once: true });
    }
    const what = part("div", "what", "");
    const says = part("div", "says", "", what);
    Object.assign(part("b", "pinned", "A", says), { title: "Pinned: A of the comparison", hidden: true });
    if (facts.verdict) part("span", "verdict", facts.verdict, says);
    if (facts.pieces) says.append(...facts.pieces.map(([text, differs]) => part(differs ? "em" : "b", "", text, says)));
    else says.append(facts.says);
    if (facts.given) part("b", "", facts.given, part("div", "given", "given ", what));
    const last = part("div", "id", facts.prompt ? "" : facts.id, what);
    if (facts.prompt) {
      part("span", "", facts.id, last);
      part("bdi", "", facts.prompt, part("span", "prompt", "", last));
    }
    const sure = part("div", "sure", facts.sure);
    if (facts.note) part("small", "", facts.note, sure);
    element.title = [facts.prompt, facts.says, facts.id].filter(Boolean).join("\n");
    element.addEventListener("click", () => this.chosen(facts.row));
    this.all.append(element);
    return element;
  }

  /* Only once scrolling rests: a thumb dragged through ten thousand rows asks for none of the pictures between. */
  loadPictures() {
    for (const image of this.all.querySelectorAll("img:not([src])")) {
      if (image.dataset.asked) continue;
      image.dataset.asked = "yes";
      image.src = this.picture(Number(image.dataset.row));
    }
  }

  dispose() {
    clearTimeout(this.resting);
  }
}
