/* How do the panel's other parts show examples that can be chosen?
 *
 * The tiles component: HTML that Python's views made, cleaned, with the same clicks and keys as the answer's galleries.
 * It is drawn again only when the HTML is another one.
 */

class Part {
  constructor({ parentElement }) {
    this.root = parentElement.querySelector(".ix-part");
    this.stop = new AbortController();
    this.bus = theBus();
    this.data = this.channel = this.component = null;
    this.tiles = new Tiles(this.root, this.stop.signal, this);
  }

  send(name, value) {
    this.component.setTriggerValue(name, value);
  }

  update(component) {
    const before = this.data;
    this.component = component;
    this.data = component.data;
    this.channel = this.bus.channel(this.data.run);
    if (before?.html === this.data.html) return;
    this.tiles.point(null);
    const focused = this.root.contains(document.activeElement) && document.activeElement !== this.root;
    this.root.replaceChildren(sanitized(this.data.html));
    if (focused) this.root.focus({ preventScroll: true });
  }

  dispose() {
    this.stop.abort();
  }
}

const parts = new WeakMap();
export default function part(component) {
  return mountOnce(parts, component, (first) => new Part(first));
}
