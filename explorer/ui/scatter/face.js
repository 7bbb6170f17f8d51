/* What stands around the picture: card, notes, tools, the target switch?
 *
 * Puts words where they belong in map.html, always as text. It decides nothing and listens to nothing.
 */

const PICTURE_AFTER_MS = 60;

class Face {
  constructor(root) {
    this.root = root;
    this.retry = null;
    this.find = (selector) => root.querySelector(selector);
    this.legend = new Legend(root);
  }

  open(data) {
    this.layouts(data);
    const words = data.task === "sequence" ? ["given words", "model's words"] : ["given label", "model's answer"];
    for (const [n, name] of ["label", "prediction"].entries()) this.find(`[data-target=${name}]`).firstChild.textContent = `${words[n]} `;
    this.root.style.setProperty("--height", `${data.height}px`);
    this.legend.open(data);
  }

  /* PCA is there first; one map alone is no choice. */
  layouts({ layout, layouts }) {
    const group = this.find("[data-show=layouts]");
    group.hidden = layouts.length < 2;
    group.replaceChildren(...layouts.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.layout = name;
      button.textContent = LAYOUTS[name] ?? name;
      button.setAttribute("aria-pressed", String(name === layout));
      return button;
    }));
  }

  withoutWebGL() {
    this.cover("This browser offers no WebGL2, which the map is drawn with. Turn on hardware acceleration, or use the list.");
    for (const button of this.root.querySelectorAll(".bar button")) button.disabled = true;
    this.find(".legend").hidden = true;
  }

  /* Lines beside the point at [x, y], with a picture or a passage of text (or what promises one) where there is one; null takes
   * the card away. */
  card(lines, [x, y] = [0, 0], { width, height } = {}, { picture = null, passage = null } = {}) {
    const card = this.find(".card");
    card.hidden = !lines;
    clearTimeout(this.resting);
    this.carded = lines;
    if (!lines) return;
    const text = document.createElement("div");
    text.append(...lines.map((line, n) => {
      const div = document.createElement("div");
      div.appendChild(document.createElement(n ? "span" : "b")).textContent = line;
      return div;
    }));
    card.replaceChildren(text);
    if (picture) this.picture(card, picture);
    const place = () => {
      const beside = x + 18 + card.offsetWidth > width ? x - 18 - card.offsetWidth : x + 18;
      const top = Math.min(Math.max(4, y - 14), height - card.offsetHeight - 4);
      card.style.transform = `translate(${Math.round(Math.max(4, beside))}px, ${Math.round(top)}px)`;
    };
    const read = (found) => {
      if (!found || this.carded !== lines) return;
      text.children[0].after(passageElement(found));
      place();
    };
    if (typeof passage !== "function") read(passage);
    else this.resting = setTimeout(() => passage().then(read), PICTURE_AFTER_MS);
    place();
  }

  /* Its room is there at once, what it shows once the hand has rested. */
  picture(card, url) {
    const image = document.createElement("img");
    image.alt = "";
    image.addEventListener("error", () => image.removeAttribute("src"), { once: true });
    card.prepend(image);
    this.resting = setTimeout(() => { image.src = url; }, PICTURE_AFTER_MS);
  }

  target(any, pressed, same) {
    for (const button of this.root.querySelectorAll("[data-target]")) {
      button.setAttribute("aria-pressed", String(button.dataset.target === pressed));
      if (button.dataset.target !== "prediction") continue;
      button.disabled = same || !any;
      button.title = same ? "The model's answer is the given label here: there is one explanation for both." : "";
    }
  }

  tool(pressed) {
    for (const button of this.root.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === pressed));
    }
    this.root.toggleAttribute("data-drawing", pressed !== "pan");
  }

  density(on) {
    this.find("[data-do=density]").setAttribute("aria-pressed", String(on));
  }

  /* How much is selected, and the way to let go; null without a selection. */
  selected(text) {
    this.find(".selected").hidden = text === null;
    this.find(".selected span").textContent = text ?? "";
  }

  /* That a lesson is shown, and the way back; null without one. */
  lesson(train) {
    this.find(".lesson").hidden = train === null;
    this.find(".lesson span").textContent = train === null ? "" : `After teaching training row ${train} once`;
  }

  /* For screen readers, once the selection rests. */
  say(text) {
    clearTimeout(this.saying);
    this.saying = setTimeout(() => { this.find("[aria-live]").textContent = text; }, 400);
  }

  /* One line in the corner, or nothing. */
  note(text, button = null) {
    const note = this.find(".note");
    note.hidden = !text;
    note.querySelector("span").textContent = text ?? "";
    note.querySelector("button").hidden = !button;
    note.querySelector("button").textContent = button ?? "";
  }

  /* A message in place of the map, or nothing. */
  cover(text, retry = null) {
    this.retry = retry;
    const cover = this.find(".cover");
    cover.hidden = !text;
    cover.querySelector("p").textContent = text ?? "";
    cover.querySelector("button").hidden = !retry;
  }

  dispose() {
    clearTimeout(this.saying);
    clearTimeout(this.resting);
  }
}
