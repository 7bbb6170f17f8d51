/* What do the colors of the map mean, in words and swatches?
 *
 * Fills the legend of map.html for each color mode, always as text, and draws the same on a canvas for a saved picture. It
 * has one height for all modes: the map above it must not jump.
 */

class Legend {
  constructor(root) {
    this.find = (selector) => root.querySelector(selector);
    this.key = null;
  }

  open(data) {
    this.data = data;
    this.find("[data-show=wrong]").hidden = !hasOutcomes(data.task);
    this.words(false);
  }

  /* What the ends of the scale of influence, or of a lesson, are called. */
  words(lesson) {
    const { unit, task } = this.data;
    const what = lesson ? `${hasOutcomes(task) ? "log p of its label, nats" : "−½ squared error"}, ` : unit ? `${unit}, ` : "";
    this.find("[data-show=clip]").textContent = `${what}clipped at the 99.5th percentile`;
    this.find("[data-show=influence] .towards").textContent = lesson ? "▲ improved" : "▲ towards";
    this.find("[data-show=influence] .away").textContent = lesson ? "▼ got worse" : "▼ away";
  }

  /* Takes the same room with and without a row. */
  row(row) {
    this.words(Boolean(row?.tests));
    for (const [name, sign] of [["plus", 1], ["minus", -1]]) {
      this.find(`[data-show=${name}]`).textContent = row ? signed(sign * row.scale) : "";
    }
  }

  /* `key` of colors.js, or null for influence. */
  colors(mode, key) {
    this.key = key;
    const influence = key === null;
    this.find("[data-show=influence]").hidden = !influence;
    const other = this.find("[data-show=colors]");
    other.hidden = influence;
    if (influence) return;
    const part = (name, text, className = "") => {
      const made = document.createElement(name);
      made.textContent = text;
      made.className = className;
      return made;
    };
    const swatch_ = (color) => {
      const made = part("i", "", "swatch");
      made.style.background = color;
      return made;
    };
    const named = key.entries.map(({ hue, text }) => {
      const entry = part("span", "", "entry");
      entry.append(swatch_(css(hue)), part("span", text));
      return entry;
    });
    other.replaceChildren(part("b", COLOR_NAMES[mode]), ...named);
    if (key.ramp) other.append(part("span", key.ends[0]), this.ramp(key.ramp), part("span", `${key.ends[2]}, ${key.ends[1]}`));
    if (key.note) other.append(part("span", key.note, "quiet"));
  }

  ramp(stops) {
    const made = document.createElement("i");
    made.className = "wide";
    made.style.background = `linear-gradient(90deg, ${stops.map(css).join(", ")})`;
    return made;
  }

  counts(text) {
    this.find("[data-show=shown]").textContent = text;
  }
}
