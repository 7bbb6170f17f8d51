/* What may HTML from Python do on this page, and what happens when one of its examples is chosen?
 *
 * `sanitized` builds a copy of what an allow-list permits: no script, no style, no address but this server's. `Tiles`
 * listens to a place that shows such HTML: data-query picks a test prediction, data-inspect opens a training example,
 * data-point shows where on the map a point lies. A choice is on the bus at once; Python hears of it after.
 */

const ELEMENTS = new Set(("article b br button caption code col colgroup dd details div dl dt em figcaption figure footer h3 h4 h5 header hr i "
  + "img kbd li meter ol p progress section small span strong sub summary sup table tbody td tfoot th thead tr ul").split(" "));
const ATTRIBUTES = new Set("alt colspan high low max min open optimum role rowspan scope title value".split(" "));
const NUMBERED = new Set(["data-query", "data-inspect", "data-point"]);
const OWN_CLASS = /^ix-[\w-]+$/;
const OWN_PATH = /^(?:\/[\w.-]+)*\/api\/runs\//;
const PICTURE = /^data:image\/png;base64,[A-Za-z0-9+/]+=*$/;

/* A picture in the text itself, or one of a run on this server; anything else is not asked for. */
function safeSource(source) {
  if (PICTURE.test(source)) return source;
  if (!source.startsWith("/") || !URL.canParse(source, window.location.origin)) return null;
  const { origin, pathname, search } = new URL(source, window.location.origin);
  return origin === window.location.origin && OWN_PATH.test(pathname) ? pathname + search : null;
}

function safeAttribute(tag, name, value) {
  if (name === "class") return value.split(/\s+/).filter((one) => OWN_CLASS.test(one)).join(" ");
  if (name === "src") return tag === "img" ? safeSource(value) : null;
  if (NUMBERED.has(name)) return /^\d{1,10}$/.test(value) ? value : null;
  if (name === "tabindex") return /^(0|-1)$/.test(value) ? value : null;
  return ATTRIBUTES.has(name) || /^aria-[a-z]+$/.test(name) ? value : null;
}

function safeCopy(from, to) {
  for (const node of from.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) to.append(node.data);
    const tag = node.nodeType === Node.ELEMENT_NODE && node.namespaceURI === from.ownerDocument.documentElement.namespaceURI
      ? node.localName : null;
    if (!ELEMENTS.has(tag)) continue;
    const made = document.createElement(tag);
    for (const { name, value } of node.attributes) {
      const kept = safeAttribute(tag, name, value);
      if (kept !== null) made.setAttribute(name, kept);
    }
    if (tag === "button") made.type = "button";
    safeCopy(node, made);
    to.append(made);
  }
}

/* The allowed part of `html` as a fragment of this document; the text is never parsed into the page itself. */
function sanitized(html) {
  const fragment = document.createDocumentFragment();
  safeCopy(new DOMParser().parseFromString(String(html), "text/html").body, fragment);
  return fragment;
}

class Tiles {
  /* `owner`: { channel: the Channel or null, data: { run, task }, send(name, value) to Python }, as they are by then. */
  constructor(root, signal, owner) {
    this.owner = owner;
    this.heard = new Heard();
    this.pace = new Paced((pick) => owner.send("pick", pick));
    const on = (name, heard) => root.addEventListener(name, heard, { signal });
    on("click", (event) => this.chosen(event));
    on("keydown", (event) => {
      if ((event.key !== "Enter" && event.key !== " ") || !event.target.matches?.("[role=button]")) return;
      if (!this.chosen(event)) return;
      event.preventDefault();
    });
    for (const name of ["pointerover", "focusin"]) on(name, (event) => this.point(event.target));
    for (const name of ["pointerleave", "focusout"]) on(name, () => this.point(null));
    signal.addEventListener("abort", () => this.dispose());
  }

  /* Whether the event chose something. */
  chosen(event) {
    const { channel } = this.owner;
    const element = event.target.closest?.("[data-query], [data-inspect]");
    if (!element || !channel) return false;
    if (element.dataset.query !== undefined) this.pick(Number(element.dataset.query), event.repeat);
    else this.inspect(Number(element.dataset.inspect));
    return true;
  }

  pick(query, held) {
    const { channel, data } = this.owner;
    const { state } = channel;
    if (query === state.query) return;
    channel.publish({ query }, "panel");
    const target = coincide(state.queries?.task ?? data.task, state.queries, null, query) ? "label" : state.target;
    channel.sent(query, target);
    if (channel.access) this.heard.expect(channel.access, queryFacts(state.queries, query)?.id, target);
    this.pace.push({ query, target }, held);
  }

  inspect(row) {
    this.owner.channel.publish({ inspected: row }, "panel");
    this.owner.send("inspect", { row });
  }

  point(element) {
    const { channel } = this.owner;
    const at = element?.closest?.("[data-point]");
    channel?.publish({ pointed: at ? Number(at.dataset.point) : -1 }, "panel");
  }

  dispose() {
    this.pace.cancel();
    this.heard.cancel();
    this.point(null);
  }
}
