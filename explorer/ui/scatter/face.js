/* What stands around the picture: card, notes, legend, the target switch?
 *
 * Puts words where they belong in map.html, always as text. It decides nothing and listens to nothing.
 */

class Face {
  constructor(root) {
    this.root = root;
    this.retry = null;
    this.find = (selector) => root.querySelector(selector);
  }

  open(data) {
    this.root.style.setProperty("--height", `${data.height}px`);
    this.find("[data-show=wrong]").hidden = data.task === "regression";
    this.find("[data-show=clip]").textContent = `${data.unit ? `${data.unit}, ` : ""}clipped at the 99.5th percentile`;
    const total = data.n_train + data.n_test;
    this.find("[data-show=shown]").style.minWidth = `${2 * count(total).length + 16}ch`;
    this.counts(total, total);
  }

  withoutWebGL() {
    this.cover("This browser offers no WebGL2, which the map is drawn with. Turn on hardware acceleration, or use the list.");
    for (const button of this.root.querySelectorAll(".bar button")) button.disabled = true;
    this.find(".legend").hidden = true;
  }

  /* Lines beside the point at [x, y]; null takes the card away. */
  card(lines, [x, y] = [0, 0], { width, height } = {}) {
    const card = this.find(".card");
    card.hidden = !lines;
    if (!lines) return;
    card.replaceChildren(...lines.map((line, n) => {
      const div = document.createElement("div");
      div.appendChild(document.createElement(n ? "span" : "b")).textContent = line;
      return div;
    }));
    const beside = x + 18 + card.offsetWidth > width ? x - 18 - card.offsetWidth : x + 18;
    const top = Math.min(Math.max(4, y - 14), height - card.offsetHeight - 4);
    card.style.transform = `translate(${Math.round(Math.max(4, beside))}px, ${Math.round(top)}px)`;
  }

  target(any, pressed, same) {
    for (const button of this.root.querySelectorAll("[data-target]")) {
      button.setAttribute("aria-pressed", String(button.dataset.target === pressed));
      if (button.dataset.target !== "prediction") continue;
      button.disabled = same || !any;
      button.title = same ? "The model's answer is the given label here: there is one explanation for both." : "";
    }
  }

  /* Takes the same room with and without a row: the map must not jump. */
  legend(row) {
    for (const [name, sign] of [["plus", 1], ["minus", -1]]) {
      this.find(`[data-show=${name}]`).textContent = row ? signed(sign * row.scale) : "";
    }
  }

  counts(inView, total) {
    this.find("[data-show=shown]").textContent = `${count(inView)} of ${count(total)} points shown`;
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
  }
}
