/* What is the answer to this query, and is it here already?
 *
 * Fetches answers as the server drew them, keeps the last ones as elements that are ready to be shown, and fetches the
 * likely next ones while the user looks. One for all components of a channel: whoever asked, all `listeners` hear of
 * what came, in one turn of the page. It puts nothing on the page.
 */

const ANSWERS_KEPT = 48;
const PARTS = ["card", "trust", "galleries"];

class Answers {
  constructor() {
    this.data = null;
    this.kept = new Map();
    this.coming = new Map();
    this.listeners = new Set();
  }

  /* What was fetched holds for one state of the run and one session. */
  open(data) {
    if (this.data && ["run", "token", "base", "version"].every((name) => this.data[name] === data[name])) return;
    this.data = data;
    this.keepOnly([]);
    this.kept.clear();
  }

  /* The answer if it is here, else undefined. Asking keeps it longer. */
  peek(key) {
    const answer = this.kept.get(key);
    if (answer) {
      this.kept.delete(key);
      this.kept.set(key, answer);
    }
    return answer;
  }

  get(key, urgent = true) {
    const answer = this.peek(key);
    if (answer) return Promise.resolve(answer);
    if (!this.coming.has(key)) this.coming.set(key, this.fetch(key, urgent));
    return this.coming.get(key).promise;
  }

  fetch(key, urgent) {
    const stop = new AbortController();
    const url = `${route(this.data, `answer/${key}.json`)}&version=${encodeURIComponent(this.data.version)}`;
    const promise = load(url, "the answer to this prediction", { signal: stop.signal, urgent, json: true })
      .then((said) => {
        if (PARTS.some((part) => typeof said?.[part] !== "string")) {
          throw new LoadError("What the server sent as the answer is not one. Reload the page; if it stays, update the server.", 0);
        }
        const answer = { key, id: String(said.id), nodes: Object.fromEntries(PARTS.map((part) => [part, partOf(said[part])])) };
        if (stop.signal.aborted) return answer;
        this.kept.set(key, answer);
        while (this.kept.size > ANSWERS_KEPT) this.kept.delete(this.kept.keys().next().value);
        for (const heard of [...this.listeners]) heard(answer);
        return answer;
      })
      .finally(() => {
        if (this.coming.get(key)?.stop === stop) this.coming.delete(key);
      });
    return { promise, stop };
  }

  /* Stops every fetch but these. */
  keepOnly(keys) {
    for (const [key, { stop }] of this.coming) {
      if (keys.includes(key)) continue;
      this.coming.delete(key);
      stop.abort();
    }
  }

  /* Fetches in the background and decodes the pictures; a failure is nobody's concern until the answer is asked for. */
  prefetch(key) {
    this.get(key, false).then((answer) => decoded(picturesOf(answer)), () => {});
  }
}

/* A part of an answer as an element, made once. */
function partOf(html) {
  const made = document.createElement("div");
  made.append(sanitized(html));
  return made;
}

function picturesOf(answer) {
  return PARTS.flatMap((part) => [...answer.nodes[part].querySelectorAll("img")]);
}

/* Settles when all pictures can be painted, or cannot be read. */
function decoded(pictures) {
  return Promise.allSettled(pictures.map((picture) => picture.decode()));
}
