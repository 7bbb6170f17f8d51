/* How is an example of text read, and where does the text of a point come from?
 *
 * A passage is { prompt, continuation }: what the model was told, and what it was asked to say after that. Test examples bring theirs
 * in queries.json; those of training examples are fetched one at a time, once the hand rests. It puts text on no page by itself.
 */

const PASSAGES_KEPT = 500;
const CARD_LETTERS = 220;

const beginning = (text, most = CARD_LETTERS) => (text.length <= most ? text : `${text.slice(0, most - 1).trimEnd()}…`);
const ending = (text, most = CARD_LETTERS) => (text.length <= most ? text : `…${text.slice(text.length - most + 1).trimStart()}`);

class Passages {
  constructor() {
    this.kept = new Map();
    this.data = null;
  }

  open(data) {
    if (this.data && ["run", "token", "base"].every((name) => this.data[name] === data[name])) return;
    this.data = data;
    this.kept.clear();
  }

  /* The passage of a training example as a promise; null where it cannot be had. */
  training(row) {
    if (!this.kept.has(row)) {
      this.kept.set(row, load(route(this.data, `text/train/${row}.json`), "the text of this example", { json: true, urgent: false })
        .catch(() => {
          this.kept.delete(row);
          return null;
        }));
    }
    const found = this.kept.get(row);
    while (this.kept.size > PASSAGES_KEPT) this.kept.delete(this.kept.keys().next().value);
    return found;
  }
}

/* The passage of a test example that the list knows, or null. */
function testPassage(queries, query) {
  const i = queries?.at.get(query);
  return i === undefined || !queries.prompts ? null : { prompt: queries.prompts[query], continuation: queries.labels[i] };
}

/* A passage as an element: the end of what came before, the beginning of what was asked. */
function passageElement({ prompt, continuation }) {
  const made = document.createElement("p");
  made.className = "passage";
  if (prompt) made.append(Object.assign(document.createElement("span"), { textContent: ending(String(prompt)) }), " ");
  made.append(Object.assign(document.createElement("strong"), { textContent: beginning(String(continuation)) }));
  return made;
}
