/* Which keys are there?
 *
 * A dialog made of what `onKeys` registered (bus.keys), each time it opens: a key that nothing listens to is not in
 * it, and there is no second list to keep. Esc closes it, and the focus goes back to where it was.
 */

const KEY_NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", " ": "Space", "-": "−" };
const EVERYWHERE = "Everywhere";
const keyName = (key) => KEY_NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key);

/* [[where, [[words, [key, ...]], ...]], ...]: keys that do the same share a line; those of the whole page come last. */
function keyList(entries) {
  const places = new Map();
  for (const { where, keys } of entries) {
    if (!places.has(where)) places.set(where, new Map());
    const lines = places.get(where);
    for (const { key, words } of keys) {
      if (!words) continue;
      if (!lines.has(words)) lines.set(words, new Set());
      lines.get(words).add(keyName(key));
    }
  }
  return [...places].sort((a, b) => (a[0] === EVERYWHERE) - (b[0] === EVERYWHERE)).map(([where, lines]) => [where, [...lines].map(([words, keys]) => [words, [...keys]])])
    .filter(([, lines]) => lines.length);
}

class KeysHelp {
  constructor(dialog, bus, signal) {
    this.dialog = dialog;
    this.bus = bus;
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-do=close]")) dialog.close();
    }, { signal });
    dialog.addEventListener("close", () => this.back?.focus?.(), { signal });
    signal.addEventListener("abort", () => dialog.close());
  }

  toggle() {
    if (this.dialog.open) return this.dialog.close();
    this.back = focused();
    const make = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });
    this.dialog.querySelector(".keys").replaceChildren(...keyList(this.bus.keys ?? []).flatMap(([where, lines]) => {
      const list = make("dl");
      for (const [words, keys] of lines) {
        const term = list.appendChild(make("dt"));
        term.append(...keys.map((key) => make("kbd", key)));
        list.append(make("dd", words));
      }
      return [make("h3", where), list];
    }));
    return this.dialog.showModal();
  }
}

/* What has the focus, inside components too. */
function focused() {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  return at === document.body ? null : at;
}
